"""Runs that were made again another way, against what the dataset has for them.

What may differ by rounding follows from the model's precision, as a share of each metric's largest
value in the run: its logits are that far off, and a metric of them no more than that. Measured on
`codi-tiny`, two engines differ by 1e-6 of it in float32 and by 1e-2 in bfloat16, which carries 8
bits; the allowance is some 10 to 100 times that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from codi_patching.analysis.checks import Check, judged
from codi_patching.results.dataset import CONTROL, OWN, RUNS, has_control, pairs_of, run_of
from codi_patching.results.description import Array, RunDescription
from codi_patching.results.pair_descriptions import VerifiedRun


@dataclass(frozen=True)
class Limits:
    """What rounding may do.

    Attributes:
        metrics: Share of a metric's largest value by which a run made again may differ.
        self_patch: KL of a self-patch, in nats.
    """

    metrics: float
    self_patch: float


_LIMITS: Mapping[str, Limits] = {
    "64": Limits(1e-6, 1e-12),
    "32": Limits(1e-4, 1e-6),
    "bf16": Limits(0.1, 1e-2),
    "16": Limits(0.02, 1e-2),
}
"""By what the name of a precision begins with, `32-true`."""

_LOOKS_OFF = 0.1
"""Share of looks of attention that may differ by more in a precision of 16 bits."""

_LONG_CHAIN = 16
"""Thoughts from which on rounding, fed back each time, may pass what is allowed."""

_LEAST_SPAN = 1e-3
"""Recovery is undefined where the logit differences of the two unpatched runs are closer."""


def limits_of(run: RunDescription) -> Limits:
    """What rounding may do in a run's precision."""
    return _LIMITS.get(run.precision.partition("-")[0], _LIMITS["bf16"])


def rounding_of(run: RunDescription) -> str:
    """What of a difference between two runs may be no fault, and how to tell."""
    return (
        f"rounding in {run.precision}, which a chain of {run.num_latents} thoughts amplifies, may "
        "be all of it: in float64 (precision 64-true) only a fault is left"
    )


@dataclass(frozen=True)
class _Compared:
    """A run beside itself, made again.

    Attributes:
        where: In words.
        share: Largest difference, as a share of what is allowed.
        said: The metric that differs most, and its two values.
    """

    where: str
    share: float
    said: str


def check_made_again(data: xr.Dataset) -> list[Check]:
    """Cells with own and control, and whole runs, agree with the same made another way."""
    run, kinds = run_of(data), {"cells": [OWN], "whole runs": list(RUNS)}
    if has_control(data):
        kinds = {"cells": [OWN], "cells with the control": [CONTROL], "whole runs": list(RUNS)}
    limit = limits_of(run).metrics
    expected = (
        "the reference engine and independent metrics give the same in every metric, to "
        f"{limit:g} of its largest value ({run.precision})"
    )
    compared = {what: list(_compare(data, arms)) for what, arms in kinds.items()}
    pairs = sum(bool(pair.verified) for pair in pairs_of(data))
    checks = []
    for what, found in compared.items():
        name = f"{what} made again"
        if not found:
            checks.append(Check(name, expected, "none was made again", "not made"))
            continue
        wrong = [each for each in found if not each.share <= 1]
        seen = f"{len(found)} in {pairs} pairs differ by at most "
        seen += f"{max(each.share for each in found):.2g} of what is allowed"
        if wrong:
            worst = max(wrong, key=lambda each: each.share)
            seen = f"{len(wrong)} of {len(found)} differ: {worst.said} at {worst.where}"
            if run.num_latents >= _LONG_CHAIN and not run.precision.startswith("64"):
                seen += f"; {rounding_of(run)}"
        checks.append(judged(name, expected, seen, not wrong))
    return checks


def check_read_again(data: xr.Dataset) -> Check:
    """Attention agrees with that of one pass over the whole sequence by transformers' own code.

    That code makes shares in float32, in float64 runs too. In 16 bits rounding can turn a sharp
    softmax to another token, so that not all looks need agree.
    """
    run, name = run_of(data), "attention read again"
    limit = max(limits_of(run).metrics, _LIMITS["32"].metrics)
    most = 0.0 if run.precision.startswith(("32", "64")) else _LOOKS_OFF
    of = f" in {1 - most:.0%} of looks" if most else ""
    expected = (
        "eager attention of the whole sequence gives the same shares, of single heads, the mean "
        f"over heads and the strongest, to {limit:g}{of} ({run.precision})"
    )
    found = list(_read_again(data))
    if not found:
        return Check(name, expected, "none was read again", "not made")
    wrong = sum(not off <= limit for off, _ in found)
    pairs = sum(bool(pair.verified) for pair in pairs_of(data))
    largest, where = max(found)
    seen = f"{len(found)} looks in {pairs} pairs differ by at most {largest:.2g}"
    if wrong:
        seen = f"{wrong} of {len(found)} looks differ, by up to {largest:.2g}: {where}"
    return judged(name, expected, seen, wrong <= most * len(found))


