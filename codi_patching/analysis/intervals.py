"""Means and medians over pairs with their confidence intervals, for all cells of a grid at once.

Means of bounded values: bootstrap, accelerated and studentised. Medians of values with heavy
tails: order statistics, whose coverage holds for every distribution. No interval of a
mean survives the tails of KL at a few dozen pairs, which is why its mean comes with the share that
the five largest pairs have in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from codi_patching.analysis.distributions import binomial_quantile, t_quantile
from codi_patching.analysis.groups import by_group
from codi_patching.results.description import Array

RESAMPLES = 1_999

ROUNDING = 1e-6
"""Values smaller than this are 0: two runs of the same patches differ by as much."""

LARGEST = 5
"""How many pairs `share_of_largest` looks at."""

_LEAST_SPREAD = 0.1
"""Least standard error of a resample that is studentised, of the sample's."""

_PART = 2**21
"""Numbers of the resamples' means that are held at a time."""


def mean_and_deviation(values: Array) -> tuple[Array, Array, Array]:
    """Mean, sample standard deviation and count over pairs, without NaN values.

    Args:
        values: `(pairs, …)`.

    Returns:
        Three arrays `(…)`; the mean is NaN without values, the deviation with fewer than two.
    """
    present = ~np.isnan(values)
    count = present.sum(0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(present, values, 0.0).sum(0) / count
        squares = np.where(present, (values - mean) ** 2, 0.0).sum(0)
        deviation = np.sqrt(squares / np.where(count > 1, count - 1, np.nan))
    return mean, deviation, count


def mean_intervals(
    values: Array,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[Array, Array]:
    """Intervals of means over pairs, those of all maps and tables.

    From the lowest to the highest end of three: BCa, bootstrap-t and Student's t. At 57 pairs each
    of them alone misses more than 7 % on one kind of sparse values: BCa where a tenth changes
    either way, bootstrap-t where a tenth flips, Student's t where a tenth changes by skewed sizes.
    The lower end is not under 0 where no value is negative.

    Args:
        values: `(pairs, …)`; NaN values are left out.
        groups: Of each pair; pairs that share a question share a group, and groups are drawn whole.
        seed: Of the resampling; the same groups are drawn for every cell.
        level: Confidence level.
        resamples: Number of bootstrap samples.

    Returns:
        Lower and upper ends, `(…)`; NaN where fewer than two groups have values, or where all are
        the same: how far others may be, no resample knows.
    """
    return _of_cells(values, groups, seed, level, resamples, (_accelerated, _studentised, _student))


def median_interval(
    values: Array, groups: Sequence[str] | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """Median and its exact interval from order statistics, which takes independent values.

    The number of values under the median is binomial with 1/2, so the interval from the k-th
    smallest to the k-th largest covers it with probability of at least `1 - 2 P(B < k)` whatever
    the distribution is, ties included (Conover, 1999, Practical Nonparametric Statistics, 3.2).

    Args:
        values: `(pairs,)`; NaN values are left out.
        groups: Of each pair; pairs that share a question share a group and are not independent.
        level: Confidence level, reached or exceeded.

    Returns:
        Median, lower and upper end; the ends are NaN with too few values for the level, or if some
        of them share a group.

    Example:
        >>> median_interval(np.arange(1.0, 11.0))  # the 2nd and the 9th of ten
        (5.5, 2.0, 9.0)
    """
    present = np.isfinite(values)
    known = np.sort(values[present])
    if not len(known):
        return np.nan, np.nan, np.nan
    median = float(np.median(known))
    rank = binomial_quantile((1 - level) / 2, len(known), 0.5)
    independent = groups is None or len(set(np.asarray(groups)[present])) == len(known)
    if rank < 1 or not independent:
        return median, np.nan, np.nan
    return median, float(known[rank - 1]), float(known[len(known) - rank])


def share_of_largest(values: Array, largest: int = LARGEST) -> float:
    """Share of the largest values (in size) in the sum of sizes, 0..1; NaN where that is 0.

    Over a half, a mean says more about those pairs than about the sample.

    Args:
        values: `(pairs,)`; NaN values are left out.
        largest: How many values.

    Example:
        >>> share_of_largest(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 5.0]), largest=1)
        0.5
    """
    sizes = np.sort(np.abs(values[np.isfinite(values)]))[::-1]
    total = float(sizes.sum())
    return float(sizes[:largest].sum()) / total if total > 0 else float("nan")


@dataclass(frozen=True)
class _Sample:
    """Cells of which the same groups have values, at least two.

    Attributes:
        sums: Of each group's values, `(groups, cells)`.
        sizes: How many values that are, `(groups, cells)`.
        counts: How often each group is in each resample, `(resamples, groups)`.
        tail: Probability outside of either end.
    """

    sums: Array
    sizes: Array
    counts: NDArray[np.uint16]
    tail: float

    def drawn(self, values: Array) -> Array:
        """Sums of what the groups of each resample have, `(resamples, cells)`."""
        found = np.empty((len(self.counts), values.shape[1]))
        width = max(1, _PART // len(values))
        for first in range(0, len(found), width):
            part = slice(first, first + width)
            found[part] = self.counts[part].astype(np.float64) @ values
        return found

    @property
    def mean(self) -> Array:
        """`(cells,)`."""
        return np.asarray(self.sums.sum(0) / self.sizes.sum(0))

    @property
    def error(self) -> Array:
        """Standard error of the mean, `(cells,)`."""
        rest = self.sums - self.sizes * self.mean
        variance = len(self.sums) / (len(self.sums) - 1) * (rest**2).sum(0)
        return np.asarray(np.sqrt(variance) / self.sizes.sum(0))

    @property
    def means(self) -> Array:
        """Of the resamples, `(resamples, cells)`."""
        return self.drawn(self.sums) / self.drawn(self.sizes)


Ends = tuple[Array, Array]


def _of_cells(
    values: Array,
    groups: Sequence[str] | None,
    seed: int,
    level: float,
    resamples: int,
    kinds: Sequence[Callable[[_Sample], Ends]],
) -> Ends:
    """The hull of intervals, for every cell; NaN where no value differs."""
    flat = np.ascontiguousarray(values.reshape(len(values), -1), dtype=np.float64)
    bounds = np.full((2, flat.shape[1]), np.nan)
    least = np.where((flat < -ROUNDING).any(0), -np.inf, 0.0)
    for cells, sums, sizes in _parts(flat, groups, max(1, _PART // resamples)):
        sample = _Sample(sums, sizes, _draws(len(sums), seed, resamples), (1 - level) / 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            ends = [kind(sample) for kind in kinds]
        low = np.maximum(np.fmin.reduce([low for low, _ in ends]), least[cells])
        high = np.fmax.reduce([high for _, high in ends])
        same = sample.error <= 1e-12 * np.maximum(1.0, np.abs(sums).max(0))
        bounds[:, cells] = np.where(same, np.nan, [low, high])
    low, high = bounds.reshape(2, *values.shape[1:])
    return low, high


def _parts(
    flat: Array, groups: Sequence[str] | None, width: int
) -> Iterator[tuple[NDArray[np.intp], Array, Array]]:
    """Cells of which the same groups have values, so many at a time: which, sums, sizes."""
    present = np.isfinite(flat).astype(np.float64)
    sums = np.where(present, flat, 0.0)
    if groups is not None:
        sums, present = by_group(sums, groups), by_group(present, groups)
    patterns, pattern_of = np.unique(present > 0, axis=1, return_inverse=True)
    for place, kept in enumerate(patterns.T):
        if kept.sum() < 2:
            continue
        cells = np.flatnonzero(pattern_of.reshape(-1) == place)
        for first in range(0, len(cells), width):
            part = cells[first : first + width]
            yield part, sums[np.ix_(kept, part)], present[np.ix_(kept, part)]


def _accelerated(sample: _Sample) -> Ends:
    """Bias-corrected and accelerated (BCa), the acceleration from the jackknife.

    Efron (1987), JASA 82, 171; Efron and Tibshirani (1993), section 14.3.
    """
    mean, means = sample.mean, np.sort(sample.means, axis=0)
    below = ((means < mean).sum(0) + (means <= mean).sum(0)) / (2 * len(means))
    shift = special.ndtri(below)
    sums, sizes = sample.sums, sample.sizes
    left_out = (sums.sum(0) - sums) / (sizes.sum(0) - sizes)
    rest = left_out.mean(0) - left_out
    acceleration = (rest**3).sum(0) / (6 * (rest**2).sum(0) ** 1.5)
    tail = special.ndtri(sample.tail)
    low, high = (
        _quantile(
            means,
            special.ndtr(shift + (shift + z) / (1 - acceleration * (shift + z))),
            np.full(means.shape[1], len(means)),
        )
        for z in (tail, -tail)
    )
    return low, high


def _studentised(sample: _Sample) -> Ends:
    """Bootstrap-t: Efron and Tibshirani (1993), section 12.5.

    Resamples with a standard error of less than a tenth of the sample's are left out: where one
    pair makes the mean, those without it have next to no spread, and dividing by it would put the
    ends anywhere.
    """
    sums, sizes, drawn, mean = sample.sums, sample.sizes, sample.drawn, sample.mean
    means, counts = sample.means, len(sample.sums)
    squares = drawn(sums**2) - 2 * means * drawn(sums * sizes) + means**2 * drawn(sizes**2)
    errors = np.sqrt(np.maximum(counts / (counts - 1) * squares, 0)) / drawn(sizes)
    spread = (errors > 0) & (errors >= _LEAST_SPREAD * sample.error)
    t = np.full(means.shape, np.nan)
    np.divide(means - mean, errors, out=t, where=spread)
    t.sort(axis=0)  # NaN come last
    ends, kept = (sample.tail, 1 - sample.tail), spread.sum(0)
    low, high = (_quantile(t, np.full(len(mean), at), kept) for at in ends)
    return mean - high * sample.error, mean - low * sample.error


def _student(sample: _Sample) -> Ends:
    width = t_quantile(1 - sample.tail, len(sample.sums) - 1) * sample.error
    return sample.mean - width, sample.mean + width


def _quantile(ordered: Array, at: Array, counts: Array) -> Array:
    """Of each column's first so many values, in order, the quantile at its own probability.

    Linear between values, as `numpy.quantile` has it. NaN where there is none.
    """
    known = np.isfinite(at) & (counts > 0)
    place = np.where(known, at, 0.0) * (counts - 1)
    under = np.floor(place).astype(np.int_)
    over = np.minimum(under + 1, counts - 1)
    columns = np.arange(ordered.shape[1])
    low, high = ordered[under, columns], ordered[over, columns]
    return np.where(known, low + (place - under) * (high - low), np.nan)


@lru_cache(maxsize=4)
def _draws(groups: int, seed: int, resamples: int) -> NDArray[np.uint16]:
    """How often each group is in each resample; the same for every cell, so it is kept."""
    generator, even = np.random.default_rng(seed), np.full(groups, 1 / groups)
    drawn = np.empty((resamples, groups), dtype=np.uint16)  # as a whole, numpy's would take 8 bytes
    for resample in drawn:
        resample[:] = generator.multinomial(groups, even)
    return drawn
