"""Results of each kind through their files, and what of a file is refused, field by field."""

import csv
import errno
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from lens_maker import lens_records, lens_run, write_lens
from results_maker import change, make, records_of, run_of, write
from safetensors import SafetensorError
from safetensors.torch import save_file

from codi_patching.results.dataset import attention_dataset, knockout_dataset, patching_dataset
from codi_patching.results.description import Grid, ResultsError, RunDescription, place_name
from codi_patching.results.files import (
    as_json,
    atomic_write,
    changed_files,
    file_name,
    make_folder,
    plain,
    remove_file,
    write_csv,
    write_json,
)
from codi_patching.results.folder import FolderLock, check_writable, prepare_folder
from codi_patching.results.head_shares import mean_by_head
from codi_patching.results.layout import (
    derived_files,
    has_results,
    measured_files,
    results_file,
)
from codi_patching.results.pair_descriptions import (
    AttentionPair,
    KnockoutPair,
    PairDescription,
    VerifiedLook,
    VerifiedRun,
)
from codi_patching.results.read import read_description, read_results
from codi_patching.results.records import ExcludedPair, PairRecord
from codi_patching.results.store import Store
from codi_patching.results.write import write_results, write_run

# -- attention ----------------------------------------------------------------------------------

READERS, ATTENDED = ("bot", "0", "1", "readout 0"), ("bot", "0", "1")
LOOKING = replace(
    run_of("attention"), grid=Grid(("0", "1"), "position", ("0", "1")), metrics=(),
    num_latents=2, readers=READERS, attended=ATTENDED, num_pairs=2,
)  # fmt: skip
SHAPE = (len(READERS), 2, len(ATTENDED))


def looked(heads=True):
    rng = np.random.default_rng(3)
    again = [("readout 0", "1", 2), ("0", "0", 1)]
    for place in range(2):
        verified = tuple(VerifiedLook(*look, *[(0.1, 0.2, 0.3)] * 3) for look in again[place:])
        pair = AttentionPair("?", (4, 1, 1), f"g{place}", 2 + place, verified)
        values = {name: rng.random(SHAPE) for name in ("attention", "strongest")}
        kept = torch.rand(len(READERS), 2, 3, len(ATTENDED)) if heads else None
        yield PairRecord(f"p{place}", pair, values, activations=kept)


def test_attention_is_read_as_it_was_made_to_seven_decimals(tmp_path):
    records = list(looked())
    data = read_results(write(tmp_path, LOOKING, records))
    assert list(data["description"].values) == [record.description for record in records]
    for name in ("attention", "strongest"):
        expected = np.stack([record.values[name] for record in records])
        np.testing.assert_allclose(data[name], expected, atol=5.1e-8)
    assert data["tokens"].values.tolist() == [[4, 1, 1]] * 2
    assert data["num_steps"].values.tolist() == [2, 3]
    assert data["group"].values.tolist() == ["g0", "g1"]
    first, second = data["heads"].values
    shares = [record.activations.numpy() for record in records]
    np.testing.assert_allclose(first, [shares[0][3, 1, 2], shares[0][1, 0, 1]])
    np.testing.assert_allclose(second, [shares[1][1, 0, 1]])
    assert data.attrs["folder"] == tmp_path


def test_single_heads_that_are_not_kept_are_unknown(tmp_path):
    data = read_results(write(tmp_path, LOOKING, list(looked(heads=False))))
    assert [own.shape for own in data["heads"].values] == [(2, 3), (1, 3)]
    assert all(np.isnan(own).all() for own in data["heads"].values)
    pairs = [record.description for record in looked()]
    values = {name: np.zeros((2, *SHAPE)) for name in ("attention", "strongest")}
    alone = attention_dataset(LOOKING, ["a", "b"], pairs, values)
    assert [own.shape for own in alone["heads"].values] == [(2, 3), (1, 3)]
    assert np.isnan(alone["heads"].values[0]).all()
    assert mean_by_head(alone, [np.array([True, True])]) is None


