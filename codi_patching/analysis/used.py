"""Whether what can be read is used, and whether what suffices is needed.

Read: a step's result is among the lens's most probable tokens more often than another pair's.
Decodable is not used, so patching is asked within strata: in pairs in which that step's result
differs between the two questions a patch can change it, in the others it cannot.

Needed: noising patches the corrupted run into the clean one, and what destroys the answer is needed
(Heimersheim and Nanda, arXiv 2404.15255, section 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from codi_patching.analysis import contrasts
from codi_patching.analysis.asking import answer_of, conclude, says_yes, strongest
from codi_patching.analysis.effects import (
    Effect,
    able_rows,
    align,
    base_answer_fall,
    effect_of,
    groups_of,
    rounding_of,
)
from codi_patching.analysis.findings import Against, Answer, Claim, Finding
from codi_patching.analysis.inference import judge
from codi_patching.analysis.lens_hits import hits
from codi_patching.analysis.levels import SHARES, label_of
from codi_patching.analysis.questions import SINGLE
from codi_patching.analysis.study import CONFIGS, Study
from codi_patching.results.dataset import run_of, structural_of
from codi_patching.results.description import Array

READ, DIFFERS, SAME = "read", "acts where it differs", "acts where it is the same"
"""Kinds of the claims about a step."""

NEEDED, BOTH = "needed", "needed and sufficient"
"""Kinds of the claims that noising destroys the answer."""


def ask_read(study: Study) -> Iterator[Finding]:
    """Question 6: the lens beside each run of position patching of what it reads."""
    singles = [k for k in SINGLE if k in study.runs and able_rows(study.runs[k]).size]
    lens, position = ("lens",), ("position",)
    if study.lens is None:
        yield Finding("read", 6, "missing", (), missing=(lens,) if singles else (lens, position))
        return
    if not study.lens.sizes["pair"]:  # no pair has steps to read
        yield Finding("read", 6, "counts", ("lens",))
        return
    shares = SHARES["read"]
    read = judge(_readings(study.lens), shares["lens"], study.seed)
    if not singles:
        yield Finding(  # read, but nothing is known of use
            "read", 6, "described" if read else "missing", ("lens",), strongest(read, True), read,
            missing=(("position",),),
        )  # fmt: skip
    for kind in singles:
        runs_of = align({"run": study.runs[kind], "lens": study.lens})
        acts = judge(_acting(runs_of["run"], runs_of["lens"]), shares[kind], study.seed)
        yield _read_and_used(read, acts, (study.label(kind), "lens"))


def _readings(lens: xr.Dataset) -> Effect:
    """How much more often a step's result is read than another pair's, at every cell."""
    own, chance = hits(lens)
    above = own - chance
    columns = [
        replace(c, name=f"step {step + 1} at {c.name}", kind=READ, step=step + 1)
        for step in range(above.shape[1])
        for c in _grid(lens)
    ]
    return Effect(
        tuple(columns), {"chance": above.reshape(len(above), -1)}, groups_of(lens), "rate"
    )


def _grid(lens: xr.Dataset) -> list[contrasts.Contrast]:
    run = run_of(lens)
    return [
        contrasts.Contrast(run.label(cell), {"run": contrasts.unit(lens, *cell)}, layer, column)
        for cell, layer, column in run.grid.cells()
    ]


def _acting(data: xr.Dataset, lens: xr.Dataset) -> Effect:
    """The content effect of every cell, where a step's result differs and where it does not."""
    effect = effect_of({"run": data}, contrasts.cells({"run": data}))
    differs = lens["differs"].values
    columns: list[contrasts.Contrast] = []
    values: dict[Against, list[Array]] = {key: [] for key in effect.values}
    for step in range(differs.shape[1]):
        for kind, wanted in ((DIFFERS, 1.0), (SAME, 0.0)):
            chosen = (differs[:, step] == wanted)[:, None]
            columns += [
                replace(c, name=f"{c.name}, {kind}, step {step + 1}", kind=kind, step=step + 1)
                for c in effect.contrasts
            ]
            for key, of_all in effect.values.items():
                values[key].append(np.where(chosen, of_all, np.nan))
    values_of: dict[Against, Array] = {k: np.concatenate(v, axis=1) for k, v in values.items()}
    return Effect(tuple(columns), values_of, effect.groups, rounding=effect.rounding)


