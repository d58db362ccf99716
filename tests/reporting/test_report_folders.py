"""Which files a report writes, which it removes, and what it refuses."""

import json
from dataclasses import replace

import pytest
from lens_maker import write_lens
from made_reports import POSITION, claim, finding, report, strata_of
from matplotlib.figure import Figure
from results_maker import records_of, run_of, write

from codi_patching.analysis.findings import Stratum
from codi_patching.errors import InputError
from codi_patching.reporting.runs import (
    ReportOptions,
    _write_figures,
    check_strata,
    compare_folders,
    comparison_json,
    findings_json,
    report_folder,
)
from codi_patching.results.description import ResultsError
from codi_patching.results.read import read_results

PLAIN = ReportOptions(figures=False, pair_sheets=False, page=False)


def measured(folder, run=None, pairs=3):
    run = run or run_of(layers=2, columns=2)
    return write(folder, run, records_of(run, pairs=pairs))


def names_in(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "expected top of at least 1, got 0"),
        ({"formats": ("png", "gif")}, "expected formats of png, pdf, svg, got 'gif'"),
    ],
)
def test_options_that_make_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ReportOptions(**options)
    ReportOptions(top=1, formats=("svg",))


def test_strata_are_of_fields_that_some_pair_has():
    fields = [{"topic": "a"}, {"kind": "b"}, {}]
    check_strata(fields, ("kind", "topic"))
    check_strata([], ())
    with pytest.raises(InputError, match=r"of the fields of pairs \(kind, topic\), got 'size'"):
        check_strata(fields, ("topic", "size"))
    with pytest.raises(InputError, match="there are none"):
        check_strata([{}], ("topic",))


def test_a_report_has_its_files_and_removes_older_ones(tmp_path):
    folder = measured(tmp_path / "out")
    kept = names_in(folder)
    stale = ("effects.svg", "content.pdf", "lens_hit_rates.png", "report.html")
    for name in (*stale, "mine.png", "notes.txt"):
        (folder / name).touch()
    for name in ("pairs", "tables"):
        (folder / name).mkdir()
    (folder / "pairs" / "sheet_09.png").touch()
    (folder / "tables" / "old.csv").touch()
    (folder / "tables" / "old.txt").touch()
    made = report_folder(folder, PLAIN)
    written = {"results.csv", "aggregate.json", "paired_tests.csv", "validity.json",
               "findings.json", "tables", "pairs", "mine.png", "notes.txt"}  # fmt: skip
    assert names_in(folder) == kept | written
    assert names_in(folder / "pairs") == set()
    assert "old.txt" in names_in(folder / "tables")
    assert "old.csv" not in names_in(folder / "tables")
    assert made.text.splitlines()[-1] == f"written to {folder}"
    assert not made.failed
    assert not list(tmp_path.glob("*.md"))


def test_as_many_cells_are_ranked_as_are_asked(tmp_path):
    planted = {(0, 0): 0.3, (1, 1): 0.5, (2, 0): 0.4}
    folder = write(tmp_path / "out", run_of(), records_of(run_of(), pairs=6, planted=planted))
    for top, names in ((1, ["1"]), (2, ["1", "2"]), (5, ["1", "2", "0"])):
        report_folder(folder, replace(PLAIN, top=top))
        ranked = json.loads((folder / "aggregate.json").read_text())
        assert [cell["layer"] for cell in ranked["top_content"]] == names


def test_the_lens_has_no_table_of_cells(tmp_path):
    folder = write_lens(tmp_path / "out", pairs=2, layers=2, columns=2)
    report_folder(folder, PLAIN)
    assert names_in(folder) == {
        "lens_results.json", "SHA256SUMS", "validity.json", "findings.json", "tables",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "several", "drawn"),
    [
        ({"formats": ("svg", "pdf")}, False, {"content.svg", "content.pdf", "sheet_01.png"}),
        ({"formats": ("svg",)}, True, {"content.svg"}),
        ({"pair_sheets": False}, False, {"content.png"}),
    ],
)
def test_figures_are_drawn_in_the_formats_and_sheets_that_are_asked(
    tmp_path, monkeypatch, options, several, drawn
):
    empty = {"draw_figures": "content", "pair_sheets": "sheet_01"}
    for call, name in empty.items():
        path = f"codi_patching.reporting.figures.{call}"
        monkeypatch.setattr(path, lambda _, name=name: iter([(name, Figure((1, 1)))]))
    one = report(pairs=2)
    more = [replace(one, summaries={"a": 1, "b": 2}), replace(one, lens=1)]
    for made in more if several else [one]:
        _write_figures(tmp_path, made, ReportOptions(**options))
        assert {path.name for path in tmp_path.rglob("*.*")} == drawn
        assert (tmp_path / "pairs").exists() == ("sheet_01.png" in drawn)