def test_means_by_head_are_of_the_last_reader_the_thoughts_and_the_pairs_of_each_mask(tmp_path):
    records = list(looked())
    data = read_results(write(tmp_path, LOOKING, records))
    masks = [np.array(mask) for mask in ([True, True], [False, True])]
    both, second = mean_by_head(data, masks)
    shares = np.stack([record.activations.numpy() for record in records])[:, -1][..., 1:]
    np.testing.assert_allclose(both, shares.mean(0), rtol=1e-6)
    np.testing.assert_allclose(second, shares[1], rtol=1e-6)
    assert both.shape == (2, 3, 2)
    assert mean_by_head(data, []) == []
    save_file({"p0": records[0].activations}, tmp_path / "activations.safetensors")
    assert mean_by_head(data, masks) is None


@pytest.mark.parametrize(
    "kept",
    [
        torch.ones(5, 2, 3, 3),
        torch.ones(4, 1, 3, 3),
        torch.ones(4, 2, 3, 1),
        torch.ones(4, 2, 3, 9),
        torch.ones(4, 2, 3, 3, 3),
        torch.ones(4, 2),
        torch.ones(4, 2, 3, 3, dtype=torch.bfloat16),
        torch.ones(4, 2, 3, 3).to(torch.float8_e4m3fn),
    ],
    ids=lambda kept: f"{[*kept.shape]} {kept.dtype}",
)
def test_heads_of_another_run_are_unknown(tmp_path, kept):
    write(tmp_path, LOOKING, list(looked()))
    save_file({"p0": kept, "p1": kept.clone()}, tmp_path / "activations.safetensors")
    data = read_results(tmp_path)
    assert all(np.isnan(own).all() for own in data["heads"].values)
    assert mean_by_head(data, [np.array([True, True])]) is None
    assert data.attrs["changed"] == ("activations.safetensors",)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("pairs", "p1", "strongest"), [[[0.1] * 3] * 2] * 3, "strongest of shape .* 'p1'"),
        (("pairs", "p0", "attention"), [[[0.1] * 2] * 2] * 4, "attention of shape .* 'p0'"),
        (("pairs", "p0", "attention"), [[[0.1] * 3] * 4] * 2, "attention of shape .* 'p0'"),
        (("pairs", "p1", "tokens"), [1, 2], "tokens of 3 groups of pair 'p1'"),
        (("pairs", "p0", "verified", 0, "mean"), [0.1], "shares of 3 groups of pair 'p0'"),
        (("pairs", "p0", "verified", 1, "reader"), "2", "a known reader and layer of pair 'p0'"),
        (("pairs", "p0", "verified", 1, "layer"), "7", "a known reader and layer of pair 'p0'"),
        (("pairs", "p1"), None, "expected 2 pairs as in its metadata, got 1"),
        (("metadata", "experiment"), "lens", "its metadata is of the experiment 'lens'"),
    ],
)
def test_attention_that_is_not_as_it_should_be_is_refused(tmp_path, keys, value, message):
    folder = write(tmp_path, LOOKING, list(looked(heads=False)))
    change(folder / "attention_results.json", *keys, value=value)
    with pytest.raises(ResultsError, match=f"not a complete results file: .*{message}"):
        read_results(folder)


# -- cut edges ----------------------------------------------------------------------------------

CUTTING = replace(
    run_of("knockout"), metrics=("clean_probability", "kl_divergence"), control="words",
    grid=Grid(("all", "0"), "edge", ("question->readout", "0->readout"), ((1, 1),)), num_pairs=2,
)  # fmt: skip


def cut(control=True):
    rng = np.random.default_rng(4)
    for place in range(2):
        drawn = {"0->readout": (2,)} if control and not place else {}
        pair = KnockoutPair(
            "?", "1", "2", {"clean_probability": 0.9 - place / 10}, 9, (1, 2), (1,), (2,), drawn,
            "", 2, 1 + place, (VerifiedRun("own", {"kl_divergence": 0.5}, "all", "0->readout"),),
        )  # fmt: skip
        own, other = ({m: rng.random((2, 2)) for m in CUTTING.metrics} for _ in range(2))
        for values in other.values():
            values[:, 0] = math.nan
        yield PairRecord(f"p{place}", pair, own, other if drawn else {})


