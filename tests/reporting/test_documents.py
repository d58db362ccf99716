"""Reports and entries say what is in the results."""

import re
import shutil

import pytest
from findings_maker import FINDINGS
from results_maker import make, records_of, run_of, write, written

from codi_patching.reporting.entries import replace_entry
from codi_patching.reporting.pipeline import ReportOptions, write_derived, write_documents
from codi_patching.reporting.templates import with_interval
from codi_patching.reporting.wording import limits, methods
from codi_patching.results.schema import ResultsError

PLAIN = ReportOptions(figures=False, pair_sheets=False, page=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The docs of a position run with everything that a report can name."""
    docs = tmp_path_factory.mktemp("documents") / "docs"
    run = run_of(filtered=("pair_77",))
    results = written(
        docs / "results" / "position",
        run,
        {"pair_99": "its answers differ before their numbers"},
        planted={(2, 1): 0.4},
        disrupting={(1, 0): 1.0},
        one_pair={"unknown_words": ("foxes",)},
    )
    write_derived(results.folder, ReportOptions(pair_sheets=False, page=False), FINDINGS)
    path = write_documents(results.folder, docs, FINDINGS)
    assert path == docs / "experiments" / "codi-tiny_word-problems_position.md"
    return docs


@pytest.fixture
def documents(made, tmp_path):
    """A copy of them, and the report's text."""
    shutil.copytree(made, tmp_path / "docs")
    path = tmp_path / "docs" / "experiments" / "codi-tiny_word-problems_position.md"
    return tmp_path / "docs", path.read_text(encoding="utf-8")


def test_the_report(documents):
    _, report = documents
    assert report.startswith("# Position patching of codi-tiny on word-problems\n")
    assert "Of 11 cells the largest estimate of the content effect, the rise of the pro" in report
    assert "as the largest of many it is biased upwards, and nothing tests it here." in report
    assert re.search(
        r"The largest mean KL is at layer 1, position 0: its median over pairs", report
    )
    assert (
        "**Which positions and layers carry the answer?** Yes, one of 11 cells: `layer 2, "
        "position 1`. (0.38 probability [0.30, 0.45], p = 0.0002, n = 24 pairs, threshold 0.10)\n"
    ) in report
    assert "one layer and one latent position at a time, the block's output on the resid" in report
    assert "a sibling (the same question with yet another number in that place) for 18" in report
    assert "Left out before: 1 pair with equal answers." in report
    assert "- `pair_99`: its answers differ before their numbers" in report
    assert "`foxes` (pair_00)." in report
    assert "5 of 5 checks that apply hold; 2 do not apply; 3 are described." in report
    assert "![where patches disrupt (mean KL) and where they carry the pair's content](" in report
    assert "patched runs | 624 |" in report  # 24 pairs × (12 cells and a ceiling) × 2


def test_tables_are_whole_and_links_lead_somewhere(documents):
    docs, _ = documents
    files = list(docs.rglob("*.md"))
    assert len(files) == 3
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "\n\n\n\n" not in text
        assert "{{" not in text
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (file.parent / link).exists(), f"{file}: {link}"
        for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
            rows = table.splitlines()
            assert len({row.count("|") for row in rows}) == 1, table
            assert set(rows[1]) <= set("|-"), f"a table without a head: {table}"


def test_entries(documents):
    docs, _ = documents
    journal = (docs / "research_journal.md").read_text(encoding="utf-8")
    assert "<!-- entry codi-tiny_word-problems_position -->" in journal
    assert "- **Do layers rely on different positions?** Undecided. (0.05" in journal
    assert "Early or late" not in journal
    inventory = (docs / "DATA_INVENTORY.md").read_text(encoding="utf-8")
    assert "| `findings.json` | questions, verdicts" in inventory
    assert "| `effects.png` | where patches disrupt" in inventory
    assert 'cp.load_results("docs/results/position")' in inventory


def test_written_again_nothing_changes(documents):
    docs, _ = documents
    before = {path: path.read_bytes() for path in docs.rglob("*.md")}
    write_documents(docs / "results" / "position", docs, FINDINGS)
    assert {path: path.read_bytes() for path in docs.rglob("*.md")} == before


def test_a_report_about_another_model_is_not_replaced(documents):
    docs, report = documents
    path = docs / "experiments" / "codi-tiny_word-problems_position.md"
    path.write_text(report.replace("7c548f5bcec7", "000000000000"), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(ResultsError, match="about another model or other data"):
        write_documents(docs / "results" / "position", docs)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "run",
    [
        run_of("layer", control="none"),
        run_of("iterative"),
        run_of("iterative", strategy="cumulative", direction="noising", source="mean"),
    ],
)
def test_a_report_of_any_run(tmp_path, run):
    folder = write(tmp_path / "out", run, records_of(run, pairs=2))
    report = write_documents(folder, tmp_path, name="mine").read_text(encoding="utf-8")
    assert "No question is tested in this report" in report
    assert "With fewer than 20 independent pairs no verdict is given." in report
    assert (tmp_path / "experiments" / "mine.md").exists()
    assert "<!-- entry mine -->" in (tmp_path / "research_journal.md").read_text(encoding="utf-8")


def test_methods_name_what_was_done():
    said = " ".join(methods(make(run_of("iterative", direction="noising"))))
    assert "iteration N overwrites position N alone, by exactly what the previous" in said
    assert "The clean question's run is the base run, the corrupted question's" in said
    assert "(noising)" in said
    assert "Questions by reasoning steps: 8 of 2 steps, 8 of 3 steps, 8 of 4 steps." in said
    frozen = " ".join(methods(make(run_of("layer", source="zero", control="none"))))
    assert "No control was run, since source is zero" in frozen
    assert "the direct effect" in frozen
    assert any("empty thoughts" in limit for limit in limits(make(run_of(source="zero"))))


def test_entries_are_replaced_in_place(tmp_path):
    path = tmp_path / "journal.md"
    for name, text in (("a", "one\n"), ("b", "two\n"), ("a", "three \\1\n")):
        replace_entry(path, name, text, "# Journal\n")
    assert path.read_text() == (
        "# Journal\n\n<!-- entry a -->\nthree \\1\n<!-- end of a -->\n"
        "\n<!-- entry b -->\ntwo\n<!-- end of b -->\n"
    )


def test_one_pair_has_no_interval_but_a_mean():
    nan = float("nan")
    assert with_interval({"mean": 0.25, "ci_low": nan, "ci_high": nan}) == "0.25"
    assert with_interval({"mean": 0.25, "ci_low": 0.1, "ci_high": 0.5}, 3) == "0.250 [0.100, 0.500]"
    assert with_interval({"mean": None, "ci_low": None, "ci_high": None}) == "undefined"
