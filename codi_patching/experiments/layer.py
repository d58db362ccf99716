"""Layer patching: all latent positions of a layer at once, "parallel"."""

from __future__ import annotations

from typing import Any

from codi_patching.experiments.base import PatchedRuns, PatchingExperiment, UnpatchedRuns
from codi_patching.patching.interventions import Latents, patches_from


class LayerPatching(PatchingExperiment):
    """One patched run a layer, all K latent positions overwritten.

    Args:
        latents: As in `PatchingExperiment`; `frozen` by default, the effect through attention to
            the patched positions.
        kwargs: All other arguments of `PatchingExperiment`.
    """

    name = "layer"

    def __init__(self, latents: Latents = "frozen", **kwargs: Any) -> None:
        super().__init__(latents=latents, **kwargs)

    @property
    def positions(self) -> list[str]:
        """None: a layer is one cell."""
        return []

    def patched_runs(self, start: UnpatchedRuns) -> PatchedRuns:
        """All positions of each layer."""
        everywhere = range(self.model.num_latents)
        rows = [patches_from(start.given, layer, everywhere) for layer in self.layers]
        return PatchedRuns(self.run_rows(start, rows).answer_logits)

    @property
    def structural_zeros(self) -> list[tuple[int, ...]]:
        """The last layer, if no thought is made from it: nothing else reads its output."""
        unread = self.latents == "frozen" or self.model.num_latents == 1
        return [(len(self.layers) - 1,)] if unread else []
