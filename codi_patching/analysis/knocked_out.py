"""What the answer loses where an edge of attention is cut.

The effect of a cut is the fall of the probability of the run's own answer, in two comparisons:
uncut run minus cut run (is something lost?), and control minus cut run (more than where as many
words without a number are cut?). A mean is the smaller of the two, as everywhere. Where the whole
question is cut there is no control, and the fall is relative to the uncut run alone.

Two edges are judged, in all layers at once: question to readout, the direct route by which an
answer could come round the thoughts, and thoughts to readout. The others are described. What a
thought hands on to the next one is no attention, so a chain of thoughts can lose nothing where
edges between thoughts are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from codi_patching.analysis.asking import answer_of, describe, says_yes, strongest
from codi_patching.analysis.attended import by_length
from codi_patching.analysis.contrasts import unit
from codi_patching.analysis.effects import (
    Contrast,
    Effect,
    cells_of,
    groups_of,
    mean_over,
    of_run,
    rounding_of,
    without_rounding,
)
from codi_patching.analysis.findings import Against, Claim, Finding
from codi_patching.analysis.inference import SMALL, judge
from codi_patching.analysis.levels import SHARES
from codi_patching.analysis.study import Study
from codi_patching.results.dataset import CONTROL, KNOCKOUT, has_control, run_of, structural_of
from codi_patching.results.description import ALL, Array

CUT = "cut"
"""Kind of the claims about cut edges."""

DIRECT, THROUGH = "question->readout", "thoughts->readout"
"""The two ways to the answer, which are judged."""

ANSWER = "clean_probability"
"""The probability of the run's own answer."""


def falls(data: xr.Dataset) -> dict[Against, Array]:
    """How far each cut lowers the probability of the run's own answer, `(pairs, layers, edges)`.

    Relative to the run without a cut and to the control; 0 where nothing can come of a cut.
    """
    cut = cells_of(data, ANSWER)
    found: dict[Against, Array] = {
        "unpatched": of_run(data, "base", ANSWER)[:, None, None] - cut,
    }
    if has_control(data):
        found["control"] = cells_of(data, ANSWER, CONTROL) - cut
    zero = structural_of(data)
    return {key: np.where(zero, 0.0, without_rounding(effect)) for key, effect in found.items()}


def mean_fall(data: xr.Dataset) -> Array:
    """The smaller of a cut's mean falls, `(layers, edges)`.

    Where the control loses more than the cut that is 0, unless the answer rises with the cut.
    """
    means = [mean_over(effect) for effect in falls(data).values()]
    smaller = np.fmin(means[0], means[-1])
    return np.asarray(np.where(smaller < 0, np.minimum(means[0], 0.0), smaller))


def ask_knockout(study: Study) -> Iterator[Finding]:
    """Question 8, whether the answer comes round the thoughts; and every edge, described."""
    if study.knockout is None:
        if study.runs:
            yield Finding("around", 8, "missing", (), missing=((KNOCKOUT,),))
        return
    data = study.knockout
    share = SHARES["around"][KNOCKOUT] / 2
    judged = (judge(in_all_layers(data, [edge]), share, study.seed) for edge in (DIRECT, THROUGH))
    claims = tuple(claim for claims in judged for claim in claims)
    lead = next((claim for claim in claims if claim.column == DIRECT), None)
    answer = answer_of([lead]) if lead else "counts"
    yield Finding("around", 8, answer, (KNOCKOUT,), lead, claims)
    described = tuple(
        replace(claim, kind=f"{CUT}, {length} steps" if length else CUT)
        for length, mask in by_length(data)
        for names in _alike(data)
        for claim in describe(in_all_layers(data.isel(pair=mask), names), study.seed)
    )
    lead = strongest(of_single_thoughts(described), True)
    yield Finding("edges", None, "described", (KNOCKOUT,), lead, described)


def of_single_thoughts(claims: Sequence[Claim]) -> list[Claim]:
    """Of claims about edges those of what is read of one thought."""
    return [claim for claim in claims if (claim.column or "")[:1].isdigit()]


def most_needed(finding: Finding) -> dict[str, Claim]:
    """By number of steps, `2 steps`, or `cut` for all, the thought's edge that most is lost with.

    Where the unadjusted interval of its fall lies over 0, and the fall is not too small to matter.
    """
    kinds = dict.fromkeys(claim.kind for claim in finding.claims)
    leads = {
        kind.removeprefix(f"{CUT}, "): strongest(
            of_single_thoughts([c for c in finding.claims if c.kind == kind]), True
        )
        for kind in kinds
    }
    return {
        length: lead
        for length, lead in leads.items()
        if lead is not None and lead.side > 0 and lead.lead.mean >= SMALL
    }


def _alike(data: xr.Dataset) -> list[list[str]]:
    """The edges without a control, and those with one."""
    alone = [name for name in run_of(data).grid.columns if not _controlled(data, name)]
    others = [name for name in run_of(data).grid.columns if name not in alone]
    return [names for names in (alone, others) if names]


def _controlled(data: xr.Dataset, edge: str) -> bool:
    if not has_control(data):
        return False
    control = data[ANSWER].sel(arm=CONTROL, column=edge, layer=ALL)
    return bool(np.isfinite(control.values).any())


def in_all_layers(data: xr.Dataset, names: Sequence[str]) -> Effect:
    """The effects of some edges, all with a control or all without, cut in all layers at once."""
    grid = run_of(data).grid
    row, places = grid.layers.index(ALL), [grid.columns.index(name) for name in names]
    contrasts = tuple(
        Contrast(grid.label((row, at)), {"run": unit(data, row, at)}, ALL, grid.columns[at], CUT)
        for at in places
    )
    values = {key: effect[:, row, places] for key, effect in falls(data).items()}
    if not all(_controlled(data, name) for name in names):
        values = {"unpatched": values["unpatched"]}
    return Effect(contrasts, values, groups_of(data), rounding=rounding_of(data))


def claim_of(finding: Finding, edge: str) -> Claim | None:
    """The claim about an edge; None if there is none."""
    return next((claim for claim in finding.claims if claim.column == edge), None)


def needs(finding: Finding, edge: str) -> bool:
    """Whether it is claimed that the answer falls where an edge is cut."""
    claim = claim_of(finding, edge)
    return claim is not None and says_yes(claim)