def test_documents_link_the_figures_that_were_drawn_with_them(tmp_path, monkeypatch):
    one = measured(tmp_path / "docs" / "one")
    drawn = "codi_patching.reporting.figures.draw_figures"
    monkeypatch.setattr(drawn, lambda _: iter([("effects", Figure((1, 1)))]))
    options = replace(PLAIN, figures=True, docs=tmp_path / "docs")
    report_folder(one, options, "mine")
    assert "](../one/effects.png)" in (tmp_path / "docs" / "experiments" / "mine.md").read_text()
    compare_folders([one], tmp_path / "out", options)
    assert "](effects.png)" in (tmp_path / "out" / "comparison.md").read_text()


def test_a_changed_file_fails_its_report(tmp_path):
    folder = measured(tmp_path / "out")
    path = folder / "position_patching_results.json"
    path.write_text(path.read_text() + " ")
    assert report_folder(folder, PLAIN).failed
    told = json.loads((folder / "validity.json").read_text())
    assert [c["name"] for c in told["checks"] if c["status"] == "fail"] == ["unchanged files"]


def test_a_comparison_removes_figures_of_every_name_and_refuses_results(tmp_path):
    one = measured(tmp_path / "one")
    out = tmp_path / "compared"
    out.mkdir()
    for name in ("by_layer.png", "content_2.pdf", "old.svg", "findings.json"):
        (out / name).touch()
    (out / "notes.txt").touch()
    compare_folders([one], out, PLAIN)
    assert names_in(out) == {"notes.txt", "comparison.json", "comparison.md", "tables"}
    before = {path: path.read_bytes() for path in one.iterdir() if path.is_file()}
    with pytest.raises(
        ResultsError, match=r"expected a folder for the comparison alone, got .*one"
    ):
        compare_folders([one], one, PLAIN)
    assert {path: path.read_bytes() for path in one.iterdir() if path.is_file()} == before


def test_checkpoints_are_put_together_where_that_is_asked(tmp_path, monkeypatch):
    folder, made, asked = measured(tmp_path / "one"), report(pairs=2), []

    def built(datasets, pooled=None, **others):
        asked.append(pooled)
        return made

    monkeypatch.setattr("codi_patching.reporting.runs.build_report", built)
    for pool in (False, True):
        compare_folders([folder], tmp_path / "out", replace(PLAIN, pool=pool))
    assert asked == [False, True]


def test_the_file_of_a_comparison_names_each_run():
    run = run_of("iterative", direction="noising", site="kv", control="none")
    told = comparison_json(report(run=run, pairs=3))
    assert told["runs"] == {
        POSITION: {
            "experiment": "iterative", "strategy": "relay", "latents": "recomputed",
            "direction": "noising", "source": "clean", "control": "none", "site": "kv",
            "checkpoint_sha256": run.checkpoint_sha256, "data_sha256": run.data_sha256, "pairs": 3,
        }
    }  # fmt: skip
    assert list(told) == ["runs", "answer", "findings", "validity"]
    assert told["validity"][POSITION]["checks"][0]["name"] == "self-patch"


def test_what_a_column_is_stands_beside_it_where_it_is_no_position():
    heads = finding("cells", 2, "yes", claim(axis="head"))
    (told,) = findings_json(report(heads, pairs=2))["findings"]
    assert told["lead"]["axis"] == "head"
    (told,) = findings_json(report(finding("cells", 2, "yes", claim()), pairs=2))["findings"]
    assert "axis" not in told["lead"]
    assert told["lead"]["column"] == "0"


def test_tables_leave_out_what_was_not_run_and_what_is_not_known(tmp_path, monkeypatch):
    strata = strata_of([("0", 1, 9, 9)], [(2, 1, [9], 9), (3, 2, [1], 4)], ("0",), layer="5")
    unknown = (Stratum(None, None, 9), strata.main.strata[1])
    strata = replace(strata, main=replace(strata.main, strata=unknown))
    missing = replace(finding("direct", 4, "missing"), missing=(("layer",),))
    made = report(finding("ceiling", 1, "yes", claim()), missing, pairs=2)
    made = replace(made, findings=(*made.findings, finding("strata", 3, "yes", strata=strata)))
    monkeypatch.setattr("codi_patching.reporting.runs.build_report", lambda *_, **__: made)
    folder = measured(tmp_path / "one")
    compare_folders([folder], tmp_path / "out", PLAIN)
    tables = tmp_path / "out" / "tables"
    assert {path.name for path in tables.glob("*.csv")} == {
        "questions.csv", "carried_position_recomputed.csv",
    }  # fmt: skip
    lines = (tables / "carried_position_recomputed.csv").read_text().splitlines()
    assert lines == ["steps,changed step,z0", ",,9/9", "3,2,1/4"]
    asked = (tables / "questions.csv").read_text()
    assert asked.count("\n") == 3
    assert "Direct" not in asked


def test_documents_are_written_where_they_are_asked_under_the_name_that_is_given(tmp_path):
    folder = measured(tmp_path / "out")
    report_folder(folder, replace(PLAIN, docs=tmp_path / "docs"), "my run")
    assert (tmp_path / "docs" / "experiments" / "my run.md").is_file()
    assert read_results(folder).attrs["changed"] == ()
    with pytest.raises(InputError, match="expected the name of a report"):
        report_folder(folder, PLAIN, "../elsewhere")
