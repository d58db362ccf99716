"""What an effect is at most, by hand and against simulated truths."""

import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis.bounds import unseen_share, upper_bounds


def bound(values, alpha, reach=1.0):
    values = np.asarray(values, dtype=float)[:, None]
    n = np.array([len(values)])
    error = values.std(axis=0, ddof=1) / np.sqrt(n)
    return upper_bounds(values, values.mean(axis=0), error, n, np.array([reach]), alpha)[0]


def test_nothing_seen_in_57_leaves_5_percent_unseen():
    assert unseen_share(0.05, 57) == pytest.approx(1 - 0.05 ** (1 / 57))


def test_where_no_pair_moved_the_bound_is_what_may_be_unseen():
    assert bound(np.zeros(57), 0.02 / 79) == pytest.approx(0.1352, abs=1e-4)


def test_a_graded_effect_is_bounded_by_the_end_and_what_may_be_unseen():
    values = np.linspace(-0.1, 0.3, 57)
    end = values.mean() + stats.t.ppf(0.99, 56) * values.std(ddof=1) / np.sqrt(57)
    unseen = 1 - 0.01 ** (1 / 57)
    assert bound(values, 0.01) == pytest.approx(end * (1 - unseen) + unseen)


def test_the_unseen_are_as_far_as_values_reach():
    values = np.linspace(-0.1, 0.3, 57)
    end = values.mean() + stats.t.ppf(0.99, 56) * values.std(ddof=1) / np.sqrt(57)
    unseen = 1 - 0.01 ** (1 / 57)
    assert bound(values, 0.01, reach=2.0) == pytest.approx(end * (1 - unseen) + 2 * unseen)


def test_counts_are_bounded_exactly():
    values = np.zeros(57)
    values[:2], values[2] = 1, -1
    up = stats.binomtest(2, 57).proportion_ci(0.98, "exact").high
    down = stats.binomtest(1, 57).proportion_ci(0.98, "exact").low
    assert bound(values, 0.02) == pytest.approx(up - down)


def counted(values, groups=None, alpha=0.02, reach=1.0):
    """Of values that are 0 or 1 in size, over so many groups; without an error of the mean."""
    column = np.asarray(values, dtype=float)[:, None]
    n = np.array([len(values) if groups is None else groups])
    mean, none = np.nanmean(column, axis=0), np.array([np.nan])
    return upper_bounds(column, mean, none, n, np.array([reach]), alpha)[0]


def test_counts_at_either_end_by_hand():
    """All of 57 up: 1. All down: what may be unseen of those up minus what is seen of those down.

    Each half of 2 %, the first is 1 - 0.01^(1/57) and the second 0.01^(1/57).
    """
    seen = 0.01 ** (1 / 57)
    assert counted(np.ones(57)) == 1.0
    assert counted(-np.ones(57)) == pytest.approx((1 - seen) - seen)
    assert counted([1.0, *[0.0] * 56]) == pytest.approx(
        stats.binomtest(1, 57).proportion_ci(0.98, "exact").high
    )
    assert counted([-1.0, *[0.0] * 56]) == pytest.approx(
        1 - seen - stats.binomtest(1, 57).proportion_ci(0.98, "exact").low
    )


def test_counts_are_of_groups_and_of_what_is_known():
    """Two pairs of each group, of which one is not known, are as many as the groups."""
    once = np.array([1.0, 1.0, -1.0, *[0.0] * 54])
    expected = counted(once)
    assert counted(once.repeat(2), groups=57) == pytest.approx(expected)
    assert counted(np.append(once, [np.nan] * 9), groups=57) == pytest.approx(expected)
    assert counted(once) > counted(np.append(once, [0.0] * 9))


def test_no_bound_is_beyond_what_values_can_reach():
    assert counted(np.full(3, 0.5), reach=0.75) == pytest.approx(
        0.5 * 0.02 ** (1 / 3) + 0.75 * (1 - 0.02 ** (1 / 3))
    )
    assert bound([0.0, 0.9, 0.9], 0.001) == 1.0
    assert bound([0.0, 0.9, 0.9], 0.001, reach=np.inf) > 1


def test_a_share_of_no_groups_is_that_of_one():
    np.testing.assert_allclose(unseen_share(0.05, np.array([0, 1, 2])), [0.95, 0.95, 1 - 0.05**0.5])


def test_logits_have_no_largest_size():
    values = np.linspace(-3, 9, 57)
    end = values.mean() + stats.t.ppf(0.99, 56) * values.std(ddof=1) / np.sqrt(57)
    assert bound(values, 0.01, reach=np.inf) == pytest.approx(end)


@pytest.mark.parametrize("rate", [0.02, 0.08, 0.3])
@pytest.mark.parametrize("size", [1.0, 0.9])
def test_bounds_cover_rare_flips(rate, size):
    """At an error of 5 %, 400 bounds: 20 expected to miss, 34 three deviations above."""
    rng = np.random.default_rng(1)
    draws = np.where(rng.random((400, 57)) < rate, size, 0.0)
    assert sum(bound(values, 0.05) < rate * size for values in draws) <= 34
