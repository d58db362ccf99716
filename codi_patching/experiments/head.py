"""Head patching: every single attention head, at one latent position or at all of them."""

from __future__ import annotations

from typing import Any

from codi_patching.errors import InputError
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.measuring.patch_grid import all_positions, single_heads
from codi_patching.measuring.places import typical_places
from codi_patching.models.families import head_shape
from codi_patching.patching.interventions import Activations, PatchSet, Site, SiteName
from codi_patching.results.description import THOUGHTS


class HeadPatching(PatchingExperiment):
    """One patched run for each attention head of each layer.

    What the head hands to the output projection is overwritten. All heads of a layer together are
    `attn_out`.

    Args:
        position: Where heads are patched: a latent position, or a place outside them by name, as
            `Site` has it; at all latent positions at once if not given.
        site: Always `head`.
        kwargs: All other arguments of `PatchingExperiment`; latents are `recomputed` by default.

    Example:
        >>> import codi_patching as cp
        >>> experiment = cp.HeadPatching(position=1)
        >>> experiment.name, experiment.latents, experiment.site
        ('head', 'recomputed', 'head')
    """

    name = "head"
    column = "head"

    def __init__(
        self, position: int | str | None = None, site: SiteName = "head", **kwargs: Any
    ) -> None:
        super().__init__(site=site, **kwargs)
        if position is not None:
            position = Site("head", layer=0, head=0, position=position).position
        if site != "head":
            raise InputError(
                f"expected site head in head patching, got {site!r}: set [[model.site]]"
            )
        if self.include_thought:
            raise InputError(
                "expected no row of thoughts beside heads, which thoughts have none of: set "
                "[[model.include_thought]] to false"
            )
        self.position = position
        self.positions = THOUGHTS if position is None else str(position)

    @property
    def columns(self) -> tuple[str, ...]:
        """Heads 0..H-1."""
        return tuple(map(str, range(head_shape(self.model.backbone)[0])))

    def patch_sets(self, activations: Activations) -> list[PatchSet]:
        """Each head, layer by layer."""
        everywhere = range(self.model.num_latents)
        if self.position is None:
            return single_heads(activations, self.layers, everywhere)
        if self.position not in all_positions(self.model):
            raise InputError(
                f"expected a position under {len(everywhere)}, the number of thoughts, or of "
                f"{', '.join(typical_places(self.model))}, got {self.position!r}: "
                "set [[model.position]]"
            )
        return single_heads(activations, self.layers, [self.position])
