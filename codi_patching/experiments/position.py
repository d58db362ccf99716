"""Position patching: every single (layer, latent position) cell."""

from __future__ import annotations

from itertools import product

from codi_patching.experiments.base import PatchedRuns, PatchingExperiment, UnpatchedRuns
from codi_patching.patching.interventions import patches_from


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

    def patched_runs(self, start: UnpatchedRuns) -> PatchedRuns:
        """Each cell alone, layer by layer."""
        cells = product(self.layers, range(self.model.num_latents))
        rows = [patches_from(start.given, layer, [position]) for layer, position in cells]
        return PatchedRuns(self.run_rows(start, rows).answer_logits)

    @property
    def structural_zeros(self) -> list[tuple[int, ...]]:
        """The last layer where no later thought is made from it: nothing else reads its output."""
        last, positions = len(self.layers) - 1, range(self.model.num_latents)
        unread = positions if self.latents == "frozen" else positions[-1:]
        return [(last, position) for position in unread]
