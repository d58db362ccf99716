"""Position patching: every single (layer, latent position) cell."""

from __future__ import annotations

from typing import Any

from codi_patching.experiments.base import check_not_heads
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.measuring.patch_grid import single_cells
from codi_patching.patching.interventions import Activations, PatchSet


class PositionPatching(PatchingExperiment):
    """One patched run for each cell of the layers × positions map.

    Takes the arguments of `PatchingExperiment`; latents are `recomputed` by default, the total
    effect of a cell.
    """

    name = "position"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_not_heads(self.site)

    @property
    def columns(self) -> tuple[str, ...]:
        """Latent positions 0..K-1."""
        return tuple(str(position) for position in range(self.model.num_latents))

    def patch_sets(self, activations: Activations) -> list[PatchSet]:
        """Each cell alone, layer by layer."""
        return single_cells(activations, self.layers, self.site)
