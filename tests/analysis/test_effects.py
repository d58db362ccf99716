"""Effects of a handful of pairs, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from by_hand import make_data
from lens_maker import make_lens
from results_maker import run_of

from codi_patching.analysis import contrasts
from codi_patching.analysis.effects import (
    Contrast,
    Effect,
    able_rows,
    align,
    base_answer_fall,
    base_probability,
    ceiling_content,
    content,
    effect_of,
    end_of,
    mean_error,
    mean_over,
    metric_of,
    of_run,
    rounding_of,
    source_probability,
    without_rounding,
)
from codi_patching.analysis.intervals import ROUNDING
from codi_patching.analysis.lens_hits import hit_rates, hits

OWN = [[[0.5, 0.1], [0.2, 0.9]], [[0.9, 0.3], [0.1, 0.9]]]
CONTROL = [[[0.2, 0.1], [0.1, 0.9]], [[0.4, 0.3], [0.1, 0.9]]]
BASE = [0.1, 0.3]


@pytest.fixture
def data():
    return make_data(OWN, BASE, CONTROL, zeros=[(1, 1)], ceiling=[[0.8, 0.2], [0.7, 0.3]])


def test_the_content_effect_is_relative_to_the_unpatched_run_and_to_the_control(data):
    found = content(data)
    assert list(found) == ["unpatched", "control"]
    np.testing.assert_allclose(found["unpatched"], [[[0.4, 0], [0.1, 0]], [[0.6, 0], [-0.2, 0]]])
    np.testing.assert_allclose(found["control"], [[[0.3, 0], [0.1, 0]], [[0.5, 0], [0, 0]]])


def test_without_a_control_there_is_one_comparison():
    assert list(content(make_data(OWN, BASE))) == ["unpatched"]


def test_with_noising_the_source_answer_is_the_corrupted_one():
    data = make_data(OWN, BASE, CONTROL, direction="noising")
    assert "corrupted_probability" in data
    np.testing.assert_allclose(content(data)["unpatched"][:, 0, 0], [0.4, 0.6])


def test_the_ceiling_has_both_comparisons(data):
    found = ceiling_content(data)
    np.testing.assert_allclose(found["unpatched"], [0.7, 0.4])
    np.testing.assert_allclose(found["control"], [0.6, 0.4])


def test_a_contrast_is_a_weighted_sum_over_cells_and_ceilings(data):
    weights = np.array([[1.0, 0.0], [-0.5, 0.0]])
    effect = effect_of({"run": data}, [Contrast("x", {"run": weights}, ceilings={"run": 2.0})])
    np.testing.assert_allclose(
        effect.values["unpatched"][:, 0], [0.4 - 0.05 + 1.4, 0.6 + 0.1 + 0.8]
    )
    np.testing.assert_allclose(effect.values["control"][:, 0], [0.3 - 0.05 + 1.2, 0.5 + 0.8])


def test_a_pair_without_a_value_in_a_weighted_cell_is_left_out():
    own = np.array(OWN)
    own[0, 0, 0] = np.nan
    data = make_data(own, BASE)
    effect = effect_of({"run": data}, contrasts.cells({"run": data}))
    assert np.isnan(effect.values["unpatched"]).tolist() == [[True] + [False] * 3, [False] * 4]


def test_differences_within_rounding_are_zero(data):
    own = np.array(OWN)
    own[0, 0, 1] += 5e-7
    effect = effect_of({"run": make_data(own, BASE)}, contrasts.cells({"run": data}))
    assert effect.values["unpatched"][0, 1] == 0


def test_self_patches_show_the_precision(data):
    """A KL of k moves no probability by more than √(k/2); what is less is neither up nor down."""
    data["self_patch"] = ("pair", [2e-4, np.nan])
    assert rounding_of(data) == pytest.approx(0.01)
    effect = effect_of({"run": data}, [Contrast("x", {"run": np.array([[0.02, 0], [0, 0]])})])
    np.testing.assert_allclose(effect.values["unpatched"][:, 0], [0.008, 0.012])
    np.testing.assert_allclose(effect.counted("unpatched")[:, 0], [0, 0.012])


def test_one_pairs_self_patch_does_not_decide_for_all():
    data = make_data(np.zeros((5, 1, 1)), np.zeros(5))
    data["self_patch"] = ("pair", [1e-13, 0.02, 1e-13, np.nan, np.nan])
    assert rounding_of(data) == ROUNDING


def test_how_far_a_contrast_can_reach():
    """The unpatched run cancels from a difference; the two controls do not."""
    one, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    difference = Contrast("x", {"run": one - other})
    assert (difference.reach("unpatched"), difference.reach("control")) == (1, 2)
    assert Contrast("x", {"run": one}).reach("control") == 1


def test_how_far_sums_and_ceilings_can_reach():
    """Rises of 1.5 and a fall of 1 have the larger of them in common, without it both."""
    weights = {"single": np.array([[1.0, 0.5]]), "whole": np.array([[-0.75]])}
    sums = Contrast("x", weights, ceilings={"single": -0.25})
    assert (sums.reach("unpatched"), sums.reach("control")) == (1.5, 2.5)
    fall = Contrast("x", {"run": np.array([[0.5, -2.0]])})
    assert (fall.reach("unpatched"), fall.reach("chance"), fall.reach("control")) == (2, 2, 2.5)
    other_base = Contrast("x", weights, one_base=False)
    assert other_base.reach("unpatched") == 2.25
    effect = Effect((sums, fall), {"unpatched": np.zeros((2, 2))}, ("a", "b"))
    assert effect.reach("unpatched").tolist() == [1.5, 2.0]
    assert effect.bounded
    logits = replace(effect, unit="logits")
    assert logits.reach("control").tolist() == [np.inf, np.inf]
    assert not logits.bounded


def test_a_metric_that_was_not_measured_is_unknown_of_every_pair(data):
    assert np.isnan(of_run(data, "base", "kl_to_source")).tolist() == [True, True]
    assert of_run(data, "base", "clean_probability").tolist() == BASE
    assert of_run(data, "ceiling_control", "clean_probability").tolist() == [0.2, 0.3]


@pytest.mark.parametrize(
    ("direction", "source", "base"),
    [("denoising", "clean", "corrupted"), ("noising", "corrupted", "clean")],
)
def test_measures_are_of_the_source_runs_answer(direction, source, base):
    run = run_of(direction=direction)
    assert source_probability(run) == metric_of(run, "probability") == f"{source}_probability"
    assert base_probability(run) == f"{base}_probability"
    assert metric_of(run, "hit") == f"predicts_{source}"
    assert metric_of(run, "logits") == "answer_logit_difference"


def test_only_logits_of_noising_fall_as_the_source_answer_is_restored():
    for direction, sign in (("denoising", 1), ("noising", -1)):
        data = make_data(OWN, BASE, CONTROL, ceiling=[[0.8, 0.2], [0.7, 0.3]], direction=direction)
        metric = "clean_probability" if sign > 0 else "corrupted_probability"
        names = {metric: "answer_logit_difference", f"run_{metric}": "run_answer_logit_difference"}
        logits = data.rename(names)
        for found in (content, ceiling_content):
            plain, turned = found(data), found(logits, "answer_logit_difference")
            for against, values in plain.items():
                np.testing.assert_allclose(turned[against], sign * values)


def test_nothing_is_lost_of_the_base_answer_where_nothing_reads_a_patch():
    data = make_data(OWN, BASE, direction="noising", zeros=[(1, 1)])
    data["clean_probability"] = data["corrupted_probability"]
    data["run_clean_probability"] = data["run_corrupted_probability"]
    expected = [[[-0.4, 0.0], [-0.1, 0]], [[-0.6, 0.0], [0.2, 0]]]
    np.testing.assert_allclose(base_answer_fall(data), expected, atol=1e-12)


def test_what_is_as_large_as_rounding_is_a_difference():
    values = np.array([1e-6, -1e-6, 0.99e-6, -0.99e-6, np.nan])
    np.testing.assert_array_equal(without_rounding(values), [1e-6, -1e-6, 0, 0, np.nan])
    np.testing.assert_array_equal(without_rounding(np.array([0.5, 0.4]), 0.5), [0.5, 0.0])


def test_precision_is_shown_by_the_self_patches_of_all_runs(data):
    """The median of 2e-4, 8e-4 and 0.02 is 8e-4, of which half is 4e-4."""
    one, other = data.copy(), data.copy()
    one["self_patch"] = ("pair", [2e-4, 0.02])
    other["self_patch"] = ("pair", [8e-4, np.nan])
    assert rounding_of(one, other) == pytest.approx(0.02)
    assert rounding_of(data.drop_vars("self_patch")) == ROUNDING


def test_means_are_of_what_is_known():
    values = np.array([[1.0, np.nan, 2.0], [3.0, np.nan, np.nan]])
    np.testing.assert_array_equal(mean_over(values), [2.0, np.nan, 2.0])
    np.testing.assert_array_equal(mean_over(values, 1), [1.5, 3.0])


def test_what_lowers_the_base_answer_is_positive():
    data = make_data(OWN, BASE, direction="noising")
    data["clean_probability"] = data["corrupted_probability"]
    data["run_clean_probability"] = data["run_corrupted_probability"]
    np.testing.assert_allclose(base_answer_fall(data)[:, 0, 0], [-0.4, -0.6])


def test_runs_are_aligned_on_the_pairs_that_all_have(data):
    other = data.isel(pair=[1])
    aligned = align({"a": data, "b": other})
    assert [d["pair"].values.tolist() for d in aligned.values()] == [["p1"], ["p1"]]


def test_runs_are_aligned_in_the_order_of_the_first(data):
    longer = make_data(np.zeros((3, 1, 1)), np.zeros(3)).assign_coords(pair=["p2", "p1", "p0"])
    aligned = align({"a": data, "b": longer})
    assert [d["pair"].values.tolist() for d in aligned.values()] == [["p0", "p1"]] * 2
    aligned = align({"b": longer, "a": data})
    assert [d["pair"].values.tolist() for d in aligned.values()] == [["p1", "p0"]] * 2
    third = data.assign_coords(pair=["p1", "p9"])
    aligned = align({"a": data, "b": longer, "c": third})
    assert [d["pair"].values.tolist() for d in aligned.values()] == [["p1"]] * 3
    assert align({"a": data})["a"] is data


def test_rows_without_a_cell_that_can_have_an_effect_are_left_out():
    own = np.zeros((2, 3, 2))
    assert able_rows(make_data(own, BASE, zeros=[(0, 0), (2, 0), (2, 1)])).tolist() == [0, 1]
    assert end_of(make_data(own, BASE, zeros=[(0, 1), (2, 0), (2, 1)])) == 0
    assert end_of(make_data(own, BASE, zeros=[(0, 1), (1, 0)])) == -1


def test_a_chains_end_is_the_last_iteration_that_all_layers_have():
    own = np.zeros((2, 3, 4))
    assert end_of(make_data(own, BASE, experiment="iterative", zeros=[(2, 3)])) == 2
    assert end_of(make_data(own, BASE, experiment="iterative", strategy="cumulative")) == 3
    assert end_of(make_data(own, BASE, zeros=[(2, c) for c in range(4)])) == 3
    assert end_of(make_data(own, BASE, zeros=[(r, c) for r in range(3) for c in range(4)])) == -1


def test_errors_are_those_of_the_t_test_and_of_groups():
    values = np.random.default_rng(0).normal(size=(12, 2))
    names = [f"p{i}" for i in range(12)]
    expected = values.std(axis=0, ddof=1) / np.sqrt(12)
    np.testing.assert_allclose(mean_error(values, names), expected)
    twice = np.repeat(values, 2, axis=0)
    np.testing.assert_allclose(mean_error(twice, [n for n in names for _ in "ab"]), expected)


def test_errors_are_of_what_is_known_and_of_two_groups_at_least():
    """Of 1, 2 and 6 around 3: √(3/2 · 14)/3; of two groups, 1 + 2 and 6: -3 and 3, √(2 · 18)/3."""
    values = np.array([[1.0, np.nan], [2.0, 4.0], [np.nan, np.nan], [6.0, np.nan]])
    found = mean_error(values, ["a", "b", "c", "d"])
    np.testing.assert_allclose(found, [np.sqrt(21) / 3, np.nan])
    np.testing.assert_allclose(mean_error(values, ["a", "a", "c", "d"]), [2.0, np.nan])
    assert np.isnan(mean_error(values, ["a"] * 4)).all()


def test_hit_rates_count_pairs_by_step():
    rates = hit_rates(make_lens(pairs=20, planted={(0, 2, 1): 0.75}, chance={(0, 2, 1): 0.25}))
    assert float(rates["own"].sel(step=1, layer="2", column="1")) == 0.75
    assert float(rates["chance"].sel(step=1, layer="2", column="1")) == 0.25
    assert float(rates["own"].sum()) == 0.75
    assert rates["pairs"].values.tolist() == [20, 20]


def test_a_result_is_read_where_fewer_than_top_tokens_are_before_it():
    lens = make_lens(pairs=3, layers=1, columns=1, steps=1, top=5)
    lens["rank"].loc[{"arm": "own"}] = np.array([4.0, 5.0, np.nan]).reshape(3, 1, 1, 1)
    own, _ = hits(lens)
    np.testing.assert_array_equal(own.ravel(), [1.0, 0.0, np.nan])


def test_a_lens_that_keeps_no_number_of_tokens_takes_the_first():
    lens = make_lens(pairs=3, layers=1, columns=1, steps=1, top=None)
    lens["rank"].loc[{"arm": "own"}] = np.array([0.0, 1.0, np.nan]).reshape(3, 1, 1, 1)
    own, chance = hits(lens)
    np.testing.assert_array_equal(own.ravel(), [1.0, 0.0, np.nan])
    np.testing.assert_array_equal(chance.ravel(), [0.0, 0.0, 0.0])
