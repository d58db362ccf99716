"""Comparing from Python: folders, results and datasets; the results file is the truth."""

import json

import numpy as np
import pytest
from lens_maker import make_lens, write_lens
from results_maker import make, records_of, run_of, write

import codi_patching as cp
from codi_patching.errors import InputError
from codi_patching.reporting.runs import ReportOptions, compare_folders, report_folder
from codi_patching.results.dataset import CONTROL, OWN
from codi_patching.results.description import ResultsError
from codi_patching.results.files import write_checksums
from codi_patching.results.read import read_results
from codi_patching.saved_results import Results

POSITION = "position, recomputed"
BARE = ReportOptions(figures=False, page=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Position patching acts at one cell, layer patching at one layer."""
    made = []
    for experiment, cells in (("position", {(1, 1): 0.5}), ("layer", {(1, 0): 0.5})):
        run = run_of(experiment, layers=4, columns=3)
        folder = tmp_path_factory.mktemp(experiment)
        made.append(write(folder, run, records_of(run, pairs=60, planted=cells)))
    return made


def read_again(folder):
    """Results of a dataset that was read."""
    return Results(read_results(folder))


def claimed(report, key, run=POSITION):
    return {claim.name for claim in report.finding(key, run).claims if claim.claimed}


@pytest.mark.parametrize(
    "given",
    [str, *(pytest.param(g, marks=pytest.mark.thorough) for g in (cp.load_results, read_again))],
)
def test_what_is_planted_is_found_from_folders_and_results(folders, given):
    report = cp.compare([given(folder) for folder in folders])
    cells = report.finding("cells", POSITION)
    assert (cells.answer, cells.n) == ("yes", 60)
    assert claimed(report, "cells") == {"layer 1, position 1"}
    assert claimed(report, "cells", "layer, frozen") == {"layer 1"}
    assert all(comparison.low > 0 for comparison in cells.lead.comparisons)
    assert report.finding("chain").answer == "missing"


def test_what_was_changed_in_memory_is_what_is_compared(folders):
    results = cp.load_results(folders[0])
    here = {"layer": "1", "column": "1"}
    changed = results.data.copy(deep=True)
    probability = changed["clean_probability"]
    probability.loc[{**here, "arm": OWN}] = probability.loc[{**here, "arm": CONTROL}]
    assert not claimed(cp.compare([Results(changed)]), "cells")
    assert claimed(cp.compare([results]), "cells")  # which is as it was
    half = Results(results.data.isel(pair=slice(30)))
    assert cp.compare([half]).finding("cells").n == 30


def test_a_results_file_whose_sums_were_refreshed_is_valid(folders, tmp_path):
    path = tmp_path / "position_patching_results.json"
    content = json.loads((folders[0] / path.name).read_text())
    for cells in content["results"].values():
        cells["1"]["1"]["clean_probability"] = cells["1"]["1"]["control"]["clean_probability"]
    path.write_text(json.dumps(content))
    write_checksums(tmp_path)
    report = compare_folders([tmp_path], tmp_path / "out", BARE).report
    assert not claimed(report, "cells")
    assert read_results(tmp_path).attrs["changed"] == ()


def test_a_folder_of_results_takes_no_comparison(folders):
    before = sorted(path.name for path in folders[0].iterdir())
    with pytest.raises(ResultsError, match="holds an experiment's results: set comparison_dir"):
        compare_folders(folders, folders[0])
    assert sorted(path.name for path in folders[0].iterdir()) == before


@pytest.mark.parametrize(
    ("changed", "pairs", "reason"),
    [
        ({"seed": 7}, 60, "differ in seed: 42 and 7"),
        ({"data_sha256": "0" * 64}, 60, "differ in data_sha256"),
        ({}, 59, "differ in their pairs: only one of them has pair_59"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(folders, changed, pairs, reason):
    other = make(run_of("layer", layers=4, columns=3, **changed), pairs=pairs)
    with pytest.raises(ResultsError, match=reason):
        cp.compare([folders[0], Results(other)])


def test_a_run_twice_none_at_all_and_a_single_folder_are_refused(folders, tmp_path):
    with pytest.raises(ResultsError, match=f"each experiment once, got {POSITION} in .*position"):
        cp.compare([folders[0], folders[0]])
    with pytest.raises(ResultsError, match="at least one run, got none"):
        cp.compare([])
    with pytest.raises(InputError, match="expected a list of folders or results, got"):
        cp.compare(str(folders[0]))
    with pytest.raises(ResultsError, match="nothing"):
        cp.compare([tmp_path / "nothing"])


# -- with the lens ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lens_folder(tmp_path_factory):
    """Step 2 is read where position patching acts, and at one cell where it does not."""
    planted = {(1, 1, 1): 0.8, (1, 2, 0): 0.8}
    return write_lens(tmp_path_factory.mktemp("lens"), 60, planted=planted)


@pytest.mark.parametrize("order", [1, -1])
def test_the_lens_is_recognised_and_answers_its_question(folders, lens_folder, order):
    report = cp.compare([*folders, str(lens_folder)][::order])
    found = report.finding("read")
    assert (found.answer, found.runs) == ("yes", (POSITION, "lens"))
    read = [claim for claim in found.claims if claim.kind == "read" and claim.claimed]
    assert {(c.step, c.layer, c.column) for c in read} == {(2, "1", "1"), (2, "2", "0")}
    assert [c.lead.mean for c in read] == [0.8, 0.8]  # nothing of another pair's is read
    # at layer 1, position 1 alone it is used too
    assert dict(found.numbers)["read and used"] == 1
    assert cp.compare(folders).finding("read").missing == (("lens",),)


def test_a_comparison_shows_the_lens_beside_patching(folders, lens_folder, tmp_path):
    compare_folders([*folders, lens_folder], tmp_path, ReportOptions(page=False))
    assert (tmp_path / "lens_and_patching.png").stat().st_size > 5000
    assert (tmp_path / "comparison.md").read_text().count("](lens_and_patching.png)") == 1
    described = json.loads((tmp_path / "comparison.json").read_text())
    assert described["runs"]["lens"]["pairs"] == 60
    compare_folders(folders, tmp_path, BARE)
    assert not list(tmp_path.glob("*.png"))
    assert "lens_and_patching.png" not in (tmp_path / "comparison.md").read_text()
    assert "lens" not in json.loads((tmp_path / "comparison.json").read_text())["runs"]


def test_a_lens_that_read_no_pair_says_so(folders, tmp_path):
    excluded = {f"pair_{row:02d}": "no reasoning steps" for row in range(60)}
    write_lens(tmp_path / "lens", 60, excluded=excluded)
    made = compare_folders([*folders, tmp_path / "lens"], tmp_path / "out", BARE)
    found = made.report.finding("read")
    assert (found.answer, found.lead, found.claims) == ("counts", None, ())
    assert made.report.finding("cells", POSITION).n == 60


def test_a_lens_that_read_no_pair_has_a_report(tmp_path):
    excluded = {f"pair_{row:02d}": "no reasoning steps" for row in range(6)}
    write_lens(tmp_path / "lens", 6, excluded=excluded)
    report_folder(tmp_path / "lens", ReportOptions(docs=tmp_path / "docs"))
    (written,) = (tmp_path / "docs" / "experiments").glob("*.md")
    assert "no reasoning steps" in written.read_text()


def test_a_lens_of_some_pairs_is_compared_on_those(folders):
    some = Results(
        make_lens(60, excluded={"pair_59": "no reasoning steps"}, planted={(1, 1, 1): 1})
    )
    found = cp.compare([*folders, some]).finding("read")
    assert (found.n, found.lead.lead.mean) == (59, 1.0)


@pytest.mark.parametrize(
    ("lenses", "reason"),
    [
        ([make_lens(59)], "lens differ in their pairs: only one of them has pair_59"),
        ([make_lens(60, data_sha256="0" * 64)], "lens differ in data_sha256"),
        ([make_lens(60), make_lens(60)], "expected each experiment once, got lens in memory"),
    ],
)
def test_a_lens_that_does_not_belong_is_refused(folders, lenses, reason):
    with pytest.raises(ResultsError, match=reason):
        cp.compare([*folders, *map(Results, lenses)])


def test_the_lens_alone_is_a_report(lens_folder):
    report = cp.compare([lens_folder])
    assert not report.summaries
    assert float(report.hit_rates["own"].sel(step=2, layer="1", column="1")) == 0.8


# -- what questions may hold --------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script> | `x` **y** ![z](http://a.b/c.png) <!-- end of a -->"


def test_hostile_text_stays_text_in_everything_that_is_written(tmp_path):
    made = []
    for experiment in ("position", "layer"):
        run = run_of(experiment, layers=2, columns=2, model=HOSTILE, excluded={})
        records = records_of(run, pairs=6, one_pair={"source_question": HOSTILE})
        made.append(write(tmp_path / experiment, run, records, {HOSTILE: HOSTILE}))
    report = compare_folders(made, tmp_path / "out", ReportOptions(figures=False))
    page = (tmp_path / "out" / "report.html").read_text()
    text = (tmp_path / "out" / "comparison.md").read_text()
    for written in (page, text, report.text):
        assert "<script>alert" not in written.replace("<\\/", "</").split("plotly.js")[-1] or (
            written is report.text
        )
    assert "![z](http" not in text
    assert "<!-- end of a -->" not in text


def test_no_number_of_a_comparison_is_nan_in_its_file(folders, tmp_path):
    compare_folders(folders, tmp_path, BARE)

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=refuse)
    cells = next(f for f in content["findings"] if f["key"] == "cells")
    data = read_results(folders[0])
    own = data["clean_probability"].sel(layer="1", column="1", arm=OWN).values
    other = data["clean_probability"].sel(layer="1", column="1", arm=CONTROL).values
    base = data["run_clean_probability"].sel(run="base").values
    means = {c["against"]: c["mean"] for c in cells["lead"]["comparisons"]}
    expected = {"unpatched": np.mean(own - base), "control": np.mean(own - other)}
    assert means == pytest.approx(expected)