def test_cut_edges_are_read_as_they_were_made_to_seven_digits(tmp_path):
    records = list(cut())
    data = read_results(write(tmp_path, CUTTING, records))
    assert list(data["description"].values) == [record.description for record in records]
    for metric in CUTTING.metrics:
        own = np.stack([record.values[metric] for record in records])
        np.testing.assert_allclose(data[metric].sel(arm="own"), own, rtol=5.1e-7)
        assert not np.array_equal(data[metric].sel(arm="own"), own)
        control = data[metric].sel(arm="control").values
        np.testing.assert_allclose(control[0], records[0].control[metric], rtol=5.1e-7)
        assert np.isnan(control[1]).all()
    assert data["control_kind"].values.tolist() == ["words", ""]
    assert data["changed_step"].values.tolist() == [1, 2]
    assert data["group"].values.tolist() == ["p0", "p1"]
    base = data["run_clean_probability"]
    assert base.sel(run="base").values.tolist() == [0.9, 0.8]
    assert np.isnan(base.sel(run="source")).all()
    assert data["structural_zero"].values.tolist() == [[False, False], [False, True]]


def test_cut_edges_without_any_control_have_one_arm(tmp_path):
    data = read_results(write(tmp_path, CUTTING, list(cut(control=False))))
    assert data["arm"].values.tolist() == ["own"]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("pairs", "p1", "cells", "own", "kl_divergence"), [[0.1, 0.2]], "kl_divergence of shape"),
        (("pairs", "p0", "cells", "control", "kl_divergence"), None, "kl_divergence"),
        (("pairs", "p1", "cells", "own"), None, "own"),
        (("metadata", "metrics"), [], "expected metrics in its metadata"),
        (("metadata", "num_pairs"), 3, "expected 3 pairs as in its metadata, got 2"),
        (("pairs", "p0", "answer"), None, "missing required field `answer`"),
    ],
)
def test_cut_edges_that_are_not_as_they_should_be_are_refused(tmp_path, keys, value, message):
    folder = write(tmp_path, CUTTING, list(cut()))
    change(folder / "knockout_results.json", *keys, value=value)
    with pytest.raises(ResultsError, match=f"not a complete results file: .*{message}"):
        read_results(folder)


# -- the lens -----------------------------------------------------------------------------------


def test_metadata_of_an_older_lens_gets_the_keys_of_a_run(tmp_path):
    folder = write_lens(tmp_path, pairs=2)
    path = folder / "lens_results.json"
    content = json.loads(path.read_text())
    new = content["metadata"]
    fixed = ("grid", "experiment", "strategy", "latents", "direction", "source", "control", "site",
             "metrics")  # fmt: skip
    older = {key: value for key, value in new.items() if key not in fixed}
    content["metadata"] = {**older, "num_layers": 4, "reads": "x", "hits": "y", "chance": "z"}
    path.write_text(json.dumps(content))
    run = read_results(folder).attrs["run"]
    assert run == read_description(folder)
    assert run.grid == Grid(tuple("0123"), "position", tuple("012"))
    assert (run.experiment, run.strategy, run.latents, run.site) == (
        "lens", None, "recomputed", "resid_post",
    )  # fmt: skip
    assert (run.direction, run.source, run.control) == ("denoising", "clean", "none")


def test_results_of_steps_that_differ_are_marked_and_unknown_ones_are_not(tmp_path):
    first, second = lens_records(pairs=2, steps=2)
    unknown = replace(second.description.steps[1], corrupted_result="")
    one = {"rank": second.values["rank"][1:], "whole_rank": second.values["whole_rank"][1:]}
    second = PairRecord(
        "pair_01", replace(second.description, steps=(unknown,), group=""), one,
        {"rank": second.control["rank"][1:]},
    )  # fmt: skip
    data = read_results(write(tmp_path, lens_run(), [first, second]))
    np.testing.assert_array_equal(data["differs"], [[0, 1], [np.nan, np.nan]])
    assert data["step"].values.tolist() == [1, 2]
    assert np.isfinite(data["rank"][1, 0]).all()
    assert np.isnan(data["rank"][1, 1]).all()
    assert np.isnan(data["whole_rank"][1, 1]).all()
    assert data["group"].values.tolist() == ["pair_00", "pair_01"]


