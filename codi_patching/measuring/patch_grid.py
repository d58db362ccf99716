"""The cells of an experiment: which patches each has, and what follows from these patches alone.

Which cells nothing can come of (structural zeros) and which sites runs must record are never
written by hand: the patches of a run of zeros tell both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, Literal, cast

from torch import Tensor

from codi_patching.measuring.places import BEFORE, after_names, readout_ids, typical_places
from codi_patching.metrics.inputs import GeneratedActivations
from codi_patching.metrics.table import METRICS, Metric
from codi_patching.models.codi import CodiModel
from codi_patching.models.families import head_shape
from codi_patching.patching.interventions import (
    EXTRA_SITES,
    THOUGHT,
    Activations,
    Cell,
    Latents,
    Patch,
    PatchSet,
    Position,
    Site,
    SiteName,
    extra_sites,
    on_tokens,
    patches_from,
)
from codi_patching.patching.sweep.unread import unread_rows
from codi_patching.results import description

Positions = Literal["thoughts", "all"]
"""Whether the latent positions alone are patched, or places outside them too."""


@dataclass(frozen=True)
class Extras:
    """What an experiment makes of the activations that it watched.

    Attributes:
        generated: Further input of its metrics.
        activations: As in `PairRecord`.
        trace: As in `PairRecord`.
        chain_links: As in `PairDescription`.
        chain_broken: As in `PairDescription`.
    """

    generated: GeneratedActivations | None = None
    activations: Tensor | None = None
    trace: list[dict[str, Any]] = field(default_factory=list)
    chain_links: int = 0
    chain_broken: int = 0


@dataclass(frozen=True, kw_only=True)
class PatchGrid:
    """The patched runs of a grid.

    Attributes:
        grid: Its cells.
        patch_sets: The patches of every cell with the activations of a run, in `run_order`.
        run_order: The cell, counted row by row, of each of `patch_sets`.
        latents: Whether thoughts after a patch are generated anew; of a model that feeds nothing
            back always `frozen`.
        site: What is overwritten, as cells are named.
        record: Sites that unpatched runs record beside `resid_post`.
        places: Whether they record places outside the thoughts too.
        metrics: What is computed of each run.
        watch: For each of `patch_sets` the cells whose activations are wanted.
        extras: What is made of these: from the pair's start, the patches and the activations.
    """

    grid: description.Grid
    patch_sets: Callable[[Activations], list[PatchSet]]
    run_order: Sequence[int]
    latents: Latents
    site: SiteName
    record: tuple[SiteName, ...]
    places: bool
    metrics: Mapping[str, Metric]
    watch: Callable[[Sequence[PatchSet]], list[list[Cell]]]
    extras: Callable[..., Extras]

    @classmethod
    def of(
        cls,
        model: CodiModel,
        patch_sets: Callable[[Activations], list[PatchSet]],
        *,
        layers: Sequence[int],
        columns: Sequence[str],
        latents: Latents,
        site: SiteName,
        column: str = "position",
        run_order: Sequence[int] | None = None,
        metrics: Mapping[str, Metric] = METRICS,
        watch: Callable[[Sequence[PatchSet]], list[list[Cell]]] = lambda sets: [[] for _ in sets],
        extras: Callable[..., Extras] = lambda *_: Extras(),
    ) -> PatchGrid:
        """A grid and all that follows from its patches.

        Args:
            model: The model.
            patch_sets: See `PatchGrid`.
            layers: The grid's rows; `THOUGHT` for the latent thoughts themselves.
            columns: Names of its columns.
            latents: See `PatchGrid`.
            site: See `PatchGrid`.
            column: What a column is.
            run_order: See `PatchGrid`; row by row if not given.
            metrics: See `PatchGrid`.
            watch: See `PatchGrid`.
            extras: See `PatchGrid`.

        Raises:
            ValueError: There are more or fewer patch sets than cells.
        """
        latents = model.effective(latents)
        names = tuple(description.THOUGHT if la == THOUGHT else str(la) for la in layers)
        count = len(names) * len(columns)
        order = list(range(count)) if run_order is None else list(run_order)
        named = patch_sets(zero_activations(model))
        rows = [on_tokens(row, typical_places(model)) for row in named]
        if len(rows) != count:
            raise ValueError(
                f"expected patches for each of {len(names)} × {len(columns)} cells, got {len(rows)}"
            )
        readout = len(readout_ids(model))
        unread = unread_rows(rows, len(model.blocks), model.num_latents, latents, readout)
        zeros = sorted(divmod(order[row], len(columns)) for row in range(count) if unread[row])
        sites = {patch.site.name for row in rows for patch in row}
        return cls(
            grid=description.Grid(names, column, tuple(columns), tuple(zeros)),
            patch_sets=patch_sets,
            run_order=order,
            latents=latents,
            site=site,
            record=extra_sites({*sites, "kv"}),  # the ceiling has keys and values
            places=any(isinstance(p.site.position, str) for row in named for p in row),
            metrics=metrics,
            watch=watch,
            extras=extras,
        )

    def run_name(self, kind: str, run: int) -> str:
        """The run-th patched run of a kind (own, control or self) in words."""
        name = "all thoughts at all layers"
        if run < self.grid.size:
            cell = divmod(self.run_order[run], len(self.grid.columns))
            last = cell[0] == len(self.grid.layers) - 1
            makes = last and self.latents == "recomputed" and self.site == "resid_post"
            name = self.grid.label(cell, makes)
        return name if kind == "own" else f"{kind}, {name}"


def zero_activations(model: CodiModel) -> Activations:
    """Activations of zeros, every site and place of them, in the model's shapes."""
    layers, latents = len(model.blocks), model.num_latents
    config = model.backbone.config
    heads, size = head_shape(model.backbone)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    like = next(model.parameters())
    thoughts = like.new_zeros(latents, config.hidden_size)
    resid = like.new_zeros(layers, latents, config.hidden_size)
    widths = {"kv": (2 * kv_heads * size,), "head": (heads, size)}
    recorded = {
        site: like.new_zeros(layers, latents, *widths.get(site, (config.hidden_size,)))
        for site in EXTRA_SITES
    }
    sites = {"resid_post": resid, **recorded}
    one = {cast(SiteName, site): values[:, :1] for site, values in sites.items()}
    return Activations(thoughts, resid, recorded, dict.fromkeys(typical_places(model), one))


