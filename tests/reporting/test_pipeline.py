"""What is derived from a folder: which files, and the same bytes whenever they are made again."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from findings_maker import FINDINGS, WHERE
from results_maker import make, records_of, run_of, write

from codi_patching.errors import InputError
from codi_patching.reporting.pipeline import (
    ReportOptions,
    derived_files,
    write_comparison,
    write_derived,
)
from codi_patching.results.read import read_results

PLAIN = ReportOptions(figures=False, pair_sheets=False, page=False)

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "torchmetrics", "transformers", "torch"):
            raise ImportError(f"{name} must not be needed")
sys.meta_path.insert(0, Refuse())
from pathlib import Path
from codi_patching.reporting import console, tracking
from codi_patching.reporting.pipeline import write_derived, write_documents
checks = write_derived(Path(sys.argv[1]))
write_documents(Path(sys.argv[1]), Path(sys.argv[2]))
print(len(checks))
"""


@pytest.fixture
def folder(tmp_path):
    run = run_of()
    return write(tmp_path / "out", run, records_of(run, pairs=21, planted={(2, 1): 0.4}))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in derived_files(folder)}


def test_the_same_bytes_without_the_packages_that_measure(folder, tmp_path):
    """In another process, in which none of them can be imported."""
    write_derived(folder)
    before = contents(folder)
    assert [str(name) for name in before] == [
        "aggregate.json",
        "effects.png",
        "paired_tests.csv",
        "pairs/sheet_01.png",
        "pairs/sheet_02.png",
        "recovery.png",
        "report.html",
        "results.csv",
        "validity.json",
    ]
    for path in before:
        (folder / path).unlink()
    command = [sys.executable, "-c", WITHOUT, folder, tmp_path / "docs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr
    assert contents(folder) == before
    assert not read_results(folder).changed


def test_what_is_not_made_any_more_is_deleted(folder):
    write_derived(folder, replace(PLAIN, figures=True), FINDINGS)
    assert {"findings.json", "effects.png"} <= {path.name for path in derived_files(folder)}
    (folder / "mine.png").write_bytes(b"")
    write_derived(folder, PLAIN)
    names = [path.name for path in derived_files(folder)]
    assert names == ["aggregate.json", "paired_tests.csv", "results.csv", "validity.json"]
    assert (folder / "mine.png").exists()


def test_files_hold_the_results(folder):
    checks = write_derived(folder, PLAIN, FINDINGS)
    results = read_results(folder)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21 * 12
    for name, values in (("", results.values), ("control_", results.control)):
        for metric in results.run.metrics:
            column = [float(row[f"{name}{metric}"] or "nan") for row in rows]
            np.testing.assert_array_equal(column, values[metric].reshape(-1))
    validity = json.loads((folder / "validity.json").read_text())
    assert [check["name"] for check in validity["checks"]] == [check.name for check in checks]
    assert validity["summary"].startswith("7 of 7 checks that apply hold")
    aggregate = json.loads((folder / "aggregate.json").read_text())
    assert aggregate["top_content"][0]["name"] == "layer 2, position 1"
    assert aggregate["metrics"]["kl_divergence"]["3"]["2"] == {"structural_zero": True}
    findings = json.loads((folder / "findings.json").read_text())["findings"]
    assert [f["verdict"] for f in findings] == ["yes", "undecided", "not applicable"]
    assert findings[0]["claims"][0]["layer"] == "2"


def test_rankings_have_a_cell():
    with pytest.raises(InputError, match=r"expected --top \(--report.top\) of at least 1, got 0"):
        ReportOptions(top=0)


def test_a_comparison(tmp_path):
    arms = {
        "position": make(run_of(), planted={(2, 1): 0.4}),
        "layer": make(run_of("layer"), planted={(2, 0): 0.1}),
        "layer, recomputed": make(run_of("layer", latents="recomputed"), planted={(2, 0): 0.4}),
    }
    findings = (replace(WHERE, arms=("position",)),)
    checks = write_comparison(tmp_path / "both", arms, findings, replace(PLAIN, figures=True))
    names = {path.name for path in (tmp_path / "both").iterdir()}
    assert names == {
        "comparison.json", "comparison.csv", "comparison.md", "by_layer.png", "decomposition.png"
    }  # fmt: skip
    report = (tmp_path / "both" / "comparison.md").read_text()
    assert f"**{WHERE.question}** {WHERE.sentence}" in report
    assert "![direct, mediated and total effect by layer](decomposition.png)" in report
    content = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert content["arms"]["layer"]["latents"] == "frozen"
    assert content["findings"][0]["question"] == WHERE.question
    assert list(content["validity"]) == [*arms, "all runs"]
    assert len(checks) == 30 + len(content["validity"]["all runs"]["checks"])
    with (tmp_path / "both" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["claim"] for row in rows] == [claim.name for claim in WHERE.claims]
    assert rows[0]["estimate"] == "0.38"
