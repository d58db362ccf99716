"""Means, intervals and orders of cells, by hand and against the version before."""

import json
from pathlib import Path

import numpy as np
import pytest
from by_hand import make_data
from results_maker import make, run_of

from codi_patching.analysis.described import disruption
from codi_patching.analysis.findings import Finding
from codi_patching.analysis.intervals import mean_intervals
from codi_patching.analysis.summary import LEAST_CONTENT, STATISTICS, rank_cells, summarise
from codi_patching.results.dataset import run_of as description_of
from codi_patching.results.read import read_results

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two_pairs():
    own = [[[0.5, 0.1], [0.2, 0.1]], [[0.9, 0.3], [0.1, 0.3]]]
    control = [[[0.2, 0.1], [0.1, 0.1]], [[0.4, 0.3], [0.1, 0.3]]]
    return summarise(make_data(own, [0.1, 0.3], control, zeros=[(1, 1)]), "x")


def test_the_content_effect_is_the_smaller_of_two_means(two_pairs):
    # layer 0, position 0: means 0.5 and 0.4; layer 1, position 0: (0.1 - 0.2)/2 and 0.1/2
    expected = [[0.4, 0.0], [-0.05, np.nan]]
    np.testing.assert_allclose(two_pairs.table["content_effect"], expected, atol=1e-12)


def test_what_the_control_gives_stands_beside_the_own_patch(two_pairs):
    """Of layer 0, position 0: 0.5 and 0.9; the control 0.2 and 0.4; unpatched 0.1 and 0.3."""
    means = {
        name: float(two_pairs.table[name].isel(layer=0, column=0).sel(statistic="mean"))
        for name in ("clean_probability", "control_clean_probability",
                     "content_over_unpatched", "content_over_control")
    }  # fmt: skip
    assert list(means.values()) == pytest.approx([0.7, 0.3, 0.5, 0.4])


def test_five_cells_lead_if_so_many_have_an_effect():
    data = make(run_of(layers=4, columns=2), pairs=4)
    data["kl_divergence"].values[..., 0] = np.arange(8.0).reshape(4, 2)
    assert summarise(data, "x").top_kl == ((3, 0), (2, 1), (2, 0), (1, 1), (1, 0))
    assert summarise(data, "x", top=2).top_kl == ((3, 0), (2, 1))


def test_structural_zeros_have_no_statistics(two_pairs):
    cell = two_pairs.table["clean_probability"].sel(layer="1", column="1")
    assert np.isnan(cell.values[:4]).all()
    assert bool(two_pairs.table["structural_zero"].sel(layer="1", column="1"))


def test_mean_deviation_and_count_are_numpys(two_pairs):
    cell = two_pairs.table["clean_probability"].sel(layer="0", column="0")
    assert float(cell.sel(statistic="mean")) == pytest.approx(0.7)
    assert float(cell.sel(statistic="std")) == pytest.approx(np.std([0.5, 0.9], ddof=1))
    assert float(cell.sel(statistic="n")) == 2


def test_intervals_are_those_of_the_cell_alone():
    data = make(run_of(), planted={(1, 1): 0.4})
    summary = summarise(data, "x", seed=3)
    values = data["clean_probability"].sel(layer="1", column="1", arm="own").values
    low, high = mean_intervals(values, list(data["group"].values), 3)
    cell = summary.table["clean_probability"].sel(layer="1", column="1")
    ends = [float(cell.sel(statistic=name)) for name in ("ci_low", "ci_high")]
    assert ends == pytest.approx([float(low), float(high)])


def test_values_that_are_all_alike_have_an_exact_interval():
    summary = summarise(make_data(np.full((57, 1, 1), 0.5), np.full(57, 0.5)), "x")
    cell = summary.table["clean_probability"].isel(layer=0, column=0)
    unseen = 1 - 0.05 ** (1 / 57)
    assert float(cell.sel(statistic="ci_low")) == pytest.approx(0.5 - unseen * 0.5)
    assert float(cell.sel(statistic="ci_high")) == pytest.approx(0.5 + unseen * 0.5)


