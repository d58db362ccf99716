"""Quantiles and tails of the usual distributions, and ranks: `scipy.special` alone.

`scipy.stats` has all of these too, but takes longer to import than a report to compute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special


def t_quantile(share: Any, degrees: Any) -> Any:
    """Of Student's t."""
    return special.stdtrit(degrees, share)


def t_tail(value: Any, degrees: Any) -> Any:
    """The share of Student's t above a value."""
    return special.stdtr(degrees, -np.asarray(value))


def beta_quantile(share: Any, a: Any, b: Any) -> Any:
    """Of the beta distribution."""
    return special.betaincinv(a, b, share)


def binomial_tail(least: Any, trials: Any, rate: float) -> Any:
    """The probability of at least so many successes."""
    return special.bdtrc(np.asarray(least) - 1, trials, rate)


def binomial_quantile(share: float, trials: int, rate: float) -> int:
    """The fewest successes that are reached with at least this probability from below.

    Example:
        >>> binomial_quantile(0.025, 10, 0.5)
        2
    """
    reached = special.bdtr(np.arange(trials + 1), trials, rate)
    return int(np.searchsorted(reached, share * (1 - 1e-12)))


def ranks(values: Any) -> np.ndarray[Any, Any]:
    """Ranks from 1; of equal values the mean of theirs.

    Example:
        >>> ranks([3.0, 1.0, 3.0, 2.0]).tolist()
        [3.5, 1.0, 3.5, 2.0]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray((ends - (counts - 1) / 2)[place])


def signed_ranks(differences: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Wilcoxon's signed-rank sum, the smaller of the two, and p by the normal approximation.

    Zeros are ranked and then left out (Pratt, 1959); ties are corrected for; two-sided.
    """
    sizes = np.abs(differences)
    own, n, zeros = ranks(sizes), len(sizes), int((sizes == 0).sum())
    up, down = own[differences > 0].sum(), own[differences < 0].sum()
    mean = (n * (n + 1) - zeros * (zeros + 1)) / 4
    _, ties = np.unique(sizes[sizes > 0], return_counts=True)
    spread = n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1)
    spread = spread / 24 - (ties.astype(float) ** 3 - ties).sum() / 48
    smaller = float(min(up, down))
    return smaller, float(2 * special.ndtr((smaller - mean) / np.sqrt(spread)))
