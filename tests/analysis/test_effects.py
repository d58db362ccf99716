import numpy as np
from by_hand import make_arm

from codi_patching.analysis.effects import (
    ceiling_content,
    content,
    logit_span,
    mean_over,
    without_rounding,
)


def test_content_is_own_against_unpatched_and_against_control():
    arm = make_arm([[[0.5, 0.25]], [[0.75, 1.0]]], [0.25, 0.5], [[[0.5, 0.0]], [[0.25, 0.5]]])
    effect = content(arm)
    assert effect.restored.tolist() == [[[0.25, 0.0]], [[0.25, 0.5]]]
    assert effect.specific.tolist() == [[[0.0, 0.25]], [[0.5, 0.5]]]


def test_content_without_control_has_one_comparison():
    assert content(make_arm([[[0.5]]], [0.25])).specific is None


def test_structural_cells_are_undefined_or_what_is_asked_for():
    arm = make_arm([[[0.5, 0.5]]], [0.25], structural=np.array([[False, True]]))
    assert np.isnan(content(arm).restored[0, 0, 1])
    assert content(arm, structural=0.0).restored[0, 0].tolist() == [0.25, 0.0]


def test_contrast_of_effects_loses_its_control_if_either_has_none():
    with_control = content(make_arm([[[0.5]]], [0.25], [[[0.0]]]))
    without = content(make_arm([[[0.75]]], [0.25]))
    assert with_control.minus(with_control).specific.tolist() == [[[0.0]]]
    difference = without.minus(with_control)
    assert difference.restored.tolist() == [[[0.25]]]
    assert difference.specific is None


def test_ceiling_is_compared_like_a_cell():
    arm = make_arm(
        [[[0.5]]], [0.25], [[[0.0]]],
        ceiling={"clean_probability": np.array([1.0])},
        ceiling_control={"clean_probability": np.array([0.125])},
    )  # fmt: skip
    effect = ceiling_content(arm)
    assert (effect.restored.tolist(), effect.specific.tolist()) == ([0.75], [0.875])
    assert ceiling_content(make_arm([[[0.5]]], [0.25])) is None


def test_span_is_the_mean_distance_of_the_unpatched_runs():
    arm = make_arm(
        np.zeros((2, 1, 1)), [-1.0, 2.0], metric="answer_logit_difference",
        source_run={"answer_logit_difference": np.array([3.0, 0.0])},
    )  # fmt: skip
    assert logit_span(arm) == 3.0


def test_means_leave_nan_out():
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(mean_over(values, 1), [2.0, np.nan])


def test_rounding_is_no_difference():
    values = np.array([1e-13, -9e-7, 2e-6, -0.5, np.nan])
    np.testing.assert_array_equal(without_rounding(values), [0, 0, 2e-6, -0.5, np.nan])
