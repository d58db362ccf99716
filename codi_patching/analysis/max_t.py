"""One test for all claims of a question: the largest studentised mean under common sign flips.

Westfall and Young (1993), Resampling-Based Multiple Testing, section 4: the claims' dependence is
kept because every flip changes the sign of whole rows. Differences are centred first, so that
flips give the distribution of the error of a mean whatever the mean is; studentised within each
flip, so that claims with unequal spread weigh the same (Romano and Wolf, 2005, Econometrica 73).
From one distribution of maxima come both the p-values and the simultaneous intervals.

Rows that share a group get one sign, and errors are those of sums over groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from codi_patching.analysis.groups import by_group
from codi_patching.analysis.intervals import ROUNDING
from codi_patching.results.description import Array, Mask

FLIPS = 9_999
_ROWS = 1_024
_COLUMNS = 256


@dataclass(frozen=True)
class MaxT:
    """Means of columns with the joint distribution of their largest studentised error.

    Attributes:
        mean: Of each column, `(columns,)`; NaN without values.
        error: Its standard error; 0 where nothing varies.
        n: Pairs with a value.
        groups: Groups with a value: the independent units.
        tested: Columns that vary; the others are not tested.
        maxima: Largest absolute studentised mean of each flip, ascending, `(flips,)`.
    """

    mean: Array
    error: Array
    n: NDArray[np.int_]
    groups: NDArray[np.int_]
    tested: Mask
    maxima: Array

    def critical(self, alpha: float) -> float:
        """The value that a studentised error exceeds exactly if its p is under `alpha`.

        Infinite where there are too few flips for so small a p.
        """
        largest = int(np.ceil(alpha * (1 + len(self.maxima)) - 1e-9)) - 2
        if largest < 0:
            return float("inf")
        return float(self.maxima[len(self.maxima) - 1 - largest])

    @property
    def p(self) -> Array:
        """Of each column, p = (1 + b) / (1 + B) of a mean of 0; NaN if it is not tested."""
        with np.errstate(invalid="ignore", divide="ignore"):
            statistic = np.where(self.tested, np.abs(self.mean) / self.error, np.nan)
        below = np.searchsorted(self.maxima, statistic, side="left")
        p = (1 + len(self.maxima) - below) / (1 + len(self.maxima))
        return np.where(self.tested, p, np.nan)


@lru_cache(maxsize=2)
def draw_signs(groups: int, seed: int, flips: int = FLIPS) -> NDArray[np.int8]:
    """Signs, `(flips, groups)`: the same for every question and every report of a seed."""
    signs = np.random.default_rng(seed).integers(0, 2, size=(flips, groups), dtype=np.int8)
    signs *= 2
    signs -= 1
    return signs


def max_t(values: Array, signs: NDArray[np.int8], groups: Sequence[str] | None = None) -> MaxT:
    """Studentised means of columns and their joint distribution under common sign flips.

    Args:
        values: Differences, `(pairs, columns)`; NaN values are left out.
        signs: See `draw_signs`; one column for each group, in order of first appearance.
        groups: Of each pair; every pair is its own by default.
    """
    present = np.isfinite(values)
    n = present.sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.where(
            n > 0, np.where(present, values, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan
        )
    rest = np.where(present, values - mean, 0.0)
    varies = np.abs(rest).max(axis=0, initial=0.0) >= ROUNDING
    residual, size = rest, present.astype(np.float64)
    if groups is not None and len(set(groups)) < len(groups):
        residual, size = by_group(rest, groups), by_group(size, groups)
    if signs.shape[1] != len(residual):
        raise ValueError(f"expected signs for {len(residual)} groups, got {signs.shape[1]}")
    error = _errors(residual, size, n)
    tested = varies & (error > 0)
    once = _distinct(np.concatenate([residual, size])[:, tested])
    maxima = np.sort(
        _maxima(
            residual[:, tested][:, once],
            size[:, tested][:, once],
            n[tested][once],
            signs,
        )
    )
    return MaxT(mean, np.where(tested, error, 0.0), n, (size > 0).sum(axis=0), tested, maxima)


def _distinct(columns: Array) -> list[int]:
    """The first of each kind of equal columns: questions may share claims."""
    first = {column.tobytes(): i for i, column in reversed(list(enumerate(columns.T)))}
    return sorted(first.values())


def _errors(residual: Array, size: Array, n: NDArray[np.int_]) -> Array:
    """Standard errors of means from residual sums of groups, as for a ratio of sums."""
    groups = (size > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = groups / (groups - 1) * (residual**2).sum(axis=0) / n.astype(np.float64) ** 2
    return np.where(groups > 1, np.sqrt(np.where(groups > 1, variance, 0.0)), 0.0)


def _maxima(residual: Array, size: Array, n: NDArray[np.int_], signs: NDArray[np.int8]) -> Array:
    """Largest absolute studentised mean of every flip, a block of flips and columns at a time."""
    largest = np.zeros(len(signs))
    single = bool(np.all((size == 0) | (size == 1)))
    for count in np.unique(n):
        chosen = np.flatnonzero(n == count)
        for first in range(0, len(chosen), _COLUMNS):
            block = chosen[first : first + _COLUMNS]
            for start in range(0, len(signs), _ROWS):
                rows = slice(start, start + _ROWS)
                flips = signs[rows].astype(np.float64)
                if single:
                    squares = _single(residual[:, block], int(count), flips)
                else:
                    squares = _grouped(residual[:, block], size[:, block], flips)
                largest[rows] = np.maximum(largest[rows], squares)
    return np.sqrt(largest)


def _single(residual: Array, n: int, signs: Array) -> Array:
    """Largest squared t of each flip if every pair is its own group.

    With unit columns and q the square of a flipped sum, t² = (n - 1) q / (n - q), which grows with
    q: so the largest q will do.
    """
    unit = residual / np.sqrt((residual**2).sum(axis=0))
    q = np.abs(signs @ unit).max(axis=1) ** 2
    with np.errstate(over="ignore"):  # of a few pairs, a flip without spread: infinite
        return np.asarray((n - 1) * q / np.maximum(n - q, np.finfo(np.float64).tiny))


def _grouped(residual: Array, size: Array, signs: Array) -> Array:
    """Largest squared studentised mean of each flip of the sums over groups."""
    n, groups = size.sum(axis=0), (size > 0).sum(axis=0)
    mean = signs @ residual / n
    cross = signs @ (residual * size)
    rest = (residual**2).sum(axis=0) - 2 * mean * cross + mean**2 * (size**2).sum(axis=0)
    variance = groups / (groups - 1) * rest / n**2
    with np.errstate(over="ignore"):  # as in `_single`
        return np.asarray((mean**2 / np.maximum(variance, np.finfo(np.float64).tiny)).max(axis=1))
