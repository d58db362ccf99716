"""Means, intervals and orders of cells, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from results_maker import make, run_of

from codi_patching.analysis.intervals import mean_and_deviation
from codi_patching.analysis.outliers import negative_cells, outlier_pairs
from codi_patching.analysis.summary import (
    aggregate,
    aggregate_rows,
    cell_of,
    content_effect,
    content_size,
    effects_by_layer,
    rank_cells,
)


def with_values(results, metric, own=None, control=None):
    """The same results with another metric in every pair."""
    values, others = dict(results.values), dict(results.control)
    if own is not None:
        values[metric] = np.array(own, dtype=float)
    if control is not None:
        others[metric] = np.array(control, dtype=float)
    return replace(results, values=values, control=others)


def zeros(pairs):
    return np.zeros((pairs, 2, 2))


@pytest.fixture
def two_pairs():
    """Two pairs, two layers, two positions; the last cell is a structural zero."""
    results = make(run_of(layers=2, columns=2), pairs=2)
    pairs = [
        replace(pair, base=pair.base | {"clean_probability": p})
        for pair, p in zip(results.pairs, (0.1, 0.3))
    ]
    own = [[[0.5, 0.1], [0.2, 0.1]], [[0.9, 0.3], [0.1, 0.3]]]
    control = [[[0.2, 0.1], [0.1, 0.1]], [[0.4, 0.3], [0.1, 0.3]]]
    return with_values(replace(results, pairs=tuple(pairs)), "clean_probability", own, control)


def test_the_content_effect_is_the_smaller_of_two_means(two_pairs):
    restored, specific = content_effect(two_pairs)
    np.testing.assert_allclose(restored[:, 0, 0], [0.4, 0.6])
    np.testing.assert_allclose(specific[:, 0, 0], [0.3, 0.5])
    size = content_size(two_pairs)
    # layer 0, position 0: means 0.5 and 0.4; layer 1, position 0: (0.1 - 0.2)/2 and 0.1/2
    np.testing.assert_allclose(size, [[0.4, 0.0], [-0.05, np.nan]], atol=1e-12)


def test_with_noising_the_source_answer_is_the_corrupted_one():
    results = make(run_of(layers=2, columns=2, direction="noising"), planted={(0, 1): 0.5})
    assert rank_cells(content_size(results), 3) == [(0, 1)]


def test_without_a_control_the_content_effect_is_over_the_unpatched_run():
    results = make(run_of(layers=2, columns=2, control="none"), planted={(0, 1): 0.5})
    restored, specific = content_effect(results)
    assert specific is None
    np.testing.assert_array_equal(content_size(results), restored.mean(0))


def test_aggregate_by_hand(two_pairs):
    results = with_values(two_pairs, "kl_divergence", [[[1, 0], [2, 0]], [[3, 0], [9, 0]]])
    found = aggregate(results, top=3)
    cell = cell_of(found["metrics"]["kl_divergence"], results.run, (1, 0))
    assert (cell["mean"], cell["std"], cell["n"]) == (5.5, pytest.approx(7 / math.sqrt(2)), 2)
    half = 12.7062047 * 7 / 2  # Student's t with one degree of freedom is the widest of the three
    assert (cell["ci_low"], cell["ci_high"]) == pytest.approx(
        (0.0, 5.5 + half)
    )  # KL is not under 0
    assert (cell["median"], cell["share_of_5_largest"]) == (5.5, 1.0)
    assert math.isnan(cell["median_low"])
    last = cell_of(found["metrics"]["kl_divergence"], results.run, (1, 1))
    assert last == {"structural_zero": True}
    assert [c["name"] for c in found["top_cells"]] == [
        "layer 1, position 0 (makes thought 1)",
        "layer 0, position 0",
    ]  # layer 0, position 1 has none
    assert [(c["layer"], c["position"]) for c in found["top_content"]] == [("0", "0")]
    assert found["top_content"][0]["content_effect"] == pytest.approx(0.4)
    control = cell_of(found["metrics"]["control_clean_probability"], results.run, (0, 0))
    assert control["mean"] == pytest.approx(0.3)
    assert (control["ci_low"], control["ci_high"]) == (0.0, 1.0)  # half is 12.7 × 0.1
    rise = cell_of(found["metrics"]["content_over_unpatched"], results.run, (0, 0))
    assert (rise["ci_low"], rise["ci_high"]) == (0.0, 1.0)
    rows = list(aggregate_rows(found, results.run))
    assert len(rows) == 3 * (2 * 10 + 2)  # free cells × (own, control, two content effects)
    assert rows[0]["metric"] == "kl_divergence"


def test_undefined_values_are_left_out():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 5.0]])
    mean, deviation, count = mean_and_deviation(values)
    assert mean.tolist() == [2.0, 5.0]
    assert count.tolist() == [2, 1]
    assert deviation[0] == pytest.approx(math.sqrt(2))
    assert math.isnan(deviation[1])


def test_values_that_are_all_alike_have_a_bound():
    """Of 8 pairs none: at most 1 - 0.05 ** (1 / 8) = 0.312 of all pairs, 95 %."""
    results = with_values(make(run_of(layers=2, columns=2), pairs=8), "predicts_clean", zeros(8))
    cell = aggregate(results)["metrics"]["predicts_clean"]["0"]["0"]
    assert (cell["ci_low"], cell["ci_high"]) == pytest.approx((0.0, 0.312), abs=1e-3)
    shared = replace(results, pairs=tuple(replace(p, group="one") for p in results.pairs))
    assert aggregate(shared)["metrics"]["predicts_clean"]["0"]["0"]["ci_high"] == 0.95
    results = with_values(results, "l2_difference", zeros(8))
    assert np.isnan(aggregate(results)["metrics"]["l2_difference"]["0"]["0"]["ci_high"])


def test_effects_by_layer_are_the_largest_of_their_columns(two_pairs):
    np.testing.assert_allclose(effects_by_layer(two_pairs)["content_effect"], [0.4, -0.05])


def test_a_pair_unlike_the_rest():
    kl = np.ones((9, 2, 1)) * np.arange(9)[:, None, None] / 100
    kl[4] = 5
    results = with_values(make(run_of("layer", layers=3), pairs=9), "kl_divergence")
    kl = np.concatenate([kl, np.zeros((9, 1, 1))], axis=1)  # the last layer is a structural zero
    (found,) = outlier_pairs(with_values(results, "kl_divergence", kl))
    assert (found.pair_id, found.value) == ("pair_04", 5.0)
    # means 0, .01, .02, .03, 5, .05, .06, .07, .08: quartiles .02 and .07, fence .07 + 3 × .05
    assert found.fence == pytest.approx(0.22)


def test_cells_of_negative_recovery():
    results = make(run_of(layers=2, columns=2), pairs=8)
    recovery = [[[-0.2, 0.1], [0.1, -9.0]], [[-0.3, -0.1], [0.1, -9.0]]] * 4
    ((name, mean, low, high),) = negative_cells(with_values(results, "recovery", recovery))
    assert (name, mean) == ("layer 0, position 0", pytest.approx(-0.25))
    assert low <= mean <= high < 0
