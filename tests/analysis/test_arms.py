import numpy as np
import pytest
from by_hand import make_arm

from codi_patching.analysis.arms import align, command, pick_arms


def test_end_of_a_chain_is_its_last_iteration_that_can_have_an_effect():
    own = np.arange(6.0).reshape(1, 2, 3)
    structural = np.array([[False, False, False], [False, False, True]])
    arm = make_arm(own, [0.0], experiment="iterative", strategy="relay", structural=structural)
    end = arm.end()
    assert end.columns == ("end",)
    assert end.values["clean_probability"].tolist() == [[[2.0], [4.0]]]
    assert end.structural.tolist() == [[False], [False]]


def test_end_of_a_layer_without_any_effect_is_structural():
    structural = np.array([[False], [True]])
    arm = make_arm(np.zeros((1, 2, 1)), [0.0], structural=structural)
    assert arm.end().structural.tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("cell", "changes", "name"),
    [
        ((0, 1), {}, "layer 0, position 1"),
        ((1, 0), {}, "layer 1, position 0 (makes thought 1)"),
        ((1, 2), {}, "layer 1, position 2"),
        ((1, 0), {"latents": "frozen"}, "layer 1, position 0"),
        ((1, 0), {"site": "kv"}, "layer 1, position 0"),
        ((0, 2), {"layers": ("thought", "0")}, "thought 2"),
        ((0, 1), {"experiment": "iterative"}, "layer 0, iteration 1"),
        ((1, 1), {"experiment": "iterative"}, "layer 1, iteration 1 (makes thought 2)"),
    ],
)
def test_cells_are_named_for_what_is_patched(cell, changes, name):
    assert make_arm(np.zeros((1, 2, 3)), [0.0], **changes).cell_name(*cell) == name


def test_last_layer_of_layer_patching_makes_the_next_thoughts():
    arm = make_arm(np.zeros((1, 2, 1)), [0.0], experiment="layer", columns=("all",))
    assert arm.cell_name(0, 0) == "layer 0"
    assert arm.cell_name(1, 0) == "layer 1 (makes the next thoughts)"


def test_aligned_arms_have_the_same_pairs_and_nan_where_one_was_not_run():
    first = make_arm([[[1.0]], [[2.0]]], [0.0, 0.1])
    second = make_arm([[[3.0]]], [0.2], pair_ids=("p1",), groups=("p1",))
    first, second = align([first, second])
    assert first.pair_ids == second.pair_ids == ("p0", "p1")
    np.testing.assert_array_equal(second.values["clean_probability"][:, 0, 0], [np.nan, 3.0])
    np.testing.assert_array_equal(second.base["clean_probability"], [np.nan, 0.2])


def test_direction_decides_which_answer_is_the_source_runs():
    arm = make_arm(np.zeros((1, 1, 1)), [0.0])
    assert (arm.probability, arm.hit) == ("clean_probability", "predicts_clean")
    arm = make_arm(np.zeros((1, 1, 1)), [0.0], direction="noising")
    assert (arm.probability, arm.hit) == ("corrupted_probability", "predicts_corrupted")


def test_arms_are_picked_by_all_that_is_given():
    arms = [make_arm(np.zeros((1, 1, 1)), [0.0], latents=latents) for latents in ("a", "b")]
    assert pick_arms(arms, "position", "b") == [arms[1]]
    assert pick_arms(arms, "layer") == []


def test_command_names_every_option():
    assert command("layer", "recomputed", None, "noising") == (
        "codi-patching predict --config configs/layer.yaml --model.latents recomputed "
        "--model.direction noising --results.dir results/layer_recomputed_noising"
    )
