"""Means and medians over pairs with their intervals, for all cells of a grid at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import stats

from codi_patching.results.schema import Array

RESAMPLES = 2000

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
    values: Array, groups: Sequence[str], seed: int, level: float = 0.95
) -> tuple[Array, Array]:
    """Percentile bootstrap interval of the mean over pairs (Efron, 1979); groups are drawn whole.

    Args:
        values: `(pairs, …)`; NaN values are left out.
        groups: One for each pair; pairs that share a question share a group.
        seed: Of the resampling; the same groups are drawn for every cell.
        level: Confidence level.

    Returns:
        Lower and upper bounds, `(…)`; NaN where fewer than two groups have values.
    """
    flat = np.ascontiguousarray(values.reshape(len(values), -1))
    present = (~np.isnan(flat)).astype(np.float64)
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    drawn = _draws(len(names), seed)[:, index]
    tail = (1 - level) / 2
    bounds = np.full((2, flat.shape[1]), np.nan)
    width = max(1, _PART // RESAMPLES)
    for first in range(0, flat.shape[1], width):
        part = slice(first, first + width)
        counts = (
            drawn @ present[:, part] if (present[:, part] == 0).any() else drawn.sum(1)[:, None]
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            means = drawn @ np.nan_to_num(flat[:, part]) / counts
        bounds[:, part] = _quantiles(means, [tail, 1 - tail])
    of_group = np.array([present[index == group].any(0) for group in range(len(names))])
    bounds[:, of_group.sum(0) < 2] = np.nan
    low, high = bounds.reshape(2, *values.shape[1:])
    return low, high


def _quantiles(means: Array, at: Sequence[float]) -> Array:
    """Quantiles over resamples, `(len(at), cells)`; resamples that drew no value are left out."""
    if np.isnan(means).any():
        found = np.full((len(at), means.shape[1]), np.nan)
        some = ~np.isnan(means).all(0)
        found[:, some] = np.nanquantile(means[:, some], at, axis=0)
        return found
    return np.quantile(means, at, axis=0)


@lru_cache(maxsize=4)
def _draws(groups: int, seed: int) -> Array:
    """How often each group is in each resample, `(RESAMPLES, groups)`."""
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    return drawn.astype(np.float64)


def median_interval(values: Array, level: float = 0.95) -> tuple[float, float, float]:
    """Median and its exact interval from order statistics (Conover, 1999, section 3.2).

    Args:
        values: `(pairs,)`; NaN values are left out.
        level: Confidence level, reached or exceeded.

    Returns:
        Median, lower and upper end; the ends are NaN with too few values for the level.

    Example:
        >>> median_interval(np.arange(1.0, 11.0))  # the 2nd and the 9th of ten
        (5.5, 2.0, 9.0)
    """
    known = np.sort(values[np.isfinite(values)])
    if not len(known):
        return np.nan, np.nan, np.nan
    median = float(np.median(known))
    rank = int(stats.binom.ppf((1 - level) / 2, len(known), 0.5))
    if rank < 1:
        return median, np.nan, np.nan
    return median, float(known[rank - 1]), float(known[len(known) - rank])


def share_of_largest(values: Array, largest: int = 5) -> float:
    """Share of the sum over pairs that the few largest have in it; NaN where the sum is 0.

    Example:
        >>> share_of_largest(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 5.0]), largest=1)
        0.5
    """
    known = np.sort(np.abs(values[np.isfinite(values)]))[::-1]
    total = float(known.sum())
    return float(known[:largest].sum()) / total if total > 0 else float("nan")
