"""What an effect is at most, whatever its distribution: said wherever nothing is claimed.

The one-sided end of Student's interval, moved by what n groups may have left unseen:
end (1 - r0) + r0 R with r0 = 1 - alpha^(1/n) and R the largest size of a value. Of values that are
0 or 1 in size, Clopper and Pearson's upper bound of those up minus the lower of those down, if that
is more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from codi_patching.analysis.distributions import beta_quantile, t_quantile
from codi_patching.results.description import Array

Counts = NDArray[Any]
"""Whole numbers, `(columns,)`."""


def unseen_share(alpha: float, groups: Counts | int) -> Array:
    """The largest share of all pairs that so many groups leave unseen with a chance of `alpha`.

    Clopper and Pearson (1934), for none seen.

    Example:
        >>> round(float(unseen_share(0.05, 57)), 4)
        0.0512
    """
    return np.asarray(1 - alpha ** (1 / np.maximum(np.asarray(groups, dtype=np.float64), 1)))


def upper_bounds(
    values: Array, mean: Array, error: Array, groups: Counts, reach: Array, alpha: float
) -> Array:
    """What means are at most, each one-sided at `alpha`.

    Args:
        values: `(pairs, columns)`; NaN where undefined.
        mean: Over pairs, `(columns,)`.
        error: Its standard error; 0 or NaN where nothing varies.
        groups: Independent groups with a value.
        reach: The largest size of a value; infinite where there is none.
        alpha: Error of each, multiplicity included.
    """
    quantile = t_quantile(1 - alpha, np.maximum(groups - 1, 1))
    end = mean + quantile * np.nan_to_num(error)
    unseen = unseen_share(alpha, groups)
    bound = np.where(np.isfinite(reach), end * (1 - unseen) + unseen * reach, end)
    sizes = np.abs(values)
    counted = np.all(np.isnan(values) | (sizes == 0) | (sizes == 1), axis=0) & (sizes == 1).any(0)
    exact = np.maximum(end, _difference_of_shares(values, groups, alpha))
    return np.asarray(np.minimum(np.where(counted, exact, bound), reach))


def _difference_of_shares(values: Array, groups: Counts, alpha: float) -> Array:
    """Upper bound of the share of 1 minus lower bound of the share of -1, at half `alpha` each.

    Pairs of a group are not independent, so counts are scaled to the number of groups.
    """
    n = groups.astype(np.float64)
    scale = n / np.maximum(np.isfinite(values).sum(axis=0), 1)
    up, down = ((values == way).sum(axis=0) * scale for way in (1, -1))
    most = beta_quantile(1 - alpha / 2, up + 1, np.maximum(n - up, 1e-9))
    least = beta_quantile(alpha / 2, np.maximum(down, 1e-9), n - down + 1)
    return np.asarray(np.where(up < n, most, 1.0) - np.where(down > 0, least, 0.0))
