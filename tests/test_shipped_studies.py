"""The studies of the three shipped models: what is said, drawn and put on pages of each."""

import json
from pathlib import Path

import numpy as np
import pytest
from same_files import assert_golden, assert_same_files

from codi_patching.analysis.report import build_report
from codi_patching.commands.config_files import SHIPPED_CONFIGS
from codi_patching.commands.study_arms import read_arms
from codi_patching.reporting.console import console_text
from codi_patching.reporting.page import page_text
from codi_patching.reporting.runs import ReportOptions, compare_folders
from codi_patching.reporting.sentences import headline
from codi_patching.results.dataset import pairs_of, run_of
from codi_patching.results.layout import has_results
from codi_patching.results.read import read_results
from codi_patching.shipped import SHIPPED

RESULTS = Path(__file__).parents[1] / "docs" / "results"


CASES = [pytest.param(n, marks=pytest.mark.thorough) for n in SHIPPED]


@pytest.fixture(scope="module", params=CASES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def report(name):
    arms = read_arms(SHIPPED_CONFIGS / "study.yaml", RESULTS / name, None)
    assert len(arms) == 9
    return build_report([read_results(arm.folder) for arm in arms])


def test_every_run_is_of_the_model_and_no_check_fails(name, report):
    assert {run_of(data).model for data in report.datasets.values()} == {name}
    assert {data.sizes["pair"] for data in report.datasets.values()} == {57}
    assert not report.failed


def test_the_answer_begins_with_whether_thoughts_carry_it(name, report):
    openings = {
        "codi-tiny": "Together the thoughts carry the answer",
        "codi-plain": "Together the thoughts carry the answer",
        "codi-pause": "Not even all thoughts together are shown to carry the answer",
    }
    assert headline(report)[0].startswith(openings[name])
    assert "codi-tiny" not in " ".join(headline(report)) or name == "codi-tiny"


def test_the_console_has_a_line_for_every_question(name, report):
    text = console_text(report)
    assert len(text.splitlines()) <= 42
    for asked in ("Do the thoughts carry", "Which positions", "What does each thought carry?"):
        assert asked in text
    assert_golden(text, f"console_{name}.txt")


@pytest.mark.thorough
def test_the_page_is_of_this_model(name, report):
    page = page_text(report)
    assert f"{name} on word-problems" in page
    for other in SHIPPED:
        assert other == name or f"{other} on" not in page


def test_what_is_shipped_is_what_is_said_now(name, report):
    written = json.loads((RESULTS / name / "comparison" / "comparison.json").read_text())
    assert written["answer"] == headline(report)


@pytest.mark.thorough
def test_the_files_of_the_comparison_are_made_again(name, report, tmp_path, monkeypatch):
    made_once = "codi_patching.reporting.runs.build_report"
    monkeypatch.setattr(made_once, lambda *_, **__: report)
    compare_folders([RESULTS / name / "lens"], tmp_path, ReportOptions(page=False))
    assert_same_files(tmp_path, RESULTS / name / "comparison")


def test_where_nothing_is_fed_back_recomputed_is_frozen(name):
    same = []
    for experiment in ("position", "layer"):
        frozen, recomputed = (
            read_results(RESULTS / name / f"{experiment}_{latents}")
            for latents in ("frozen", "recomputed")
        )
        assert run_of(frozen).feeds_back == (name != "codi-pause")
        columns = [c for c in frozen["column"].values if c in recomputed["column"].values]
        both = [data["kl_divergence"].sel(column=columns).values for data in (frozen, recomputed)]
        same.append(np.allclose(*both, atol=1e-5))
    assert same == [name == "codi-pause"] * 2


def test_three_models_are_compared_on_the_pairs_of_codi_plain():
    of_models, plain = (RESULTS / name for name in ("models", "codi-plain"))
    runs = [path for path in sorted(of_models.iterdir()) if has_results(path)]
    runs.append(plain / "layer_frozen")
    asked = [[pair.source_question for pair in pairs_of(read_results(run))] for run in runs]
    assert len(asked) == 5
    assert all(questions == asked[0] for questions in asked)