def test_leading_cells_have_all_that_tie_with_the_last_of_them():
    values = np.array([[0.5, 0.5004, 0.3], [0.3, 0.3, 0.2]])
    assert rank_cells(values, 2) == [(0, 0), (0, 1)]
    assert rank_cells(values, 3) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_a_pair_unlike_the_others_is_named():
    data = make(run_of(), pairs=24)
    data["kl_divergence"][5] = 40.0
    ((name, value, fence),) = summarise(data, "x").outliers
    assert (name, value) == ("pair_05", pytest.approx(40.0))
    assert fence < 1


def test_outliers_are_beyond_three_interquartile_ranges_the_largest_first():
    """Of 0 to 8 the quartiles are 2 and 6: the fence is 18."""
    data = make(run_of(layers=2, columns=1), pairs=9)
    kl = data["kl_divergence"].values
    kl[...] = np.arange(9.0)[:, None, None, None]
    kl[8] = 17.9
    kl[:, 1, 0] = 99.0  # nothing reads it
    assert summarise(data, "x").outliers == ()
    kl[8], kl[7] = 18.1, 19.0
    kl[7, 0, 0, 1] = 0.0  # with the control
    assert summarise(data, "x").outliers == (
        ("pair_07", pytest.approx(19.0), 18.0), ("pair_08", pytest.approx(18.1), 18.0),
    )  # fmt: skip


def test_the_cell_that_disrupts_most_has_its_layer_and_its_position():
    claim = disruption(summarise(make(run_of(), disrupting={(2, 1): 3.0}), "x")).lead
    assert (claim.name, claim.layer, claim.column) == ("layer 2, position 1", "2", "1")


def test_where_no_kl_is_known_none_disrupts_and_no_pair_is_unlike_the_others():
    """Of one layer nothing reads its frozen patches."""
    nothing = summarise(make(run_of("layer", layers=1), pairs=4), "x")
    assert (nothing.outliers, nothing.top_kl, nothing.top_content) == ((), (), ())
    assert disruption(nothing) == Finding("disruption", None, "described", ("x",))


def test_content_is_ranked_from_a_thousandth_on_and_kl_from_a_millionth_on():
    values = np.array([[0.0011, 0.0009], [0.0, -0.5]])
    assert rank_cells(values, 5, LEAST_CONTENT) == [(0, 0)]
    assert rank_cells(np.array([[1e-6, 1.1e-6]]), 5) == [(0, 1)]
    data = make_data(0.1 + np.full((4, 1, 2), [[0.0009, 0.0011]]), np.full(4, 0.1))
    assert summarise(data, "x").top_content == ((0, 1),)


def test_a_fall_by_up_to_rounding_is_none_and_what_is_more_is_counted():
    data = make(run_of(layers=2, columns=1), pairs=20)
    kl = data["kl_divergence"].values
    kl[...] = 0.0
    kl[:5, 0, 0, 0] = 0.9
    kl[5:8, 0, 0, 0] = -2e-6, 0.9e-6, -0.9e-6
    kl[8, 0, 0, 0] = np.nan
    groups = [f"g{row // 2}" for row in range(20)]
    finding = disruption(summarise(data.assign_coords(group=("pair", groups)), "x"))
    (comparison,) = finding.lead.comparisons
    assert (comparison.up, comparison.down, comparison.n, comparison.groups) == (5, 1, 19, 10)
    assert (finding.lead.layer, finding.lead.column, finding.lead.unit) == ("0", "0", "nats")
    assert dict(finding.numbers)["share of the five largest"] == pytest.approx(1.0, abs=1e-5)
    assert comparison.low < comparison.mean < comparison.high


