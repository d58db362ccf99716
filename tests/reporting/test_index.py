"""The index over a folder of runs: what it says is what the reports in it say, as text."""

import base64
import json
import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from lens_maker import write_lens
from PIL import Image
from results_maker import records_of, run_of, write

from codi_patching import cli
from codi_patching.analysis.checks import Check
from codi_patching.errors import InputError
from codi_patching.reporting.index_entries import (
    Entry,
    SavedClaim,
    SavedFinding,
    SavedFindings,
    find_entries,
)
from codi_patching.reporting.index_page import (
    Index,
    claims_text,
    index_text,
    thumbnail,
    write_index,
)

SHIPPED = Path(__file__).parents[2] / "docs" / "results" / "codi-tiny"
BAD = "<script>x</script>\"'](http://e)\x1b[31m\u202e"


def measured(folder, run=None):
    run = run or run_of(layers=2, columns=2)
    return write(folder, run, records_of(run, pairs=2, verified=0))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two runs with reports, their comparison, a run without report, and what is no run."""
    root = tmp_path_factory.mktemp("runs")
    for name, shipped in {"layer": "layer_frozen", "position": "position_frozen"}.items():
        shutil.copytree(SHIPPED / shipped, root / "a" / name)
    shutil.copytree(SHIPPED / "comparison", root / "a" / "together")
    (root / "a" / "layer" / "report.html").touch()
    measured(root / "b", run_of(layers=2, columns=2, model="/m/other", checkpoint_sha256="0" * 64))
    (root / "empty").mkdir()
    (root / "unfinished" / "partial").mkdir(parents=True)
    (root / "a" / "layer" / "content.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture")
    write_index(root)
    return root


def claims_of(root):
    return json.loads((root / "index.json").read_text(encoding="utf-8"))


def test_every_claim_of_every_report_is_in_the_file(root):
    entries = {entry["folder"]: entry for entry in claims_of(root)["entries"]}
    assert list(entries) == ["a/layer", "a/position", "a/together", "b"]
    for folder, name in {
        "a/layer": "findings", "a/position": "findings", "a/together": "comparison",
    }.items():  # fmt: skip
        report = json.loads((root / folder / f"{name}.json").read_text())
        said = [
            (finding["key"], claim["name"], claim["verdict"], claim["p"])
            for finding in report["findings"]
            for claim in finding["claims"]
            if claim["verdict"] != "described"
        ]
        own = entries[folder]
        assert own["answer"] == report["answer"]
        assert own["answer"]
        found = [(c["question"], c["name"], c["verdict"]) for c in own["claims"]]
        assert found == [claim[:3] for claim in said]
        assert found
        for claim, (*_, p) in zip(own["claims"], said):
            assert claim["p"] is None if p is None else claim["p"] == pytest.approx(p, rel=1e-3)
    assert entries["b"]["answer"] == entries["b"]["claims"] == []


def test_the_page_says_what_the_reports_say_and_opens_alone(root):
    page = (root / "index.html").read_text(encoding="utf-8")
    for entry in claims_of(root)["entries"]:
        assert all(sentence in page for sentence in entry["answer"])
        assert (f">{entry['checks']}.<" in page) == bool(entry["answer"])
    assert "3 runs, 1 comparison" in page
    assert page.count("No report yet") == 1
    assert page.count("<h2>") == 3  # codi-tiny, the other model, what is left out
    assert "<li>unfinished: not finished" in page
    assert "<script" not in page
    assert "://" not in page
    assert re.findall(r'<img src="(.{22})', page) == 2 * ["data:image/png;base64,"]


def test_links_lead_to_what_is_there(root):
    page = (root / "index.html").read_text(encoding="utf-8")
    links = [link for link in re.findall(r'href="([^"]+)"', page) if link != "data:,"]
    assert "a/layer/report.html" in links
    assert "a/position/report.html" not in links
    assert all((root / link).exists() for link in links)


def test_the_same_folder_gives_the_same_bytes(root):
    files = [root / "index.html", root / "index.json"]
    before = [path.read_bytes() for path in files]
    write_index(root)
    assert [path.read_bytes() for path in files] == before


def test_a_picture_that_is_none_is_left_out(tmp_path, root):
    assert thumbnail(root / "a" / "layer") == thumbnail(tmp_path) == ""


def test_the_first_figure_that_is_there_is_shown_small(tmp_path):
    for name, grey in {"carried": 0, "by_layer": 255}.items():
        Image.new("L", (900, 600), grey).save(tmp_path / f"{name}.png")
    kind, _, content = thumbnail(tmp_path).partition(";base64,")
    shown = Image.open(BytesIO(base64.b64decode(content)))
    assert kind == f"data:image/{shown.format.lower()}"
    assert shown.width < 900
    assert shown.width / shown.height == pytest.approx(1.5, rel=0.02)
    assert np.asarray(shown.convert("L")).max() < 30  # the dark one comes first


def test_text_that_is_not_ours_stays_text(tmp_path):
    name = BAD.replace("/", "_")
    folder = tmp_path / "it's <b>&"
    run = run_of(layers=2, columns=2, model=f"/m/{name}", data=f"/d/{name}.json", precision=BAD)
    measured(folder, run)
    (folder / "findings.json").write_text(
        json.dumps({"answer": [BAD], "findings": []}), encoding="utf-8"
    )
    check = {"name": BAD, "expected": BAD, "seen": BAD, "status": "fail", "kind": "measured"}
    (folder / "validity.json").write_text(json.dumps({"checks": [check]}), encoding="utf-8")
    assert write_index(tmp_path).failed
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>&amp;" not in page
    assert 'href="it%27s%20%3Cb%3E%26/position_patching_results.json"' in page
    assert "&lt;script&gt;x" in page
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)
    assert claims_of(tmp_path)["entries"][0]["answer"] == [BAD]


@pytest.mark.parametrize("content", ["{", "[]", '{"answer": [1], "findings": []}', "[" * 2000])
def test_a_report_that_is_none_leaves_its_folder_out_by_name(tmp_path, content):
    for name in ("good", "bad"):
        measured(tmp_path / name)
    (tmp_path / "bad" / "findings.json").write_text(content)
    index = write_index(tmp_path)
    assert [entry.folder for entry in index.entries] == ["good"]
    assert "findings.json is not as reports write it" in index.left_out["bad"]


def test_results_that_changed_since_fail_whatever_their_report_says(tmp_path, monkeypatch, capsys):
    folder = measured(tmp_path / "run")
    good = {"name": "unchanged files", "expected": "", "seen": "", "status": "pass", "kind": "file"}
    (folder / "validity.json").write_text(json.dumps({"checks": [good]}))
    monkeypatch.setattr("sys.argv", ["codi-patching", "index", str(tmp_path)])
    for status in (0, 3):
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == status
        path = folder / "position_patching_results.json"
        path.write_text(path.read_text() + " ")
    assert "checks fail in 1 of them" in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "seen position_patching_results.json changed" in page


def test_a_folder_without_results_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "unfinished" / "partial").mkdir(parents=True)
    with pytest.raises(InputError, match=r"expected results folders inside .*unfinished: not fini"):
        write_index(tmp_path)
    with pytest.raises(InputError, match=r"expected a folder of results folders, got .*/none"):
        write_index(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished"]


@pytest.mark.parametrize("name", ["index.html", "index.json"])
def test_a_file_of_another_kind_is_not_overwritten(tmp_path, name):
    measured(tmp_path / "run")
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"expected no file of another kind at .*{name}"):
        write_index(tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "run"]


# -- what an entry is ---------------------------------------------------------------------------


def entry_of(folder="a", **changed):
    known = {"title": folder, "facts": {}, "weights": "w" * 64, "pairs": "p" * 64, "model": "m"}
    return Entry(folder, **{**known, "data": "d", **changed})


FAILS, HOLDS = Check("one", "0", "1", "fail"), Check("two", "0", "0", "pass")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry_of()], "1 run"),
        ([entry_of("a"), entry_of("b")], "2 runs"),
        ([entry_of(model="")], "1 comparison"),
        ([entry_of(checks=(HOLDS,)), entry_of(model="", checks=(FAILS, HOLDS, FAILS))],
         "1 run, 1 comparison, checks fail in 1 of them"),
    ],
)  # fmt: skip
def test_a_line_says_what_there_is(entries, said):
    index = Index(entries, {})
    assert index.summary == said
    assert index.failed == ("fail" in said)
    for entry, told in zip(entries, json.loads(claims_text(index))["entries"], strict=True):
        assert told["failing"] == [vars(FAILS)] * entry.checks.count(FAILS)


def test_entries_of_the_same_weights_and_pairs_stand_together_comparisons_first(tmp_path):
    entries = [
        entry_of("a"), entry_of("b", weights="v" * 64), entry_of("c", pairs="q" * 64),
        entry_of("d", model="other"), entry_of("e", model=""), entry_of("f", weights="", model=""),
    ]  # fmt: skip
    page = index_text(Index(entries, {}), tmp_path)
    titles = re.findall("<h[23]>(.*?)</h[23]>", page)
    assert titles == [
        "m on d", "e", "a", "d", "Several models or files of pairs", "f", "m on d", "b", "m on d",
        "c",
    ]  # fmt: skip
    assert f"weights {'w' * 12} · pairs {'p' * 12}</p>" in page
    assert f'<p class="soft">pairs {"p" * 12}</p>' in page


def test_claims_that_were_only_described_are_left_out_and_numbers_have_four_digits():
    found = [
        SavedClaim(name, verdict, [{"mean": 0.123456, "n": 24}], 0.00012345, None, "nats")
        for name, verdict in (("x", "rises"), ("y", "described"), ("z", "at most"))
    ]
    said = SavedFindings(["Yes."], [SavedFinding("cells", "yes", ["position"], found)])
    claims = entry_of(said=said).claims
    assert [claim["name"] for claim in claims] == ["x", "z"]
    assert claims[0] == {
        "question": "cells", "runs": ["position"], "name": "x", "verdict": "rises",
        "comparisons": [{"mean": 0.1235, "n": 24}], "p": 0.0001234, "bound": None, "unit": "nats",
    }  # fmt: skip
    assert entry_of().claims == []


def test_facts_of_runs_and_comparisons(root, tmp_path):
    entries = {entry["folder"]: entry for entry in claims_of(root)["entries"]}
    run = entries["b"]
    assert run["pairs"] == 2
    assert run["settings"] == ["resid_post", "recomputed", "denoising", "clean", "control-sibling"]
    assert (run["seed"], run["precision"], run["version"]) == (42, "32-true", "0.2.0")
    assert (run["model"], run["data"]) == ("other", "word-problems")
    assert run["checkpoint_sha256"] == "0" * 64
    together = entries["a/together"]
    assert together["title"] == f"Comparison of {len(together['runs'])} runs"
    assert together["pairs"] == 57
    assert together["checkpoint_sha256"] == entries["a/layer"]["checkpoint_sha256"]
    assert together["data_sha256"] == entries["a/layer"]["data_sha256"]
    write_lens(tmp_path / "lens", pairs=2)
    (lens,), _ = find_entries(tmp_path)
    assert lens.facts["settings"] == ["resid_post"]
    assert lens.links == {"lens_results.json": "lens/lens_results.json"}
    assert [check.name for check in lens.checks] == ["unchanged files"]
    assert lens.failing == []


def test_facts_are_of_the_run_and_its_files_are_checked_once(tmp_path):
    run = run_of(layers=2, columns=2, seed=7, precision="64-true")
    records = records_of(run, pairs=2, verified=0)
    folder = write(tmp_path / "deep" / "run", run, records, {"gone": "too long"})
    old = {"name": "unchanged files", "expected": "", "seen": "", "status": "pass", "kind": "file"}
    (folder / "validity.json").write_text(json.dumps({"checks": [vars(HOLDS), old]}))
    (tmp_path / "deep" / "begun" / "partial").mkdir(parents=True)
    (entry,), left_out = find_entries(tmp_path)
    assert [entry.facts[name] for name in ("pairs", "seed", "precision")] == [2, 7, "64-true"]
    assert [check.name for check in entry.checks] == ["two", "unchanged files"]
    assert list(left_out) == ["deep/begun"]


def test_a_run_that_may_not_be_read_leaves_its_folder_out_by_name(tmp_path, monkeypatch):
    measured(tmp_path / "run")

    def refused(folder):
        raise PermissionError(f"no access to {folder.name}")

    monkeypatch.setattr("codi_patching.reporting.index_entries.read_description", refused)
    assert find_entries(tmp_path) == ([], {"run": "no access to run"})


def compared(folder, *runs):
    folder.mkdir()
    content = {
        "answer": ["Yes."], "findings": [], "validity": {
            name: {"checks": [vars(check)]} for name, check in (("a", HOLDS), ("b", FAILS))
        },
        "runs": {
            name: {"checkpoint_sha256": weights, "data_sha256": pairs, "pairs": count}
            for name, weights, pairs, count in runs
        },
    }  # fmt: skip
    (folder / "comparison.json").write_text(json.dumps(content))
    (folder / "comparison.md").touch()


def test_a_comparison_of_several_models_is_of_no_weights(tmp_path):
    compared(tmp_path / "models", ("a", "1", "p", 5), ("b", "2", "p", 9), ("c", "1", "p", 7))
    compared(tmp_path / "pairs", ("a", "1", "p", 5), ("b", "1", "q", 9))
    (models, pairs), _ = find_entries(tmp_path)
    assert (models.weights, models.pairs, models.facts["pairs"]) == ("", "p", 9)
    assert (pairs.weights, pairs.pairs, pairs.facts["runs"]) == ("1", "", ["a", "b"])
    assert models.links == {
        "comparison.md": "models/comparison.md", "comparison.json": "models/comparison.json",
    }  # fmt: skip
    assert models.failing == [FAILS]
    assert models.model == models.data == ""


def test_hidden_folders_and_links_are_not_looked_into_and_the_place_itself_is(tmp_path):
    place = tmp_path / "place"
    measured(place)
    for name in ("z", ".hidden", "b/deep"):
        measured(place / name)
    measured(tmp_path / "elsewhere")
    (place / "linked").symlink_to(tmp_path / "elsewhere")
    (place / "begun" / "partial").mkdir(parents=True)
    (place / "z" / "partial").mkdir()
    found, left_out = find_entries(place)
    assert [entry.folder for entry in found] == [".", "b/deep", "z"]
    assert list(left_out) == ["begun"]
    assert found[0].links == {
        "position_patching_results.json": "position_patching_results.json",
    }  # fmt: skip


def test_a_link_in_the_place_of_the_page_is_refused_and_ours_is_replaced(tmp_path):
    measured(tmp_path / "run")
    write_index(tmp_path)
    before = (tmp_path / "index.html").read_bytes()
    assert b"codi-patching index" in before[:400]
    (tmp_path / "index.html").write_bytes(before + b"more")
    write_index(tmp_path)
    assert (tmp_path / "index.html").read_bytes() == before
    (tmp_path / "index.json").unlink()
    (tmp_path / "index.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"expected no file of another kind at .*index.json"):
        write_index(tmp_path)
    (tmp_path / "index.json").unlink()
    (tmp_path / "index.json").write_text(" " * 500 + "codi-patching index")
    with pytest.raises(InputError, match=r"expected no file of another kind at .*index.json"):
        write_index(tmp_path)


def test_the_figure_of_the_first_of_several_models_is_shown_too(tmp_path):
    Image.new("L", (90, 60), 255).save(tmp_path / "effects.png")
    Image.new("L", (90, 60), 0).save(tmp_path / "content_1.png")
    content = base64.b64decode(thumbnail(tmp_path).partition(",")[2])
    assert np.asarray(Image.open(BytesIO(content)).convert("L")).max() < 30
    Image.new("L", (90, 60), 200).save(tmp_path / "content.png")
    content = base64.b64decode(thumbnail(tmp_path).partition(",")[2])
    assert np.asarray(Image.open(BytesIO(content)).convert("L")).min() > 150
    Image.new("L", (9, 6)).save(tmp_path / "content.png", "GIF")  # a picture, and none of ours
    assert thumbnail(tmp_path) == ""
