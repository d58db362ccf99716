import math

import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis.statistics import (
    Line,
    Paired,
    bootstrap_interval,
    compare_paired,
    correlate_means,
    fit_line,
    friedman,
    holm,
    mean_and_deviation,
    predict_left_out,
)


def test_mean_deviation_and_count_without_missing_values():
    values = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, np.nan]])
    mean, deviation, count = mean_and_deviation(values)
    assert mean.tolist() == [2.0, 5.0]
    assert deviation[0] == pytest.approx(np.sqrt(2))
    assert np.isnan(deviation[1])
    assert count.tolist() == [2, 1]
    assert np.isnan(mean_and_deviation(np.array([[np.nan]]))[0])


def test_interval_agrees_with_scipys_bootstrap():
    values = np.random.default_rng(0).gamma(2.0, size=(57, 3))
    low, high = bootstrap_interval(values, seed=1, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, axis=0, method="percentile", n_resamples=20_000, rng=2
    ).confidence_interval
    np.testing.assert_allclose(low, theirs.low, atol=0.02)
    np.testing.assert_allclose(high, theirs.high, atol=0.02)


def test_interval_keeps_the_grid_is_seeded_and_undefined_below_two_values():
    values = np.random.default_rng(0).normal(size=(10, 2, 3))
    values[1:, 0, 0] = np.nan
    low, high = bootstrap_interval(values, seed=5)
    assert low.shape == high.shape == (2, 3)
    assert np.isnan(low[0, 0])
    assert (low[1] < high[1]).all()
    np.testing.assert_array_equal(bootstrap_interval(values, seed=5)[0], low)


def test_interval_of_constants_is_the_constant():
    low, high = bootstrap_interval(np.full((8, 1), 2.0), seed=0)
    assert low[0] == pytest.approx(2.0)
    assert high[0] == pytest.approx(2.0)


def test_a_paired_comparison_by_hand():
    """Differences 1, 2, 3, 4: mean 2.5, deviation √(5/3), t = 2.5 / (√(5/3) / 2)."""
    found = compare_paired(np.array([2.0, 4, 6, 8]), np.array([1.0, 2, 3, 4]))
    assert (found.n, found.first, found.second, found.difference) == (4, 5.0, 2.5, 2.5)
    assert found.t == pytest.approx(2.5 / (math.sqrt(5 / 3) / 2))
    assert found.p_t == pytest.approx(0.030466, abs=1e-5)  # Student's t, 3 degrees of freedom
    assert (found.wilcoxon, found.p_wilcoxon) == (0.0, 0.125)  # 2 of the 16 sign patterns
    assert found.effect_size == pytest.approx(2.5 / math.sqrt(5 / 3))
    assert 1 <= found.ci_low < 2.5 < found.ci_high <= 4
    assert found.effect_low < found.effect_size < found.effect_high


def test_identical_arms_are_not_tested():
    values = np.array([1.0, 20, 300])
    for other in (values, values + 1e-4):  # a hundred-thousandth of 300 is 3e-3
        found = compare_paired(values, other)
        assert found.identical
        assert found.p_t is found.p_wilcoxon is found.effect_size is None
    assert not compare_paired(values, values + np.array([0, 0, 0.1])).identical


def test_pairs_with_a_missing_value_are_left_out():
    found = compare_paired(np.array([2.0, np.nan, 4, 6, 8]), np.array([1.0, 9, 2, 3, 4]))
    assert found == compare_paired(np.array([2.0, 4, 6, 8]), np.array([1.0, 2, 3, 4]))
    assert compare_paired(np.array([np.nan]), np.array([1.0])) == Paired(0)


def test_one_pair_has_a_difference_and_no_test():
    found = compare_paired(np.array([3.0]), np.array([1.0]))
    assert (found.n, found.difference, found.p_t, found.ci_low) == (1, 2.0, None, None)


def test_a_difference_that_is_the_same_everywhere_has_no_t_and_no_effect_size():
    found = compare_paired(np.array([2.0, 3, 4]), np.array([1.0, 2, 3]))
    assert (found.difference, found.t, found.effect_size) == (1.0, None, None)
    assert found.p_wilcoxon == 0.25  # 2 of the 8 sign patterns


def test_holm_by_hand():
    """0.01·3, then 0.03·2, then 0.04·1, which may not be less than the one before."""
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_friedman_by_hand():
    """Four pairs that agree on the order of three: χ² = n(k - 1) = 8, p = exp(-8/2)."""
    found = friedman(np.array([[1.0, 2, 3]] * 4))
    assert (found.n, found.conditions, found.kendall_w) == (4, 3, 1.0)
    assert found.chi_squared == pytest.approx(8)
    assert found.p == pytest.approx(math.exp(-4))
    assert friedman(np.ones((4, 3))).identical
    assert friedman(np.array([[1.0, 2], [2, 1]])).p is None
    assert friedman(np.array([[1.0, 2, 3]])).p is None
    ragged = np.array([[1.0, 2, 3]] * 4 + [[np.nan, 2, 3]])
    assert friedman(ragged) == found


def test_false_positives_come_at_the_nominal_rate():
    """1,000 simulations without any effect: 5 % ± 3 standard errors (0.7 %), or fewer."""
    generator = np.random.default_rng(0)
    counts = dict.fromkeys(("t", "wilcoxon", "friedman", "holm"), 0)
    for _ in range(1000):
        data = generator.exponential(size=(20, 5))  # skewed, as KL is
        first, second = data[:, 0], generator.permutation(data[:, 1])
        found = compare_paired(first, second, resamples=2)
        counts["t"] += found.p_t < 0.05
        counts["wilcoxon"] += found.p_wilcoxon < 0.05
        counts["friedman"] += friedman(data).p < 0.05
        tests = [compare_paired(data[:, k], data[:, k + 1], resamples=2).p_wilcoxon for k in (0, 2)]
        counts["holm"] += min(holm(tests)) < 0.05
    for name, count in counts.items():
        assert 20 <= count <= 71, (name, count)


def test_a_line_by_hand():
    line = fit_line(np.array([0.0, 1, 2, np.nan]), np.array([1.0, 3, 5, 7]))
    assert line == Line(3, pytest.approx(2), pytest.approx(1), pytest.approx(1))
    assert fit_line(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])).slope is None


def test_correlation_of_means():
    generator = np.random.default_rng(1)
    first = np.arange(6) + generator.normal(size=(30, 6)) / 10
    found = correlate_means(first, np.exp(first))
    assert (found.n, found.rho) == (6, pytest.approx(1.0))
    assert found.ci_low == pytest.approx(1.0)
    assert correlate_means(first, -first).rho == pytest.approx(-1.0)
    assert correlate_means(first, np.ones_like(first)).rho is None


def test_prediction_of_left_out_pairs():
    generator = np.random.default_rng(2)
    predictors = generator.normal(size=(20, 4, 3))
    target = predictors @ np.array([1.0, -2, 0.5]) + 3
    found = predict_left_out(predictors, target)
    assert found.r_squared == pytest.approx(1.0)
    assert found.weights == pytest.approx((1.0, -2, 0.5, 3))
    assert predict_left_out(predictors, generator.normal(size=(20, 4))).r_squared < 0.1
    assert predict_left_out(predictors[:2], target[:2]).r_squared is None
    assert predict_left_out(predictors, np.ones((20, 4))).r_squared is None
