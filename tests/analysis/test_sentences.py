import pytest

from codi_patching.analysis.claims import Claim
from codi_patching.analysis.sentences import (
    evidence,
    layers_listed,
    listed,
    more_pairs,
    number,
    overall,
    p_value,
)


def claim(verdict="yes", **changes):
    values = {"estimate": 0.314, "low": 0.2, "high": 0.428, "p": 0.0123, "n": 57, "threshold": 0.1}
    return Claim("layer 3", verdict, **{**values, **changes})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.314159, "0.31"),
        (0.0996, "0.10"),
        (0.04321, "0.043"),
        (0.0, "0"),
        (-2.5, "-2.50"),
        (None, "–"),
    ],
)
def test_numbers_have_two_digits_that_count(value, text):
    assert number(value) == text


def test_p_is_exact_and_what_does_not_vary_is_not_tested():
    assert p_value(0.0123) == "p = 0.012"
    assert p_value(0.0001) == "p = 0.0001"
    assert p_value(None) == "not tested: no spread"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["layer 3"], "layer 3"),
        (["layer 3", "layer 4"], "layers 3 and 4"),
        (["layer 3", "layer 1", "layer 4", "layer 5"], "layers 1 and 3 to 5"),
        (
            ["layer 0", "layer 1 (makes the next thoughts)"],
            "layers 0 and 1 (makes the next thoughts)",
        ),
        (["the thoughts themselves"], "the thoughts themselves"),
        ([], ""),
    ],
)
def test_layers_are_listed_in_runs(names, text):
    assert layers_listed(names) == text


def test_long_lists_are_cut_and_counted():
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c", "d"], most=2) == "a, b and 2 more"


def test_evidence_has_every_number():
    assert evidence(claim()) == (
        "0.31 (simultaneous interval 0.20 to 0.43, p = 0.012, n = 57 pairs, threshold 0.10)"
    )
    assert evidence(claim(unit="logits", low=None, groups=40)) == (
        "0.31 logits (no interval, p = 0.012, n = 57 pairs in 40 groups that share a question, "
        "threshold 0.10)"
    )


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [
        (["yes", "no", "undecided"], "yes"),
        (["no", "no"], "no"),
        (["no", "undecided"], "undecided"),
        (["no", "not applicable"], "undecided"),
        (["not applicable"], "not applicable"),
        ([], "not applicable"),
    ],
)
def test_question_is_answered_yes_by_any_and_no_by_all(verdicts, verdict):
    assert overall([claim(v) for v in verdicts]) == verdict


def test_pairs_that_would_decide():
    assert more_pairs(claim(pairs_to_decide=1234)) == "about 1,234 pairs would decide it"
    assert "over 10,000" in more_pairs(claim())
    inside = claim(low=-0.05, high=0.05, pairs_to_decide=102)
    assert "inside the threshold, but so few pairs may miss a rare effect" in more_pairs(inside)
