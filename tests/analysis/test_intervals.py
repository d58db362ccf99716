"""Intervals of single columns against scipy, of grids against single columns."""

import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis import intervals as module
from codi_patching.analysis.intervals import mean_intervals, median_interval, share_of_largest


def bca_intervals(values, groups=None, seed=0, level=0.95, resamples=1_999):
    """The first of the three that `mean_intervals` is the hull of."""
    return module._of_cells(values, groups, seed, level, resamples, (module._accelerated,))


def studentised_intervals(values, groups=None, seed=0, level=0.95, resamples=1_999):
    """The second."""
    return module._of_cells(values, groups, seed, level, resamples, (module._studentised,))


KINDS = [bca_intervals, studentised_intervals, mean_intervals]


@pytest.fixture
def values():
    return np.random.default_rng(0).beta(0.5, 2.0, 57)


def test_accelerated_interval_is_scipys(values):
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=40_000, rng=1
    ).confidence_interval
    ours = bca_intervals(values, resamples=40_000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_studentised_interval_is_that_of_resampled_t_tests(values):
    drawn = np.random.default_rng(5).choice(values, (20_000, 57))
    ts = stats.ttest_1samp(drawn, values.mean(), axis=1).statistic
    low, high = np.quantile(ts, [0.025, 0.975])
    error = values.std(ddof=1) / np.sqrt(57)
    expected = (values.mean() - high * error, values.mean() - low * error)
    assert studentised_intervals(values, resamples=20_000) == pytest.approx(expected, abs=0.003)


def test_studentised_interval_of_five_values_is_that_of_each_resamples_t():
    """Without those of the two lowest alone, which differ by next to nothing."""
    values, resamples = np.array([-1.0, -0.9, 1.0, 4.0, 8.0]), 400
    drawn = np.array([np.repeat(values, times) for times in module._draws(5, 0, resamples)])
    spread, own = drawn.std(axis=1, ddof=1), values.std(ddof=1)
    kept = spread >= 0.1 * own
    assert 0 < (~kept).sum() < 20
    ts = (drawn[kept].mean(axis=1) - values.mean()) / spread[kept]
    expected = values.mean() - np.quantile(ts, [0.975, 0.025]) * own
    assert studentised_intervals(values, resamples=resamples) == pytest.approx(tuple(expected))


def test_interval_of_a_mean_holds_all_three(values):
    student = stats.ttest_1samp(values, 0.0).confidence_interval()
    lows, highs = zip(bca_intervals(values), studentised_intervals(values), student)
    assert mean_intervals(values) == pytest.approx((min(lows), max(highs)))


def test_one_pair_that_makes_the_mean_does_not_make_an_interval_without_bounds():
    values = np.append(np.random.default_rng(0).uniform(0.0, 1e-4, 56), 9.0)
    low, high = studentised_intervals(values)
    assert -3 < low < values.mean() < high < 3  # ends of thousands with every resample in
    low, high = mean_intervals(values)
    assert low == 0.0  # none of the values is negative
    assert values.mean() < high < 3


@pytest.mark.parametrize("intervals", KINDS)
def test_a_grid_has_the_intervals_of_its_cells(intervals):
    """Some cells lack values, some groups lack all of theirs in a cell, one cell never varies."""
    rng = np.random.default_rng(3)
    grid = rng.beta(0.5, 2.0, (40, 3, 4))
    groups = [f"g{i // 2}" for i in range(40)]
    grid[0, 0, 1] = grid[2:4, 1, 1] = grid[2:4, 2, 1] = np.nan
    grid[:, 2, 2] = 0.3
    low, high = intervals(grid, groups, seed=5)
    assert low.shape == high.shape == (3, 4)
    for cell in np.ndindex(3, 4):
        column = grid[(slice(None), *cell)]
        keep = np.isfinite(column)
        alone = intervals(column[keep], [g for g, k in zip(groups, keep) if k], seed=5)
        assert (low[cell], high[cell]) == pytest.approx(alone, abs=1e-12, nan_ok=True)
    assert np.isnan([low[2, 2], high[2, 2]]).all()


@pytest.mark.parametrize("intervals", KINDS)
def test_groups_are_resampled_whole(values, intervals):
    groups = [f"g{i // 2}" for i in range(114)]
    assert intervals(np.repeat(values, 2), groups) == pytest.approx(intervals(values))


@pytest.mark.parametrize("intervals", KINDS)
def test_missing_values_are_left_out_and_one_value_has_no_interval(values, intervals):
    assert intervals(np.append(values, [np.nan, np.nan])) == intervals(values)
    assert np.isnan(intervals(np.array([0.5, np.nan]))).all()
    assert np.isnan(intervals(values, ["one"] * 57)).all()
    assert np.isnan(intervals(np.full(9, 0.5))).all()


@pytest.mark.parametrize("n", [6, 10, 20, 57, 58, 200])
def test_interval_of_the_median_is_scipys(n):
    values = np.random.default_rng(n).lognormal(0, 2, n)
    test = stats.quantile_test(values, q=np.median(values), p=0.5)
    theirs = test.confidence_interval(0.95)
    assert median_interval(values)[1:] == (theirs.low, theirs.high)


def test_interval_of_the_median_by_hand():
    """Of 20 values the 6th and the 15th: P(B < 6) = 0.0207, P(B < 7) = 0.0577."""
    values = np.arange(1.0, 21.0)
    assert median_interval(values) == (10.5, 6.0, 15.0)
    assert median_interval(values, [f"g{i}" for i in range(20)]) == (10.5, 6.0, 15.0)
    shared = [f"g{i // 2}" for i in range(20)]
    assert np.isnan(median_interval(values, shared)[1:]).all()  # not independent
    one_of_each = np.where(np.arange(20) % 2, values, np.nan)
    assert not np.isnan(median_interval(one_of_each, shared)[1:]).any()


def test_too_few_values_have_no_interval_of_the_median():
    median, *ends = median_interval(np.arange(5.0))
    assert median == 2
    assert np.isnan(ends).all()
    assert np.isnan(median_interval(np.array([np.nan]))).all()


def test_share_of_the_five_largest():
    assert share_of_largest(np.array([-4.0, 1, 1, 1, 1, 1, 1, np.nan])) == pytest.approx(0.8)
    assert share_of_largest(np.array([8.0, *[0.5] * 4, np.nan]), largest=2) == 0.85
    assert np.isnan(share_of_largest(np.zeros(9)))


def test_median_of_kl_is_covered_and_of_sparse_means_too():
    rng = np.random.default_rng(2)
    true_median = np.exp(2 * stats.norm.ppf(0.2 / 0.7))
    kl = np.where(rng.random((57, 200)) < 0.3, 0.0, rng.lognormal(0, 2, (57, 200)))
    held = [low <= true_median <= high for _, low, high in map(median_interval, kl.T)]
    assert sum(held) >= 0.92 * 200
    change = np.where(rng.random((57, 2000)) < 0.1, rng.random((57, 2000)), 0.0)
    low, high = mean_intervals(change)
    assert np.mean((low <= 0.05) & (high >= 0.05)) >= 0.93
