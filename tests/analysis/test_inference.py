"""Claims by hand: each rule with a planted yes, a planted opposite and nothing."""

from dataclasses import replace

import numpy as np
import pytest
from by_hand import make_effect
from scipy import stats

from codi_patching.analysis import inference
from codi_patching.analysis.findings import Finding
from codi_patching.analysis.inference import LEVEL, judge

SHARE = 0.02


def graded(mean, n=57, deviation=0.1, seed=0):
    """Values with exactly this mean and deviation."""
    values = np.random.default_rng(seed).normal(size=n)
    values = (values - values.mean()) / values.std(ddof=1)
    return (mean + deviation * values)[:, None]


def only(effect, share=SHARE, seed=0):
    (claim,) = judge(effect, share, seed)
    return claim


def test_the_lead_is_the_smaller_effect_and_of_a_difference_the_smaller_in_size():
    own, control = graded(0.02, deviation=0.01), graded(-0.6, deviation=0.01, seed=1)
    assert only(make_effect(own, control)).lead.mean == pytest.approx(-0.6)
    assert only(make_effect(own, control, either=True)).lead.mean == pytest.approx(0.02)


def test_a_side_is_that_of_every_comparison():
    up, down = graded(0.3), graded(-0.3, seed=1)
    assert only(make_effect(up, up)).side == 1
    assert only(make_effect(down, down)).side == -1
    assert only(make_effect(up, down)).side == 0
    assert only(make_effect(up, graded(0.0, seed=1))).side == 0
    assert only(make_effect(graded(0.0), graded(0.0, seed=1))).side == 0
    assert only(make_effect(graded(0.3, n=10))).side == 0  # without intervals


def test_an_interval_that_ends_at_0_has_no_side():
    claim = only(make_effect(graded(0.3)))
    for low, high, side in ((0.0, 0.2, 0), (-0.2, 0.0, 0), (0.01, 0.2, 1), (-0.2, -0.01, -1)):
        comparison = replace(claim.lead, low=low, high=high)
        assert replace(claim, comparisons=(comparison,)).side == side


def test_pairs_of_a_finding_are_those_of_its_lead():
    claim = only(make_effect(graded(0.3)))
    assert Finding("cells", 2, "yes", ("x",), claim, (claim,)).n == 57
    assert Finding("cells", 2, "missing", ()).n == 0


@pytest.mark.parametrize(("mean", "verdict"), [(0.3, "rises"), (-0.3, "falls")])
def test_a_direction_is_claimed_both_ways(mean, verdict):
    claim = only(make_effect(graded(mean), graded(mean, seed=1)))
    assert claim.verdict == verdict
    assert claim.p < 0.05


def test_a_claim_needs_both_comparisons():
    claim = only(make_effect(graded(0.3), graded(0.0, deviation=0.3, seed=1)))
    assert claim.verdict == "at most"
    assert claim.p > 0.05


def test_opposite_comparisons_claim_nothing():
    claim = only(make_effect(graded(0.3), graded(-0.3, seed=1)))
    assert (claim.verdict, claim.p) == ("no", 1.0)  # less than with a stranger's: no content


def test_each_comparison_has_its_own_interval_and_no_hull():
    claim = only(make_effect(graded(0.3), graded(0.5, seed=1)))
    (first, second) = claim.comparisons
    assert (first.against, second.against) == ("unpatched", "control")
    assert first.mean == pytest.approx(0.3)
    assert second.mean == pytest.approx(0.5)
    assert first.high < second.low
    assert claim.lead == first


def test_without_a_control_there_is_one_comparison():
    claim = only(make_effect(graded(0.3)))
    assert [c.against for c in claim.comparisons] == ["unpatched"]
    assert claim.verdict == "rises"


def test_nothing_that_moves_nothing_is_bounded_and_has_no_p():
    claim = only(make_effect(np.zeros((57, 1)), np.zeros((57, 1))), share=0.0033)
    assert claim.verdict == "no"
    assert np.isnan(claim.p)
    assert claim.bound == pytest.approx(1 - (0.75 * 0.0033) ** (1 / 57))


def test_no_takes_a_bound_of_at_most_a_tenth():
    """79 cells at n = 57 are at most 0.14 each, which is no "no"; at n = 200 it is one."""
    few, many = (judge(make_effect(np.zeros((n, 79))), SHARE, 0) for n in (57, 200))
    assert {claim.verdict for claim in few} == {"at most"}
    assert few[0].bound == pytest.approx(0.1352, abs=1e-4)
    assert {claim.verdict for claim in many} == {"no"}


