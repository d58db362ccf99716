import numpy as np
import pytest

from codi_patching.analysis.prediction import Prediction, predict_held_out

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
    assert predict_held_out(singles, np.zeros((40, 3)), PAIRS, 0, 5) == Prediction(40)
    assert predict_held_out(singles[:1], np.zeros((1, 3)), ["p0"], 0, 5) == Prediction(1)


@pytest.mark.parametrize(("size", "told"), [(1e-8, False), (1e-5, True)])
def test_what_hardly_varies_is_not_described(size, told):
    """Squares over 40 pairs that add up to 4e-15, or to 4e-9."""
    target = size * np.resize([1.0, -1.0], (40, 1))
    found = predict_held_out(np.zeros((40, 1, 1)), target, PAIRS, 0, 5)
    assert (found.r_squared is not None) == told


@pytest.mark.parametrize(("points", "told"), [(4, False), (5, True)])
def test_a_fit_takes_more_values_than_it_has_numbers_to_find(points, told):
    """Of two pairs one is left to fit three predictors and a constant from."""
    rng = np.random.default_rng(0)
    found = predict_held_out(rng.normal(size=(2, points, 3)), rng.normal(size=(2, points)),
                             ["p0", "p1"], 0, 2)  # fmt: skip
    assert (found.r_squared is not None) == told


def test_of_each_fold_the_others_mean_is_predicted_without_anything_to_predict_from():
    """Two pairs of 0 and 1, each predicted by the other: errors are as large as the spread."""
    found = predict_held_out(
        np.zeros((2, 2, 0)), np.array([[0.0, 0.0], [1.0, 1.0]]), ["p0", "p1"], 0, 2
    )
    assert (found.n, found.r_squared) == (2, pytest.approx(0.0))
    assert (found.low, found.high) == (pytest.approx(0.0), pytest.approx(0.0))


def test_errors_are_held_against_the_other_pairs_mean_at_each_point():
    """Pairs 0 and 1 are 1 off the two means; the fit, one mean for both points, is 4.25 off.

    Means of the others are 0 at the first point and 3 at the second (pair 1), and 1 and 4 (pair 0):
    squares of 1 four times. One constant is 1.5 or 2.5: errors -2.5, 0.5 and -0.5, 2.5.
    """
    target = np.array([[0.0, 3.0], [1.0, 4.0]])
    found = predict_held_out(np.zeros((2, 2, 0)), target, ["p0", "p1"], 0, 2)
    assert found.r_squared == pytest.approx(1 - 13 / 4)


def test_pairs_without_a_value_are_neither_fitted_nor_counted():
    singles = np.random.default_rng(0).normal(size=(40, 3, 2))
    target = singles @ np.array([1.0, 2.0]) + 0.5
    target[0], singles[1] = np.nan, np.nan
    target[2, 1] = np.nan
    found = predict_held_out(singles, target, PAIRS, 0, 5)
    assert (found.n, found.r_squared) == (38, pytest.approx(1.0))
