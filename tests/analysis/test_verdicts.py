import math

import pytest

from codi_patching.analysis.verdicts import (
    Thresholds,
    decide,
    identical_bounds,
    least_pairs_for_no,
    pairs_to_decide,
)


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        ("content", 0.11, 0.30, "yes"),
        ("content", 0.09, 0.30, "undecided"),
        ("content", -0.09, 0.09, "no"),
        ("content", -0.11, 0.09, "undecided"),
        ("content", -0.30, -0.11, "no"),
        ("content", -math.inf, math.inf, "undecided"),
        ("content", math.nan, math.nan, "undecided"),
        ("direction", 0.11, 0.30, "yes"),
        ("direction", -0.30, -0.11, "yes"),
        ("direction", -0.09, 0.09, "no"),
        ("direction", -0.11, 0.30, "undecided"),
        ("reaches", -0.09, 0.30, "yes"),
        ("reaches", -0.11, 0.30, "undecided"),
        ("reaches", -0.30, -0.11, "no"),
    ],
)
def test_verdict_follows_from_the_interval(rule, low, high, verdict):
    assert decide(rule, low, high, 0.1, True, True) == verdict


def test_few_pairs_rule_nothing_out_and_very_few_say_nothing():
    assert decide("content", -0.01, 0.01, 0.1, True, False) == "undecided"
    assert decide("content", 0.2, 0.3, 0.1, True, False) == "yes"
    assert decide("content", 0.2, 0.3, 0.1, False, False) == "not applicable"
    assert decide("content", 0.2, 0.3, math.nan, True, True) == "not applicable"


def test_pairs_that_a_no_takes():
    """ln(0.05 / 20) / ln(0.9) = 5.9915 / 0.10536 = 56.87."""
    assert least_pairs_for_no(0.1, 0.05 / 20) == 57
    assert least_pairs_for_no(0.05, 0.05) == 59
    assert least_pairs_for_no(0.1, 0.05, reach=2.0) == 59  # 2 in a twentieth of the pairs


def test_bounds_of_identical_pairs():
    """0.0025 ** (1 / 57) = exp(-5.9915 / 57) = 0.9002."""
    low, high = identical_bounds(0.0, 57, 0.0025, -1.0, 1.0)
    assert (low, high) == pytest.approx((-0.0998, 0.0998), abs=1e-4)
    low, high = identical_bounds(1.0, 57, 0.0025, -1.0, 1.0)
    assert (low, high) == pytest.approx((0.8004, 1.0), abs=1e-4)
    low, high = identical_bounds(0.0, 57, 0.0025, 0.0, 1.0)
    assert (low, high) == pytest.approx((0.0, 0.0998), abs=1e-4)


def test_pairs_to_decide():
    assert pairs_to_decide(0.2, 0.2, 57, 0.1, 50) == 57 * 4
    assert pairs_to_decide(-0.2, 0.2, 57, 0.1, 50) == 57 * 4
    assert pairs_to_decide(0.0, 0.05, 30, 0.1, 50) == 50
    assert pairs_to_decide(0.1, 0.05, 30, 0.1, 50) is None
    assert pairs_to_decide(0.101, 0.5, 57, 0.1, 50) is None
    assert pairs_to_decide(0.3, math.inf, 57, 0.1, 50) is None


def test_thresholds_by_unit():
    thresholds = Thresholds(probability=0.2)
    assert thresholds.of("probability") == 0.2
    assert thresholds.of("hit rate") == 0.05
    assert thresholds.of("nats") == 0.05
    assert thresholds.of("logits", logit_span=6.0) == pytest.approx(0.3)