def test_the_guard_against_skew_is_the_formula():
    """A mean just over r0 / (1 - r0), with next to no spread, is claimed; just under it is not."""
    unseen = 1 - (SHARE / 2) ** (1 / 57)
    least = unseen / (1 - unseen)
    over, under = (only(make_effect(graded(least + d, deviation=1e-4))) for d in (1e-3, -1e-3))
    assert over.verdict == "rises"
    assert under.verdict == "more often"  # all pairs go this way: counted, and nothing of the mean


def test_skew_of_mean_zero_claims_no_direction():
    """9 in 10 pairs rise by 0.05 and one falls by 0.45: by chance none of these may be seen."""
    rng = np.random.default_rng(3)
    for _ in range(30):
        values = np.where(rng.random((57, 1)) < 0.05, -0.95, 0.05)
        assert only(make_effect(values)).verdict not in ("rises", "falls")


def test_only_counts_are_claimed_where_only_the_intervals_exclude_zero():
    values = graded(0.07, deviation=0.05)
    claim = only(make_effect(values))
    up = int((values > 0).sum())
    assert claim.verdict == "more often"
    assert claim.p >= stats.binomtest(up, 57).pvalue * LEVEL / SHARE
    opposite = only(make_effect(-values))
    assert opposite.verdict == "less often"


@pytest.mark.parametrize("columns", [1, 2])
def test_counts_have_the_p_of_the_sign_test_times_the_columns(columns):
    """42 of 57 rise, by more than the others fall; nothing moves in the other column."""
    values = np.zeros((57, columns))
    values[:, 0] = np.where(np.arange(57) < 42, 0.02, -0.01)
    claim, *_ = judge(make_effect(values), SHARE, 0)
    expected = stats.binomtest(42, 57).pvalue * columns * LEVEL / SHARE
    assert (claim.verdict, claim.p) == ("more often", pytest.approx(expected))


def test_counts_take_an_exact_sign_test():
    """As many rise as fall: the mean's interval excludes 0, the counts say nothing."""
    values = np.where(np.arange(57)[:, None] % 2 == 0, 0.15, -0.02)
    claim = only(make_effect(values))
    assert claim.comparisons[0].low > 0
    assert claim.verdict == "at most"
    assert claim.p >= 0.05


def test_p_is_under_a_twentieth_exactly_where_something_is_claimed():
    rng = np.random.default_rng(5)
    for _ in range(15):
        size = rng.uniform(0, 0.3, 8)
        values = size + rng.normal(0, 0.3, (57, 8))
        for claim in judge(make_effect(values, values + rng.normal(0, 0.1, (57, 8))), SHARE, 0):
            assert claim.claimed == (claim.p < 0.05)
            if claim.claimed:
                assert all(c.low > 0 or c.high < 0 for c in claim.comparisons)


def test_what_is_within_rounding_has_its_mean_and_its_bound():
    """Every pair rises by 0.09, under a precision of 0.1: neither up nor down, and at most 0.13."""
    effect = replace(make_effect(np.full((200, 1), 0.09)), rounding=0.1)
    claim = only(effect)
    unseen = 1 - SHARE ** (1 / 200)
    assert (claim.comparisons[0].up, claim.comparisons[0].down) == (0, 0)
    assert claim.lead.mean == pytest.approx(0.09)
    assert claim.bound == pytest.approx(0.09 * (1 - unseen) + unseen)
    assert claim.verdict not in ("no", "more often")


def test_under_twenty_groups_there_are_counts_and_a_bound():
    claim = only(make_effect(graded(0.8, n=19)))
    assert claim.verdict == "counts"
    assert np.isnan(claim.p)
    assert np.isnan(claim.comparisons[0].low)
    assert (claim.comparisons[0].up, claim.comparisons[0].n) == (19, 19)
    assert claim.bound <= 1


def test_twenty_groups_of_two_count_as_twenty():
    values = np.repeat(graded(0.5, n=20), 2, axis=0)
    groups = [f"q{row // 2}" for row in range(40)]
    claim = only(make_effect(values, groups=groups))
    assert claim.verdict == "rises"
    assert (claim.comparisons[0].n, claim.comparisons[0].groups) == (40, 20)
    once = only(make_effect(values[::2]))
    assert claim.comparisons[0].low == pytest.approx(once.comparisons[0].low)


