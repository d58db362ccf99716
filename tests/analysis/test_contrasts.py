"""Weights by hand: a 4 × 3 grid of whose cells the effect is known."""

from dataclasses import replace

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


def test_of_a_chain_of_one_iteration_the_total_is_that_one():
    direct = run(np.array([[0.3], [0.1], [0.0], [0.0]]), experiment="layer", zeros=[(3, 0)])
    chain = run(GRID[:, :1], experiment="iterative", strategy="cumulative")
    found = values(contrasts.mediated, total=chain, direct=direct)
    assert list(found.values()) == [-0.2, 0.3, 0.2, 0.0]
    assert len(contrasts.ends({"run": chain})) == 4
    assert contrasts.changes({"run": chain}) == []


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


def test_the_ceiling_is_what_all_thoughts_restore_together():
    runs = {"run": run(ceiling=[[0.6, 0.1], [0.6, 0.1]])}
    assert values(contrasts.ceiling, **runs) == {"all thoughts at all layers": 0.5}
    assert [c.kind for c in contrasts.ceiling(runs)] == ["ceiling"]


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


def with_rows(data, *layers):
    """The same run, its rows called otherwise."""
    run = data.attrs["run"]
    data.attrs["run"] = replace(run, grid=replace(run.grid, layers=layers))
    return data


def weights(contrast):
    """Of each role, by row, to two decimals."""
    return {role: w.round(2).tolist() for role, w in contrast.weights.items()}


EVERYWHERE = [(row, column) for row in range(4) for column in range(3)]


@pytest.mark.parametrize(
    "asked",
    [
        contrasts.cells, contrasts.below_ceiling, contrasts.ends, contrasts.changes,
        contrasts.hops, contrasts.early_late_layers, contrasts.early_late_positions,
        contrasts.each_against_others, contrasts.layers_by_positions,
    ],
)  # fmt: skip
@pytest.mark.parametrize("experiment", ["position", "iterative"])
def test_of_a_run_in_which_nothing_can_have_an_effect_nothing_is_asked(asked, experiment):
    assert asked({"run": run(zeros=EVERYWHERE, experiment=experiment)}) == []


def test_of_runs_in_which_nothing_can_have_an_effect_no_difference_is_asked():
    nothing, something = run(zeros=EVERYWHERE), run()
    chain = run(zeros=EVERYWHERE, experiment="iterative", strategy="cumulative")
    assert contrasts.mediated({"total": nothing, "direct": something}) == []
    assert contrasts.mediated({"total": chain, "direct": something}) == []
    assert contrasts.iteration_adds({"total": chain, "direct": something}) == []
    assert contrasts.sums({"single": nothing, "whole": something}) == []


def test_names_layers_and_columns_are_those_of_the_cells():
    """A chain's columns are iterations; a difference of its end is of all positions."""
    chain = run(experiment="iterative", zeros=[(3, 2)])
    runs = {"run": chain}
    last = contrasts.cells(runs)[-1]
    assert (last.name, last.layer, last.column, last.axis, last.either) == (
        "layer 3, iteration 1 (makes thought 2)", "3", "1", "iteration", False,
    )  # fmt: skip
    assert contrasts.cells({"run": run()})[0].axis == "position"
    ends = contrasts.ends(runs)
    assert [(c.name, c.layer, c.column) for c in ends] == [
        ("layer 0", "0", "1"), ("layer 1", "1", "1"), ("layer 2", "2", "1"),
        ("layer 3 (makes the next thoughts)", "3", "1"),
    ]  # fmt: skip
    assert weights(ends[2]) == {"run": [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0]]}
    hop = contrasts.hops(runs)[1]
    assert (hop.name, hop.layer, hop.column, hop.kind, hop.either) == (
        "layer 0, iteration 2 minus 1", "0", "2", "hop", True,
    )  # fmt: skip
    assert weights(hop)["run"][0] == [0, -1, 1]
    whole = run(GRID[:, :1], experiment="layer", zeros=[(3, 0)])
    added = contrasts.iteration_adds({"total": chain, "direct": whole})
    assert [(c.name, c.layer, c.column, c.kind, c.either) for c in added][:1] == [
        ("layer 0", "0", "all", "iterative minus parallel", True)
    ]
    assert weights(added[1]) == {
        "total": [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]], "direct": [[0], [-1], [0], [0]],
    }  # fmt: skip


def test_cell_by_cell_total_minus_direct_has_the_names_of_the_cells():
    total, direct = run(zeros=[(3, 2)]), run(latents="frozen", zeros=[(3, c) for c in range(3)])
    found = contrasts.mediated({"total": total, "direct": direct})
    assert len(found) == 11
    assert (found[5].name, found[5].layer, found[5].column) == ("layer 1, position 2", "1", "2")
    assert (found[5].kind, found[5].either) == ("mediated", True)
    assert weights(found[5]) == {
        "total": [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]],
        "direct": [[0, 0, 0], [0, 0, -1], [0, 0, 0], [0, 0, 0]],
    }


