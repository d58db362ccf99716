"""Means, intervals and orders of cells, by hand and against the version before."""

import json
from pathlib import Path

import numpy as np
import pytest
from by_hand import make_data
from results_maker import make, run_of

from codi_patching.analysis.described import disruption
from codi_patching.analysis.intervals import mean_intervals
from codi_patching.analysis.summary import STATISTICS, rank_cells, summarise
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