def test_columns_of_few_pairs_do_not_widen_the_intervals_of_the_others():
    values = np.concatenate([graded(0.3), np.full((57, 30), np.nan)], axis=1)
    values[:5, 1:] = np.random.default_rng(0).normal(size=(5, 30))
    together = judge(make_effect(values), SHARE, 0)
    (joint,), (alone,) = together[0].comparisons, only(make_effect(graded(0.3))).comparisons
    assert (joint.low, joint.high) == pytest.approx((alone.low, alone.high))
    assert {claim.verdict for claim in together[1:]} == {"counts"}


def test_both_comparisons_are_in_one_maximum():
    """The critical value is that of all columns and both comparisons under common flips."""
    rng = np.random.default_rng(2)
    own, control = rng.normal(0.2, 0.3, (2, 57, 4))
    claims = judge(make_effect(own, control), SHARE, 7)
    signs = inference.draw_signs(57, 7)
    both = np.concatenate([own, control], axis=1)
    centred = both - both.mean(axis=0)
    largest = []
    for flip in signs:
        flipped = flip[:, None] * centred
        errors = flipped.std(axis=0, ddof=1) / np.sqrt(57)
        largest.append(np.abs(flipped.mean(axis=0) / errors).max())
    largest = np.array(largest)
    for place, claim in enumerate(claims):
        t = stats.ttest_1samp(both[:, [place, place + 4]], 0).statistic
        for comparison, statistic in zip(claim.comparisons, t, strict=True):
            p = (1 + (largest >= abs(statistic)).sum()) / (1 + len(largest))
            assert (comparison.low > 0 or comparison.high < 0) == (p < SHARE)


def test_what_is_alike_in_all_pairs_is_claimed_by_the_exact_bound():
    claim = only(make_effect(np.full((57, 1), 0.6)))
    unseen = 1 - (SHARE / 2) ** (1 / 57)
    assert claim.verdict == "rises"
    assert claim.comparisons[0].low == pytest.approx(0.6 - unseen * 1.6)
    assert claim.comparisons[0].high == pytest.approx(0.6 + unseen * 0.4)
    tiny = only(make_effect(np.full((57, 1), 0.05)))
    assert tiny.verdict == "more often"


def test_a_contrast_is_bounded_in_size():
    rise = only(make_effect(graded(-0.05)))
    either = only(make_effect(graded(-0.05), either=True))
    assert rise.bound == pytest.approx(only(make_effect(graded(-0.05))).bound)
    assert either.bound == pytest.approx(only(make_effect(-graded(-0.05))).bound)
    assert either.bound > rise.bound


def test_the_bound_is_of_the_comparison_that_bounds_best():
    wide = only(make_effect(graded(0.2), graded(0.0, seed=1)))
    alone = only(make_effect(graded(0.0, seed=1)), SHARE / 4)  # the control's part
    assert wide.bound == pytest.approx(alone.bound)


def test_the_best_of_two_bounds_misses_no_more_often_than_one():
    """Two independent comparisons of equal mean 0, at a share of 0.2: 40 of 200 may miss."""
    rng = np.random.default_rng(8)
    missed = 0
    for _ in range(200):
        own, control = rng.normal(0, 0.1, (2, 30, 1))
        missed += only(replace(make_effect(own, control), unit="logits"), 0.2).bound < 0
    assert missed <= 50  # 62 or more at twice the level, less 1.5 deviations


def test_an_error_of_a_report_without_effects_is_rare():
    """At a share of 2 %, of 60 tables 1.2 are expected to claim; 5 is three deviations above."""
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(60):
        own = 0.5 * np.tanh(0.1 * rng.standard_t(2, (57, 10)))
        wrong += any(claim.claimed for claim in judge(make_effect(own), SHARE, 0))
    assert wrong <= 5


def test_a_rise_of_a_third_with_as_much_spread_is_found():
    rng = np.random.default_rng(6)
    values = rng.normal(0, 0.05, (57, 79))
    values[:, :8] += rng.normal(0.3, 0.3, (57, 8))
    found = [claim.verdict for claim in judge(make_effect(values, values), SHARE, 0)]
    assert found[:8].count("rises") >= 7
    assert "rises" not in found[8:]
