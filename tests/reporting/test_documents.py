"""Reports and entries say what is in the results; no pair's text is read as Markdown."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from lens_maker import written_lens
from made_reports import POSITION, report
from results_maker import in_memory, make, records_of, run_of, write, written

from codi_patching.analysis.checks import Check, count_checks
from codi_patching.analysis.report import build_report
from codi_patching.reporting.console import console_text
from codi_patching.reporting.documents import write_comparison_document, write_documents
from codi_patching.reporting.methods import limits, methods
from codi_patching.reporting.runs import ReportOptions, report_folder
from codi_patching.results.dataset import is_attention, is_knockout, is_lens
from codi_patching.results.dataset import run_of as described
from codi_patching.results.description import Grid, ResultsError
from codi_patching.results.pair_descriptions import AttentionPair, KnockoutPair
from codi_patching.results.read import read_results
from codi_patching.results.records import PairRecord

PLAIN = ReportOptions(figures=False, pair_sheets=False, page=False)
NAME = "codi-tiny_word-problems_position"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The docs of a position run with everything that a report can name."""
    docs = tmp_path_factory.mktemp("documents") / "docs"
    folder = docs / "results" / "position"
    hostile = {"pair|99": "<script>alert(1)</script> and [a](b)"}
    written(folder, run_of(filtered=("pair_77",)), hostile, planted={(2, 1): 0.4})
    report_folder(folder, replace(PLAIN, docs=docs))
    return docs


@pytest.fixture
def docs(made, tmp_path):
    shutil.copytree(made, tmp_path / "docs")
    return tmp_path / "docs"


@pytest.fixture
def text(docs):
    return (docs / "experiments" / f"{NAME}.md").read_text(encoding="utf-8")


def test_the_report_begins_with_the_answer_then_the_table(text):
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "# Position patching of codi-tiny on word-problems"
    assert lines[2].endswith(", 24 pairs.")  # without the one that could not be run
    assert lines[3].startswith("Together the thoughts carry the answer")
    assert lines[4] == "| question | answer | estimate [interval] | p | n |"
    assert text.index("## Methods") > text.index("| question |")


def test_the_table_says_what_the_claims_say(text, docs):
    folder = docs / "results" / "position"
    report = build_report([read_results(folder)])
    lead = report.finding("cells").lead
    row = next(
        line for line in text.splitlines() if line.startswith("| Which positions and layers?")
    )
    assert f"{lead.lead.mean:.2f} [{lead.lead.low:.2f}, {lead.lead.high:.2f}]" in row
    own = read_results(folder)["clean_probability"].sel(layer="2", column="1", arm="own")
    base = read_results(folder)["run_clean_probability"].sel(run="base")
    control = read_results(folder)["clean_probability"].sel(layer="2", column="1", arm="control")
    gains = float((own - base).mean()), float((own - control).mean())
    assert lead.name == "layer 2, position 1"
    assert lead.lead.mean == pytest.approx(min(gains))


def test_text_that_is_not_ours_is_shown_and_not_read(text):
    assert "- pair\\|99: \\<script\\>alert(1)\\</script\\> and \\[a\\](b)" in text
    assert "<script>" not in text


def test_what_was_left_out_is_named(text):
    assert "Left out before, because both their answers are equal: pair\\_77." in text


def test_every_check_is_listed(text, docs):
    report = build_report([read_results(docs / "results" / "position")])
    for check in report.checks["position, recomputed"]:
        assert f"| position, recomputed | {check.name} |" in text


def test_methods_say_what_was_done(docs):
    data = read_results(docs / "results" / "position")
    said = " ".join(methods(data))
    assert "24 pairs of questions that differ in one number, from word-problems." in said
    assert "one layer and one latent position at a time, the block's output on the residual" in said
    assert (
        "a sibling, the same question with yet another number in that place, for 18 pairs" in said
    )
    assert "another pair's source run, matched by steps and length, for 6 pairs" in said
    assert "what is measured is the total effect" in said


def test_a_users_own_experiment_has_methods(tmp_path):
    folder = tmp_path / "own"
    run = replace(run_of(), experiment="neighbours")
    write(folder, run, records_of(run))
    assert "the experiment overwrites the block's output" in " ".join(methods(read_results(folder)))


