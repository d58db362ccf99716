"""From a question of the table to its finding: judged if it is primary, described if not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from codi_patching.analysis.effects import (
    Effect,
    effect_of,
    mean_error,
    mean_over,
    metric_of,
    of_run,
)
from codi_patching.analysis.findings import (
    CLAIMED,
    Answer,
    Claim,
    Comparison,
    Finding,
)
from codi_patching.analysis.inference import judge
from codi_patching.analysis.intervals import mean_intervals
from codi_patching.analysis.levels import share_of
from codi_patching.analysis.questions import Question
from codi_patching.analysis.study import Study
from codi_patching.results.dataset import run_of

_ALIKE = 0.005
"""Estimates that differ by no more read the same, in probability."""


def ask(question: Question, study: Study) -> Iterator[Finding]:
    """The findings of a question, one for each set of runs that it takes; one that is missing."""
    found = False
    for roles in question.roles:
        runs = study.playing(roles)
        if runs is None or (found and question.only_first):
            continue
        contrasts = question.contrasts(runs)
        effect = effect_of(runs, contrasts, question.measure) if contrasts else None
        if effect is None or not _known(effect):
            continue
        labels = tuple(study.label(kind) for kind in roles.values())
        if question.number is None:
            claims = describe(effect, study.seed)
            lead = strongest(claims, rise=not contrasts[0].either)
            numbers = (("unpatched", _unpatched(runs["run"])),) if question.measure == "hit" else ()
            yield Finding(question.key, None, "described", labels, lead, claims, numbers=numbers)
        else:
            kind = next(iter(roles.values())) if len(roles) == 1 else "all"
            share = share_of(question.key, kind) or share_of(question.key, "all")
            assert share is not None
            claims = judge(effect, share, study.seed)
            named = study.labels if question.key == "ceiling" else labels
            yield conclude(question.key, question.number, named, claims, effect)
        found = True
    if not found and question.missing:
        yield Finding(
            question.key, question.number, "missing", (), missing=study.lacking(question.missing)
        )


def conclude(
    key: str, number: int | None, runs: tuple[str, ...], claims: tuple[Claim, ...], effect: Effect
) -> Finding:
    """The finding that rests on claims."""
    either = {c.name for c in effect.contrasts if c.either}
    lead = strongest([c for c in claims if says_yes(c, c.name in either)])
    lead = lead or strongest(claims, not either)
    tied = ties(lead, claims, effect) if lead is not None and lead.claimed else ()
    return Finding(key, number, answer_of(claims, bool(either)), runs, lead, claims, tied)


def says_yes(claim: Claim, either: bool = False) -> bool:
    """Whether a claim answers a question with yes: any direction, or a rise alone."""
    return claim.verdict in (CLAIMED if either else ("rises", "more often"))


def answer_of(claims: Sequence[Claim], either: bool = False) -> Answer:
    """What claims that are judged together answer."""
    verdicts = {claim.verdict for claim in claims}
    if any(says_yes(claim, either) for claim in claims):
        return "yes"
    if verdicts == {"no"}:
        return "no"
    return "counts" if verdicts == {"counts"} else "at most"


def strongest(claims: Sequence[Claim], rise: bool = False) -> Claim | None:
    """The claim with the largest estimate, the first of those that agree to three decimals."""

    def size(claim: Claim) -> float:
        mean = claim.lead.mean if rise else abs(claim.lead.mean)
        return round(mean, 3) if np.isfinite(mean) else -np.inf

    return max(claims, key=size, default=None)


def ties(lead: Claim, claims: Sequence[Claim], effect: Effect) -> tuple[str, ...]:
    """Claims whose estimates agree with the lead's within the standard error of the difference.

    Or to the two digits that are printed. In every comparison; the lead is among them.
    """
    places = {contrast.name: place for place, contrast in enumerate(effect.contrasts)}
    kept = [places[claim.name] for claim in claims]
    agree = np.ones(len(kept), dtype=bool)
    for values in effect.values.values():
        difference = values[:, kept] - values[:, [places[lead.name]]]
        error = np.nan_to_num(mean_error(difference, effect.groups))
        with np.errstate(invalid="ignore"):
            agree &= np.abs(mean_over(difference)) <= np.maximum(error, _ALIKE)
    return tuple(claim.name for claim, same in zip(claims, agree, strict=True) if same)


def describe(effect: Effect, seed: int) -> tuple[Claim, ...]:
    """Claims that are not tested: estimates with unadjusted 95 % intervals."""
    names = tuple(effect.values)
    stacked = np.stack([effect.values[name] for name in names], axis=1)
    counted = np.stack([effect.counted(name) for name in names], axis=1)
    low, high = mean_intervals(stacked, effect.groups, seed)
    mean, present = mean_over(stacked), np.isfinite(stacked)
    groups = np.array(effect.groups)

    def comparison(side: int, place: int) -> Comparison:
        signs, known = counted[:, side, place], present[:, side, place]
        return Comparison(
            names[side], float(mean[side, place]), float(low[side, place]),
            float(high[side, place]), int((signs > 0).sum()), int((signs < 0).sum()),
            int(known.sum()), len(set(groups[known])),
        )  # fmt: skip

    return tuple(
        Claim(
            c.name, "described", tuple(comparison(side, place) for side in range(len(names))),
            float("nan"), float("nan"), c.layer, c.column, c.kind, effect.unit,
            either=c.either,
        )
        for place, c in enumerate(effect.contrasts)
        if present[:, :, place].any(axis=0).all()
    )  # fmt: skip


def _unpatched(data: xr.Dataset) -> float:
    """How often the source run's answer is predicted without a patch."""
    return float(mean_over(of_run(data, "base", metric_of(run_of(data), "hit"))))


def _known(effect: Effect) -> bool:
    return any(np.isfinite(values).any() for values in effect.values.values())