def _read_and_used(
    read: tuple[Claim, ...], acts: tuple[Claim, ...], runs: tuple[str, ...]
) -> Finding:
    """Yes where some cell is read, and acts where that step differs."""
    at = {(c.kind, *_place(c)): c for c in acts}
    shown = [claim for claim in read if says_yes(claim)]
    used = read_and_acting((*read, *acts))
    also = [c for c in used if (a := at.get((SAME, *_place(c)))) is not None and says_yes(a)]
    differing = [at.get((DIFFERS, *_place(c))) for c in shown]
    answer: Answer = "yes" if used else _not_both(read, acts, shown, differing)
    lead = strongest(used, True) or strongest(shown, True) or strongest(read, True)
    numbers = (
        ("read", len(shown)), ("read and used", len(used)),
        ("read and used whether it differs or not", len(also)), ("judged", len(read)),
    )  # fmt: skip
    return Finding("read", 6, answer, runs, lead, (*read, *acts), numbers=numbers)


def read_and_acting(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """Of claims that a step is read, those at whose place a patch acts where that step differs."""
    acting = {_place(claim) for claim in claims if claim.kind == DIFFERS and says_yes(claim)}
    read = (claim for claim in claims if claim.kind == READ and says_yes(claim))
    return tuple(claim for claim in read if _place(claim) in acting)


def _place(claim: Claim) -> tuple[int | None, str | None, str | None]:
    return claim.step, claim.layer, claim.column


def _not_both(
    read: Sequence[Claim], acts: Sequence[Claim], shown: Sequence[Claim], of: Sequence[Claim | None]
) -> Answer:
    if not read or not acts or "counts" in (answer_of(read), answer_of(acts)):
        return "counts"
    bounded = all(claim.verdict == "no" for claim in read if claim not in shown)
    return "no" if bounded and all(c is None or c.verdict == "no" for c in of) else "at most"


def ask_needed(study: Study, cells: Sequence[Finding]) -> Iterator[Finding]:
    """Question 8: where noising destroys the answer, beside where denoising restores it.

    Args:
        study: With runs of noising.
        cells: Findings of the question which cells suffice.
    """
    if not study.noising:
        if study.runs:
            yield Finding("needed", 8, "missing", (), missing=(("position", "noising"),))
        return
    for kind, data in study.noising.items():
        share = SHARES["needed"][kind]
        able = ~structural_of(data)
        fall = base_answer_fall(data)[:, able]
        columns = [replace(c, kind=NEEDED) for c in contrasts.cells({"run": data})]
        effect = Effect(
            tuple(columns), {"unpatched": fall}, groups_of(data), rounding=rounding_of(data)
        )
        claims = judge(effect, share, study.seed)
        found = conclude("needed", 8, (label_of(run_of(data)),), claims, effect)
        beside = _beside(kind, study, cells)
        if beside is None:  # what falls, but nothing is known of what restores
            missing = ((CONFIGS[kind],),) if kind in CONFIGS else ()
            yield replace(found, answer="described", missing=missing)
            continue
        enough = {(c.layer, c.column) for c in beside.claims if says_yes(c)}
        needed = [c for c in claims if says_yes(c)]
        both = [c for c in needed if (c.layer, c.column) in enough]
        claims = tuple(replace(c, kind=BOTH) if c in both else c for c in claims)
        numbers = (("needed", len(needed)), ("sufficient", len(enough)), ("both", len(both)))
        answer: Answer = "yes" if both else "at most" if needed else found.answer
        runs = (*found.runs, *beside.runs)
        yield replace(found, answer=answer, runs=runs, claims=claims, numbers=numbers)


def _beside(kind: str, study: Study, cells: Sequence[Finding]) -> Finding | None:
    if kind not in study.runs:
        return None
    return next((finding for finding in cells if finding.runs == (study.label(kind),)), None)
