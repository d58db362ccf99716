"""Layer patching: all latent positions of a layer at once, "parallel"."""

from __future__ import annotations

from typing import Any

from codi_patching.experiments.base import check_not_heads
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.measuring.patch_grid import whole_layers
from codi_patching.patching.interventions import Activations, Latents, PatchSet
from codi_patching.results.description import ALL


class LayerPatching(PatchingExperiment):
    """One patched run a layer, all K latent positions overwritten.

    Args:
        latents: As in `PatchingExperiment`; `frozen` by default, the effect through attention to
            the patched positions.
        kwargs: All other arguments of `PatchingExperiment`.

    Example:
        >>> import codi_patching as cp
        >>> experiment = cp.LayerPatching(site="kv")
        >>> experiment.latents, experiment.site, experiment.columns
        ('frozen', 'kv', ('all',))
    """

    name = "layer"

    def __init__(self, latents: Latents = "frozen", **kwargs: Any) -> None:
        super().__init__(latents=latents, **kwargs)
        check_not_heads(self.site)

    @property
    def columns(self) -> tuple[str, ...]:
        """One: a layer is one cell."""
        return (ALL,)

    def patch_sets(self, activations: Activations) -> list[PatchSet]:
        """All positions of each layer."""
        return whole_layers(activations, self.layers, self.site)
