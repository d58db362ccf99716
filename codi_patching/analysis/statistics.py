"""Statistics over pairs, as pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

ROUNDING = 1e-5
"""How far two runs of the same patches may differ in float32, relative to the largest value."""

_PART = 2**18
"""Numbers of the bootstrap's draws that are held at a time."""


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
    flat = values.reshape(len(values), -1)
    present = ~np.isnan(flat)
    filled = np.where(present, flat, 0.0)
    sums = _resampled(filled, seed, resamples)
    counts = _resampled(present.astype(np.float64), seed, resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(counts > 0, sums / counts, np.nan)
    tail = 100 * (1 - level) / 2
    bounds = np.full((2, flat.shape[1]), np.nan)
    enough = present.sum(0) >= 2
    if enough.any():
        bounds[:, enough] = np.nanpercentile(means[:, enough], [tail, 100 - tail], axis=0)
    low, high = bounds.reshape(2, *values.shape[1:])
    return low, high


def _resampled(values: Array, seed: int, resamples: int) -> Array:
    """Sums over pairs `(resamples, …)` of values `(pairs, …)` in each bootstrap sample.

    A sum is a product with how often each pair was drawn; a few megabytes of those at a time,
    however many pairs there are.
    """
    pairs = len(values)
    rows = max(1, _PART // pairs)
    firsts = range(0, resamples, rows)
    draws = (_draw(pairs, (seed, f), min(rows, resamples - f)) for f in firsts)
    return np.concatenate([drawn @ values for drawn in draws])


@lru_cache(maxsize=4)
def _draw(pairs: int, seed: tuple[int, int], resamples: int) -> Array:
    """How often each pair is in each resample, `(resamples, pairs)`."""
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(pairs, np.full(pairs, 1 / pairs), size=resamples)
    return drawn.astype(np.float64)


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


@dataclass(frozen=True)
class Paired:
    """How two arms differ, paired over pairs; None where it cannot be said.

    Attributes:
        n: Pairs in which both have a value.
        first: Mean of the first arm over those.
        second: Mean of the second.
        difference: Mean of first minus second.
        ci_low: Lower end of its 95 % bootstrap interval.
        ci_high: Upper end.
        t: Statistic of the paired t-test (Student, 1908).
        p_t: Its p.
        wilcoxon: Statistic of the signed-rank test (Wilcoxon, 1945; zero differences by Pratt).
        p_wilcoxon: Its p.
        effect_size: Mean difference in standard deviations of the differences (Cohen's d_z).
        effect_low: Lower end of its 95 % bootstrap interval.
        effect_high: Upper end.
        identical: Whether both agree to rounding in every pair; then nothing is tested.
    """

    n: int
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    t: float | None = None
    p_t: float | None = None
    wilcoxon: float | None = None
    p_wilcoxon: float | None = None
    effect_size: float | None = None
    effect_low: float | None = None
    effect_high: float | None = None
    identical: bool = False


def agree(first: Array, second: Array, rounding: float = ROUNDING) -> bool:
    """Whether two arms are the same to rounding in every pair: relative to their largest value."""
    both = np.isfinite(first) & np.isfinite(second)
    scale = max(np.abs(first[both]).max(initial=0.0), np.abs(second[both]).max(initial=0.0))
    return bool(np.all(np.abs(first[both] - second[both]) <= rounding * scale))


def compare_paired(
    first: Array,
    second: Array,
    seed: int = 0,
    rounding: float = ROUNDING,
    resamples: int = 2000,
) -> Paired:
    """Compare two arms, `(pairs,)` each; pairs in which either is NaN are left out.

    Args:
        first: One arm.
        second: The other.
        seed: Of the bootstrap.
        rounding: See `agree`.
        resamples: Number of bootstrap samples.
    """
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    n = len(first)
    if n == 0:
        return Paired(0)
    means = (float(first.mean()), float(second.mean()), float((first - second).mean()))
    if agree(first, second, rounding):
        return Paired(n, *means, identical=True)
    if n < 2:
        return Paired(n, *means)
    differences = first - second
    low, high = bootstrap_interval(differences, seed, resamples=resamples)
    spread = float(differences.std(ddof=1))
    t = p_t = effect = effect_low = effect_high = None
    if spread > 0:
        test = stats.ttest_rel(first, second)
        t, p_t, effect = float(test.statistic), float(test.pvalue), means[2] / spread
        effect_low, effect_high = _effect_interval(differences, seed, resamples)
    ranks = stats.wilcoxon(differences, zero_method="pratt")
    return Paired(
        n, *means, float(low), float(high), t, p_t, float(ranks.statistic), float(ranks.pvalue),
        effect, effect_low, effect_high,
    )  # fmt: skip


def _effect_interval(
    differences: Array, seed: int, resamples: int
) -> tuple[float | None, float | None]:
    """95 % percentile bootstrap interval of Cohen's d_z."""
    n = len(differences)
    mean, square = (_resampled(v, seed, resamples) / n for v in (differences, differences**2))
    variance = (square - mean**2) * n / (n - 1)
    spread = variance > 1e-12 * square
    if spread.sum() < resamples / 2:
        return None, None
    low, high = np.percentile(mean[spread] / np.sqrt(variance[spread]), [2.5, 97.5])
    return float(low), float(high)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Corrected p-values of several tests (Holm, 1979); tests without a p are no tests."""
    known = [(p, index) for index, p in enumerate(p_values) if p is not None]
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(sorted(known)):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[index] = highest
    return corrected


@dataclass(frozen=True)
class Friedman:
    """Whether several conditions differ, paired over pairs (Friedman, 1937).

    Attributes:
        n: Pairs with a value in every condition.
        conditions: How many.
        chi_squared: The statistic; None where it cannot be computed.
        p: Its p.
        kendall_w: Agreement of the pairs on the order, 0 to 1.
        identical: Whether all conditions agree to rounding in every pair.
    """

    n: int
    conditions: int
    chi_squared: float | None = None
    p: float | None = None
    kendall_w: float | None = None
    identical: bool = False


def friedman(values: Array, rounding: float = ROUNDING) -> Friedman:
    """Friedman's test over conditions, `(pairs, conditions)`; three at least."""
    values = values[np.isfinite(values).all(axis=1)]
    n, conditions = values.shape
    if all(agree(values[:, 0], values[:, k], rounding) for k in range(1, conditions)):
        return Friedman(n, conditions, identical=n > 0)
    if n < 2 or conditions < 3:
        return Friedman(n, conditions)
    test = stats.friedmanchisquare(*values.T)
    weight = float(test.statistic) / (n * (conditions - 1))
    return Friedman(n, conditions, float(test.statistic), float(test.pvalue), weight)


@dataclass(frozen=True)
class Line:
    """A least-squares line.

    Attributes:
        n: Points.
        slope: Of the line.
        intercept: Of the line.
        r_squared: Share of the variance that it explains.
    """

    n: int
    slope: float | None = None
    intercept: float | None = None
    r_squared: float | None = None


def fit_line(x: Array, y: Array) -> Line:
    """The line of `y` over `x`, `(points,)` each."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Line(len(x))
    fit = stats.linregress(x, y)
    return Line(len(x), float(fit.slope), float(fit.intercept), float(fit.rvalue**2))


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation, with an interval over pairs.

    Attributes:
        n: Points.
        rho: The correlation.
        p: Its p.
        ci_low: Lower end of the 95 % interval, from resampled pairs.
        ci_high: Upper end.
    """

    n: int
    rho: float | None = None
    p: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


def correlate_means(
    first: Array, second: Array, seed: int = 0, resamples: int = 2000
) -> Correlation:
    """Correlate the means over pairs of two arms, `(pairs, points)` each, over points."""
    means = [mean_and_deviation(values)[0] for values in (first, second)]
    both = np.isfinite(means[0]) & np.isfinite(means[1])
    a, b = means[0][both], means[1][both]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(len(a))
    test = stats.spearmanr(a, b)
    whole = np.isfinite(first[:, both]).all(1) & np.isfinite(second[:, both]).all(1)
    sums = [_resampled(v[whole][:, both], seed, resamples) for v in (first, second)]
    ranks = [stats.rankdata(drawn, axis=1) for drawn in sums]
    x, y = (r - r.mean(1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Correlation(len(a), float(test.statistic), float(test.pvalue), float(low), float(high))


@dataclass(frozen=True)
class Prediction:
    """How well one thing is predicted from others in pairs that were not fitted.

    Attributes:
        n: Pairs.
        r_squared: Share of the left-out variance that is predicted, under 0 if the mean of the
            other pairs does better.
        ci_low: Lower end of its 95 % bootstrap interval over pairs.
        ci_high: Upper end.
        weights: Of each predictor, fitted to all pairs; then the constant.
    """

    n: int
    r_squared: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    weights: tuple[float, ...] = ()


def predict_left_out(predictors: Array, target: Array, seed: int = 0) -> Prediction:
    """Predict each pair's target by a linear fit to all other pairs (leave-one-pair-out).

    Args:
        predictors: `(pairs, points, predictors)`.
        target: `(pairs, points)`; points with NaN are left out.
        seed: Of the bootstrap.
    """
    n, points = target.shape
    design = np.concatenate([predictors, np.ones((n, points, 1))], axis=-1)
    known = np.isfinite(target) & np.isfinite(predictors).all(-1)
    if n < 3 or known.sum() <= design.shape[-1]:
        return Prediction(n)
    errors, spread = np.zeros(n), np.zeros(n)
    for pair in range(n):
        others = known.copy()
        others[pair] = False
        if not others.any():
            return Prediction(n)
        weights = np.linalg.lstsq(design[others], target[others], rcond=None)[0]
        own = known[pair]
        errors[pair] = ((target[pair, own] - design[pair, own] @ weights) ** 2).sum()
        spread[pair] = ((target[pair, own] - target[others].mean()) ** 2).sum()
    if spread.sum() == 0:
        return Prediction(n)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(n, size=(2000, n))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = 1 - errors[drawn].sum(1) / spread[drawn].sum(1)
    low, high = np.nanpercentile(shares, [2.5, 97.5])
    weights = np.linalg.lstsq(design[known], target[known], rcond=None)[0]
    share = 1 - errors.sum() / spread.sum()
    return Prediction(n, float(share), float(low), float(high), tuple(map(float, weights)))