RANKS = [[9, 9, 9]] * 4


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("pairs", "pair_00", "steps", 0, "ranks"), [[1, 2, 3]], "ranks of shape .* 'pair_00'"),
        (("pairs", "pair_01", "steps", 1, "chance_ranks"), [[1]], "ranks of shape .* 'pair_01'"),
        (("pairs", "pair_01"), None, "expected 2 pairs as in its metadata, got 1"),
        (("pairs", "pair_01", "steps"), [{"ranks": RANKS, "chance_ranks": [], "whole": [9]}],
         "a whole rank for each column of pair 'pair_01'"),
    ],
)  # fmt: skip
def test_a_lens_that_is_not_as_it_should_be_is_refused(tmp_path, keys, value, message):
    folder = write_lens(tmp_path, pairs=2)
    change(folder / "lens_results.json", *keys, value=value)
    with pytest.raises(ResultsError, match=f"not a complete results file: .*{message}"):
        read_results(folder)


# -- patching -----------------------------------------------------------------------------------


@pytest.fixture
def patched(tmp_path):
    run = run_of(layers=2, columns=2)
    return write(tmp_path, run, records_of(run, pairs=2)) / "position_patching_results.json"


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("results", "pair_01"), None, "expected results of each baseline, got none for 'pair_01'"),
        (("metadata", "num_pairs"), 3, "expected 3 pairs as in its metadata, got 2"),
        (("results", "pair_00", "0", "0", "recovery"), True, "pair pair_00: expected numbers"),
        (("metadata", "experiment"), "layer", "its metadata is of the experiment 'layer'"),
        (("results",), {}, "expected at least one pair"),
        (("metadata", "direction"), "noise", "direction to be one of .*noising, got 'noise'"),
        (("metadata", "latents"), "kept", "latents to be one of .*recomputed, got 'kept'"),
        (("metadata", "source"), "Clean", "source to be one of clean, .*, got 'Clean'"),
        (("metadata", "control"), "no", "control to be one of sibling, .*, got 'no'"),
        (
            ("metadata", "grid", "layers"),
            ["0", "0"],
            "layers and columns once each, got .*'0', '0'",
        ),
        (("metadata", "grid", "columns"), ["1", "1"], "layers and columns once each, got .*'1'"),
    ],
)
def test_patching_that_is_not_as_it_should_be_is_refused(patched, keys, value, message):
    change(patched, *keys, value=value)
    with pytest.raises(ResultsError, match=f"not a complete results file: .*{message}"):
        read_results(patched.parent)


def test_a_run_is_described_without_its_pairs_being_read(patched):
    run = read_description(patched.parent)
    assert (run.experiment, run.num_pairs, run.grid.shape) == ("position", 2, (2, 2))
    text = patched.read_text()
    patched.write_text(text[: text.index('"baseline"')] + "no more")
    assert read_description(patched.parent) == run
    for broken, message in (("{}", "it has no metadata"), ("", "not a complete results file"),
                            ('{"metadata": {"seed": 1}}', "missing required field")):  # fmt: skip
        patched.write_text(broken)
        with pytest.raises(ResultsError, match=message):
            read_description(patched.parent)


def test_metadata_that_are_a_text_are_refused(tmp_path):
    for name in ("lens", "position_patching"):
        path = tmp_path / name / f"{name}_results.json"
        path.parent.mkdir()
        path.write_text('{"metadata": "grids"}')
        for read in (read_description, read_results):
            with pytest.raises(ResultsError, match="not a complete results file"):
                read(path.parent)


def test_a_run_that_gave_nothing_is_refused_by_the_first_reason_and_older_files_go(tmp_path):
    run = run_of(layers=2, columns=2)
    store = Store(tmp_path)
    store.begin(replace(run, num_pairs=2))
    store.keep(0, [ExcludedPair("a", "it is long"), ExcludedPair("b", "it is odd")])
    (tmp_path / "trace_old.csv").touch()
    (tmp_path / "aggregate.json").touch()
    with pytest.raises(ResultsError, match="no pair could be run; a was left out because it is lo"):
        write_run(tmp_path, store)
    assert (tmp_path / "aggregate.json").exists()
    (tmp_path / "mine.txt").touch()
    write(tmp_path, run, records_of(run, pairs=1))
    assert {path.name for path in tmp_path.iterdir()} == {
        "position_patching_results.json", "SHA256SUMS", "mine.txt",
    }  # fmt: skip