def test_a_sum_is_of_the_positions_of_a_layer_that_can_have_an_effect():
    single, whole = run(zeros=[(3, 0), (3, 2)]), run(GRID[:, :1], experiment="layer")
    last = contrasts.sums({"single": single, "whole": whole})[-1]
    assert (last.layer, last.column, last.kind, last.either) == ("3", None, "sum minus whole", True)
    assert weights(last) == {
        "single": [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]], "whole": [[0], [0], [0], [-1]],
    }  # fmt: skip


def test_where_means_are_compared_a_difference_may_go_either_way():
    runs = {"run": run()}
    (layers,) = contrasts.early_late_layers(runs)
    (positions,) = contrasts.early_late_positions(runs)
    others = contrasts.each_against_others(runs)
    crossed = contrasts.layers_by_positions(runs)
    assert all(c.either for c in (layers, positions, *others, *crossed))
    assert {layers.kind, positions.kind} == {"early minus late"}
    assert [(c.layer, c.column, c.kind) for c in others] == [
        (None, column, "minus the others") for column in "012"
    ]
    assert [(c.layer, c.column, c.kind) for c in crossed] == [
        (None, column, "interaction") for column in "012"
    ]


def test_of_an_odd_number_of_layers_the_one_in_the_middle_is_early():
    """Twice its number, 2, is under 3; of four layers twice the third's, 4, is not under 4."""
    (three,) = contrasts.early_late_layers({"run": run(GRID[:3])})
    assert weights(three)["run"] == [[0.17] * 3, [0.17] * 3, [-0.33] * 3]
    (four,) = contrasts.early_late_layers({"run": run()})
    assert [row[0] for row in weights(four)["run"]] == [0.17, 0.17, -0.17, -0.17]


@pytest.mark.parametrize("zeros", [[(2, 0), (3, 0)], [(0, 0), (1, 0)]])
def test_where_a_half_of_the_layers_has_no_whole_one_the_halves_are_not_compared(zeros):
    runs = {"run": run(zeros=zeros)}
    assert contrasts.early_late_layers(runs) == []
    assert contrasts.layers_by_positions(runs) == []
    assert len(contrasts.early_late_positions(runs)) == 1
    assert len(contrasts.each_against_others(runs)) == 3


def test_of_one_position_none_is_compared_and_of_two_each_with_the_other():
    one, two = {"run": run(GRID[:, :1])}, {"run": run(GRID[:, :2])}
    for asked in (
        contrasts.early_late_positions, contrasts.each_against_others,
        contrasts.layers_by_positions,
    ):  # fmt: skip
        assert asked(one) == []
    assert len(contrasts.early_late_layers(one)) == 1
    assert values(contrasts.early_late_positions, **two) == {
        "early minus late positions": 0.7 / 4 - 0.4 / 4
    }
    first, second = contrasts.each_against_others(two)
    assert weights(first)["run"] == [[0.25, -0.25]] * 4
    assert weights(second)["run"] == [[-0.25, 0.25]] * 4
    assert len(contrasts.layers_by_positions(two)) == 2


def test_the_thoughts_own_row_alone_has_positions_and_no_halves():
    alone = {"run": with_rows(run(GRID[1:2]), "thought")}
    assert values(contrasts.early_late_positions, **alone) == {
        "early minus late positions": 0.4 - 0.1
    }
    assert contrasts.early_late_layers(alone) == []
    with_layer = {"run": with_rows(run(GRID[:2]), "thought", "0")}
    found = values(contrasts.early_late_positions, **with_layer)
    assert found == {"early minus late positions": 0.4 - 0.1}  # of the layer
    assert contrasts.early_late_layers(with_layer) == []


def test_below_the_ceiling_takes_the_first_of_cells_that_agree_to_three_decimals():
    for second, column in ((0.4004, "0"), (0.4006, "1")):
        data = run(np.array([[0.4, second], [0.1, 0.0]]), ceiling=[[0.6, 0.1], [0.6, 0.1]])
        (contrast,) = contrasts.below_ceiling({"run": data})
        assert (contrast.layer, contrast.column, contrast.kind) == (
            "0", column, "cell minus ceiling",
        )  # fmt: skip
        assert (contrast.ceilings, contrast.either) == ({"run": -1.0}, False)


def test_below_the_ceiling_leaves_out_a_cell_that_no_pair_has():
    own = np.array([[[np.nan, 0.3], [0.2, np.nan]]] * 2)
    (contrast,) = contrasts.below_ceiling({"run": make_data(own, [0.1, 0.1])})
    assert (contrast.layer, contrast.column) == ("0", "1")