def test_without_a_control_the_limits_and_methods_say_so(tmp_path):
    data = written(tmp_path / "out", run_of(control="none"), pairs=24)
    assert any("No control was run" in paragraph for paragraph in methods(data))


def test_few_pairs_are_a_limit(tmp_path):
    data = written(tmp_path / "out", run_of(), pairs=6)
    assert any("fewer than 20 independent pairs" in sentence for sentence in limits(data))


def test_a_second_report_replaces_the_first(docs):
    before = {p: p.read_bytes() for p in docs.rglob("*.md")}
    folder = docs / "results" / "position"
    write_documents(build_report([read_results(folder)]), folder, docs)
    assert {p: p.read_bytes() for p in docs.rglob("*.md")} == before


def test_entries_of_other_runs_stay(docs):
    journal = docs / "research_journal.md"
    journal.write_text(journal.read_text() + "\nMine.\n")
    folder = docs / "results" / "position"
    write_documents(build_report([read_results(folder)]), folder, docs, "another")
    content = journal.read_text()
    assert "\nMine.\n" in content
    assert content.count("<!-- entry ") == 2


def test_a_report_about_another_model_is_not_overwritten(docs, tmp_path):
    run = run_of(checkpoint_sha256="f" * 64)
    other = written(tmp_path / "other", run)
    with pytest.raises(ResultsError, match="is about another model or other data: set docs"):
        write_documents(build_report([other]), tmp_path / "other", docs)


def test_a_protocol_is_replaced(docs):
    path = docs / "experiments" / f"{NAME}.md"
    path.write_text("<!-- protocol -->\nHow it will be run.\n")
    folder = docs / "results" / "position"
    write_documents(build_report([read_results(folder)]), folder, docs)
    assert path.read_text().startswith("# Position patching")


def test_the_inventory_lists_the_files_that_are_there(docs):
    text = (docs / "DATA_INVENTORY.md").read_text()
    listed = re.findall(r"^\| `([^`]+)` \|", text, re.M)
    folder = docs / "results" / "position"
    assert listed[0] == "position_patching_results.json"
    assert 'cp.load_results("docs/results/position")' in text
    dims = "pair × layer × column × arm × run"
    assert f"kl_divergence, l2_difference, prediction_change_rate, … over {dims}\n" in text
    assert all((folder / name).exists() for name in listed)
    assert {"aggregate.json", "findings.json", "tables", "SHA256SUMS"} <= set(listed)
    example = json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1])
    assert list(example) == ["metadata", "baseline", "results"]


