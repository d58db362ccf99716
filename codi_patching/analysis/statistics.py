"""Statistics over pairs, as pure functions on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def bootstrap_interval(
    values: Array, seed: int, level: float = 0.95, resamples: int = 2000
) -> tuple[Array, Array]:
    """Percentile bootstrap interval of the mean over pairs (Efron, 1979).

    Args:
        values: `(pairs, …)`; NaN values are left out.
        seed: Of the resampling; the same pairs are drawn for every cell.
        level: Confidence level.
        resamples: Number of bootstrap samples.

    Returns:
        Lower and upper bounds, `(…)`; NaN where there are fewer than two values.
    """
    generator = np.random.default_rng(seed)
    flat = values.reshape(len(values), -1)
    present = ~np.isnan(flat)
    filled = np.where(present, flat, 0.0)
    # How often each pair is in each resample: the mean is then a product of matrices.
    draws = generator.multinomial(len(flat), np.full(len(flat), 1 / len(flat)), size=resamples)
    counts = draws @ present.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(counts > 0, draws @ filled / counts, np.nan)
    tail = 100 * (1 - level) / 2
    bounds = np.full((2, flat.shape[1]), np.nan)
    enough = present.sum(0) >= 2
    if enough.any():
        bounds[:, enough] = np.nanpercentile(means[:, enough], [tail, 100 - tail], axis=0)
    low, high = bounds.reshape(2, *values.shape[1:])
    return low, high


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
