"""Position patching: every single (layer, latent position) cell."""

from __future__ import annotations

from codi_patching.experiments.base import PatchingExperiment
from codi_patching.patching.interventions import Activations, Row, patches_from


class PositionPatching(PatchingExperiment):
    """One patched run for each cell of the layers × positions map.

    Takes the arguments of `PatchingExperiment`; latents are `recomputed` by default, the total
    effect of a cell.
    """

    name = "position"

    @property
    def positions(self) -> list[str]:
        """Latent positions 0..K-1."""
        return [str(position) for position in range(self.model.num_latents)]

    def rows(self, given: Activations) -> list[Row]:
        """Each cell alone, layer by layer."""
        everywhere = range(self.model.num_latents)
        return [patches_from(given, layer, [p]) for layer in self.layers for p in everywhere]

    @property
    def structural_zeros(self) -> list[tuple[int, ...]]:
        """The last layer where no later thought is made from it: nothing else reads its output."""
        last, positions = len(self.layers) - 1, range(self.model.num_latents)
        unread = positions if self.latents == "frozen" else positions[-1:]
        return [(last, position) for position in unread]
