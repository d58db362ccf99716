import time

import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis.max_t import MaxT, draw_signs, max_t


def slow_maxima(values, signs):
    """Flip by flip and column by column, with the library's t-test."""
    found = []
    for flip in signs:
        ts = []
        for column in values.T:
            known = np.isfinite(column)
            flipped = flip[known] * (column[known] - column[known].mean())
            ts.append(abs(stats.ttest_1samp(flipped, 0.0).statistic))
        found.append(max(ts))
    return np.sort(found)


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(0.2, [1.0, 2.0, 0.1], (23, 3))


def test_studentised_means_are_those_of_the_t_test(values):
    result = max_t(values, draw_signs(23, 0, 9))
    theirs = stats.ttest_1samp(values, 0.0).statistic
    np.testing.assert_allclose(result.mean / result.error, theirs)


def test_maxima_are_those_of_the_slow_twin(values):
    signs = draw_signs(23, 1, 99)
    np.testing.assert_allclose(max_t(values, signs).maxima, slow_maxima(values, signs))


def test_maxima_are_those_of_the_slow_twin_where_values_are_missing(values):
    values[:4, 1] = np.nan
    signs = draw_signs(23, 1, 99)
    result = max_t(values, signs)
    np.testing.assert_allclose(result.maxima, slow_maxima(values, signs))
    assert result.n.tolist() == result.groups.tolist() == [23, 19, 23]


def test_two_groups_are_tested():
    """Of 1 and 3 the mean is 2 and its error 1."""
    result = max_t(np.array([[1.0], [3.0]]), draw_signs(2, 0, 9))
    assert (result.mean.tolist(), result.error.tolist()) == ([2.0], [pytest.approx(1.0)])
    assert result.tested.tolist() == [True]


def test_p_counts_maxima_and_itself(values):
    result = max_t(values, draw_signs(23, 2, 199))
    for t, p in zip(np.abs(result.mean / result.error), result.p, strict=True):
        assert p == (1 + sum(m >= t for m in result.maxima)) / 200


def test_single_claim_agrees_with_scipys_permutation_test():
    values = np.random.default_rng(3).normal(0.35, 1.0, 57)
    result = max_t(values[:, None], draw_signs(57, 4, 9_999))
    theirs = stats.permutation_test(
        (values - values.mean(), np.zeros(57)),
        lambda a, b, axis: np.abs(np.mean(a - b, axis=axis) / np.std(a - b, axis=axis, ddof=1)),
        permutation_type="samples", n_resamples=9_999, vectorized=True, rng=5,
        alternative="greater",
    ).null_distribution  # fmt: skip
    statistic = abs(values.mean()) / values.std(ddof=1)
    expected = (1 + np.sum(theirs >= statistic)) / 10_000
    assert result.p[0] == pytest.approx(expected, abs=0.006)
    assert result.p[0] == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.05, 0.0033, 0.02])
def test_an_interval_excludes_zero_exactly_where_p_is_under_alpha(values, alpha):
    error = max_t(values, draw_signs(23, 2, 999)).error
    for shift in np.linspace(0, 4, 30):
        moved = max_t(values - values.mean(0) + shift * error, draw_signs(23, 2, 999))
        beyond = np.abs(moved.mean) > moved.critical(alpha) * moved.error
        assert (beyond == (moved.p < alpha)).all()


def test_p_and_the_critical_value_by_hand():
    """Nineteen flips, of 1 to 19: what is as large as one of them counts it."""
    one = np.ones(3)
    result = MaxT(
        np.array([18.5, -19.0, 19.5]), one, 20 * one, 20 * one, one > 0, np.arange(1.0, 20.0)
    )
    assert result.p == pytest.approx([2 / 20, 2 / 20, 1 / 20])
    assert result.critical(0.05) == np.inf  # no p is under 1/20
    assert [result.critical(alpha) for alpha in (0.051, 0.10)] == [19, 19]
    assert [result.critical(alpha) for alpha in (0.101, 0.15, 0.151)] == [18, 18, 17]


def test_too_few_flips_for_a_small_p_have_no_critical_value(values):
    assert max_t(values, draw_signs(23, 2, 99)).critical(0.005) == np.inf


def test_more_claims_make_p_larger(values):
    signs = draw_signs(23, 6, 999)
    values[:, 0] += 2.2 * values[:, 0].std(ddof=1) / np.sqrt(23) - values[:, 0].mean()
    assert max_t(values, signs).p[0] > max_t(values[:, :1], signs).p[0]


def test_what_does_not_vary_is_not_tested():
    values = np.random.default_rng(0).normal(size=(30, 4))
    values[:, 1] = 1e-13 * values[:, 1]
    values[:, 2] = 0.7
    values[:, 3] = np.nan
    signs = draw_signs(30, 0, 99)
    result = max_t(values, signs)
    assert result.tested.tolist() == [True, False, False, False]
    assert np.isnan(result.p).tolist() == [False, True, True, True]
    np.testing.assert_allclose(result.maxima, max_t(values[:, :1], signs).maxima)


