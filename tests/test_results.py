"""Results files by hand: written, read, as frames; no model."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from codi_patching.results import code
from codi_patching.results.files import changed_files, text_file, write_checksums
from codi_patching.results.frames import load_results
from codi_patching.results.read import read_results
from codi_patching.results.records import PairResult
from codi_patching.results.schema import (
    Code,
    Control,
    Grid,
    PairDescription,
    ResultsError,
    RunDescription,
    cell_label,
)
from codi_patching.results.store import write_results

METRICS = ("kl_divergence", "recovery")
NAME = "position_patching_results.json"


def run_of(grid, **changes):
    fields = {
        "experiment": "position",
        "strategy": None,
        "latents": "recomputed",
        "direction": "denoising",
        "source": "clean",
        "control": "sibling",
        "site": "resid_post",
        "model": "m",
        "model_type": "llama",
        "num_latents": 2,
        "checkpoint_sha256": "c",
        "checkpoint": {"tensors": 3},
        "data": "",
        "data_sha256": "d",
        "seed": 1,
        "precision": "32-true",
        "device": {"type": "cpu"},
        "versions": {"torch": "2"},
        "code": Code("s", "1"),
        "grid": grid,
        "metrics": METRICS,
        "num_pairs": 2,
    }
    return RunDescription(**{**fields, **changes})


GRID = Grid(("thought", "0"), "position", ("0", "1"), ((1, 1),))
RUN = run_of(GRID)


def described(answer, **changes):
    runs = {name: {"kl_divergence": 0.0, "recovery": 1.0} for name in ("base", "source", "ceiling")}
    return PairDescription("b?", "s?", "13", answer, (4, 5), (6,), "g", **{**runs, **changes})


CONTROL = Control("sibling", "t?", "9", "a")
RECORDS = [
    PairResult(
        "a",
        described("15", control=CONTROL, ceiling_control={"kl_divergence": 8.0, "recovery": 0.25}),
        {
            "kl_divergence": np.array([[1.0, 2.0], [3.0, 0.0]]),
            "recovery": np.array([[0.1, math.nan], [0.3, 0.0]]),
        },
        {
            "kl_divergence": np.array([[5.0, 6.0], [7.0, 0.0]]),
            "recovery": np.array([[0.5, 0.6], [math.nan, 0.0]]),
        },
    ),
    PairResult(
        'b "ü"',
        described("16", unknown_words=("fox",), self_patch=0.0),
        {
            "kl_divergence": np.array([[3.0, 2.0], [7.0, 0.0]]),
            "recovery": np.array([[0.3, 0.5], [0.5, 0.0]]),
        },
    ),
]


@pytest.fixture
def folder(tmp_path):
    write_results(tmp_path / NAME, RUN, RECORDS)
    return tmp_path


def test_results_are_nested_by_pair_layer_position_metric(folder):
    content = json.loads((folder / NAME).read_text())
    assert content["metadata"] == json.loads(json.dumps(RUN.to_json()))
    assert content["baseline"].keys() == {"a", 'b "ü"'}
    first = content["baseline"]["a"]
    assert first["control"] == {
        "kind": "sibling",
        "question": "t?",
        "answer": "9",
        "pair_id": "a",
    }
    assert first["ceiling"] == {
        "kl_divergence": 0.0,
        "recovery": 1.0,
        "control": {"kl_divergence": 8.0, "recovery": 0.25},
    }
    assert content["baseline"]['b "ü"']["ceiling"]["control"] is None
    assert content["results"]["a"]["thought"]["1"] == {
        "kl_divergence": 2.0,
        "recovery": None,
        "control": {"kl_divergence": 6.0, "recovery": 0.6},
    }
    assert content["results"]['b "ü"']["0"]["0"] == {"kl_divergence": 7.0, "recovery": 0.5}


def test_what_is_read_is_what_was_written(folder):
    results = read_results(folder)
    assert results.run == RUN
    assert results.pair_ids == ("a", 'b "ü"')
    assert results.pairs == tuple(record.description for record in RECORDS)
    for metric in METRICS:
        expected = np.stack([record.values[metric] for record in RECORDS])
        np.testing.assert_array_equal(results.values[metric], expected)
        np.testing.assert_array_equal(results.control[metric][0], RECORDS[0].control[metric])
        assert np.isnan(results.control[metric][1]).all()
    assert results.structural.tolist() == [[False, False], [False, True]]
    assert results.unpatched("ceiling_control", "kl_divergence")[0] == 8
    assert np.isnan(results.unpatched("ceiling_control", "kl_divergence")[1])


def test_a_layer_can_be_one_cell(tmp_path):
    grid = Grid(("0", "1"), "position", ("all",), ((1, 0),))
    run = run_of(grid, experiment="layer", num_pairs=1, control="none")
    values = {m: np.array([[1.0], [0.0]]) for m in METRICS}
    write_results(
        tmp_path / "layer_patching_results.json", run, [PairResult("a", described("1"), values)]
    )
    content = json.loads((tmp_path / "layer_patching_results.json").read_text())
    assert content["results"]["a"]["0"] == {"kl_divergence": 1.0, "recovery": 1.0}
    results = read_results(tmp_path)
    assert results.values["recovery"].tolist() == [[[1.0], [0.0]]]
    assert results.control == {}
    assert load_results(tmp_path).cells.position.tolist() == ["all", "all"]


# -- frames -------------------------------------------------------------------------------------


@pytest.mark.parametrize("thought", [False, True])
def test_a_layer_is_found_by_its_number(tmp_path, thought):
    """It was text once, and `cells[cells.layer == 15]` was empty without a word."""
    names = ("thought",) * thought + tuple(map(str, range(16)))
    grid = Grid(names, "position", tuple("01234"))
    values = {m: np.arange(len(names) * 5.0).reshape(-1, 5) for m in METRICS}
    record = PairResult("a", described("1"), values)
    write_results(tmp_path / NAME, run_of(grid, num_pairs=1), [record])
    cells = load_results(tmp_path).cells
    found = cells[(cells.layer == 15) & (cells.position == 3)]
    assert found.kl_divergence.tolist() == [15 * 5 + 3 + 5 * thought]
    assert len(cells[cells.layer == 15]) == 5
    assert len(cells[cells.layer == "thought"]) == 5 * thought
    assert cells.position.dtype.kind == "i"
    assert cells.layer.dtype.kind == ("O" if thought else "i")


def test_frames_have_own_and_control_side_by_side(folder):
    frames = load_results(folder)
    assert frames.cells.columns.tolist() == [
        *("pair_id", "layer", "position", "structural_zero"),
        *("kl_divergence", "recovery", "control_kl_divergence", "control_recovery"),
    ]
    row = frames.cells.iloc[1]
    assert (row.pair_id, row.layer, row.position) == ("a", "thought", 1)
    assert (row.kl_divergence, row.control_kl_divergence, row.control_recovery) == (2.0, 6.0, 0.6)
    assert math.isnan(row.recovery)
    assert frames.cells.structural_zero.tolist() == [0, 0, 0, 1] * 2
    assert frames.cells.control_kl_divergence.isna().tolist() == [False] * 4 + [True] * 4
    grid = frames.grid()
    assert grid.loc["thought", 0] == 2.0
    assert grid.loc[0, 0] == 5.0


def test_the_frame_of_pairs_has_unpatched_runs_ceiling_and_control(folder):
    pairs = load_results(folder).pairs
    assert pairs.index.tolist() == ["a", 'b "ü"']
    first = pairs.loc["a"]
    assert (first["ceiling.recovery"], first["ceiling_control.kl_divergence"]) == (1.0, 8.0)
    assert (first["control.kind"], first["control.question"]) == ("sibling", "t?")
    assert (first["base_answer"], first["source_answer"]) == ("13", "15")
    assert pairs.loc['b "ü"', "unknown_words"] == ("fox",)


def test_frames_of_changed_results_warn(folder):
    write_checksums(folder, [folder / NAME])
    assert load_results(folder).results.changed == ()
    text = (folder / NAME).read_text()
    (folder / NAME).write_text(text.replace("7.0", "8.0"))
    with pytest.warns(UserWarning, match=rf"{NAME} in .* changed since the run wrote it"):
        assert load_results(folder).cells.kl_divergence.max() == 8


# -- what is refused ----------------------------------------------------------------------------


def test_an_incomplete_file_is_refused(folder):
    path = folder / NAME
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ResultsError, match="not a complete results file"):
        read_results(folder)
    path.unlink()
    with pytest.raises(ResultsError, match=r"expected one .* got 0"):
        read_results(folder)


def change(path, *keys, value):
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("metadata", "seed"), None, "expected metadata to have the keys .* got no seed"),
        (("metadata", "sead"), 1, "got unknown sead"),
        (("metadata", "seed"), "1", "expected metadata.seed to be int, got '1'"),
        (("metadata", "metrics"), [], "expected metrics in its metadata"),
        (("metadata", "code", "sha256"), None, "got no sha256"),
        (("metadata", "grid", "structural_zeros"), [[2, 0]], r"inside \[2, 2\], got \[2, 0\]"),
        (("baseline", "a"), None, "expected a baseline for each pair, got none for 'a'"),
        (("baseline", "a", "base", "recovery"), "x", "base.recovery: expected numbers or null"),
        (("results", "a", "0"), None, "'0'"),
        (("results", "a", "0", "0", "recovery"), None, "recovery"),
        (("results", "a", "0", "0", "recovery"), "0.1", "pair a: expected numbers or null"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_and_named(folder, keys, value, message):
    change(folder / NAME, *keys, value=value)
    with pytest.raises(ResultsError, match=f"not a complete results file: .*{message}"):
        read_results(folder)


def test_a_pair_that_is_there_twice_is_refused(folder):
    text = (folder / NAME).read_text()
    (folder / NAME).write_text(text.replace(r'"b \"ü\""', '"a"'))
    with pytest.raises(ResultsError, match="'a' is there twice in baseline"):
        read_results(folder)


# -- files --------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with text_file(path) as file:
            file.write("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_sums_tell_which_files_changed(tmp_path):
    assert changed_files(tmp_path) == []
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path, [tmp_path / name for name in ("a", "b")])
    sums = (tmp_path / "SHA256SUMS").read_text()
    assert sums.splitlines()[0] == (  # of "a", as sha256sum prints it
        "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a"
    )
    (tmp_path / "c").write_text("other")
    assert changed_files(tmp_path) == []
    (tmp_path / "a").write_text("other")
    (tmp_path / "b").unlink()
    assert changed_files(tmp_path) == ["a", "b"]


def test_the_identity_of_code_is_of_its_sources(tmp_path):
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "a.py").write_text("a")
    (package / "inner" / "b.py").write_text("b")
    (package / "notes.txt").write_text("c")
    before = code.sources_sha256(package)
    assert len(before) == 64
    (package / "notes.txt").write_text("d")
    assert code.sources_sha256(package) == before
    (package / "inner" / "b.py").rename(package / "b.py")
    moved = code.sources_sha256(package)
    assert moved != before
    (package / "b.py").write_text("c")
    assert code.sources_sha256(package) not in (before, moved)
    here = code.describe_code()
    assert here.sha256 == code.sources_sha256(code._PACKAGE)


# -- the types ----------------------------------------------------------------------------------


def test_cells_in_words():
    grid = Grid(("thought", "0", "1"), "position", ("0", "1", "2"))
    assert cell_label(grid, (0, 1)) == "thought 1"
    assert cell_label(grid, (1, 0), recomputed=True) == "layer 0, position 0"
    assert cell_label(grid, (2, 0)) == "layer 1, position 0"
    assert cell_label(grid, (2, 0), recomputed=True) == "layer 1, position 0 (makes thought 1)"
    assert cell_label(grid, (2, 2), recomputed=True) == "layer 1, position 2"
    whole = Grid(("thought", "0"), "position", ("all",))
    assert cell_label(whole, (0, 0), True) == "all thoughts"
    assert cell_label(whole, (1, 0), True) == "layer 0 (makes the next thoughts)"
    chain = Grid(("0",), "iteration", ("0", "1"))
    assert cell_label(chain, (0, 0), True) == "layer 0, iteration 0 (makes thought 1)"


def test_arms_and_roles():
    assert (RUN.arm, replace(RUN, strategy="relay").arm) == ("position", "relay")
    assert RUN.clean_is_source
    assert not replace(RUN, direction="noising").clean_is_source
    assert RunDescription.from_json(json.loads(json.dumps(RUN.to_json()))) == RUN