def single_cells(
    activations: Activations,
    layers: Sequence[int],
    site: SiteName,
    positions: Sequence[Position] | None = None,
) -> list[PatchSet]:
    """Each cell alone, layer by layer; at the latent positions if none are given."""
    if positions is None:
        positions = range(len(activations.thoughts))
    return [patches_from(activations, la, [p], site) for la, p in product(layers, positions)]


def all_positions(model: CodiModel) -> list[Position]:
    """The latent positions among the places before and after them, in a run's order."""
    return [*BEFORE, *range(model.num_latents), *after_names(model)]


def single_heads(
    activations: Activations, layers: Sequence[int], positions: Sequence[Position]
) -> list[PatchSet]:
    """Each head of each layer at some positions at once, layer by layer."""
    heads = range(activations.of_site("head").shape[2])
    sites = [[Site.at(la, p, "head", head) for p in positions] for la in layers for head in heads]
    return [[Patch(site, activations.of(site)) for site in run] for run in sites]


def head_grid(model: CodiModel, latents: Latents) -> PatchGrid:
    """Each head of each layer at all latent positions at once."""
    layers, heads = grid_layers(model, "head"), range(head_shape(model.backbone)[0])
    return PatchGrid.of(
        model,
        partial(single_heads, layers=layers, positions=range(model.num_latents)),
        layers=layers,
        columns=tuple(map(str, heads)),
        latents=latents,
        site="head",
        column="head",
    )


def whole_layers(activations: Activations, layers: Sequence[int], site: SiteName) -> list[PatchSet]:
    """All positions of each layer at once."""
    everywhere = range(len(activations.thoughts))
    return [patches_from(activations, layer, everywhere, site) for layer in layers]


def grid_layers(model: CodiModel, site: SiteName, include_thought: bool = False) -> list[int]:
    """A grid's rows: `THOUGHT` first if included, then layers 0..L-1; of `thought`, it alone."""
    if site == "thought":
        return [THOUGHT]
    return [THOUGHT] * include_thought + list(range(len(model.blocks)))
