"""Along the chain: what becomes of an effect from one iteration to the last.

By the sign of what the first patch did, where that is claimed: a chain *compounds* if the change
from its first iteration to its end is claimed and goes the same way, *saturates* if the change is
bounded within what is too small to matter, *fades* if it goes against it, and *turns* if the end is
claimed on the other side. The end is the same iteration at every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from codi_patching.analysis import contrasts
from codi_patching.analysis.asking import answer_of, strongest
from codi_patching.analysis.distributions import t_quantile
from codi_patching.analysis.effects import Effect, able_rows, effect_of, end_of, mean_over
from codi_patching.analysis.findings import Answer, Claim, Course, CourseName, Finding
from codi_patching.analysis.groups import by_group
from codi_patching.analysis.inference import judge
from codi_patching.analysis.levels import SHARES
from codi_patching.analysis.study import Study
from codi_patching.results.dataset import run_of

_TOLD = ("compounds", "saturates", "fades", "turns")


def ask_chains(study: Study) -> list[Finding]:
    """Question 5, of each chain by itself."""
    found = [
        _chain(study.runs[kind], study.label(kind), share, study.seed)
        for kind, share in SHARES["chain"].items()
        if kind in study.runs and able_rows(study.runs[kind]).size
    ]
    if found:
        return found
    return [Finding("chain", 5, "missing", (), missing=study.lacking(tuple(SHARES["chain"])))]


def _chain(data: xr.Dataset, label: str, share: float, seed: int) -> Finding:
    runs = {"run": data}
    effect = effect_of(runs, [*contrasts.cells(runs), *contrasts.changes(runs)])
    claims = judge(effect, share, seed)
    courses = []
    for layer in dict.fromkeys(claim.layer for claim in claims):
        own = [claim for claim in claims if claim.layer == layer]
        effects = tuple(claim for claim in own if claim.kind == "content")
        change = next((claim for claim in own if claim.kind != "content"), None)
        if effects and layer is not None:
            courses.append(_course(layer, effects, change, data, effect))
    told = [course for course in courses if course.course in _TOLD]
    first = strongest([course.effects[0] for course in told])
    lead = next((c.change for c in told if first and c.layer == first.layer), None)
    lead = lead or strongest([c for c in claims if c.kind == "content"], rise=True)
    return Finding(
        "chain", 5, _answer(courses, claims), (label,), lead, claims, courses=tuple(courses)
    )


def _answer(courses: Sequence[Course], claims: Sequence[Claim]) -> Answer:
    if any(course.course in _TOLD for course in courses):
        return "yes"
    answer = answer_of([claim for claim in claims if claim.kind == "content"])
    return "at most" if answer == "yes" else answer


def _course(
    layer: str,
    effects: tuple[Claim, ...],
    change: Claim | None,
    data: xr.Dataset,
    effect: Effect,
) -> Course:
    first = effects[0]
    end = run_of(data).grid.columns[end_of(data)]
    last = next((claim for claim in effects if claim.column == end), first)
    if not first.claimed or change is None:
        return Course(layer, "none", effects, change)
    share = _share_left(first, last, effect)
    return Course(layer, course_of(first, change, last), effects, change, share)


def course_of(first: Claim, change: Claim, last: Claim) -> CourseName:
    """What a chain does whose first effect is claimed."""
    if change.verdict == "no":
        return "saturates"
    if not change.claimed:
        return "open"
    if _way(change) == _way(first):
        return "compounds"
    return "turns" if last.claimed and _way(last) != _way(first) else "fades"


def _way(claim: Claim) -> bool:
    return claim.verdict in ("rises", "more often")


def _share_left(first: Claim, last: Claim, effect: Effect) -> tuple[float, float, float]:
    """Last effect over the first, relative to what the first is led by."""
    names = [contrast.name for contrast in effect.contrasts]
    values = effect.values[first.lead.against]
    pair = values[:, [names.index(first.name), names.index(last.name)]]
    return ratio_interval(pair[:, 1], pair[:, 0], effect.groups)


def ratio_interval(
    above: np.ndarray, below: np.ndarray, groups: Sequence[str]
) -> tuple[float, float, float]:
    """A ratio of two means with its 95 % interval (Fieller, 1954); NaN ends if it is unbounded.

    Args:
        above: `(pairs,)`.
        below: `(pairs,)`; its mean must be told apart from 0 for the interval to be bounded.
        groups: Of each pair.
    """
    both = np.stack([above, below], axis=1)
    both = np.where(np.isfinite(both).all(axis=1, keepdims=True), both, np.nan)
    (b, a), n = mean_over(both), int(np.isfinite(both[:, 0]).sum())
    rest = by_group(np.nan_to_num(both - [b, a]), groups)
    count = len(set(np.array(groups)[np.isfinite(both[:, 0])]))
    if count < 2 or a == 0:
        return float(b / a) if a else float("nan"), float("nan"), float("nan")
    (vb, cab), (_, va) = count / (count - 1) * rest.T @ rest / n**2
    t = float(t_quantile(0.975, count - 1))
    ratio, g = b / a, t**2 * va / a**2
    inside = vb - 2 * ratio * cab + ratio**2 * va - (g * (vb - cab**2 / va) if va > 0 else 0.0)
    if g >= 1:
        return float(ratio), float("nan"), float("nan")
    middle = (ratio - (g * cab / va if va > 0 else 0.0)) / (1 - g)
    half = t / abs(a) * np.sqrt(max(float(inside), 0.0)) / (1 - g)
    return float(ratio), float(middle - half), float(middle + half)


def total_claims(finding: Finding, data: xr.Dataset) -> tuple[Claim, ...]:
    """The claims about a cumulative chain's end, which are those of the total effect."""
    end = run_of(data).grid.columns[end_of(data)]
    return tuple(
        replace(claim, kind="total")
        for claim in finding.claims
        if claim.kind == "content" and claim.column == end
    )
