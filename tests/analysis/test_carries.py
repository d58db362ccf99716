"""What a position carries, from counts that are written by hand."""

import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis.carries import Test as Chance
from codi_patching.analysis.carries import _fisher, carried, pooled, whichever
from codi_patching.analysis.findings import Carried, Stratum
from codi_patching.analysis.restored import Count

TEST = Chance(0.05, 0.01)
"""P(Bin(4, .05) ≥ 2) = 0.014 is not enough, P(Bin(4, .05) ≥ 3) = 4.8e-4 is."""


def count(text):
    """`3/4`: three of four independent pairs."""
    restored, n = map(int, text.split("/"))
    return Count(restored, n, float(restored), n)


def made(*rows):
    """Strata and counts of `(length, changed step, "3/4")`, with the path if it is no whole one."""
    strata, counts = [], []
    for length, step, text, *path in rows:
        last = length or step
        strata.append(Stratum(length, step, 0, path[0] if path else tuple(range(step, last + 1))))
        counts.append(count(text))
    return strata, counts


def pools(*rows):
    """Of each pool its lengths, and its rows: step, places, restored of n."""
    return [
        (p.lengths, [(r.step, r.strata, f"{r.count.restored}/{r.count.n}") for r in p.rows])
        for p in pooled(*made(*rows))
    ]


def says(*rows):
    """What is carried: lengths, step, traces, restored of n, and of the others."""
    strata, counts = made(*rows)
    return [
        (c.lengths, c.step, c.traces, f"{c.restored}/{c.n}", f"{c.others_restored}/{c.others_n}")
        for c in carried("0", strata, counts, pooled(strata, counts), TEST)
    ]


def test_p_is_that_of_fishers_exact_test():
    for n in range(1, 6):
        for other in range(1, 6):
            for k in range(n + 1):
                for m in range(other + 1):
                    expected = stats.fisher_exact([[k, n - k], [m, other - m]]).pvalue
                    assert _fisher(k, n, m, other) == pytest.approx(expected)


def test_a_count_is_tested_from_four_pairs_on_at_its_level():
    """P(Bin(4, .5) ≥ 4) = 1/16."""
    assert Chance(0.5, 1 / 16)(count("4/4"))
    assert not Chance(0.5, 1 / 16.1)(count("4/4"))
    assert not Chance(0.5, 0.5)(count("3/3"))
    assert not TEST(count("2/4"))
    assert TEST(count("3/4"))
    assert not TEST(Count(20, 20, 3.0, 3))  # of three questions


def test_lengths_that_do_not_differ_are_pooled_the_last_step_apart():
    assert pools((2, 1, "4/4"), (2, 2, "0/4"), (3, 1, "3/4"), (3, 2, "1/4"), (3, 3, "0/5")) == [
        ((2, 3), [(1, (0, 2), "7/8"), (None, (1, 4), "0/9"), (2, (3,), "1/4")])
    ]


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ("0/18", True),  # p = 1/19
        ("0/19", False),  # p = 1/20
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_lengths_differ_from_a_p_of_a_twentieth_on_in_any_step_that_both_have(other, alike, last):
    """Of one pair that is restored and many of the other length that are not; another is alike."""
    rows = [(2, 2, "1/1"), (3, 3, other)] if last else [(2, 1, "1/1"), (3, 1, other)]
    rows += [(3, 1, "0/1"), (2, 1, "0/1")] if last else [(3, 3, "9/9"), (2, 2, "9/9")]
    rows += [(3, 2, "9/9")]
    found = [lengths for lengths, _ in pools(*rows)]
    assert found == ([(2, 3)] if alike else [(2,), (3,)])


def test_a_length_joins_the_first_of_the_shorter_ones_that_it_is_like():
    """Lengths 2 and 3 differ; 4 is like 3 alone, or like both."""
    rows = (3, 1, "0/8"), (2, 1, "8/8")
    assert [lengths for lengths, _ in pools(*rows, (4, 1, "1/8"))] == [(2,), (3, 4)]
    assert [lengths for lengths, _ in pools(*rows, (4, 1, "1/2"))] == [(2, 4), (3,)]


def test_steps_of_an_unknown_length_are_pooled_and_have_no_length():
    assert pools((None, 1, "4/4"), (2, 1, "4/4")) == [((2,), [(1, (0, 1), "8/8")])]
    assert pools((None, 1, "4/4"), (2, 1, "0/4")) == [
        ((), [(1, (0,), "4/4")]), ((2,), [(1, (1,), "0/4")]),
    ]  # fmt: skip


def test_nothing_shown_is_bounded_by_the_row_that_comes_nearest():
    """Of equal rates that of most pairs; three pairs are too few to be tested, at any rate."""
    strata, counts = made((4, 1, "1/8"), (4, 2, "2/16"), (4, 3, "1/3"), (4, 4, "0/20"))
    (found,) = carried("2", strata, counts, pooled(strata, counts), TEST)
    upper = stats.binomtest(2, 16).proportion_ci(0.95, "exact").high
    assert found == Carried("2", None, (), 2, 16, 2, 31, (), pytest.approx(upper))
    strata, counts = made((3, 1, "1/3"), (3, 2, "1/2"), (3, 3, "0/3"))
    (found,) = carried("2", strata, counts, pooled(strata, counts), TEST)
    assert (found.restored, found.n, found.others_restored, found.others_n) == (1, 2, 1, 6)


def test_of_what_counts_the_latest_step_along_the_path_is_carried():
    rows = (4, 1, "8/8"), (4, 2, "8/8"), (4, 3, "0/8"), (4, 4, "0/8")
    assert says(*rows) == [((), 2, (), "16/16", "0/16")]


