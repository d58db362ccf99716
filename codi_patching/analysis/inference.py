"""From effects to claims: whether, then how much, and a bound on what is not claimed.

*Whether.* One max-T over a question's columns, both comparisons in one maximum. With m the mean
and n the independent groups, a direction is claimed where both intervals exclude 0 on the same side
and |m| > r0 (1 + |m|) in both, r0 = 1 - (share / 2 / columns)^(1/n): as many pairs as n may well
have left unseen, each as far the other way as can be, would not undo it. Without that guard skew
of mean 0 is claimed. Where only the intervals exclude 0, pairs are counted: "more often" takes an
exact sign test at the same share.

*p* is the larger of the comparisons', times 0.05 / share: under 0.05 exactly where a claim is made.

*Bound.* What is not claimed is bounded (`bounds`), with an error budget of its own in which
columns and comparisons count. Under 20 groups there are counts and bounds, and no directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codi_patching.analysis.bounds import Counts, unseen_share, upper_bounds
from codi_patching.analysis.distributions import binomial_tail
from codi_patching.analysis.effects import Effect, mean_error, mean_over
from codi_patching.analysis.findings import Against, Claim, Comparison, Verdict
from codi_patching.analysis.groups import by_group
from codi_patching.analysis.max_t import MaxT, draw_signs, max_t
from codi_patching.results.description import Array

LEVEL = 0.05
"""Chance that a report claims anything where there is nothing; what p is compared with."""

SMALL = 0.10
"""What is too small to matter, in probability or as a rate."""

LEAST_GROUPS = 20
"""Under so many independent groups there are counts, and no directions of means."""


def judge(effect: Effect, share: float, seed: int) -> tuple[Claim, ...]:
    """A claim for each contrast that has a value, all judged together.

    Args:
        effect: What was estimated.
        share: Of the level that belongs to them, fixed in advance.
        seed: Of the flips.
    """
    sides = [_Side.of(effect, against) for against in effect.values]
    groups = np.min([side.groups for side in sides], axis=0)
    tested = np.flatnonzero(groups >= LEAST_GROUPS)
    told = _tell(effect, sides, tested, share, seed) if len(tested) else {}
    alpha = share / max(1, int((groups > 0).sum()))
    bounds = _bounds(effect, sides, alpha)
    return tuple(
        _claim(effect, place, sides, told.get(place), float(bounds[place]))
        for place in map(int, np.flatnonzero(groups > 0))
    )


_PARTS: Mapping[Against, float] = {"unpatched": 0.75, "control": 0.25}
"""Of the level of a bound, where there are two comparisons."""


@dataclass(frozen=True)
class _Side:
    """One comparison of all contrasts, estimated; every array is `(contrasts,)`."""

    against: Against
    values: Array
    counted: Array
    mean: Array
    error: Array
    up: Counts
    down: Counts
    n: Counts
    groups: Counts
    reach: Array

    @classmethod
    def of(cls, effect: Effect, against: Against) -> _Side:
        values, counted = effect.values[against], effect.counted(against)
        present = np.isfinite(values)
        return cls(
            against, values, counted, mean_over(values), mean_error(values, effect.groups),
            (counted > 0).sum(axis=0), (counted < 0).sum(axis=0), present.sum(axis=0),
            (by_group(present.astype(np.float64), effect.groups) > 0).sum(axis=0),
            effect.reach(against),
        )  # fmt: skip


@dataclass(frozen=True)
class _Told:
    """What is told of a contrast: verdict, scaled p, and each comparison's interval."""

    verdict: Verdict
    p: float
    ends: tuple[tuple[float, float], ...]


def _tell(
    effect: Effect, sides: Sequence[_Side], tested: Counts, share: float, seed: int
) -> dict[int, _Told]:
    """Verdict and p of the contrasts that are tested, from one maximum over all of them."""
    values = np.concatenate([side.values[:, tested] for side in sides], axis=1)
    test = max_t(values, draw_signs(len(set(effect.groups)), seed), effect.groups)
    ways = np.sign([side.mean[tested] for side in sides])
    agree = (ways == ways[0]).all(axis=0) & (ways[0] != 0)
    p = _p_of_means(test).reshape(len(sides), -1)
    guard = [_p_of_guard(side, tested, effect.reach("unpatched")) for side in sides]
    sign = [_p_of_signs(side.counted[:, tested], effect.groups, ways[0]) for side in sides]
    interval = p.max(axis=0)  # NaN where nothing moves in one of them
    of_mean = np.where(agree, np.fmax(interval, np.max(guard, axis=0)), 1.0)
    of_pairs = np.where(agree, np.fmax(interval, np.max(sign, axis=0)), 1.0)
    ends = [_intervals(side, test, i, tested, share) for i, side in enumerate(sides)]
    told = {}
    for place, column in enumerate(map(int, tested)):
        both = (float(of_mean[place]), float(of_pairs[place]))
        verdict = _verdict(both[0] < share, both[1] < share, ways[0, place] > 0)
        claimed = both[0] if both[0] < share else min(both)
        scaled = min(1.0, claimed * LEVEL / share)
        told[column] = _Told(
            verdict,
            float("nan") if np.isnan(interval[place]) else scaled,
            tuple((float(low[place]), float(high[place])) for low, high in ends),
        )
    return told


