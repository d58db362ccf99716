"""Where attention goes, beside where patching acts: described, never judged.

A patch of a block's output at thought p is seen by attention in the blocks above it alone, from
readers after p. So beside a cell's effect stands the largest share that any such reader gives the
thought in any block above, by its most attentive head. High attention is not use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from codi_patching.analysis import contrasts
from codi_patching.analysis.asking import describe, strongest
from codi_patching.analysis.described import rank_agreement
from codi_patching.analysis.effects import Effect, align, content, groups_of, mean_over
from codi_patching.analysis.findings import Claim, Finding
from codi_patching.analysis.inference import SMALL
from codi_patching.analysis.questions import SINGLE
from codi_patching.analysis.study import Study
from codi_patching.results.dataset import run_of, structural_of
from codi_patching.results.description import THOUGHT, Array, Mask

LARGE = 0.5
"""A share that is seen: more than all else together."""

_LENGTHS, _PAIRS = 4, 4
"""Numbers of steps that are told apart at most, and pairs that each must have."""


def last_reader(data: xr.Dataset, measure: str = "attention") -> Array:
    """What the token before the answer gives each thought, `(pairs, L, K)`.

    Args:
        data: Of attention.
        measure: `attention`, the mean over heads, or `strongest`, the head that gives most.
    """
    run = run_of(data)
    shares = data[measure].sel(reader=run.readers[-1], attended=list(run.grid.columns))
    return np.asarray(shares.transpose("pair", "layer", "attended").values, dtype=np.float64)


def mean_share(data: xr.Dataset, reader: str, measure: str = "attention") -> Array:
    """What a reader gives each thought, mean over pairs, `(L, K)`; see `last_reader`."""
    shares = data[measure].sel(reader=reader, attended=list(run_of(data).grid.columns))
    return np.asarray(shares.mean("pair").values, dtype=np.float64)


def even_share(data: xr.Dataset) -> Array:
    """What that token would give one token if it gave all the same, `(pairs,)`."""
    return 1.0 / np.asarray(data["tokens"].sum("attended").values, dtype=np.float64)


def seen_above(data: xr.Dataset) -> Array:
    """The largest share of each thought in the blocks above each, `(pairs, L, K)`.

    Of any reader after the thought, by its most attentive head; 0 above the last block.
    """
    columns = list(run_of(data).grid.columns)
    shares = data["strongest"].transpose("pair", "reader", "layer", "attended")
    by_thought = shares.sel(attended=columns).values
    readers = {name: place for place, name in enumerate(run_of(data).readers)}
    found = np.zeros((data.sizes["pair"], data.sizes["layer"], len(columns)))
    for place, column in enumerate(columns):
        after = by_thought[:, readers[column] + 1 :, :, place].max(axis=1)
        above = np.maximum.accumulate(after[:, ::-1], axis=1)[:, ::-1]
        found[:, :-1, place] = above[:, 1:]
    return found


def by_length(data: xr.Dataset) -> list[tuple[int | None, Mask]]:
    """Pairs alike in their number of steps, `(pairs,)` each; all together where it is not known.

    Of lengths with fewer than four pairs nothing is said; of more than four lengths the four with
    most pairs are told apart.
    """
    steps = np.asarray(data["num_steps"].values, dtype=np.float64)
    counts = Counter(int(number) for number in steps[np.isfinite(steps)])
    known = [number for number, pairs in counts.most_common(_LENGTHS) if pairs >= _PAIRS]
    found: list[tuple[int | None, Mask]] = [(number, steps == number) for number in sorted(known)]
    return found or [(None, np.ones(len(steps), dtype=bool))]


@dataclass(frozen=True)
class Look:
    """Where the token before the answer looks, over pairs alike in their number of steps.

    Attributes:
        length: The number of steps; None of all pairs together.
        pairs: How many there are.
        shares: The mean of `last_reader` over them, `(L, K)`.
    """

    length: int | None
    pairs: int
    shares: Array


def looks(data: xr.Dataset, measure: str = "attention") -> list[Look]:
    """Where the token before the answer looks, for each of `by_length`."""
    shares = last_reader(data, measure)
    return [
        Look(length, int(mask.sum()), shares[mask].mean(axis=0)) for length, mask in by_length(data)
    ]


def mean_seen_above(data: xr.Dataset) -> Array:
    """The mean of `seen_above` over pairs, `(L, K)`."""
    return np.asarray(seen_above(data).mean(axis=0))


def ask_attention(study: Study) -> Iterator[Finding]:
    """Where the token before the answer looks, beside each run of position patching."""
    if study.attention is None:
        if study.runs:
            yield Finding("attention", 6, "missing", (), missing=(("attention",),))
        return
    data = study.attention
    if not data.sizes["pair"]:
        return
    claims = tuple(
        claim
        for length, mask in by_length(data)
        for claim in _looks(data.isel(pair=mask), length, study.seed)
    )
    lead = strongest(claims, rise=True)
    even = ("evenly spread", float(mean_over(even_share(data))))
    singles = [kind for kind in SINGLE if kind in study.runs]
    if not singles:
        yield Finding("attention", 6, "described", ("attention",), lead, claims, numbers=(even,))
    for kind in singles:
        numbers = (even, *_beside(study.runs[kind], data))
        runs = (study.label(kind), "attention")
        yield Finding("attention", 6, "described", runs, lead, claims, numbers=numbers)


def _looks(data: xr.Dataset, length: int | None, seed: int) -> tuple[Claim, ...]:
    """The share of every cell, over pairs of one number of steps."""
    run = run_of(data)
    kind, of = (f"{length} steps", f", {length} steps") if length else ("attention", "")
    columns = tuple(
        contrasts.Contrast(f"{run.label(cell)}{of}", {}, layer, column, kind=kind)
        for cell, layer, column in run.grid.cells()
    )
    shares = last_reader(data).reshape(data.sizes["pair"], -1)
    return describe(Effect(columns, {"nothing": shares}, groups_of(data), "rate"), seed)


def most_attended(finding: Finding) -> dict[str, Claim]:
    """The cell with the largest share, by number of steps: `2 steps`, or `attention` for all."""
    kinds = dict.fromkeys(claim.kind for claim in finding.claims)
    leads = {kind: strongest([c for c in finding.claims if c.kind == kind], True) for kind in kinds}
    return {kind: lead for kind, lead in leads.items() if lead is not None}


def _beside(patched: xr.Dataset, attended: xr.Dataset) -> tuple[tuple[str, float], ...]:
    """Rank agreement over cells, and the cells that act, those among them that are hardly seen."""
    both = align({"run": patched, "attention": attended})
    layers = [name for name in run_of(patched).grid.layers if name != THOUGHT]
    rows = [run_of(patched).grid.layers.index(name) for name in layers]
    able = ~structural_of(both["run"])[rows]
    able[-1] = False  # above the last block nothing looks: its output makes the next thought
    effects = content(both["run"])
    acts = np.min([mean_over(values[:, rows]) for values in effects.values()], axis=0)[able]
    seen = mean_over(seen_above(both["attention"]))[able]
    even = float(mean_over(even_share(both["attention"])))
    acting = acts > SMALL
    return (
        ("rank agreement", rank_agreement(seen, acts)),
        ("cells", float(able.sum())),
        ("acting", float(acting.sum())),
        ("acting, hardly seen", float((acting & (seen < even)).sum())),
        ("seen, not acting", float((~acting & (seen >= LARGE)).sum())),
    )
