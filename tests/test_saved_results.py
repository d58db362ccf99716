"""What a notebook sees of a results folder."""

import subprocess
import sys

import numpy as np
import pytest
from lens_maker import make_lens
from results_maker import make, run_of, written
from test_result_files import LOOKING, looked

import codi_patching as cp
from codi_patching.errors import InputError
from codi_patching.results.dataset import attention_dataset
from codi_patching.saved_results import Results


@pytest.fixture
def folder(tmp_path):
    written(tmp_path / "out", run_of(thought=True), pairs=3)
    return tmp_path / "out"


def test_results_are_the_dataset_and_show_themselves_briefly(folder):
    results = cp.load_results(folder)
    assert results.run.experiment == "position"
    assert dict(results.data.sizes)["pair"] == 3
    lines = repr(results).splitlines()
    assert len(lines) < 20
    assert lines[0] == "Results: position, recomputed thoughts, resid_post, codi-tiny"
    assert "5 layers × 3 positions" in repr(results)
    assert "random_pair of 1, sibling of 2" in repr(results)
    page = results._repr_html_()
    assert page.count("<table") == page.count("<svg") == 1
    assert page.count("<rect") == 5 * 3
    assert ">thought</text>" in page


def test_a_frame_has_a_row_for_each_pair_and_cell(folder):
    results = cp.load_results(folder)
    frame = results.frame()
    assert len(frame) == 3 * 5 * 3
    row = frame[(frame.pair_id == "pair_01") & (frame.layer == 2) & (frame.position == 1)]
    (kl,) = row.control_kl_divergence
    assert kl == results.data.kl_divergence.sel(
        pair="pair_01", layer="2", column="1", arm="control"
    )
    assert list(frame.layer.unique()) == ["thought", 0, 1, 2, 3]


def test_a_frame_of_attention_has_a_row_for_each_share():
    records = list(looked())
    values = {
        name: np.stack([record.values[name] for record in records])
        for name in ("attention", "strongest")
    }
    described = [record.description for record in records]
    frame = Results(attention_dataset(LOOKING, ["p0", "p1"], described, values)).frame()
    places = ["pair", "reader", "layer", "attended"]
    assert list(frame.columns) == [*places, "attention", "strongest"]
    assert len(frame) == 2 * 4 * 2 * 3
    row = frame.set_index(places).loc["p1", "0", "1", "1"]
    assert row.attention == values["attention"][1, 1, 1, 2]
    assert row.strongest == values["strongest"][1, 1, 1, 2]


def test_a_frame_of_the_lens_has_a_row_for_each_rank_that_is_known():
    """The one pair without another to compare with has no rank by chance."""
    data = make_lens(pairs=3, layers=2, columns=3, planted={(1, 0, 2): 0.5}, alone=("pair_02",))
    frame = Results(data).frame()
    assert list(frame.columns) == ["pair", "step", "layer", "column", "arm", "rank"]
    assert len(frame) == 3 * 2 * 2 * 3 + 2 * 2 * 2 * 3
    assert set(frame[frame.arm == "chance"].pair) == {"pair_00", "pair_01"}
    hits = frame[frame["rank"] == 0]
    assert hits[["pair", "step", "layer", "column", "arm"]].to_numpy().tolist() == [
        ["pair_00", 2, "0", "2", "own"],
        ["pair_01", 2, "0", "2", "own"],
    ]
    assert frame.index.tolist() == list(range(60))


def test_changed_files_are_warned_of(folder):
    path = folder / "position_patching_results.json"
    path.write_text(path.read_text() + "\n")
    with pytest.warns(UserWarning, match=r"position_patching_results.json in .* changed"):
        results = cp.load_results(folder)
    assert "since the run wrote it" in repr(results)


def test_a_single_folder_is_no_list_of_them(folder):
    with pytest.raises(InputError, match="expected a list of folders or results"):
        cp.compare(folder)


def test_findings_are_those_of_the_report(folder):
    results = cp.load_results(folder)
    assert repr(results.report().findings) == repr(cp.compare([folder]).findings)
    assert list(results.report().summaries) == ["position, recomputed"]


def test_data_that_was_cut_still_shows_itself():
    data = make(run_of(), pairs=4).isel(pair=slice(2))
    assert "2 of the shipped pairs" in repr(Results(data))


def test_nothing_that_measures_is_loaded(folder):
    code = (
        "import sys, codi_patching as cp\n"
        f"results = cp.load_results({str(folder)!r})\n"
        "results.frame(), repr(results), results._repr_html_()\n"
        "heavy = {'torch', 'lightning', 'transformers', 'torchmetrics'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