def _verdict(mean: bool, pairs: bool, rise: bool) -> Verdict:
    if mean:
        return "rises" if rise else "falls"
    if pairs:
        return "more often" if rise else "less often"
    return "at most"


def _p_of_means(test: MaxT) -> Array:
    """Adjusted p of a mean of 0; the least there is of what moves alike in all pairs."""
    alike = ~test.tested & (np.abs(test.mean) > 0)
    return np.where(alike, 1 / (1 + len(test.maxima)), test.p)


def _p_of_guard(side: _Side, tested: Counts, reach: Array) -> Array:
    """The share at which the guard against skew would just be passed; 0 where nothing bounds it.

    Args:
        side: A comparison.
        tested: Its columns.
        reach: Of the contrasts relative to the unpatched run, whichever the comparison is. Relative
            to the control a difference can be twice as far, in pairs whose own and control patches
            move in opposite ways at both of its ends: for these, unseen, there is no guard. With it
            no difference under 0.24 to 0.42 (1 to 79 columns, 57 pairs) could be claimed.
    """
    mean, reach = np.abs(side.mean[tested]), reach[tested]
    with np.errstate(invalid="ignore"):
        seen = np.where(np.isfinite(reach), reach / (reach + mean), 0.0)
    return np.minimum(1.0, 2 * len(tested) * seen ** side.groups[tested])


def _p_of_signs(values: Array, groups: Sequence[str], way: Array) -> Array:
    """Of the exact sign test over groups, two-sided, over all columns; those of 0 are left out.

    1 where most of them go against `way`.
    """
    sums = by_group(np.nan_to_num(values), groups)
    up, down = (sums > 0).sum(axis=0), (sums < 0).sum(axis=0)
    tail = binomial_tail(np.maximum(up, down), np.maximum(up + down, 1), 0.5)
    p = np.minimum(1.0, 2 * tail * values.shape[1])
    return np.where(np.sign(up - down) == way, p, 1.0)


def _intervals(
    side: _Side, test: MaxT, place: int, tested: Counts, share: float
) -> tuple[Array, Array]:
    """Simultaneous intervals of one comparison; exact bounds where all pairs are alike."""
    span = slice(place * len(tested), (place + 1) * len(tested))
    mean, reach = side.mean[tested], side.reach[tested]
    with np.errstate(invalid="ignore"):
        width = np.where(test.tested[span], test.critical(share) * test.error[span], 0.0)
    unseen = unseen_share(share / 2 / len(tested), side.groups[tested])
    exact = ~test.tested[span] & np.isfinite(reach)
    far = np.where(np.isfinite(reach), reach, 0.0)
    low = np.where(exact, mean - unseen * (far + mean), np.maximum(mean - width, -reach))
    high = np.where(exact, mean + unseen * (far - mean), np.minimum(mean + width, reach))
    return low, high


def _bounds(effect: Effect, sides: Sequence[_Side], alpha: float) -> Array:
    """What each contrast is at most, in size if it may go either way; the comparisons' best.

    Of the smaller effect each comparison's bound holds, and the best of them misses where any does:
    `alpha` is divided between them. The larger part belongs to the unpatched run, so that a single
    contrast that moves nothing in 57 pairs is still bounded within 0.10.
    """
    either = np.array([contrast.either for contrast in effect.contrasts], dtype=bool)
    found = []
    for side in sides:
        part = _PARTS[side.against] if len(sides) > 1 else 1.0
        rest = (side.error, side.groups, side.reach, alpha * part)
        rise = upper_bounds(side.values, side.mean, *rest)
        fall = upper_bounds(-side.values, -side.mean, *rest)
        found.append(np.where(either, np.maximum(rise, fall), rise))
    return np.asarray(np.min(found, axis=0))


def _claim(
    effect: Effect, place: int, sides: Sequence[_Side], told: _Told | None, bound: float
) -> Claim:
    contrast, nan = effect.contrasts[place], float("nan")
    known = told or _Told("counts", nan, ((nan, nan),) * len(sides))
    verdict = known.verdict
    if verdict == "at most" and effect.bounded and bound <= SMALL:
        verdict = "no"
    comparisons = tuple(
        Comparison(
            side.against, float(side.mean[place]), *ends, int(side.up[place]),
            int(side.down[place]), int(side.n[place]), int(side.groups[place]),
        )
        for side, ends in zip(sides, known.ends, strict=True)
    )  # fmt: skip
    return Claim(
        contrast.name, verdict, comparisons, known.p, bound, contrast.layer, contrast.column,
        contrast.kind, effect.unit, contrast.step, contrast.either, contrast.axis,
    )  # fmt: skip
