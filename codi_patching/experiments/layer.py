"""Layer patching: all latent positions of a layer at once, "parallel"."""

from __future__ import annotations

from typing import Any

from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.patching.interventions import Activations, Latents, PatchSet, patches_from
from codi_patching.results.schema import ALL


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
    def columns(self) -> tuple[str, ...]:
        """One: a layer is one cell."""
        return (ALL,)

    def patch_sets(self, activations: Activations) -> list[PatchSet]:
        """All positions of each layer."""
        everywhere = range(self.model.num_latents)
        return [patches_from(activations, layer, everywhere, self.site) for layer in self.layers]

    @property
    def structural_zeros(self) -> list[tuple[int, int]]:
        """The last layer, if no thought is made from it: nothing else reads its output."""
        unread = self.latents == "frozen" or self.model.num_latents == 1
        unread &= self.only_next_thought_reads_last_layer
        return [(len(self.layers) - 1, 0)] if unread else []
