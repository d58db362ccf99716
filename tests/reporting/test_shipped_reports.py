"""What is shipped in docs is what the program makes of the shipped results: text and figures."""

import re
import shutil

import pytest
from same_files import DOCS, assert_golden, assert_same_files, assert_same_text

from codi_patching.reporting.console import console_text
from codi_patching.reporting.documents import INVENTORY, JOURNAL
from codi_patching.reporting.names import run_name
from codi_patching.reporting.runs import ReportOptions, report_folder
from codi_patching.results.dataset import run_of
from codi_patching.results.layout import has_results
from codi_patching.results.read import read_results

RESULTS = DOCS / "results"
QUICK = {
    *(f"codi-tiny/{run}" for run in ("lens", "position_frozen")),
    "codi-pause/layer_frozen",
}
"""One of each kind; the others, and whole comparisons (`test_shipped_studies`), are thorough."""
SPOKEN = QUICK | {
    f"codi-tiny/{run}" for run in ("attention", "cumulative", "knockout", "layer_frozen")
}
"""Whose console text is kept in `golden`, as it was when it was read by eye."""


def shipped_runs():
    for path in sorted(RESULTS.glob("*/*")):
        name = str(path.relative_to(RESULTS))
        if has_results(path):
            yield pytest.param(name, marks=[pytest.mark.thorough] * (name not in QUICK))


@pytest.mark.parametrize("name", [*shipped_runs()])
def test_a_run_has_the_report_that_is_made_of_it(tmp_path, name):
    docs, shipped = tmp_path / "docs", RESULTS / name
    made, report_name = docs / "results" / name, run_name(run_of(read_results(shipped)))
    made.mkdir(parents=True)
    for measured in ("*_results.json", "*.safetensors", "SHA256SUMS"):
        for path in shipped.glob(measured):
            shutil.copy(path, made)
    for entries in (JOURNAL, INVENTORY):
        (docs / entries).write_text(without_entry((DOCS / entries).read_text(), report_name))
    report = report_folder(made, ReportOptions(pair_sheets=False, page=False, docs=docs)).report
    if name in SPOKEN:
        assert_golden(console_text(report), f"console_{name.replace('/', '_')}.txt")
    if not name.startswith("models/"):  # of those only the comparison has a document
        for path in (f"experiments/{report_name}.md", JOURNAL, INVENTORY):
            assert_same_text(docs / path, DOCS / path)
    assert_same_files(made, shipped)


def without_entry(text, name):
    """An entry's place, with nothing in it."""
    start, end = (f"<!-- {mark} {name} -->\n" for mark in ("entry", "end of"))
    return re.sub(f"{start}.*?{end}", start + end, text, flags=re.DOTALL)
