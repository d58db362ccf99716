import numpy as np
import pytest

from codi_patching.analysis.prediction import predict_held_out

PAIRS = [f"p{i}" for i in range(40)]


def test_a_linear_target_is_predicted_wholly():
    singles = np.random.default_rng(0).normal(size=(40, 3, 2))
    target = singles @ np.array([1.0, 2.0]) + 0.5
    found = predict_held_out(singles, target, PAIRS, 0, 5)
    assert found.n == 40
    assert found.r_squared == pytest.approx(1.0)


def test_noise_is_not_predicted():
    rng = np.random.default_rng(1)
    found = predict_held_out(rng.normal(size=(40, 3, 2)), rng.normal(size=(40, 3)), PAIRS, 0, 5)
    assert found.r_squared < 0.1
    assert found.low < found.r_squared < found.high


def test_differences_between_points_predict_nothing():
    rng = np.random.default_rng(3)
    levels = np.array([0.0, 1.0, 5.0])
    singles = levels[:, None] + 0.1 * rng.normal(size=(40, 3, 2))
    target = 2 * levels + 0.1 * rng.normal(size=(40, 3))
    assert predict_held_out(singles, target, PAIRS, 0, 5).r_squared < 0.1


def test_groups_are_held_out_together():
    """A target that is the same within a group and unpredictable across groups."""
    rng = np.random.default_rng(2)
    singles = np.repeat(rng.normal(size=(8, 1, 6)), 5, axis=0)
    target = np.repeat(rng.normal(size=(8, 1)), 5, axis=0)
    alone = predict_held_out(singles, target, PAIRS, 0, 5)
    grouped = predict_held_out(singles, target, [f"g{i // 5}" for i in range(40)], 0, 4)
    assert alone.r_squared > 0.5
    assert grouped.r_squared < 0.5


def test_too_few_pairs_or_no_variance_is_not_described():
    singles = np.zeros((40, 3, 2))
    assert predict_held_out(singles, np.zeros((40, 3)), PAIRS, 0, 5).r_squared is None
    assert predict_held_out(singles[:1], np.zeros((1, 3)), ["p0"], 0, 5).r_squared is None