def test_a_pair_without_what_was_left_out_has_no_such_key():
    (record,) = records_of(run_of(), pairs=1)
    known = record.description
    assert "left_out" not in known.to_json()
    odd = replace(known, left_out={"number": "unequal"}, ceiling_control={})
    told = odd.to_json()
    assert told["left_out"] == {"number": "unequal"}
    assert told["ceiling"]["control"] is None
    assert PairDescription.from_json(json.loads(json.dumps(told))) == odd
    assert PairDescription.from_json(json.loads(json.dumps(known.to_json()))) == known
    with pytest.raises(ValueError, match="expected no key odd in baseline"):
        PairDescription.from_json({**told, "odd": 1})
    with pytest.raises(ValueError, match="expected no key odd in pair"):
        KnockoutPair.from_json({**asdict(next(cut()).description), "odd": 1})


def test_a_chain_keeps_where_each_activation_is_even_without_any(tmp_path):
    run = run_of("iterative", layers=2, columns=2, control="none")
    write_results(tmp_path / "x.json", run, records_of(run, pairs=1))
    cells = json.loads((tmp_path / "x.json").read_text())["results"]["pair_00"]
    assert cells["1"]["0"]["activation"] == {"tensor": "pair_00", "index": [1, 0]}
    assert cells["1"]["1"]["activation"] is None
    assert "control" not in cells["0"]["0"]
    other = run_of(layers=2, columns=2)
    write_results(tmp_path / "y.json", other, records_of(other, pairs=1))
    assert "activation" not in (tmp_path / "y.json").read_text()


def test_cells_of_a_single_position_stand_under_its_name(tmp_path):
    run = run_of(layers=2, columns=1)
    path = write(tmp_path, run, records_of(run, pairs=1)) / "position_patching_results.json"
    cells = json.loads(path.read_text())["results"]["pair_00"]
    assert [list(cells[layer]) for layer in ("0", "1")] == [["0"], ["0"]]
    assert read_results(tmp_path)["column"].values.tolist() == ["0"]


def test_datasets_name_groups_controls_and_unknown_numbers():
    records = records_of(run_of(), pairs=2, strata=((2, 1), (None, None)))
    pairs = [replace(records[0].description, group=""), replace(
        records[1].description, control=None, self_patch=None,
    )]  # fmt: skip
    values = {m: np.stack([r.values[m] for r in records]) for m in run_of().metrics}
    data = patching_dataset(run_of(), ["a", "b"], pairs, values, {})
    assert data["group"].values.tolist() == ["a", "pair_01"]
    assert data["control_kind"].values.tolist() == ["random_pair", ""]
    assert data["arm"].values.tolist() == ["own"]
    np.testing.assert_array_equal(data["num_steps"], [2, np.nan])
    np.testing.assert_array_equal(data["changed_step"], [1, np.nan])
    np.testing.assert_array_equal(data["self_patch"], [1e-13, np.nan])
    assert data.attrs["changed"] == ()
    own = {m: np.zeros((1, 2, 2)) for m in CUTTING.metrics}
    edges = knockout_dataset(CUTTING, ["a"], [next(cut()).description], own, own, changed=["x"])
    assert edges.attrs["changed"] == ("x",)


# -- names of cells -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "cell", "name"),
    [
        (Grid(("all", "0-2"), "edge", ("0->1",)), (0, 0), "z0 → z1, all layers"),
        (Grid(("all", "0-2"), "edge", ("question->readout",)), (1, 0),
         "question → readout, layers 0 to 2"),
        (Grid(("0", "1"), "position", ("number", "0")), (0, 0), "layer 0, the changed number"),
        (Grid(("0", "1"), "position", ("bot", "0")), (1, 0), "layer 1, bot (makes thought 0)"),
        (Grid(("0", "1"), "position", ("bot", "eot")), (1, 0), "layer 1, bot"),
        (Grid(("0", "1"), "position", ("0", "eot")), (1, 1), "layer 1, eot"),
        (Grid(("0", "1"), "head", ("0", "5")), (0, 1), "layer 0, head 5"),
        (Grid(("0", "1"), "position", ("all",)), (0, 0), "layer 0"),
        (Grid(("all",), "position", ("all",)), (0, 0), "all layers"),
    ],
)  # fmt: skip
def test_names_of_cells(grid, cell, name):
    assert grid.label(cell, makes_thoughts=cell[0] == len(grid.layers) - 1) == name


