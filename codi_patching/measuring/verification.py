"""Runs made again another way, so that a run's numbers are checked and not only its files.

Of the first pairs a few cells and the whole runs are run by the reference engine, from its own
unpatched runs, those of a batch of pairs side by side: what a pass costs is mostly its start. Their
metrics are a few lines of numpy in float64 that share nothing with `metrics`. What they gave is
kept beside the pair; `analysis.validity` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi_patching.measuring.metrics_by_hand import Logits, metrics_by_hand
from codi_patching.measuring.places import at_places
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import (
    Activations,
    Generated,
    Latents,
    Patch,
    PatchSet,
    PlaceTokens,
    SiteName,
    all_patches,
)
from codi_patching.patching.reference import Latent, ReferenceEngine
from codi_patching.results.description import Grid
from codi_patching.results.pair_descriptions import VerifiedRun

Asked = tuple[Sequence[int], Readout]
"""Token ids of a prompt, and what is read after the thoughts."""

Cells = Sequence[tuple[int, int]]
"""Row and column of each."""

_ROWS = 128
"""Patched runs that go together at most: a whole pass holds the keys and values of all of them."""


@dataclass(frozen=True)
class VerifiedPair:
    """A pair to run again.

    Attributes:
        base: The run that is patched, read at the base and the source answer.
        source: The source run, read at the same.
        given: Whose activations are patched in, for `own` and, if there is one, `control`: a
            prompt, or activations that no single prompt has.
        clean_is_source: Whether the source answer is the pair's clean one.
        cells: The cells of the grid.
        places: Of each of `asked` the tokens outside the thoughts, if any are patched.
    """

    base: Asked
    source: Asked
    given: Mapping[str, Asked | Activations]
    clean_is_source: bool
    cells: Cells
    places: Sequence[PlaceTokens] = ()

    @property
    def asked(self) -> list[Asked]:
        """The prompts: of base and source, then of arms that have one of their own."""
        others = [given for given in self.given.values() if not isinstance(given, Activations)]
        return [self.base, self.source, *(given for given in others if given != self.source)]


@dataclass(frozen=True)
class VerifiedGrid:
    """The grid whose cells are run again, and how they are run.

    Attributes:
        grid: The grid.
        patch_sets: The patches of every cell with the activations of a run.
        run_order: The cell, counted row by row, of each of `patch_sets`.
        latents: Whether thoughts after a patch are generated anew.
        record: Sites that the unpatched runs record, keys and values among them for the ceiling.
        longest: Most tokens that the model can read.
    """

    grid: Grid
    patch_sets: Callable[[Activations], Sequence[PatchSet]]
    run_order: Sequence[int]
    latents: Latents
    record: Sequence[SiteName]
    longest: int


def draw_cells(shape: tuple[int, int], place: int, pairs: int, seed: int) -> list[tuple[int, int]]:
    """The cells of a grid that are run again of one pair.

    Over all pairs together every layer and every column comes at least once, and every cell where
    that takes at most 16 a pair. The draw depends on nothing but its arguments.

    Args:
        shape: Layers and columns.
        place: Of the pair, from 0.
        pairs: How many are verified.
        seed: Of the draw.

    Example:
        >>> [len(draw_cells((16, 5), place, 8, seed=42)) for place in range(8)]
        [10, 10, 10, 10, 10, 10, 10, 10]
    """
    layers, columns = shape
    rng = np.random.default_rng(seed)
    rows, places = rng.permutation(layers), rng.permutation(columns)
    least = max(2, -(-layers // pairs), -(-columns // pairs))
    count = min(layers * columns, max(least, min(16, -(-layers * columns // pairs))))
    cycle = int(np.lcm(layers, columns))  # after it the columns move by one: no cell comes twice
    return [
        (int(rows[i % layers]), int(places[(i + i // cycle) % columns]))
        for i in range(place * count, (place + 1) * count)
    ]


def verify_pairs(
    engine: ReferenceEngine, pairs: Sequence[VerifiedPair], wanted: VerifiedGrid
) -> list[tuple[VerifiedRun, ...]]:
    """Run some cells and the whole runs of pairs again.

    Args:
        engine: The reference.
        pairs: The pairs.
        wanted: The grid.

    Returns:
        For each pair `base`, `source`, then for each arm its cells and its ceiling; nothing for one
        whose prompts, filled up to the longest of them, do not fit the model.
    """
    found: list[tuple[VerifiedRun, ...]] = []
    for group in _groups(pairs, engine.model.num_latents, wanted.longest):
        fits = _length(group, engine.model.num_latents) <= wanted.longest
        found += _Group(engine, group, wanted).verify() if fits else [()]
    return found


def _groups(
    pairs: Sequence[VerifiedPair], latents: int, longest: int
) -> Iterator[list[VerifiedPair]]:
    """Pairs that fit the model side by side, in their order."""
    group: list[VerifiedPair] = []
    for pair in pairs:
        if group and _length([*group, pair], latents) > longest:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _length(pairs: Sequence[VerifiedPair], latents: int) -> int:
    """Tokens of the longest run, every prompt filled up to the longest one."""
    prompt = max(len(ids) for pair in pairs for ids, _ in pair.asked)
    readouts = [pair.base[1] for pair in pairs]
    return prompt + latents + max(len(r.prefix) + max(map(len, r.answers)) - 1 for r in readouts)


@dataclass(frozen=True)
class _Row:
    """A patched run: of which pair, with which arm's activations, which of the grid's.

    Attributes:
        pair: The pair's number.
        arm: `own` or `control`.
        run: Its number; None for the ceiling.
    """

    pair: int
    arm: str
    run: int | None


class _Group:
    """Pairs that are run side by side.

    Args:
        engine: The reference.
        pairs: The pairs.
        wanted: The grid.
    """

    def __init__(
        self, engine: ReferenceEngine, pairs: Sequence[VerifiedPair], wanted: VerifiedGrid
    ) -> None:
        self.engine, self.pairs, self.wanted = engine, pairs, wanted
        self.base = list[int]()
        asked: list[Asked] = []
        for pair in pairs:
            self.base.append(len(asked))
            asked += pair.asked
        self.prompts = engine.read([ids for ids, _ in asked])
        self.latent, context = engine.think(self.prompts, [[]] * len(asked), record=wanted.record)
        both = [place + run for place in self.base for run in (0, 1)]
        readouts = [asked[place][1] for place in both]
        read = engine.read_each(self._rows(context, both), readouts, [[]] * len(both))
        self.places = [own for pair in pairs for own in pair.places]
        if self.places:
            self.everywhere = engine.everywhere(
                self.prompts,
                [[]] * len(asked),
                record=wanted.record,
                prefixes=[readout.prefix for _, readout in asked],
            )
        self.unpatched = [[_numbers(run) for run in pair] for pair in zip(read[::2], read[1::2])]
        self.arms = [self._arms(place) for place in range(len(pairs))]
        placed = {
            (place, arm): at_places(wanted.patch_sets(given), self._places(self.base[place]))
            for place, arms in enumerate(self.arms)
            for arm, given in arms.items()
        }
        self.sets = {key: sets for key, (sets, _) in placed.items()}
        self.left_out = {  # what has no own value has no control's either
            (place, arm): {*left_out, *placed[place, "own"][1]}
            for (place, arm), (_, left_out) in placed.items()
        }

    def _rows(self, context: Any, places: Sequence[int]) -> Any:
        """A context of some of its rows."""
        return context.take(torch.tensor(places, device=self.engine.model.device))

    def _places(self, run: int) -> PlaceTokens:
        """The places of an unpatched run."""
        return self.places[run] if self.places else {}

    def _activations(self, run: int) -> Activations:
        """What an unpatched run has, at places too."""
        own = self.latent.activations(run)
        if not self.places:
            return own
        sites = self.everywhere.of_places(self.places[run])
        places = {name: {s: values[run] for s, values in of.items()} for name, of in sites.items()}
        return replace(own, places=places)

    def _arms(self, place: int) -> dict[str, Activations]:
        """The activations that are patched in."""
        arms, pair = {}, self.pairs[place]
        for arm, given in pair.given.items():
            if not isinstance(given, Activations):
                given = self._activations(self.base[place] + pair.asked.index(given))
            arms[arm] = given
        return arms

    def verify(self) -> list[tuple[VerifiedRun, ...]]:
        """See `verify_pairs`."""
        columns = len(self.wanted.grid.columns)
        run_of = {cell: run for run, cell in enumerate(self.wanted.run_order)}
        runs = [[run_of[row * columns + column] for row, column in p.cells] for p in self.pairs]
        logits = self._patched(runs)
        found = []
        for place, pair in enumerate(self.pairs):
            unpatched, measured = self.unpatched[place], self._metrics_of(place)
            own = [VerifiedRun(n, measured(run)) for n, run in zip(("base", "source"), unpatched)]
            for arm in pair.given:
                for (row, column), run in zip(pair.cells, runs[place], strict=True):
                    if run in self.left_out[place, arm]:
                        continue
                    names = self.wanted.grid.layers[row], self.wanted.grid.columns[column]
                    own.append(VerifiedRun(arm, measured(logits[_Row(place, arm, run)]), *names))
                name = "ceiling" if arm == "own" else f"ceiling_{arm}"
                own.append(VerifiedRun(name, measured(logits[_Row(place, arm, None)])))
            found.append(tuple(own))
        return found

    def _metrics_of(self, place: int) -> Callable[[Logits], dict[str, float | None]]:
        """Computes the metrics of a pair's runs."""
        base, source = self.unpatched[place]
        return partial(
            metrics_by_hand,
            base=base,
            source=source,
            ids=self.pairs[place].base[1].answers,
            clean_is_source=self.pairs[place].clean_is_source,
            margin=torch.finfo(self.latent.thoughts.dtype).eps ** 0.5,
        )

    def _patched(self, runs: Sequence[Sequence[int]]) -> dict[_Row, Logits]:
        """Logits of some runs of each pair with every arm, and of the ceilings."""
        ceilings = [_Row(place, arm, None) for place, arm in self.sets]
        rows: dict[int, list[_Row]] = {0: ceilings}
        for place, arm in self.sets:
            for depth, wave in enumerate(in_waves(runs[place], self.sets[place, arm])):
                rows.setdefault(depth, []).extend(_Row(place, arm, run) for run in wave)
        wanted = set(ceilings)
        wanted |= {_Row(place, arm, run) for place, arm in self.sets for run in runs[place]}
        generated: dict[_Row, Activations] = {}
        logits: dict[_Row, Logits] = {}
        for depth in sorted(rows):
            for piece in batched(rows[depth], min(self.engine.max_rows, _ROWS)):
                sets, found, context = self._think(piece, generated)
                if depth + 1 in rows:
                    generated |= {row: found.activations(i) for i, row in enumerate(piece)}
                read = [i for i, row in enumerate(piece) if row in wanted]
                if read:
                    readouts = [self.pairs[piece[i].pair].base[1] for i in read]
                    rest = self._rows(context, read)
                    each = self.engine.read_each(rest, readouts, [sets[i] for i in read])
                    logits |= {piece[i]: _numbers(own) for i, own in zip(read, each)}
        return logits

    def _think(
        self, rows: Sequence[_Row], generated: Mapping[_Row, Activations]
    ) -> tuple[list[list[Patch]], Latent, Any]:
        """The latent positions of some rows, and their patches, all of whose values are there."""
        places = [self.base[row.pair] for row in rows]
        prompt = self.prompts.take(places)
        frozen = self.latent.thoughts[places] if self.wanted.latents == "frozen" else None
        prefixes = [self.pairs[row.pair].base[1].prefix for row in rows]
        sets = [self._patches(row, generated) for row in rows]
        sets = self.engine.with_values(prompt, sets, frozen, prefixes)
        return sets, *self.engine.think(prompt, sets, frozen)

    def _patches(self, row: _Row, generated: Mapping[_Row, Activations]) -> list[Patch]:
        """A row's patches, with what earlier rows generated in place of its name."""
        if row.run is None:
            own = row.arm == "own"
            source = self.latent.activations(self.base[row.pair] + 1)
            return all_patches(source if own else self.arms[row.pair][row.arm])
        patches = []
        for patch in self.sets[row.pair, row.arm][row.run]:
            if isinstance(patch.values, Generated):
                before = generated[_Row(row.pair, row.arm, patch.values.row)]
                patch = replace(patch, values=before.at(*patch.site.cell))
            patches.append(patch)
        return patches


def in_waves(runs: Sequence[int], patch_sets: Sequence[PatchSet]) -> list[list[int]]:
    """Some runs and all that they are generated from; each wave needs those before it alone.

    Args:
        runs: Their numbers.
        patch_sets: The patches of all runs.
    """
    depths: dict[int, int] = {}

    def depth(run: int) -> int:
        if run not in depths:
            needs = [p.values.row for p in patch_sets[run] if isinstance(p.values, Generated)]
            depths[run] = max((depth(row) + 1 for row in needs), default=0)
        return depths[run]

    for run in runs:
        depth(run)
    waves: list[list[int]] = [[] for _ in range(max(depths.values(), default=-1) + 1)]
    for run in sorted(depths):
        waves[depths[run]].append(run)
    return waves


def batched(rows: Sequence[_Row], size: int) -> Iterator[Sequence[_Row]]:
    """So many at a time."""
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _numbers(answers: Sequence[Tensor]) -> Logits:
    base, source = (logits.double().cpu().numpy() for logits in answers[:2])
    return base, source