def test_the_last_step_may_be_a_trace_of_each_length():
    """8 of 20 are under half of the best share, and more than chance allows."""
    of_three = (3, 1, "20/20"), (3, 2, "0/20"), (3, 3, "8/20")
    assert says(*of_three) == [((), 1, (3,), "20/20", "8/40")]
    of_two = (2, 1, "20/20"), (2, 2, "8/20")
    assert says(*of_two, *of_three) == [((), 1, (2, 3), "40/40", "16/60")]


def test_half_of_the_best_share_is_carried_and_less_is_a_trace():
    assert says((3, 1, "20/20"), (3, 2, "10/20"), (3, 3, "0/20")) == [((), 2, (), "30/40", "0/20")]
    assert says((3, 1, "20/20"), (3, 2, "9/20"), (3, 3, "0/20")) == [((), 1, (2,), "20/20", "9/40")]


BRANCHES = (5, 1, "8/8", (1, 3, 4, 5)), (5, 2, "8/8", (2, 3, 4, 5))
"""Steps 1 and 2 meet in step 3; the fifth is the last."""


def test_branches_are_explained_by_the_first_step_in_which_they_meet():
    rest = (5, 3, "3/3"), (5, 4, "3/3"), (5, 5, "0/8")
    assert says(*BRANCHES, *rest) == [((), 3, (), "19/19", "3/11")]


def test_branches_are_not_explained_by_where_they_meet_if_that_is_tested():
    rest = (5, 3, "0/4"), (5, 4, "3/3"), (5, 5, "0/8")
    assert says(*BRANCHES, *rest) == [
        ((), 1, (), "8/8", "11/23"), ((), 2, (), "8/8", "11/23"),
    ]  # fmt: skip


def test_branches_that_meet_in_the_last_step_alone_are_both_carried():
    rows = (4, 1, "8/8", (1, 4)), (4, 2, "8/8", (2, 4)), (4, 3, "0/8"), (4, 4, "0/3")
    assert [(step, traces) for _, step, traces, *_ in says(*rows)] == [(1, ()), (2, ())]


def test_a_row_of_lengths_with_other_paths_has_the_steps_that_all_of_them_have():
    """Step 1 goes through step 2 in one length and past it in the other: it is no part of 2."""
    rows = (3, 1, "8/8"), (4, 1, "8/8", (1, 4)), (3, 2, "8/8"), (4, 2, "8/8", (2, 4))
    found = says(*rows, (3, 3, "0/8"), (4, 3, "0/8"), (4, 4, "0/8"))
    assert [step for _, step, *_ in found] == [1, 2]


@pytest.mark.parametrize(
    ("few", "said"),
    [
        ("1/2", [((), 1, (), "9/10", "0/10")]),
        ("0/1", [((2,), None, (), "0/4", "0/1"), ((3,), 1, (), "8/8", "0/6")]),
    ],
)
def test_a_length_that_is_pooled_shares_a_step_at_half_the_others_rate(few, said):
    rest = (2, 2, "0/4"), (3, 2, "0/3"), (3, 3, "0/3")
    assert says((2, 1, few), (3, 1, "8/8"), *rest) == said


def test_a_step_is_of_no_length_that_has_no_later_one():
    """What is restored of length 2 is its last step, which is not step 2 of the longer ones."""
    rows = (2, 2, "2/2"), (3, 1, "8/8"), (3, 2, "8/8"), (3, 3, "0/2")
    assert [(lengths, step) for lengths, step, *_ in says(*rows)] == [((2,), None), ((3,), 2)]


def test_of_two_steps_the_later_one_must_be_before_a_lengths_last():
    """Of length 3 the second of them is the last, whatever is restored there."""
    rows = (4, 1, "8/8", (1, 4)), (4, 2, "0/8", (2,)), (4, 3, "8/8"), (4, 4, "0/3")
    found = says((3, 1, "2/2", (1,)), (3, 3, "2/3"), *rows)
    assert [(lengths, step) for lengths, step, *_ in found] == [
        ((3,), None), ((4,), 1), ((4,), 3),
    ]  # fmt: skip


def test_a_length_is_held_against_the_others_alone():
    """4 of 9 are under half of 5 of 5, and over half of 9 of 14."""
    rest = (2, 2, "0/4"), (3, 2, "0/3"), (3, 3, "0/3")
    assert says((2, 1, "4/9"), (3, 1, "5/5"), *rest) == [
        ((2,), 1, (), "4/9", "0/4"), ((3,), 1, (), "5/5", "0/6"),
    ]  # fmt: skip


def test_a_last_step_is_said_of_lengths_at_half_the_others_rate():
    """Each has the pairs of its own last step, beside the others of its length."""
    rest = (3, 1, "0/5", (1, 2)), (3, 3, "5/5")
    of_three = ((3,), 3, (), "5/5", "0/5")
    assert says(*rest, (2, 2, "4/8")) == [((2,), 2, (), "4/8", "0/0"), of_three]
    assert says(*rest, (2, 2, "4/9")) == [of_three, ((2,), None, (), "4/9", "0/0")]


def test_whichever_step_changed_all_pairs_are_counted():
    found = whichever("1", count("6/12"), TEST)
    assert (found.column, found.step, found.restored, found.n) == ("1", None, 6, 12)
    assert (found.others_restored, found.others_n, found.lengths) == (0, 0, ())
    assert np.isnan(found.most)
    upper = stats.binomtest(1, 12).proportion_ci(0.95, "exact").high
    assert whichever("1", count("1/12"), TEST).most == pytest.approx(upper)