@pytest.mark.parametrize("cell", [(-1, 0), (2, 0), (0, -1), (0, 3)])
def test_structural_zeros_are_inside_the_grid(cell):
    with pytest.raises(ValueError, match="expected structural zeros inside"):
        Grid(("0", "1"), "position", ("0", "1", "2"), (cell,))
    inside = Grid(("0", "1"), "position", ("0", "1", "2"), ((1, 2), (0, 0)))
    assert inside.structural.tolist() == [[True, False, False], [False, False, True]]
    assert inside.size == 6


@pytest.mark.parametrize(
    ("changed", "made"),
    [
        ({}, True), ({"latents": "frozen"}, False), ({"site": "kv"}, False),
        ({"checkpoint": {"feeds_back": False}}, False), ({"checkpoint": {}}, True),
    ],
)  # fmt: skip
def test_what_makes_the_next_thoughts_is_the_last_layers_output_made_anew(changed, made):
    run = replace(run_of(thought=True), **changed)
    assert [run.makes_thoughts(row) for row in range(5)] == [False] * 4 + [made]
    alone = replace(run, grid=Grid(("thought",), "position", ("0", "1")))
    assert not alone.makes_thoughts(0)


def test_what_stands_in_a_description_only_where_it_is_unusual():
    assert "positions" not in run_of().to_json()
    run = run_of(positions="all")
    assert run.to_json()["positions"] == "all"
    assert RunDescription.from_json(json.loads(json.dumps(run.to_json()))) == run
    assert [run_of(positions=p).places for p in ("thoughts", "all", "2", "number")] == [
        "", "all positions", "position 2", "the changed number",
    ]  # fmt: skip
    assert place_name("readout 2") == "readout token 2"
    assert run_of(checkpoint={"pooled": ["a", "b"]}).pooled == ("a", "b")
    assert make(run_of(), pairs=1).attrs["run"].pooled == ()


# -- whose a folder is --------------------------------------------------------------------------


def test_a_folder_is_told_by_what_it_holds(tmp_path):
    run = run_of(layers=2, columns=2)
    folder = write(tmp_path / "out", run, records_of(run, pairs=1))
    store = Store(folder)
    found, finished, said = prepare_folder(store, replace(run, num_pairs=1), overwrite=False)
    assert (found.num_pairs, finished) == (1, True)
    assert said == f"{folder} holds this run's results already: nothing is run again"
    newer = replace(run, code=replace(run.code, sha256="new", version="9"))
    said = prepare_folder(store, newer, overwrite=False)[2]
    assert said.endswith("(they were measured by version 0.2.0 of other code)")
    for changed, told in (({"sha256": "new"}, True), ({"version": "9"}, False)):
        newer = replace(run, code=replace(run.code, **changed))
        assert ("of other code" in prepare_folder(store, newer, overwrite=False)[2]) == told
    with pytest.raises(ResultsError, match="results of another run, with another seed: set"):
        prepare_folder(store, replace(run, seed=7), overwrite=False)
    assert not store.any()
    assert prepare_folder(store, replace(run, seed=7), overwrite=True)[1:] == (False, "")
    assert store.begun().seed == 7
    with pytest.raises(ResultsError, match="results of another run, with another seed: set"):
        prepare_folder(store, run, overwrite=False)
    lens = replace(run, experiment="lens")
    with pytest.raises(ResultsError, match=r"position_patching_results\.json, of another kind"):
        prepare_folder(store, lens, overwrite=True)


def test_files_that_a_run_would_replace_are_named_five_at_most(tmp_path):
    run, store = run_of(layers=2, columns=2), Store(tmp_path)
    names = sorted(f"trace_{n}.csv" for n in range(6))
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ResultsError, match=f"has {', '.join(names[:5])}, which this run would"):
        prepare_folder(store, run, overwrite=False)
    assert prepare_folder(store, run, overwrite=True) == (run, False, "")


def test_trying_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b", "[[x]]")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    check_writable(tmp_path / "a" / "b", "[[x]]")
    check_writable(tmp_path / "a", "[[x]]")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match=r"file/in cannot be written \(.*\): set x"):
        check_writable(tmp_path / "file" / "in", "[[x]]")