@pytest.mark.parametrize(("off", "tested"), [(1e-6, True), (0.99e-6, False)])
def test_what_varies_by_less_than_rounding_is_not_tested(off, tested):
    values = np.resize([off, -off], (20, 1))
    result = max_t(values, draw_signs(20, 0, 9))
    assert result.tested.tolist() == [tested]
    assert (result.error > 0).tolist() == [tested]


def test_what_one_group_alone_has_is_not_tested():
    values = np.random.default_rng(0).normal(size=(12, 2))
    values[4:, 1] = np.nan
    groups = [f"g{row // 4}" for row in range(12)]
    result = max_t(values, draw_signs(3, 0, 9), groups)
    assert result.tested.tolist() == [True, False]
    assert (result.n.tolist(), result.groups.tolist()) == ([12, 4], [3, 1])
    assert result.error[1] == 0
    assert np.isnan(result.p[1])


def test_many_columns_and_flips_are_those_of_numpy():
    """More of both than are held at a time; of some columns two pairs are missing."""
    values = np.random.default_rng(5).normal(size=(6, 300))
    values[:2, ::7] = np.nan
    signs = draw_signs(6, 3, 1_100)
    flipped = signs[:, :, None] * (values - np.nanmean(values, axis=0))
    counts = np.isfinite(values).sum(axis=0)
    with np.errstate(divide="ignore"):
        t = np.nanmean(flipped, axis=1) / (np.nanstd(flipped, axis=1, ddof=1) / np.sqrt(counts))
    largest = np.sort(np.abs(t).max(axis=1))
    np.testing.assert_allclose(max_t(values, signs).maxima, largest, rtol=1e-6, atol=1e-9)


def test_many_columns_and_flips_of_groups_are_those_of_numpy():
    values = np.random.default_rng(5).normal(size=(12, 300))
    signs = draw_signs(6, 3, 1_100)
    sums = (values - values.mean(axis=0)).reshape(6, 2, 300).sum(axis=1)
    flipped = signs[:, :, None] * sums
    means = flipped.sum(axis=1, keepdims=True) / 12
    errors = np.sqrt(6 / 5 * ((flipped - 2 * means) ** 2).sum(axis=1)) / 12
    largest = np.sort(np.abs(means[:, 0] / errors).max(axis=1))
    groups = [f"g{row // 2}" for row in range(12)]
    np.testing.assert_allclose(max_t(values, signs, groups).maxima, largest)


def test_all_columns_constant_leave_nothing_to_test():
    result = max_t(np.zeros((30, 2)), draw_signs(30, 0, 99))
    assert not result.tested.any()
    assert not result.maxima.any()


def test_pairs_of_a_group_are_flipped_together():
    once = np.random.default_rng(7).normal(size=(20, 3))
    signs = draw_signs(20, 8, 199)
    twice = max_t(np.repeat(once, 2, axis=0), signs, [f"g{i // 2}" for i in range(40)])
    result = max_t(once, signs)
    np.testing.assert_allclose(twice.error, result.error)
    np.testing.assert_allclose(twice.maxima, result.maxima)


def test_groups_of_unequal_size_agree_with_a_slow_twin():
    values = np.random.default_rng(9).normal(size=(7, 1))
    groups = list("aabcccd")
    signs = draw_signs(4, 0, 9)
    rest = values[:, 0] - values.mean()
    sums = np.array([rest[[g == name for g in groups]].sum() for name in "abcd"])
    sizes = np.array([2, 1, 3, 1])
    expected = []
    for flip in signs:
        mean = (flip * sums).sum() / 7
        error = np.sqrt(4 / 3 * ((flip * sums - sizes * mean) ** 2).sum()) / 7
        expected.append(abs(mean / error))
    np.testing.assert_allclose(max_t(values, signs, groups).maxima, np.sort(expected))


def test_signs_come_from_the_seed_alone():
    assert (draw_signs(5, 1, 7) == draw_signs(5, 1, 7)).all()
    assert (draw_signs(5, 1, 7) != draw_signs(5, 2, 7)).any()
    assert set(np.unique(draw_signs(5, 1, 99))) == {-1, 1}


def test_signs_must_fit_the_groups(values):
    with pytest.raises(ValueError, match="expected signs for 23 groups, got 22"):
        max_t(values, draw_signs(22, 0, 9))


def test_a_whole_grid_takes_seconds():
    values = np.random.default_rng(0).normal(size=(57, 160))
    start = time.process_time()
    max_t(values, draw_signs(57, 0, 9_999))
    assert time.process_time() - start < 10


def test_family_wise_error_is_near_the_level():
    """A mean of 0 is called different from 0 in about 5 % of grids."""
    rng = np.random.default_rng(11)
    wrong = 0
    for seed in range(200):
        result = max_t(rng.normal(size=(40, 20)), draw_signs(40, seed, 199))
        wrong += (result.p < 0.05).any()
    assert wrong <= 20  # 200 grids at 5 %: 10 expected, 20 three deviations above
