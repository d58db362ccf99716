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


@pytest.mark.parametrize(("size", "told"), [(1e-7, False), (2e-7, True)])
def test_what_hardly_varies_is_not_described(size, told):
    """Squares over 40 pairs that add up to 4e-13, or to 1.6e-12."""
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


def test_where_no_other_pair_has_a_value_the_mean_of_all_points_stands():
    """Pairs of 0, of 1, and of 4 and 10, each predicted by one constant from the others.

    That is 5, 14/3 and 1/2. Means of the others at the point are 5/2, 2 and 1/2, and, where no
    other pair has a value as of 10, of all that the others have: 1/2.
    """
    target = np.array([[0.0, np.nan], [1.0, np.nan], [4.0, 10.0]])
    found = predict_held_out(np.zeros((3, 2, 0)), target, ["p0", "p1", "p2"], 0, 3)
    errors, spread = 25 + (11 / 3) ** 2 + 3.5**2 + 9.5**2, 2.5**2 + 1 + 3.5**2 + 9.5**2
    assert found.r_squared == pytest.approx(1 - errors / spread)


def test_the_interval_has_the_middle_95_percent_of_2000_resamples():
    """Each pair in a fold of its own, predicted by the mean of the others."""
    target = np.random.default_rng(3).normal(size=(12, 1)) + 1
    found = predict_held_out(np.zeros((12, 1, 0)), target, PAIRS[:12], 7, 12)
    generator = np.random.default_rng(7)
    generator.permutation(12)  # the folds
    singles = np.random.default_rng(4).normal(size=(12, 1, 1))
    noisy = predict_held_out(singles, target, PAIRS[:12], 7, 12)
    errors, spread = np.zeros(12), np.zeros(12)
    for pair in range(12):
        rest = np.arange(12) != pair
        slope, constant = np.polyfit(singles[rest, 0, 0], target[rest, 0], 1)
        errors[pair] = (target[pair, 0] - slope * singles[pair, 0, 0] - constant) ** 2
        spread[pair] = (target[pair, 0] - target[rest, 0].mean()) ** 2
    drawn = generator.integers(12, size=(2_000, 12))
    shares = 1 - errors[drawn].sum(axis=1) / spread[drawn].sum(axis=1)
    ends = np.percentile(shares, [2.5, 97.5])
    assert (noisy.low, noisy.high) == pytest.approx(tuple(ends))
    assert noisy.r_squared == pytest.approx(1 - errors.sum() / spread.sum())
    assert (found.low, found.r_squared, found.high) == pytest.approx((0.0, 0.0, 0.0))