def test_a_folder_that_was_locked_and_not_written_to_goes(tmp_path):
    with FolderLock(tmp_path / "one"):
        assert (tmp_path / "one" / ".owner").exists()
    with FolderLock(tmp_path / "two"):
        (tmp_path / "two" / "mine").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    assert {path.name for path in (tmp_path / "two").iterdir()} == {".lock", "mine"}
    never = FolderLock(tmp_path / "two")
    never.release()
    assert (tmp_path / "two" / "mine").exists()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ((), "out does not exist: name a folder"),
        (("",), "out is no folder: name a folder"),
        (("partial/",), "holds a run that is not finished: run its command again"),
        (("x_patching_results.json", "partial/", "lens_results.json"), "got 2: name a folder that"),
        (("other.json",), r"expected one \*_patching_results.json in .*, got 0"),
    ],
)
def test_what_is_no_folder_of_results_is_said_to_be_what_it_is(tmp_path, made, message):
    for name in made:
        path = tmp_path / "out" / name if name else tmp_path / "out"
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    with pytest.raises(ResultsError, match=message):
        results_file(tmp_path / "out")


def test_which_files_were_measured_and_which_are_derived(tmp_path):
    measured = ["activations.safetensors", "mine_patching_results.json", "trace_p1.csv"]
    derived = ["aggregate.json", "content.svg", "pairs/sheet_01.pdf", "report.html",
               "results.csv", "tables/x.tex"]  # fmt: skip
    for name in (*measured, *derived, "notes.csv", "pairs/mine.png", "tables/x.txt", "SHA256SUMS"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in measured_files(tmp_path)] == measured
    assert [str(path.relative_to(tmp_path)) for path in derived_files(tmp_path)] == derived
    assert has_results(tmp_path)


# -- single files -------------------------------------------------------------------------------


def test_formulas_of_a_spreadsheet_are_text_and_signed_numbers_stay(tmp_path):
    given = ["=1+1", "+x", "-x", "@a", "\ta", "-1.5e-3", "+2", "a=b", "", None, math.nan, 0.1, 3,
             math.inf, -1.5, "+1;x"]  # fmt: skip
    write_csv(tmp_path / "x.csv", [{"a": value} for value in given], ["a"])
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = [row[0] if row else "" for row in csv.reader(file)]
    assert rows == ["a", "'=1+1", "'+x", "'-x", "'@a", "'\ta", "-1.5e-3", "+2", "a=b", "", "", "",
                    "0.1", "3", "inf", "-1.5", "'+1;x"]  # fmt: skip


def test_plain_values_have_no_numpy_and_nothing_that_is_no_number():
    given = {1: np.float32(0.5), "a": np.array([[1, 2]]), "b": (np.int64(3), math.inf, math.nan),
             "c": [True, None, "x"], "d": np.array([np.nan, 1.0])}  # fmt: skip
    assert plain(given) == {
        "1": 0.5, "a": [[1, 2]], "b": [3, None, None], "c": [True, None, "x"], "d": [None, 1.0],
    }  # fmt: skip
    assert as_json({"ü": np.nan}) == '{"ü": null}'


def test_names_of_files_are_short_and_of_letters():
    assert file_name("a/b c.ü-_9") == "a_b_c__-_9"
    assert len(file_name("x" * 99)) == 60


def test_folders_that_are_files_and_files_that_are_folders_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="file to be a folder, got a link or a file: delete it"):
        make_folder(tmp_path / "file")
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    with pytest.raises(ResultsError, match=r"a cannot be replaced \(it is a folder\): delete it"):
        remove_file(tmp_path / "a")
    remove_file(tmp_path / "file")
    remove_file(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_cannot_be_written_says_what_to_do(tmp_path):
    with pytest.raises(ResultsError, match=r"cannot be written \(No such file.*\); .* see to that"):
        write_json(tmp_path / "none" / "x.json", {})

    def full():
        with atomic_write(tmp_path / "x"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResultsError, match=r"No space left on device\); .*: make room, and run"):
        full()
    with (
        pytest.raises(ResultsError, match=r"cannot be written \(I/O error.*\); .*: see to that"),
        atomic_write(tmp_path / "x"),
    ):
        raise SafetensorError("I/O error: no space left")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_results_and_sums_has_not_changed(tmp_path):
    assert changed_files(tmp_path) == []
    (tmp_path / "trace_a.csv").touch()
    assert changed_files(tmp_path) == ["SHA256SUMS"]
