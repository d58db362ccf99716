"""Results by hand, without a model: kept while a run is under way, written, read, as tables."""

import json
import math
import os
import shutil
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lens_maker import lens_records, lens_run, make_lens, write_lens
from results_maker import change, make, records_of, run_of, write, written
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import codi_patching
from codi_patching.results import code
from codi_patching.results.dataset import is_attention, is_lens, patches, patching_dataset
from codi_patching.results.description import Code, Grid, ResultsError, RunDescription
from codi_patching.results.files import (
    atomic_write,
    changed_files,
    make_folder,
    remove_unfinished,
    text_file,
    write_checksums,
    write_csv,
)
from codi_patching.results.folder import FolderLock, prepare_folder
from codi_patching.results.identity import differences, folder_name, run_sha256
from codi_patching.results.pair_descriptions import Control, PairDescription, VerifiedRun
from codi_patching.results.read import read_results
from codi_patching.results.records import ExcludedPair, PairRecord
from codi_patching.results.store import Store
from codi_patching.results.tables import cell_columns, cell_rows, cells_frame
from codi_patching.results.write import write_activations, write_results

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/*/SHA256SUMS"))
OF_EACH_KIND = [
    f"codi-tiny/{run}" for run in ("layer_frozen", "cumulative", "lens", "attention", "knockout")
]
SHIPPED_CASES = [
    pytest.param(
        path,
        id=name,
        marks=[] if name in OF_EACH_KIND else pytest.mark.thorough,
    )
    for path in SHIPPED
    for name in [f"{path.parent.name}/{path.name}"]
]

METRICS = ("kl_divergence", "recovery")
NAME = "position_patching_results.json"


def small_run(grid, **changes):
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
RUN = small_run(GRID)


def described(answer, **changes):
    runs = {name: {"kl_divergence": 0.0, "recovery": 1.0} for name in ("base", "source", "ceiling")}
    return PairDescription("b?", "s?", "13", answer, (4, 5), (6,), "g", **{**runs, **changes})


CONTROL = Control("sibling", "t?", "9", "a")
RECORDS = [
    PairRecord(
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
    PairRecord(
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
    data = read_results(folder)
    assert data.attrs["run"] == RUN
    assert data["pair"].values.tolist() == ["a", 'b "ü"']
    assert list(data["description"].values) == [record.description for record in RECORDS]
    for metric in METRICS:
        expected = np.stack([record.values[metric] for record in RECORDS])
        np.testing.assert_array_equal(data[metric].sel(arm="own"), expected)
        control = data[metric].sel(arm="control").values
        np.testing.assert_array_equal(control[0], RECORDS[0].control[metric])
        assert np.isnan(control[1]).all()
    assert data["structural_zero"].values.tolist() == [[False, False], [False, True]]
    assert data["run_kl_divergence"].sel(run="ceiling_control")[0] == 8
    assert np.isnan(data["run_kl_divergence"].sel(run="ceiling_control")[1])


def test_a_layer_can_be_one_cell(tmp_path):
    grid = Grid(("0", "1"), "position", ("all",), ((1, 0),))
    run = small_run(grid, experiment="layer", num_pairs=1, control="none")
    values = {m: np.array([[1.0], [0.0]]) for m in METRICS}
    write_results(
        tmp_path / "layer_patching_results.json", run, [PairRecord("a", described("1"), values)]
    )
    content = json.loads((tmp_path / "layer_patching_results.json").read_text())
    assert content["results"]["a"]["0"] == {"kl_divergence": 1.0, "recovery": 1.0}
    data = read_results(tmp_path)
    assert data["recovery"].values.tolist() == [[[[1.0]], [[0.0]]]]
    assert data["arm"].values.tolist() == ["own"]
    assert cells_frame(data).position.tolist() == ["all", "all"]


@pytest.mark.parametrize("experiment", ["position", "layer", "iterative"])
def test_whole_folders_are_read_as_they_were_made(tmp_path, experiment):
    run = run_of(experiment, thought=True)
    here = make(run, pairs=5)
    there = written(tmp_path / "out", run, {"late": "its logits are not finite"}, pairs=5)
    for name in here.variables:
        if name != "description":
            np.testing.assert_array_equal(there[name].values, here[name].values)
    assert list(there["description"].values) == list(here["description"].values)
    assert there.attrs["run"].excluded == {"late": "its logits are not finite"}
    assert there.attrs["run"].num_pairs == 5
    assert there.attrs["changed"] == ()


def test_a_folder_of_the_lens_is_read_as_it_was_made(tmp_path):
    options = {"pairs": 5, "planted": {(0, 1, 2): 0.6}, "alone": ("pair_03",)}
    here = make_lens(excluded={"pair_01": "no steps"}, **options)
    there = read_results(write_lens(tmp_path, excluded={"pair_01": "no steps"}, **options))
    assert is_lens(there)
    assert there.attrs["run"] == here.attrs["run"]
    for name in here.variables:
        if name != "description":
            np.testing.assert_array_equal(there[name].values, here[name].values)
    assert list(there["description"].values) == list(here["description"].values)
    assert (there["rank"].sel(arm="own")[:, 0, 1, 2] == 0).values.tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert np.isnan(there["rank"].sel(arm="chance", pair="pair_03")).all()
    content = json.loads((tmp_path / "lens_results.json").read_text())
    assert content["metadata"]["top"] == 5
    assert content["metadata"]["grid"]["columns"] == ["0", "1", "2"]
    step = content["pairs"]["pair_00"]["steps"][0]
    assert step["ranks"][1] == [9, 9, 0]
    assert step["whole"] == [9, 9, 9]
    assert content["pairs"]["pair_03"]["steps"][0]["chance_ranks"] == []


def test_a_lens_without_a_pair_to_read_names_them_all(tmp_path):
    write(tmp_path, lens_run(), [], {"a": "no steps", "b": "no steps"})
    data = read_results(tmp_path)
    assert data.sizes["pair"] == 0
    assert list(data.attrs["run"].excluded) == ["a", "b"]


# -- folders that are there already -------------------------------------------------------------


@pytest.mark.parametrize("folder", SHIPPED_CASES)
def test_shipped_results_are_read_and_written_as_they_are(folder, tmp_path):
    data = read_results(folder)
    assert data.sizes["pair"] == 57
    assert data.attrs["changed"] == ()
    (path,) = folder.glob("*_results.json")
    old = json.loads(path.read_text())
    write_results(tmp_path / path.name, data.attrs["run"], list(as_records(data)))
    new = json.loads((tmp_path / path.name).read_text())
    for part in ("results", "baseline") if patches(data) else ("pairs",):
        assert new[part].keys() == old[part].keys()
        for pair_id, pair in old[part].items():
            assert pair.items() <= new[part][pair_id].items()
    assert len(SHIPPED) == 3 * 9 + 4


def as_records(data):
    """The records that a dataset was made of."""
    for row, (pair_id, pair) in enumerate(zip(data["pair"].values, data["description"].values)):
        if is_lens(data):
            own, chance = (data["rank"].values[row, : len(pair.steps), ..., arm] for arm in (0, 1))
            whole = data["whole_rank"].values[row, : len(pair.steps)]
            yield PairRecord(pair_id, pair, {"rank": own, "whole_rank": whole}, {"rank": chance})
        elif is_attention(data):
            kept = ("attention", "strongest")
            yield PairRecord(pair_id, pair, {name: data[name].values[row] for name in kept})
        else:
            arms = [
                {m: data[m].values[row, ..., arm] for m in data.attrs["run"].metrics}
                for arm in (0, 1)
            ]
            yield PairRecord(pair_id, pair, *arms)


# -- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize("thought", [False, True])
def test_a_layer_is_found_by_its_number(thought):
    """It was text once, and `cells[cells.layer == 15]` was empty without a word."""
    names = ("thought",) * thought + tuple(map(str, range(16)))
    run = small_run(Grid(names, "position", tuple("01234")))
    values = {m: np.arange(len(names) * 5.0).reshape(1, -1, 5) for m in METRICS}
    cells = cells_frame(patching_dataset(run, ["a"], [described("1")], values, {}))
    found = cells[(cells.layer == 15) & (cells.position == 3)]
    assert found.kl_divergence.tolist() == [15 * 5 + 3 + 5 * thought]
    assert len(cells[cells.layer == 15]) == 5
    assert len(cells[cells.layer == "thought"]) == 5 * thought
    assert cells.position.dtype.kind == "i"
    assert cells.layer.dtype.kind == ("O" if thought else "i")


def test_rows_have_own_and_control_side_by_side(folder, tmp_path):
    data = read_results(folder)
    assert cell_columns(data) == [
        *("pair_id", "layer", "position", "structural_zero"),
        *("kl_divergence", "recovery", "control_kl_divergence", "control_recovery"),
    ]
    rows = list(cell_rows(data))
    row = rows[1]
    assert (row["pair_id"], row["layer"], row["position"]) == ("a", "thought", "1")
    assert (row["kl_divergence"], row["control_kl_divergence"]) == (2.0, 6.0)
    assert math.isnan(row["recovery"])
    assert row["control_recovery"] == 0.6
    assert [row["structural_zero"] for row in rows] == [0, 0, 0, 1] * 2
    assert [math.isnan(row["control_recovery"]) for row in rows] == [False, False, True, False] + [
        True
    ] * 4
    write_csv(tmp_path / "cells.csv", iter(rows), cell_columns(data))
    lines = (tmp_path / "cells.csv").read_text().splitlines()
    assert lines[2] == "a,thought,1,0,2.0,,6.0,0.6"
    assert lines[6] == '"b ""ü""",thought,1,0,2.0,0.5,,'


# -- what is refused ----------------------------------------------------------------------------


def test_an_incomplete_file_is_refused(folder):
    path = folder / NAME
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ResultsError, match="not a complete results file"):
        read_results(folder)
    path.unlink()
    with pytest.raises(ResultsError, match=r"expected one .* got 0"):
        read_results(folder)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("metadata", "seed"), None, "metadata: .*missing required field `seed`"),
        (("metadata", "sead"), 1, "expected no key sead in metadata"),
        (("metadata", "seed"), "1", r"metadata: Expected `int`, got `str` - at `\$.seed`"),
        (("metadata", "metrics"), [], "expected metrics in its metadata"),
        (("metadata", "code", "sha256"), None, r"missing required field `sha256` - at `\$.code`"),
        (("metadata", "grid", "structural_zeros"), [[2, 0]], r"inside \[2, 2\], got \[2, 0\]"),
        (("baseline", "a"), None, "expected a baseline for each pair, got none for 'a'"),
        (("baseline", "a", "base", "recovery"), "x", r"baseline: Expected `float \| null`"),
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


def test_links_are_never_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("a", "a.partial", ".a.partial"):
        (folder / name).symlink_to(outside)
    with text_file(folder / "a") as file:
        file.write("new")
    assert outside.read_text() == "mine"
    assert not (folder / "a").is_symlink()
    assert (folder / "a").read_text() == "new"
    (folder / "partial").symlink_to(tmp_path)
    with pytest.raises(ResultsError, match=r"expected .*partial to be a folder, got a link"):
        make_folder(folder / "partial")
    with pytest.raises(ResultsError, match="got a link"):
        Store(folder).begin(RUN)
    with pytest.raises(ResultsError, match="got a link"):
        Store(folder).begun()
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "results"}


def test_several_writers_at_once_end_well(tmp_path):
    """Each has a temporary file of its own, and the last one's content stays, whole."""
    together = threading.Barrier(6)
    failed = []

    def write_one(number):
        try:
            for _ in range(20):
                with atomic_write(tmp_path / "file") as partial:
                    together.wait(timeout=10)
                    partial.write_text(str(number) * 1000)
        except Exception as error:
            failed.append(error)

    writers = [threading.Thread(target=write_one, args=(n,)) for n in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    text = (tmp_path / "file").read_text()
    assert len(text) == 1000
    assert len(set(text)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_new_files_have_the_usual_permissions(tmp_path):
    with text_file(tmp_path / "ours"):
        pass
    (tmp_path / "theirs").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_what_a_killed_writer_left_is_cleaned_up_with_the_lock(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "results"
    (folder / "pairs").mkdir(parents=True)
    (folder / "tables").symlink_to(outside)
    for place in (folder, folder / "pairs", outside):
        (place / ".sheet.png.0123.partial").touch()
    with FolderLock(folder):
        assert not list(folder.glob(".*.partial"))
        assert not list((folder / "pairs").iterdir())
        assert len(list(outside.iterdir())) == 1
    remove_unfinished(folder)
    assert len(list(outside.iterdir())) == 1


def test_the_lock_follows_no_link(tmp_path):
    folder, outside = tmp_path / "results", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("mine")
    (folder / ".owner").symlink_to(outside)
    with FolderLock(folder):
        assert (folder / ".owner").read_text().startswith(f"process {os.getpid()} on ")
    (folder / ".lock").unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    (folder / ".lock").symlink_to(outside)
    with pytest.raises(ResultsError, match="cannot be written"):
        FolderLock(folder).acquire()
    assert outside.read_text() == "mine"


def test_sums_are_as_sha256sum_prints_them(tmp_path):
    (tmp_path / "lens_results.json").write_text("a")
    write_checksums(tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text() == (
        "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  lens_results.json\n"
    )
    assert changed_files(tmp_path) == []


def lose(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def spoil(path):
    """A byte that is no UTF-8."""
    path.write_bytes(b"\xff" + path.read_bytes()[1:])


def turn_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def rename_a_line(path):
    """A line more, of a file elsewhere."""
    path.write_text(path.read_text() + "0" * 64 + "  ../elsewhere\n")


def become_a_folder(path):
    path.unlink()
    path.mkdir()


SUMS = "SHA256SUMS"


@pytest.mark.parametrize("experiment", ["position", "iterative", "mine", "lens"])
@pytest.mark.parametrize("damage", [lose, empty, spoil, rename_a_line, become_a_folder])
def test_sums_that_are_no_sums_are_named(tmp_path, experiment, damage):
    folder = any_folder(tmp_path / "out", experiment)
    damage(folder / SUMS)
    assert changed_files(folder) == [SUMS]
    assert read_results(folder).attrs["changed"] == (SUMS,)


@pytest.mark.parametrize("experiment", ["position", "iterative", "mine", "lens"])
def test_every_measured_file_that_changed_is_named(tmp_path, experiment):
    folder = any_folder(tmp_path / "out", experiment)
    assert changed_files(folder) == []
    for path in [path for path in folder.iterdir() if path.name != SUMS]:
        whole = path.read_bytes()
        for damage in (turn_a_bit, empty, lose, become_a_folder):
            damage(path)
            assert changed_files(folder) == [path.name]
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(whole)
    (folder / "trace_more.csv").write_text("layer\n")
    assert changed_files(folder) == ["trace_more.csv"]
    (folder / "results.csv").write_text("derived\n")
    assert changed_files(folder) == ["trace_more.csv"]
    turn_a_bit(folder / SUMS)
    assert len(changed_files(folder)) > 1


def test_a_listed_file_that_cannot_even_be_looked_for_has_changed(tmp_path):
    """Its name is longer than the names of files can be."""
    folder, name = any_folder(tmp_path / "out", "lens"), "x" * 300
    with (folder / SUMS).open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    assert changed_files(folder) == [name]


def any_folder(folder, experiment):
    """A folder of whatever experiment, with all files that it may have."""
    if experiment == "lens":
        return write_lens(folder, pairs=3)
    run = run_of("iterative" if experiment == "iterative" else "position")
    records = records_of(run, pairs=3)
    if experiment == "iterative":
        records[0].trace = [{"layer": "0", "norm": 1.5}]
        for record in records:
            record.activations = torch.ones(4, 2, 8)
    return write(folder, replace(run, experiment=experiment), records)


def test_every_flipped_bit_of_sums_is_seen(tmp_path):
    folder = any_folder(tmp_path / "out", "lens")
    whole = (folder / SUMS).read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            (folder / SUMS).write_bytes(content)
            assert changed_files(folder) != [], (place, bit)


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
    assert here.sha256 == code.sources_sha256(Path(codi_patching.__file__).parent)


@pytest.mark.parametrize("without", ["a checkout", "git"])
def test_code_outside_a_checkout_or_without_git_has_no_commit(tmp_path, monkeypatch, without):
    """The folder above the package is then no checkout, whatever stands further up."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "in" / "package").mkdir(parents=True)
    (tmp_path / "in" / "package" / "a.py").write_text("a")
    monkeypatch.setattr(code, "_PACKAGE", tmp_path / "in" / "package")
    asked = []

    def run(args, **options):
        asked.append(args)
        raise FileNotFoundError(args[0])

    monkeypatch.setattr(code.subprocess, "run", run)
    if without == "git":
        (tmp_path / "in" / ".git").write_text("gitdir: elsewhere")
    found = code.describe_code.__wrapped__()
    assert (found.git_commit, found.git_changed) == (None, None)
    assert found.sha256 == code.sources_sha256(tmp_path / "in" / "package")
    assert asked == ([["git", "rev-parse", "HEAD"]] if without == "git" else [])


# -- the types ----------------------------------------------------------------------------------


def test_cells_in_words():
    run = small_run(Grid(("thought", "0", "1"), "position", ("0", "1", "2")))
    frozen = replace(run, latents="frozen")
    assert run.label((0, 1)) == "thought 1"
    assert run.label((1, 0)) == "layer 0, position 0"
    assert frozen.label((2, 0)) == "layer 1, position 0"
    assert run.label((2, 0)) == "layer 1, position 0 (makes thought 1)"
    assert run.label((2, 2)) == "layer 1, position 2"
    assert [run.layer_label(row) for row in range(3)] == [
        "the thoughts themselves",
        "layer 0",
        "layer 1 (makes the next thoughts)",
    ]
    whole = replace(run, grid=Grid(("thought", "0"), "position", ("all",)))
    assert whole.label((0, 0)) == "all thoughts"
    assert whole.label((1, 0)) == "layer 0 (makes the next thoughts)"
    chain = replace(run, grid=Grid(("0",), "iteration", ("0", "1")))
    assert chain.label((0, 0)) == "layer 0, iteration 0 (makes thought 1)"


def test_arms_and_roles():
    assert (RUN.arm, replace(RUN, strategy="relay").arm) == ("position", "relay")
    assert RUN.clean_is_source
    assert not replace(RUN, direction="noising").clean_is_source
    assert RunDescription.from_json(json.loads(json.dumps(RUN.to_json()))) == RUN


def test_what_makes_a_run_another_one():
    config = {"data": {"batch_size": 8, "pairs": None}, "model": {"init_args": {"max_rows": 9}}}
    run = replace(RUN, config=config)
    smaller = {"data": {"batch_size": 2, "pairs": None}, "model": {"init_args": {"max_rows": 1}}}
    code = Code("s", "9", "c", True)
    same = replace(run, num_pairs=9, excluded={"x": "y"}, config=smaller, code=code, mean_runs=5)
    assert run_sha256(same) == run_sha256(run)
    assert folder_name(same) == folder_name(run)
    assert differences(run, same, resuming=True) == []
    other = replace(run, seed=2, config={**config, "data": {"pairs": "x"}}, code=Code("t", "1"))
    assert run_sha256(other) != run_sha256(run)
    assert differences(run, other, resuming=True) == ["code.sha256", "config.data.pairs", "seed"]
    assert differences(run, other, resuming=False) == ["config.data.pairs", "seed"]
    assert folder_name(replace(run, code=Code("t", "1"))) == folder_name(run)
    assert folder_name(other) != folder_name(run)
    fewer = {"data": {**config["data"], "max_pairs": 3}, "model": config["model"]}
    for changed, key in (
        ({"filtered": ("x",)}, "filtered"),
        ({"config": fewer}, "config.data.max_pairs"),
    ):
        another = replace(run, **changed)
        assert differences(run, another, resuming=False) == [key]
        assert folder_name(another) != folder_name(run)


# -- kept while a run is under way --------------------------------------------------------------


def test_records_are_read_as_they_were_kept(tmp_path):
    store = Store(tmp_path)
    assert store.begun() is None
    assert not store.any()
    store.begin(RUN)
    assert Store(tmp_path).begun() == RUN
    full = replace(
        RECORDS[0].description,
        changed_path=(1, 3),
        fields={"topic": "pears"},
        verified=(VerifiedRun("own", {"recovery": None}, "0", "1"),),
    )
    trace = [{"layer": "0", "norm": 0.5}]
    first = replace(RECORDS[0], description=full, activations=torch.ones(2, 3).bfloat16())
    first.trace = trace
    store.keep(8, [first, ExcludedPair("b", "too long")])
    store.keep(16, [ExcludedPair("c", "too long")])
    found, second = Store(tmp_path).read(8)
    assert second == ExcludedPair("b", "too long")
    assert (found.pair_id, found.description, found.trace) == ("a", full, trace)
    for ours, theirs in ((found.values, first.values), (found.control, first.control)):
        assert ours.keys() == theirs.keys()
        for metric, value in theirs.items():
            assert ours[metric].tobytes() == value.tobytes()
    torch.testing.assert_close(found.activations, first.activations, rtol=0, atol=0)
    assert store.read(0) is None
    assert [record.pair_id for record in store] == ["a"]
    assert [place for place, _ in store.placed()] == [8, 9, 16]
    assert store.check() == {8: "a", 9: "b", 16: "c"}
    store.remove()
    assert not store.folder.exists()


def test_a_store_keeps_the_lens_too(tmp_path):
    store = Store(tmp_path)
    store.begin(lens_run())
    (record,) = lens_records(pairs=1)
    store.keep(0, [record])
    (found,) = store.read(0)
    assert found.description == record.description
    np.testing.assert_array_equal(found.values["rank"], record.values["rank"])


def test_incomplete_records_are_not_written(tmp_path):
    store = Store(tmp_path)
    store.begin(replace(RUN, num_pairs=3))
    store.keep(0, RECORDS)
    with pytest.raises(ResultsError, match=r"records of all pairs in .*, 1 are not there"):
        store.complete()


def test_batches_of_another_size_are_joined_by_place(tmp_path):
    """After running out of memory a smaller batch size; each pair comes once."""
    run = run_of()
    records = records_of(run, pairs=7)
    store = Store(tmp_path)
    store.begin(replace(run, num_pairs=7))
    store.keep(0, records[:4])
    store.keep(3, records[3:6])
    store.keep(4, records[4:6])
    store.keep(6, records[6:])
    assert [r.pair_id for r in store] == [f"pair_{index:02d}" for index in range(7)]
    assert store.complete().num_pairs == 7


def kept_batch(folder, run=RUN):
    store = Store(folder)
    store.begin(run)
    store.keep(0, RECORDS)
    return folder / "partial" / "000000.safetensors"


def test_every_flipped_bit_of_a_batch_is_seen(tmp_path):
    """Each byte of the numbers, and as many of the header, spread over it."""
    path = kept_batch(tmp_path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    numbers = range(header, len(whole))
    assert len(numbers) == 2 * 3 * 4 * 8  # three grids of four cells for each of two metrics
    store = Store(tmp_path)
    for place in [*range(0, header, header // 200), *numbers]:
        content = bytearray(whole)
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = store.read(0)
        if found is None:
            assert "000000.safetensors is damaged and its pairs are run again" in str(told[0])
        else:  # what says nothing, such as blanks in the header
            assert place < header
            assert [vars(r)["values"]["recovery"].tobytes() for r in found] == [
                r.values["recovery"].tobytes() for r in RECORDS
            ]
            assert [r.description for r in found] == [r.description for r in RECORDS]


def test_a_batch_of_another_run_is_damaged(tmp_path):
    """Frozen in a recomputed run's folder, another control, another seed: all are other runs."""
    foreign = [
        kept_batch(tmp_path / name, replace(RUN, **changes))
        for name, changes in (
            ("frozen", {"latents": "frozen"}),
            ("control", {"control": "random_pair"}),
            ("seed", {"seed": 2}),
        )
    ]
    kept_batch(tmp_path / "own")
    store = Store(tmp_path / "own")
    assert store.check() == {0: "a", 1: 'b "ü"'}
    for path in foreign:
        shutil.copy(path, tmp_path / "own" / "partial")
        with pytest.warns(UserWarning, match=r"damaged .* it belongs to another run"):
            assert store.read(0) is None
    with pytest.warns(UserWarning, match="000000.safetensors is damaged"):
        assert store.check() == {}
    assert not store.any()


def test_a_batch_in_the_place_of_another_is_damaged(tmp_path):
    path = kept_batch(tmp_path)
    path.rename(path.with_name("000008.safetensors"))
    with pytest.warns(UserWarning, match=r"000008.safetensors is damaged .* not what was written"):
        assert Store(tmp_path).read(8) is None


@pytest.mark.parametrize("edit", [lambda values: values + 0.5, lambda values: values.reshape(1, 4)])
def test_a_batch_that_was_edited_is_damaged(tmp_path, edit):
    path = kept_batch(tmp_path)
    with safe_open(path, "pt") as file:
        described = file.metadata()
    tensors = load_file(path)
    tensors["0/own/recovery"] = edit(tensors["0/own/recovery"])
    save_file(tensors, path, described)
    with pytest.warns(UserWarning, match="not what was written"):
        assert Store(tmp_path).read(0) is None


def test_a_pipe_in_the_place_of_a_batch_does_not_hang(tmp_path):
    path = kept_batch(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert Store(tmp_path).read(0) is None
    assert Store(tmp_path).check() == {}
    assert not path.exists()


def test_a_changed_run_is_not_resumed(tmp_path):
    kept_batch(tmp_path)
    path = tmp_path / "partial" / "run.json"
    for old, new in (('"num_pairs": 2', '"num_pairs": 1'), ('"seed": 1', '"seed": 3'), ("{", "")):
        whole = path.read_text()
        assert old in whole
        path.write_text(whole.replace(old, new, 1))
        with pytest.raises(ResultsError, match=r"run.json is damaged: .* set overwrite true"):
            Store(tmp_path).begun()
        path.write_text(whole)


def test_brackets_without_end_in_the_place_of_a_run_are_damage(tmp_path):
    path = kept_batch(tmp_path).with_name("run.json")
    path.write_text("[" * 100_000)
    with pytest.raises(ResultsError, match=r"its run\.json is damaged"):
        Store(tmp_path).begun()


def test_results_without_sums_yet_are_resumed(tmp_path):
    """Killed between the results file and the sums, or while they are written again."""
    kept_batch(tmp_path)
    write_results(tmp_path / NAME, RUN, RECORDS)
    found = prepare_folder(Store(tmp_path), RUN, overwrite=False)
    assert found == (RUN, False, f"resuming the run that was begun in {tmp_path}")


def test_a_disk_without_room_is_refused_in_whole_megabytes(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(
        ResultsError, match=r"expected about 1 MB of free disk at .*, got 0: set dir"
    ):
        prepare_folder(Store(tmp_path), RUN, overwrite=False)


def test_room_is_that_of_all_values(tmp_path, monkeypatch):
    """64 bytes for each pair, cell, metric, and arm."""
    needed = RUN.num_pairs * RUN.grid.size * len(RUN.metrics) * 64
    alone, both = replace(RUN, control="none"), replace(RUN, control="sibling")
    for run, free in ((alone, needed), (both, 2 * needed)):
        room = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, room=room: room)
        prepare_folder(Store(tmp_path / run.control), run, overwrite=False)
        less = room._replace(free=free - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, less=less: less)
        with pytest.raises(ResultsError, match="MB of free disk"):
            prepare_folder(Store(tmp_path / f"{run.control}, less"), run, overwrite=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_written_as_safetensors_writes_them(tmp_path, dtype):
    tensors = {f"p{i}": torch.randn(2, 3, 5).to(dtype).transpose(0, 1) for i in range(3)}
    write_activations(tmp_path / "ours", list(tensors), iter(tensors.values()))
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "theirs")
    found = load_file(tmp_path / "ours")
    assert found.keys() == tensors.keys()
    for name, tensor in load_file(tmp_path / "theirs").items():
        assert torch.equal(found[name], tensor)


def test_activations_and_traces_stand_beside_the_results(tmp_path):
    folder = any_folder(tmp_path / "out", "iterative")
    assert {path.name for path in folder.iterdir()} == {
        *("iterative_patching_results.json", "activations.safetensors", "trace_pair_00.csv", SUMS),
    }
    assert load_file(folder / "activations.safetensors")["pair_02"].shape == (4, 2, 8)
    assert (folder / "trace_pair_00.csv").read_text() == "layer,norm\n0,1.5\n"
    chain = json.loads((folder / "iterative_patching_results.json").read_text())["results"]
    cells = [chain["pair_01"]["3"][iteration]["activation"] for iteration in "012"]
    assert cells == [
        {"tensor": "pair_01", "index": [3, 0]},
        {"tensor": "pair_01", "index": [3, 1]},
        None,
    ]


def test_a_pipe_in_the_place_of_results_does_not_hang(folder):
    path = folder / NAME
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ResultsError, match="expected one"):
        read_results(folder)


def test_a_pipe_in_the_place_of_kept_batches_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "partial")
    store = Store(tmp_path)
    store.remove()
    assert store.begun() is None
    with pytest.raises(ResultsError, match=r"expected .*partial to be a folder, .*: delete it"):
        store.begin(run_of())