def _read_again(data: xr.Dataset) -> Iterator[tuple[float, str]]:
    """How far each look that was read again is off, and where it is; infinite where unknown."""
    run = run_of(data)
    kept = [data[name].values for name in ("attention", "strongest")]
    rows = zip(data["pair"].values, pairs_of(data), data["heads"].values, strict=True)
    for row, (pair_id, pair, heads) in enumerate(rows):
        for again, head in zip(pair.verified, heads, strict=True):
            place = row, run.readers.index(again.reader), run.grid.layers.index(again.layer)
            own = np.stack([head, *(values[place] for values in kept)])
            off = np.abs(own - np.array([again.shares, again.mean, again.strongest])).max()
            where = f"{again.reader} in layer {again.layer}, head {again.head}, of {pair_id}"
            yield (np.inf if np.isnan(off) else float(off)), where


def _compare(data: xr.Dataset, arms: list[str]) -> Iterator[_Compared]:
    """Each verified run of some arms beside its values in the dataset."""
    values = {str(name): np.asarray(array.values) for name, array in data.data_vars.items()}
    allowed = _allowed(data, values)
    for row, (pair_id, pair) in enumerate(zip(data["pair"].values, pairs_of(data), strict=True)):
        for again in pair.verified:
            if again.arm in arms:
                yield _compare_run(data, values, again, row, str(pair_id), allowed)


def _compare_run(
    data: xr.Dataset,
    values: Mapping[str, Array],
    again: VerifiedRun,
    row: int,
    pair_id: str,
    allowed: Callable[[str, int, float], float],
) -> _Compared:
    run, prefix, place = run_of(data), "run_", tuple[int, ...]()
    if again.layer is None or again.column is None:
        where, place = f"the {again.arm.replace('_', ' ')} run", (RUNS.index(again.arm),)
    else:
        cell = run.grid.layers.index(again.layer), run.grid.columns.index(again.column)
        where, prefix = run.label(cell), ""
        place = (*cell, list(data["arm"].values).index(again.arm))
    common = [metric for metric in run.metrics if metric in again.metrics]
    worst, said = (0.0, "nothing") if common else (np.inf, "no metric was measured again")
    for metric in common:
        kept = float(values[prefix + metric][(row, *place)])
        made = again.metrics[metric]
        made = float("nan") if made is None else made
        share = abs(kept - made) / allowed(metric, row, made)
        if np.isnan(kept) or np.isnan(made):
            undecided = np.isinf(allowed(metric, row, made))
            share = 0.0 if np.isnan(kept) == np.isnan(made) or undecided else np.inf
        if share >= worst:
            worst, said = share, f"{metric} is {kept:.6g}, and {made:.6g} again,"
    return _Compared(f"{where} of {pair_id}", worst, said)


def _allowed(data: xr.Dataset, values: Mapping[str, Array]) -> Callable[[str, int, float], float]:
    """What a metric may differ by, from its name, the pair's row and the value."""
    limit = limits_of(run_of(data)).metrics
    largest = {}
    for metric in run_of(data).metrics:
        numbers = np.concatenate([values[metric].ravel(), values[f"run_{metric}"].ravel()])
        known = np.abs(numbers[np.isfinite(numbers)])
        largest[metric] = limit * max(float(known.max(initial=0.0)), 1e-3)
    difference = "answer_logit_difference"  # recovery is a share of it
    if difference not in largest:
        return lambda metric, row, value: largest[metric]
    ends = values[f"run_{difference}"][:, [RUNS.index("base"), RUNS.index("source")]]
    spans = np.abs(ends[:, 1] - ends[:, 0])

    def allowed(metric: str, row: int, value: float) -> float:
        if metric != "recovery":
            return largest[metric]
        off = 2 * largest[difference]
        if spans[row] < _LEAST_SPAN + off:
            return np.inf  # whether it is defined at all is a matter of rounding
        return off * (1 + (0.0 if np.isnan(value) else abs(value))) / spans[row]

    return allowed
