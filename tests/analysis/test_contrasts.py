"""Weights by hand: a 4 × 3 grid of whose cells the effect is known."""

import numpy as np
import pytest
from by_hand import make_data

from codi_patching.analysis import contrasts
from codi_patching.analysis.effects import effect_of

GRID = np.array([[0.1, 0.2, 0.3], [0.4, 0.0, 0.1], [0.2, 0.2, 0.2], [0.0, 0.0, 0.1]])


def run(grid=GRID, **options):
    return make_data(np.array([grid, grid]) + 0.1, [0.1, 0.1], **options)


def values(contrast, **runs):
    """Name and mean of each column of a question."""
    made = contrast(runs)
    means = effect_of(runs, made).values["unpatched"].mean(axis=0)
    return {c.name: pytest.approx(v, abs=1e-12) for c, v in zip(made, means, strict=True)}


def test_cells_are_those_that_can_have_an_effect():
    found = values(contrasts.cells, run=run(zeros=[(3, 2)]))
    assert len(found) == 11
    assert found["layer 1, position 0"] == 0.4


def test_early_and_late_layers_leave_out_a_layer_that_is_not_whole():
    found = values(contrasts.early_late_layers, run=run(zeros=[(3, 2)]))
    assert found == {"early minus late layers": (0.6 + 0.5) / 6 - 0.2}


def test_early_and_late_positions_leave_out_the_middle():
    found = values(contrasts.early_late_positions, run=run())
    assert found == {"early minus late positions": (0.7 - 0.7) / 4}


def test_each_position_is_set_against_the_mean_of_the_others():
    found = values(contrasts.each_against_others, run=run())
    assert found["position 1 minus the others"] == 0.4 / 4 - (0.7 + 0.7) / 8


def test_layers_by_positions_add_up_to_nothing():
    found = values(contrasts.layers_by_positions, run=run())
    early_late = [0.25 - 0.1, 0.1 - 0.1, 0.2 - 0.15]
    assert list(found.values()) == [d - sum(early_late) / 3 for d in early_late]


def test_sums_are_set_against_the_whole_of_the_same_layer():
    whole = run(np.array([[0.5], [0.5], [0.9], [0.0]]), experiment="layer")
    found = values(contrasts.sums, single=run(zeros=[(3, c) for c in range(3)]), whole=whole)
    assert list(found.values()) == [0.6 - 0.5, 0.0, 0.6 - 0.9]


def test_mediated_is_total_minus_direct_by_layer():
    direct = run(np.array([[0.3], [0.1], [0.0], [0.0]]), experiment="layer", zeros=[(3, 0)])
    total = run(np.array([[0.3], [0.4], [0.5], [0.2]]), experiment="layer", latents="recomputed")
    found = values(contrasts.mediated, total=total, direct=direct)
    assert list(found.values()) == [0.0, 0.3, 0.5, 0.2]


def test_of_a_chain_the_total_is_its_end():
    direct = run(np.array([[0.3], [0.1], [0.0], [0.0]]), experiment="layer", zeros=[(3, 0)])
    chain = run(experiment="iterative", strategy="cumulative")
    found = values(contrasts.mediated, total=chain, direct=direct)
    assert list(found.values()) == [0.0, 0.0, 0.2, 0.1]


def test_a_chains_change_ends_at_the_same_iteration_at_every_layer():
    """The last layer has no third iteration, so that none is compared at its third."""
    chain = run(experiment="iterative", zeros=[(3, 2)])
    found = values(contrasts.changes, run=chain)
    assert list(found.values()) == [0.1, -0.4, 0.0, 0.0]
    assert all("iteration 1 minus 0" in name for name in found)


def test_hops_go_from_each_iteration_to_the_next():
    found = values(contrasts.hops, run=run(experiment="iterative", zeros=[(3, 2)]))
    assert len(found) == 7
    assert found["layer 1, iteration 2 minus 1"] == 0.1


def test_below_the_ceiling_is_the_cell_minus_the_ceiling():
    data = run(ceiling=[[0.6, 0.1], [0.6, 0.1]])
    assert values(contrasts.below_ceiling, run=data) == {"layer 1, position 0": 0.4 - 0.5}


def test_below_the_ceiling_is_the_cell_of_the_largest_content_effect():
    """Layer 0 gains 0.5 and 0.4; layer 1 gains 0.6 unpatched, and nothing over the control."""
    own = np.repeat([[[0.6], [0.7]]], 2, axis=0)
    control = np.repeat([[[0.2], [0.7]]], 2, axis=0)
    data = make_data(own, [0.1, 0.1], control, ceiling=[[0.9, 0.9], [0.9, 0.9]])
    (contrast,) = contrasts.below_ceiling({"run": data})
    assert contrast.layer == "0"


def test_the_thoughts_own_row_is_in_neither_half():
    data = make_data(np.zeros((2, 5, 3)), [0, 0])
    run = data.attrs["run"]
    grid = type(run.grid)(("thought", "0", "1", "2", "3"), "position", ("0", "1", "2"))
    data.attrs["run"] = type(run)(**{**vars(run), "grid": grid})
    (contrast,) = contrasts.early_late_layers({"run": data})
    assert contrast.weights["run"][0].tolist() == [0, 0, 0]
    assert (contrast.weights["run"][1:3] > 0).all()
