from itertools import product

import numpy as np
import pytest
from by_hand import make_data
from scipy import stats

from codi_patching.analysis.paired_tests import paired_tests


def test_tests_are_scipys_of_the_cells_differences():
    rng = np.random.default_rng(0)
    own, base = rng.random((30, 1, 2)), rng.random(30)
    control = rng.random((30, 1, 2))
    found = paired_tests(make_data(own, base, control, zeros=[(0, 1)]))
    assert [(t["cell"], t["comparison"]) for t in found] == [
        ("layer 0, position 0 (makes thought 1)", "own - unpatched"),
        ("layer 0, position 0 (makes thought 1)", "own - control"),
    ]
    for ours, other in zip(found, (base, control[:, 0, 0]), strict=True):
        student = stats.ttest_rel(own[:, 0, 0], other)
        ranks = stats.wilcoxon(own[:, 0, 0], other, zero_method="pratt")
        assert (ours["t"], ours["p_t"]) == pytest.approx((student.statistic, student.pvalue))
        assert (ours["wilcoxon"], ours["p_wilcoxon"]) == pytest.approx(
            (ranks.statistic, ranks.pvalue)
        )


def test_pairs_that_share_a_question_count_once():
    rng = np.random.default_rng(1)
    own, base = rng.random((15, 1, 1)), rng.random(15)
    (alone,) = paired_tests(make_data(own, base))
    groups = tuple(f"q{i // 2}" for i in range(30))
    (twice,) = paired_tests(make_data(np.repeat(own, 2, 0), np.repeat(base, 2), groups=groups))
    assert twice == alone


def test_what_does_not_vary_is_not_tested():
    own = np.full((30, 1, 1), 0.5) + 1e-13 * np.arange(30)[:, None, None]
    (found,) = paired_tests(make_data(own, np.full(30, 0.5)))
    assert (found["mean"], found["t"], found["p_wilcoxon"]) == (0, None, None)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_few_pairs_with_zeros_and_ties_have_scipys_exact_p(n):
    rng = np.random.default_rng(n)
    own = rng.integers(-2, 4, (n, 1, 1)) / 8
    own[0], own[1] = 0.5, 0.0
    (found,) = paired_tests(make_data(own, np.zeros(n)))
    expected = stats.wilcoxon(own[:, 0, 0], zero_method="pratt")
    assert (found["wilcoxon"], found["p_wilcoxon"]) == pytest.approx(
        (expected.statistic, expected.pvalue)
    )


@pytest.mark.parametrize("n", [13, 14])
def test_with_zeros_and_ties_p_is_exact_up_to_13(n):
    """Over all signs of the ranks that are not of a zero."""
    own = np.resize([0.0, 0.25, 0.25, 0.5, -0.25, 0.75], n)
    (found,) = paired_tests(make_data(own[:, None, None], np.zeros(n)))
    ranks = stats.rankdata(np.abs(own))[own != 0]
    signs = np.array(list(product([0, 1], repeat=len(ranks))))
    seen, sums = ranks[own[own != 0] > 0].sum(), signs @ ranks
    exact = 2 * min((sums <= seen).mean(), (sums >= seen).mean())
    approximate = stats.wilcoxon(own, zero_method="pratt", method="asymptotic").pvalue
    assert abs(exact - approximate) > 1e-4
    assert found["p_wilcoxon"] == pytest.approx(exact if n == 13 else approximate)


def test_of_14_pairs_one_zero_is_enough_that_p_is_approximate():
    own = np.array([0, 1, 2, -3, 4, 5, 6, -7, 8, 9, 10, -11, 12, 13]) / 16
    (found,) = paired_tests(make_data(own[:, None, None], np.zeros(14)))
    approximate = stats.wilcoxon(own, zero_method="pratt", method="asymptotic").pvalue
    assert found["p_wilcoxon"] == pytest.approx(approximate, rel=1e-9)


@pytest.mark.parametrize("n", [50, 51])
def test_pairs_without_zeros_and_ties_have_scipys_p_exact_up_to_50(n):
    own = np.random.default_rng(n).normal(0.02, 0.1, (n, 1, 1))
    (found,) = paired_tests(make_data(own, np.zeros(n)))
    kind = "exact" if n == 50 else "asymptotic"
    expected = stats.wilcoxon(own[:, 0, 0], zero_method="pratt", method=kind)
    assert found["p_wilcoxon"] == pytest.approx(expected.pvalue, rel=1e-9)


def test_one_pair_or_none_has_no_test():
    """And pairs that all differ by as much have their mean alone."""
    own = np.full((3, 1, 3), 0.5)
    own[1:, 0, 1] = own[:, 0, 2] = np.nan
    alike, one, none = paired_tests(make_data(own, [0.25, 0.25, 0.25]))
    untested = dict.fromkeys(("t", "p_t", "wilcoxon", "p_wilcoxon"))
    for found, n, mean in ((alike, 3, 0.25), (one, 1, 0.25), (none, 0, None)):
        assert {k: found[k] for k in found if k not in ("cell", "comparison")} == {
            "n": n, "mean": mean, **untested,
        }  # fmt: skip


def test_the_mean_of_a_question_is_of_its_pairs_with_a_value():
    own = np.array([0.2, np.nan, 0.4, 0.8])[:, None, None]
    (found,) = paired_tests(make_data(own, np.zeros(4), groups=("a", "a", "b", "b")))
    assert (found["n"], found["mean"]) == (2, pytest.approx((0.2 + 0.6) / 2))
