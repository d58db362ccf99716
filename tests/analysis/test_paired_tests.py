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