def test_deleting_what_is_derived_and_making_it_again_gives_the_same_bytes(docs):
    folder = docs / "results" / "position"
    before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name in ("aggregate.json", "findings.json", "validity.json", "results.csv"):
        (folder / name).unlink()
    report_folder(folder, PLAIN)
    assert {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_aggregate_holds_the_means_of_what_was_measured(docs):
    folder = docs / "results" / "position"
    data = read_results(folder)
    summary = json.loads((folder / "aggregate.json").read_text())
    for layer in described(data).grid.layers:
        cell = summary["metrics"]["control_kl_divergence"][layer]["0"]
        wanted = data["kl_divergence"].sel(layer=layer, column="0", arm="control").values
        assert cell["mean"] == pytest.approx(np.nanmean(wanted))
        assert cell["std"] == pytest.approx(np.nanstd(wanted, ddof=1))
    assert summary["metrics"]["recovery"]["3"]["2"] == {"structural_zero": True}


def test_tables_for_papers_are_latex_and_csv(docs):
    tables = docs / "results" / "position" / "tables"
    tex = (tables / "questions.tex").read_text()
    assert tex.count("\\toprule") == tex.count("\\bottomrule") == 1
    rows = (tables / "questions.csv").read_text().splitlines()
    assert rows[0] == "question,answer,estimate,p,n"
    assert tex.count(" \\\\\n") == len(rows)


def test_the_usual_run_is_spoken_of_first_whatever_order_folders_come_in():
    runs = [make(run_of(direction="noising"), planted={(1, 1): 0.5}), make(run_of())]
    report = build_report(runs)
    assert next(iter(report.datasets)) == "position, recomputed"
    said = " ".join(console_text(report).split())
    assert "Estimates are rises of the probability of the clean answer" in said
    assert "those of noising are falls of the probability of the clean answer." in said
    assert "those of noising" not in console_text(build_report(runs[1:]))


def test_every_model_that_does_not_answer_is_warned_of():
    good, bad = (
        make(run_of(), pairs=8),
        make(run_of(checkpoint_sha256="f" * 64, model="b"), pairs=8),
    )
    bad["run_predicts_clean"].loc[{"run": "source"}] = 0.0
    said = console_text(build_report([good, bad]))
    assert "WARNING: b answers 0 of 8 source questions right" in said
    assert said.count("WARNING") == 1


# -- other experiments and several runs ---------------------------------------------------------


def example_of(docs, name):
    """The shape of the results file, as the inventory shows it."""
    entry = (docs / "DATA_INVENTORY.md").read_text().partition(f"<!-- entry {name} -->")[2]
    return json.loads(re.search(r"```json\n(.*?)```", entry, re.S)[1]), entry


def saying_nothing(data):
    """A report of a run without a finding."""
    made = report(pairs=2)
    if is_lens(data) or is_attention(data) or is_knockout(data):
        return replace(made, summaries={}, **{described(data).experiment: data})
    return replace(made, summaries={POSITION: replace(made.summaries[POSITION], data=data)})


def document_of(tmp_path, data):
    folder, docs = data.attrs["folder"], tmp_path / "docs"
    path = write_documents(saying_nothing(data), folder, docs)
    return path.read_text(encoding="utf-8"), docs, path.stem


def settings_of(text):
    lines = text.partition("<summary>Settings</summary>")[2].partition("</details>")[0]
    return dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", lines, re.M))


def test_a_run_of_whole_layers_without_control_has_its_settings_and_example(tmp_path):
    run = run_of("layer", control="none", precision="64-true", seed=7)
    text, docs, name = document_of(tmp_path, written(tmp_path / "out", run, pairs=5))
    assert settings_of(text) == {
        "setting": "value", "experiment": "layer patching", "site": "resid\\_post",
        "seed": "7", "precision": "64-true", "grid": "4 layers × 1 position", "latents": "frozen",
        "direction": "denoising", "source": "clean", "control, as asked for": "none",
        "cells that cannot have an effect": "1", "patched runs": "25",
        "versions": "torch 2.13.0, transformers 5.23.0",
        "code": f"codi\\_patching 0.2.0, sources {run.code.sha256[:12]}…",
    }  # fmt: skip
    example, _ = example_of(docs, name)
    assert example["metadata"]["experiment"] == "layer"
    assert list(example["results"]["pair_00"]) == ["0", "…"]
    assert "kl_divergence" in example["results"]["pair_00"]["0"]
    assert example["baseline"]["pair_00"]["verified"] == ["…"]
    assert "Every pair could be run." in text
    assert "No pair is unlike the rest" in text


def test_a_question_does_not_end_the_example(tmp_path):
    question = {"source_question": "```\n# What is 3 + 4?"}
    data = written(tmp_path / "out", run_of(), pairs=2, one_pair=question)
    _, docs, name = document_of(tmp_path, data)
    example, entry = example_of(docs, name)
    assert example["baseline"]["pair_00"]["source_question"] == "'''\n# What is 3 + 4?"
    assert entry.count("```") == 4


def test_the_lens_has_its_settings_and_example(tmp_path):
    text, docs, name = document_of(tmp_path, written_lens(tmp_path / "out", pairs=3))
    shown = settings_of(text)
    assert shown["site"] == "resid\\_post"
    assert not {"direction", "patched runs", "cut runs"} & set(shown)
    example, entry = example_of(docs, name)
    pair = example["pairs"]["pair_00"]
    assert pair["top"] == [[["…"]]]
    assert pair["steps"][0]["ranks"] == pair["steps"][0]["chance_ranks"] == [["…"]]
    assert pair["steps"][0]["result"] == "0"
    assert pair["steps"][1] == "…"
    assert "lens_results.json" in entry


def test_cut_edges_have_their_settings_and_example(tmp_path):
    grid = Grid(("all", "0"), "edge", ("question->readout", "0->readout"), ((1, 1),))
    run = replace(
        run_of("knockout"), grid=grid, metrics=("clean_probability", "kl_divergence"),
        control="words",
    )  # fmt: skip
    tokens = {"0->readout": (2,), "0->1": (2,), "1->readout": (3,)}
    pair = KnockoutPair("?", "1", "2", {"clean_probability": 0.9}, 9, (1, 2), (1,), (2,), tokens)
    own, control = np.full((2, 2), 0.5), np.array([[np.nan, 0.7], [np.nan, 0.7]])
    records = [
        PairRecord(f"p{n}", pair, *({m: arm.copy() for m in run.metrics} for arm in (own, control)))
        for n in range(3)
    ]
    data = read_results(write(tmp_path / "out", run, records))
    text, docs, name = document_of(tmp_path, data)
    shown = settings_of(text)
    assert "site" not in shown
    assert shown["experiment"] == "knockout"
    assert shown["grid"] == "2 layers × 2 edges"
    assert shown["cells that cannot have an effect"] == "1"
    assert shown["cut runs"] == "18"  # three pairs, four cells, and two of them with a control
    example, _ = example_of(docs, name)
    shown = example["pairs"]["p0"]
    assert shown["cells"] == {
        arm: {"clean_probability": [["…"]], "…": "…"} for arm in ("own", "control")
    }
    assert shown["control_tokens"] == {"0->readout": [2], "0->1": [2], "…": "…"}


def test_attention_has_its_example(tmp_path):
    run = replace(
        run_of("attention"), grid=Grid(("0",), "position", ("0",)), metrics=(), num_latents=1,
        readers=("0", "readout 0"), attended=("bot", "0"),
    )  # fmt: skip
    records = [
        PairRecord(f"p{n}", AttentionPair("?", (1, 1)), {
            name: np.full((2, 1, 2), 0.5) for name in ("attention", "strongest")
        })
        for n in range(2)
    ]  # fmt: skip
    data = read_results(write(tmp_path / "out", run, records))
    _, docs, name = document_of(tmp_path, data)
    example, _ = example_of(docs, name)
    pair = example["pairs"]["p0"]
    assert pair["attention"] == pair["strongest"] == [[["…"]]]
    assert pair["verified"] == ["…"]
    assert example["pairs"]["…"] == "…"


def test_the_inventory_lists_no_file_or_folder_that_is_empty_or_not_there(tmp_path):
    folder = tmp_path / "out"
    data = written(folder, run_of(), pairs=3)
    (folder / "pairs").mkdir()
    (folder / "tables").mkdir()
    (folder / "tables" / "questions.csv").touch()
    for name in ("trace_pair_00.csv", "effects.png", "content.svg", "mine.png"):
        (folder / name).touch()
    _, docs, name = document_of(tmp_path, data)
    listed = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", example_of(docs, name)[1], re.M))
    assert list(listed) == [
        "position_patching_results.json", "SHA256SUMS", "tables", "trace_pair_00.csv",
        "content.svg", "effects.png",
    ]  # fmt: skip
    assert listed["trace_pair_00.csv"] == "every patch of one pair"
    assert listed["effects.png"].startswith("where patches disrupt")


def test_words_that_cannot_be_read_are_listed_with_their_pairs(tmp_path):
    run, records = run_of(), records_of(run_of(), pairs=7)
    for place, words in ((0, ("fox", "owl")), (2, ("owl",)), (3, ("owl",)), (4, ("owl",)),
                         (5, ("owl",)), (6, ("owl",))):  # fmt: skip
        known = replace(records[place].description, unknown_words=words)
        records[place] = replace(records[place], description=known)
    data = read_results(write(tmp_path / "out", run, records))
    text, _, _ = document_of(tmp_path, data)
    said = text.partition("which the model cannot read:")[2].partition("##")[0]
    assert "fox (pair\\_00)," in said
    assert "owl (pair\\_00, pair\\_02, pair\\_03, pair\\_04, pair\\_05, …)." in said


def test_each_model_of_a_comparison_is_described_once(tmp_path):
    one = report(pairs=2)
    runs = [
        run_of(experiment, model=f"/m/{name}", checkpoint_sha256=sha * 64, num_latents=latents)
        for name, sha, latents in (("one", "1", 3), ("two", "2", 5))
        for experiment in ("position", "layer")
    ]
    labels = [f"{name}: {run}" for name in ("one", "two") for run in ("position", "layer")]
    summaries = {
        label: replace(one.summaries[POSITION], data=make(run, pairs=2))
        for label, run in zip(labels, runs, strict=True)
    }
    write_comparison_document(replace(one, summaries=summaries, models=("one", "two")), tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert text.startswith("# 4 runs of one and two on word-problems\n")
    assert text.splitlines()[2] == (
        f"Model **one** (llama, K = 3 thoughts, SHA-256 `{'1' * 12}…`), "
        f"**two** (llama, K = 5 thoughts, SHA-256 `{'2' * 12}…`) on"
    )
    summaries = {"first": summaries[labels[0]], "second": summaries[labels[1]]}
    write_comparison_document(replace(one, summaries=summaries), tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert text.count("**one** (") == 1
    assert "2 pairs: first; second." in text
    assert "Settings" not in text


def test_a_comparison_has_what_is_said_of_every_run(tmp_path):
    one, records = report(pairs=2), records_of(run_of("layer"), pairs=2)
    known = replace(records[0].description, unknown_words=("fox",))
    second = in_memory(run_of("layer"), [replace(records[0], description=known), records[1]])
    first = one.summaries[POSITION]
    holds, fails, undone = (
        Check(name, "0", seen, status)
        for name, seen, status in (
            ("one", "0", "pass"), ("two", "0.7", "fail"), ("three", "", "not made"),
        )
    )  # fmt: skip
    made = replace(
        one, summaries={"a": first, "b": replace(first, data=second)},
        checks={"a": (holds,), "b": (fails, undone)},
    )  # fmt: skip
    write_comparison_document(made, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "**b, two fails: 0.7.**" in text
    assert "three fails" not in text
    assert f"\n{count_checks([holds, fails, undone])}.\n" in text
    assert "fox (pair\\_00)." in text
    assert "one layer and one latent position at a time" in text
    assert "is overwritten at all latent positions at once" in text


def test_report_and_journal_say_which_checks_fail(tmp_path):
    data = written(tmp_path / "out", run_of(), pairs=2)
    fails = (Check("self-patch", "0", "0.7", "fail"), Check("pairs", "1", "1", "pass"))
    made = replace(saying_nothing(data), checks={POSITION: fails})
    path = write_documents(made, tmp_path / "out", tmp_path / "docs")
    assert f"**{POSITION}, self-patch fails: 0.7.**" in path.read_text()
    journal = (tmp_path / "docs" / "research_journal.md").read_text()
    assert f"{count_checks(fails)}. **self-patch fails: 0.7.**\n" in journal


def test_a_report_of_the_same_weights_on_other_pairs_is_not_overwritten(docs, tmp_path):
    other = written(tmp_path / "other", run_of(data_sha256="f" * 64), pairs=3)
    with pytest.raises(ResultsError, match="is about another model or other data: set docs"):
        write_documents(saying_nothing(other), tmp_path / "other", docs)
    path = write_documents(saying_nothing(other), tmp_path / "other", docs, "mine")
    assert path == docs / "experiments" / "mine.md"


def test_the_links_lead_from_the_document_to_its_folder(docs):
    folder = docs / "results" / "position"
    (folder / "effects.png").touch()
    (folder / "content.png").touch()
    write_documents(saying_nothing(read_results(folder)), folder, docs)
    text = (docs / "experiments" / f"{NAME}.md").read_text()
    links = re.findall(r"\]\(([^)]+\.png)\)", text)
    assert links == ["../results/position/content.png", "../results/position/effects.png"]
    assert "Further figures (1)" in text
    assert "described in [DATA_INVENTORY.md](../DATA_INVENTORY.md)." in text
    journal = (docs / "research_journal.md").read_text()
    assert "results/position" in journal
    assert "../results" not in journal
