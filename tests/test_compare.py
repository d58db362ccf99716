"""Comparing from Python: folders, results and frames; the results file is the truth."""

import json

import pytest
from results_maker import records_of, run_of, write

import codi_patching as cp
from codi_patching.reporting.runs import compare_folders
from codi_patching.results.files import write_checksums
from codi_patching.results.layout import measured_files
from codi_patching.results.read import read_results
from codi_patching.results.schema import ResultsError

WHERE = "Which positions and layers carry the answer"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = []
    for experiment, cells in (("position", {(1, 1): 0.5}), ("layer", {(1, 0): 0.5})):
        run = run_of(experiment, layers=4, columns=3)
        folder = tmp_path_factory.mktemp(experiment)
        made.append(write(folder, run, records_of(run, pairs=60, planted=cells)))
    return made


def about(findings, question):
    return next(finding for finding in findings if finding.question.startswith(question))


def yes(finding):
    return {claim.name for claim in finding.claims if claim.verdict == "yes"}


def test_what_is_planted_is_found_from_folders_results_and_frames(folders):
    for given in (
        folders,
        [read_results(folder) for folder in folders],
        [cp.load_results(folder) for folder in folders],
    ):
        findings = cp.compare(given)
        cells = about(findings, WHERE)
        assert cells.verdict == "yes"
        assert yes(cells) == {"layer 1, position 1"}
        assert cells.n == 60
        assert cells.low > cells.threshold == 0.1
        assert "layer 1, position 1" in cells.sentence
        assert about(findings, "Is what suffices").verdict == "not applicable"


def test_frames_that_were_changed_in_memory_are_what_is_compared(folders):
    frames = cp.load_results(folders[0])
    at = (frames.cells.layer == 1) & (frames.cells.position == 1)
    frames.cells.loc[at, "clean_probability"] = frames.cells.loc[at, "control_clean_probability"]
    assert not yes(about(cp.compare([frames]), WHERE))
    few = cp.load_results(folders[0])
    half = few.pairs.index[:30]
    few = type(few)(few.run, few.cells[few.cells.pair_id.isin(half)], few.pairs, few.results)
    assert about(cp.compare([few]), WHERE).n == 30
    broken = type(few)(few.run, few.cells.iloc[1:], few.pairs, few.results)
    with pytest.raises(ResultsError, match="each cell of every pair exactly once"):
        cp.compare([broken])


def test_a_results_file_whose_sums_were_refreshed_is_valid(folders, tmp_path):
    path = tmp_path / "position_patching_results.json"
    content = json.loads((folders[0] / path.name).read_text())
    for cells in content["results"].values():
        cells["1"]["1"]["clean_probability"] = cells["1"]["1"]["control"]["clean_probability"]
    path.write_text(json.dumps(content))
    write_checksums(tmp_path, measured_files(tmp_path))
    report = compare_folders([tmp_path], tmp_path / "out", figures=False, page=False)
    assert not yes(about(report.findings, WHERE))
    assert read_results(tmp_path).changed == ()


def test_results_that_do_not_belong_together_are_refused(folders, tmp_path):
    run = run_of("layer", layers=4, columns=3, seed=7)
    other = write(tmp_path / "seed", run, records_of(run, pairs=60))
    with pytest.raises(ResultsError, match="differ in seed: 42 and 7"):
        cp.compare([folders[0], other])
    run = run_of("layer", layers=4, columns=3)
    fewer = write(tmp_path / "fewer", run, records_of(run, pairs=59))
    with pytest.raises(ResultsError, match="differ in their pairs: only one of them has"):
        cp.compare([folders[0], fewer])
    with pytest.raises(ResultsError, match="expected each experiment once"):
        cp.compare([folders[0], folders[0]])
