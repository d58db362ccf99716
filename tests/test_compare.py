"""Comparing from Python: folders, results and frames; the results file is the truth."""

import json

import pytest
from lens_maker import make_lens
from results_maker import records_of, run_of, write

import codi_patching as cp
from codi_patching.reporting.runs import compare_folders
from codi_patching.results.files import write_checksums
from codi_patching.results.layout import measured_files
from codi_patching.results.lens_store import write_lens
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


def test_a_folder_of_results_takes_no_comparison(folders):
    before = sorted(path.name for path in folders[0].iterdir())
    with pytest.raises(ResultsError, match="holds an experiment's results: set --dir"):
        compare_folders(folders, folders[0])
    assert sorted(path.name for path in folders[0].iterdir()) == before


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


LENS = "What does each thought say, and does patching agree"


@pytest.fixture
def lens_folder(tmp_path):
    """Step 2 is read where position patching has its effect, and at one cell where it has none."""
    lens = make_lens(60, planted={(1, 1, 1): 0.8, (1, 2, 0): 0.8})
    write_lens(tmp_path / "lens", lens)
    return tmp_path / "lens"


def test_a_folder_of_the_lens_is_recognised_and_answers_its_question(folders, lens_folder):
    for given in ([*folders, lens_folder], [str(lens_folder), *map(cp.load_results, folders)]):
        found = about(cp.compare(given), LENS)
        assert found.verdict == "yes"
        assert (found.estimate, found.n, found.threshold) == (0.8, 60, 0.05)
        assert "step 2 (position 1 at layer 1)" in found.sentence
        assert "no content effect beyond the threshold: step 2 (position 0 at layer 2)" in (
            found.sentence
        )
    assert "configs/lens.yaml" in about(cp.compare(folders), LENS).sentence


def test_a_comparison_shows_the_lens_beside_patching(folders, lens_folder, tmp_path):
    out = tmp_path / "out"
    report = compare_folders([*folders, lens_folder], out, page=False)
    assert f"{LENS} (position patching (recomputed thoughts))? YES" in report.text
    assert (out / "lens_and_patching.png").stat().st_size > 5000
    text = (out / "comparison.md").read_text()
    assert "| 2 | 60 | 80% (chance 0%) at layer 2 | 80% (chance 0%) at layer 1 |" in text
    assert "](lens_and_patching.png)" in text
    assert "](by_layer.png)" in text or not (out / "by_layer.png").exists()
    described = json.loads((out / "comparison.json").read_text())
    assert described["lens"]["pairs"] == 60
    compare_folders(folders, out, figures=False, page=False)
    assert not (out / "lens_and_patching.png").exists()
    text = (out / "comparison.md").read_text()
    assert f"- **{LENS}?** It takes the lens; `codi-patching predict" in text
    assert "## What each thought says" not in text
    assert "lens" not in json.loads((out / "comparison.json").read_text())


def test_a_lens_that_read_no_pair_is_named(folders, tmp_path):
    excluded = {f"pair_{row:02d}": "no reasoning steps" for row in range(60)}
    write_lens(tmp_path / "lens", make_lens(60, excluded=excluded))
    report = compare_folders([*folders, tmp_path / "lens"], tmp_path / "out")
    found = about(report.findings, LENS)
    assert found.sentence == "The lens read none of these pairs; pair_00: no reasoning steps."
    assert not (tmp_path / "out" / "lens_and_patching.png").exists()


def test_a_lens_that_does_not_belong_is_refused(folders, tmp_path):
    for name, lens, reason in (
        ("few", make_lens(59), "and the lens differ in their pairs: only one of them has pair_59"),
        ("other", make_lens(60, checkpoint_sha256="0" * 64), "differ in checkpoint_sha256"),
    ):
        write_lens(tmp_path / name, lens)
        with pytest.raises(ResultsError, match=reason):
            cp.compare([*folders, tmp_path / name])
    write_lens(tmp_path / "one", make_lens(60))
    write_lens(tmp_path / "two", make_lens(60))
    with pytest.raises(ResultsError, match="expected the lens once, got it in"):
        cp.compare([*folders, tmp_path / "one", tmp_path / "two"])
    with pytest.raises(ResultsError, match="got those of the lens alone: name a folder"):
        cp.compare([tmp_path / "one"])
    some = make_lens(60, excluded={"pair_59": "no reasoning steps"})
    write_lens(tmp_path / "some", some)
    assert about(cp.compare([*folders, tmp_path / "some"]), LENS).n == 59
