import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis.intervals import (
    bca_interval,
    mean_interval,
    median_interval,
    share_of_largest,
    studentised_interval,
)


@pytest.fixture
def values():
    return np.random.default_rng(0).beta(0.5, 2.0, 57)


def test_accelerated_interval_is_scipys(values):
    ours = bca_interval(values, resamples=40_000)
    theirs = stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=40_000, rng=1
    ).confidence_interval
    assert ours.estimate == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_studentised_interval_is_that_of_resampled_t_tests(values):
    ours = studentised_interval(values, resamples=20_000)
    drawn = np.random.default_rng(5).choice(values, (20_000, 57))
    ts = stats.ttest_1samp(drawn, values.mean(), axis=1).statistic
    low, high = np.quantile(ts, [0.025, 0.975])
    error = values.std(ddof=1) / np.sqrt(57)
    expected = (values.mean() - high * error, values.mean() - low * error)
    assert (ours.low, ours.high) == pytest.approx(expected, abs=0.003)


def test_interval_of_a_mean_holds_all_three(values):
    ours = mean_interval(values)
    student = stats.ttest_1samp(values, 0.0).confidence_interval()
    three = [bca_interval(values), studentised_interval(values)]
    assert ours.low == min(student.low, *(i.low for i in three))
    assert ours.high == max(student.high, *(i.high for i in three))


@pytest.mark.parametrize("interval", [bca_interval, studentised_interval, mean_interval])
def test_groups_are_resampled_whole(values, interval):
    groups = [f"g{i // 2}" for i in range(114)]
    twice = interval(np.repeat(values, 2), groups=groups)
    once = interval(values)
    assert twice.n == 114
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize("interval", [bca_interval, studentised_interval, mean_interval])
def test_missing_values_are_left_out_and_one_value_has_no_interval(values, interval):
    holed = np.append(values, [np.nan, np.nan])
    assert interval(holed) == interval(values)
    assert np.isnan(interval(np.array([0.5, np.nan])).low)
    constant = interval(np.full(9, 0.5))
    assert (constant.low, constant.high) == (0.5, 0.5)


@pytest.mark.parametrize("n", [6, 10, 20, 57, 58, 200])
def test_interval_of_the_median_is_scipys(n):
    values = np.random.default_rng(n).lognormal(0, 2, n)
    ours = median_interval(values)
    test = stats.quantile_test(values, q=np.median(values), p=0.5)
    theirs = test.confidence_interval(0.95)
    assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_interval_of_the_median_by_hand():
    """Of 20 values the 6th and the 15th: P(B < 6) = 0.0207, P(B < 7) = 0.0577."""
    ours = median_interval(np.arange(1.0, 21.0))
    assert (ours.estimate, ours.low, ours.high, ours.n) == (10.5, 6.0, 15.0, 20)


def test_too_few_values_have_no_interval_of_the_median():
    ours = median_interval(np.arange(5.0))
    assert ours.estimate == 2
    assert np.isnan([ours.low, ours.high]).all()
    assert median_interval(np.array([np.nan])).n == 0


def test_share_of_the_five_largest():
    assert share_of_largest(np.array([-4.0, 1, 1, 1, 1, 1, 1, np.nan])) == pytest.approx(0.8)
    assert np.isnan(share_of_largest(np.zeros(9)))


def test_median_of_kl_is_covered_and_of_sparse_means_too():
    rng = np.random.default_rng(2)
    true_median = np.exp(2 * stats.norm.ppf(0.2 / 0.7))
    held = [0, 0]
    for seed in range(200):
        kl = np.where(rng.random(57) < 0.3, 0.0, rng.lognormal(0, 2, 57))
        found = median_interval(kl)
        held[0] += found.low <= true_median <= found.high
        change = np.where(rng.random(57) < 0.1, rng.random(57), 0.0)
        found = mean_interval(change, seed, resamples=499)
        held[1] += found.low <= 0.05 <= found.high
    assert min(held) >= 0.92 * 200