@pytest.mark.parametrize(
    ("metric", "value", "low", "high"),
    [
        ("predicts_clean", 1.0, 0.0, 1.0), ("corrupted_probability", 0.25, 0.0, 1.0),
        ("prediction_change_rate", 0.0, 0.0, 1.0), ("recovery", 0.5, None, None),
        ("cosine_to_clean", 0.5, -1.0, 1.0), ("kl_divergence", 2.0, None, None),
    ],
)  # fmt: skip
def test_what_has_a_range_and_is_alike_in_all_pairs_has_ends_within_it(metric, value, low, high):
    """1 - 0.05^(1/6): what six independent pairs of twelve may have left unseen."""
    data = make(run_of("iterative", layers=1, columns=2), pairs=12)
    data[metric].values[:] = value
    data = data.assign_coords(group=("pair", [f"g{row // 2}" for row in range(12)]))
    table, unseen = summarise(data, "x").table, 1 - 0.05 ** (1 / 6)
    for measure in (metric, f"control_{metric}"):
        cell = table[measure].isel(layer=0, column=0)
        ends = [float(cell.sel(statistic=name)) for name in ("ci_low", "ci_high")]
        if low is None:
            assert np.isnan(ends).all()
        else:
            assert ends == pytest.approx(
                [value - unseen * (value - low), value + unseen * (high - value)]
            )


@pytest.mark.parametrize(("values", "groups"), [([0.2, 0.9], ["g", "g"]), ([0.5], ["g"])])
def test_one_group_of_pairs_has_no_interval(values, groups):
    data = make_data(np.reshape(values, (-1, 1, 1)), np.array(values))
    data = data.assign_coords(group=("pair", groups))
    cell = summarise(data, "x").table["clean_probability"].isel(layer=0, column=0)
    ends = [float(cell.sel(statistic=name)) for name in ("mean", "ci_low", "ci_high")]
    assert ends == pytest.approx([np.mean(values), np.nan, np.nan], nan_ok=True)


def test_disruption_is_the_cell_of_the_largest_mean_with_its_interval():
    """Cell (0, 0) has the larger mean, 0.9 in 4 of 20 pairs; (1, 0) the larger median."""
    data = make(run_of(layers=2, columns=2), pairs=20)
    kl = data["kl_divergence"].values
    kl[...] = 0.0
    kl[:4, 0, 0], kl[:, 1, 0] = 0.9, 0.1
    summary = summarise(data, "x")
    finding = disruption(summary)
    (comparison,) = finding.lead.comparisons
    assert (finding.lead.name, finding.lead.kind) == ("layer 0, position 0", "mean KL")
    assert comparison.against == "unpatched"
    assert comparison.mean == pytest.approx(4 * 0.9 / 20)
    assert (comparison.up, comparison.down, comparison.n) == (4, 0, 20)
    cell = summary.table["kl_divergence"].isel(layer=0, column=0)
    assert comparison.low == float(cell.sel(statistic="ci_low"))
    assert dict(finding.numbers)["median"] == 0


@pytest.mark.parametrize("folder", ["position_recomputed", "layer_frozen"])
def test_shipped_numbers_are_those_of_the_version_before(folder):
    """Every statistic of some cells of `aggregate.json` as version 0.2.0 measured and wrote it."""
    golden = json.loads((ROOT / "tests/golden/aggregate_0.2.0.json").read_text())[folder]
    data = read_results(ROOT / "docs/results/codi-tiny" / folder)
    table = summarise(data, folder).table
    assert {*golden} == {*description_of(data).metrics} | {
        name for name in table if str(name).startswith(("control_", "content_over"))
    }
    for measure, cells in golden.items():
        for name, statistics in cells.items():
            layer, column = name.split(",")
            cell = table.sel(layer=layer, column=column)
            ours = [float(cell[measure].sel(statistic=s)) for s in STATISTICS]
            theirs = [np.nan if statistics[s] is None else statistics[s] for s in STATISTICS]
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-12)
            if "median" in statistics:
                medians = [float(cell[f"kl_{s}"]) for s in ("median", "median_low", "median_high")]
                theirs = [statistics[s] for s in ("median", "median_low", "median_high")]
                np.testing.assert_allclose(medians, theirs, rtol=1e-6)
