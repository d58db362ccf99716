import numpy as np
import pytest

from codi_patching.analysis.claims import Finding
from codi_patching.analysis.effects import Comparisons
from codi_patching.analysis.families import Contrasts, Family, Part, judge_family
from codi_patching.analysis.max_t import draw_signs, max_t

PAIRS = 60
SIGNS = draw_signs(PAIRS, 999, 0)


def judge(restored, specific=None, rule="content", unit="probability", alpha=0.05, least=20):
    """Claims of one block, `(pairs, claims)`."""
    seen = []
    names = tuple(f"c{i}" for i in range(restored.shape[1]))
    block = Contrasts(names, Comparisons(restored, specific), rule, unit, 0.1, control="sibling")
    empty = Finding("?", "no", None, None, None, None, 0, None, "", "", ())

    def conclude(blocks):
        seen.extend(blocks[0])
        return empty

    groups = [f"p{i}" for i in range(len(restored))]
    judge_family(
        Family("f", (Part((block,), conclude),)), SIGNS[:, : len(restored)], groups, alpha, least
    )
    return seen


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(0, 0.1, (PAIRS, 2))


def test_content_takes_the_weaker_comparison_of_a_joint_maximum(noise):
    restored, specific = noise + 0.5, noise[:, ::-1] + [0.3, 0.6]
    claims = judge(restored, specific)
    both = max_t(np.concatenate([restored, specific], axis=1), SIGNS)
    critical = both.critical(0.05)
    low, high = both.mean - critical * both.error, both.mean + critical * both.error
    p = both.p(both.mean - 0.1)
    for i, claim in enumerate(claims):
        assert claim.estimate == pytest.approx(min(restored[:, i].mean(), specific[:, i].mean()))
        assert claim.low == pytest.approx(min(low[i], low[i + 2]))
        assert claim.high == pytest.approx(min(high[i], high[i + 2]))
        assert claim.p == max(p[i], p[i + 2])
        assert claim.verdict == "yes"


def test_stranger_that_disrupts_is_no_content(noise):
    claims = judge(noise * 0.1, noise + 0.5)
    assert [claim.verdict for claim in claims] == ["no", "no"]
    assert claims[0].p == 1


def test_own_patch_that_only_raises_the_prior_is_no_content(noise):
    assert [claim.verdict for claim in judge(noise + 0.5, noise * 0.1)] == ["no", "no"]


def test_direction_needs_both_comparisons_on_the_same_side(noise):
    up, down, small = noise + 0.5, noise - 0.5, noise * 0.1
    verdicts = {
        name: judge(first, second, "direction")[0].verdict
        for name, first, second in [
            ("up", up, up), ("down", down, down), ("both", up, down), ("half", up, small),
            ("none", small, small),
        ]
    }  # fmt: skip
    assert verdicts == {
        "up": "yes", "down": "yes", "both": "undecided", "half": "undecided", "none": "no",
    }  # fmt: skip
    opposite = judge(up, down, "direction")[0]
    assert opposite.p == 1
    assert opposite.low < -0.1
    assert opposite.high > 0.1


def test_verdict_yes_goes_with_a_small_p_and_an_interval_beyond_the_threshold():
    rng = np.random.default_rng(1)
    for size in np.linspace(0.0, 0.4, 40):
        claim = judge(rng.normal(size, 0.3, (PAIRS, 1)))[0]
        assert (claim.verdict == "yes") == (claim.low > 0.1) == (claim.p <= 0.05)


def test_without_control_the_claim_says_so(noise):
    assert judge(noise)[0].against == "unpatched alone"
    assert judge(noise, noise)[0].against == "unpatched and control (sibling)"


def test_what_does_not_vary_shows_a_dash_and_an_exact_bound(noise):
    zeros, ones = np.zeros((PAIRS, 1)), np.ones((PAIRS, 1))
    claim = judge(zeros)[0]
    assert (claim.p, claim.estimate, claim.verdict) == (None, 0, "no")
    assert claim.high == pytest.approx(1 - 0.05 ** (1 / PAIRS))
    claim = judge(ones)[0]
    assert (claim.p, claim.verdict) == (None, "yes")


def test_rounding_noise_is_zero():
    values = 1e-13 * np.random.default_rng(2).random((PAIRS, 3))
    assert [claim.verdict for claim in judge(values, values)] == ["no"] * 3


def test_few_pairs_say_nothing_or_rule_nothing_out(noise):
    assert judge(noise[:19])[0].verdict == "not applicable"
    few = judge(noise[:25] * 0.1)[0]
    assert few.verdict == "undecided"
    assert few.pairs_to_decide == 29  # ln 0.05 / ln 0.9 = 28.4


def test_pairs_without_control_count_for_one_comparison_only(noise):
    specific = noise + 0.5
    specific[:45] = np.nan
    claim = judge(noise + 0.5, specific)[0]
    assert (claim.n, claim.verdict) == (15, "not applicable")


def test_structural_or_missing_columns_are_not_judged(noise):
    missing = np.full((PAIRS, 2), np.nan)
    claim = judge(missing)[0]
    assert (claim.n, claim.estimate, claim.p) == (0, None, None)
