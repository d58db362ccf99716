"""Position patching: every single (layer, position) cell."""

from __future__ import annotations

from typing import Any

from codi_patching.errors import InputError
from codi_patching.experiments.base import check_choice, check_not_heads
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.measuring.patch_grid import Positions, all_positions, single_cells
from codi_patching.patching.interventions import Activations, PatchSet, Position


class PositionPatching(PatchingExperiment):
    """One patched run for each cell of the layers × positions map.

    Args:
        positions: `thoughts`, the latent positions; or `all`, with columns for places outside them
            too: the changed number's tokens together, the question's last token, bot, eot, and each
            token of the readout.
        kwargs: All arguments of `PatchingExperiment`; latents are `recomputed` by default, the
            total effect of a cell.

    Example:
        >>> import codi_patching as cp
        >>> experiment = cp.PositionPatching(site="attn_out")
        >>> experiment.name, experiment.latents, experiment.site
        ('position', 'recomputed', 'attn_out')
    """

    name = "position"

    def __init__(self, positions: Positions = "thoughts", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice("positions", positions, Positions)
        check_not_heads(self.site)
        if positions == "all" and (self.include_thought or self.site == "thought"):
            raise InputError(
                "expected positions thoughts where thoughts themselves are patched, which other "
                "places have none of: set [[model.positions]]"
            )
        self.positions = positions

    @property
    def columns(self) -> tuple[str, ...]:
        """Latent positions 0..K-1, and with `all` the places before and after them."""
        return tuple(map(str, self._positions))

    @property
    def _positions(self) -> list[Position]:
        everything = all_positions(self.model)
        if self.positions == "all":
            return everything
        return [position for position in everything if isinstance(position, int)]

    def patch_sets(self, activations: Activations) -> list[PatchSet]:
        """Each cell alone, layer by layer."""
        return single_cells(activations, self.layers, self.site, self._positions)
