import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis.statistics import bootstrap_interval, mean_and_deviation


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
