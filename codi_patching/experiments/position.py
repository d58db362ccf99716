"""Position patching: every single (layer, latent position) cell."""

from __future__ import annotations

from itertools import product

from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.patching.interventions import Activations, PatchSet, patches_from


class PositionPatching(PatchingExperiment):
    """One patched run for each cell of the layers × positions map.

    Takes the arguments of `PatchingExperiment`; latents are `recomputed` by default, the total
    effect of a cell.
    """

    name = "position"

    @property
    def columns(self) -> tuple[str, ...]:
        """Latent positions 0..K-1."""
        return tuple(str(position) for position in range(self.model.num_latents))

    def patch_sets(self, activations: Activations) -> list[PatchSet]:
        """Each cell alone, layer by layer."""
        cells = product(self.layers, range(self.model.num_latents))
        return [patches_from(activations, layer, [p], self.site) for layer, p in cells]

    @property
    def structural_zeros(self) -> list[tuple[int, int]]:
        """The last layer where no later thought is made from it: nothing else reads its output."""
        if not self.only_next_thought_reads_last_layer:
            return []
        last, positions = len(self.layers) - 1, range(self.model.num_latents)
        unread = positions if self.latents == "frozen" else positions[-1:]
        return [(last, position) for position in unread]
