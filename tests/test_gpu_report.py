"""What `scripts/gpu_report.py` makes of runs, and the whole of it on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gpu_report import counted, difference, same_bytes, table
from results_maker import make, run_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def runs():
    """A run and itself again, to change."""
    data = make(run_of("position"), pairs=6, planted={(1, 2): 0.5})
    return data, data.copy(deep=True)


def test_a_run_is_no_different_from_itself(runs):
    assert difference(*runs) == {
        "pairs": 6,
        "probability": 0.0,
        "KL, nats": 0.0,
        "logit difference": 0.0,
        "predictions that differ": 0,
    }
    assert same_bytes(*runs) == "the same bytes"


def test_differences_are_found_where_they_are(runs):
    shipped, again = runs
    again["kl_divergence"][2, 1, 0, 0] += 0.25
    again["predicts_clean"][3, 0, 1, 0] = 1.0 - again["predicts_clean"][3, 0, 1, 0]
    seen = difference(shipped, again)
    assert seen["KL, nats"] == pytest.approx(0.25)
    assert seen["predictions that differ"] == 1
    assert seen["probability"] == 0.0
    assert same_bytes(shipped, again) == "differs in kl_divergence, predicts_clean"


def test_a_number_that_is_missing_on_one_side_is_no_small_difference(runs):
    shipped, again = runs
    again["clean_probability"][0, 0, 0, 0] = np.nan
    assert difference(shipped, again)["probability"] == float("inf")


def test_fewer_pairs_are_compared_with_theirs(runs):
    shipped, again = runs
    assert difference(shipped, again.isel(pair=[4, 1]))["pairs"] == 2


def test_events_are_counted_by_their_names():
    class Event:
        def __init__(self, key, count):
            self.key, self.count = key, count

    events = [Event("cudaLaunchKernel", 7), Event("Memcpy HtoD (x)", 2), Event("aten::mm", 5)]
    assert counted(events, "LaunchKernel") == 7
    assert counted(events, "Memcpy HtoD", "aten::mm") == 7


def test_rows_of_other_keys_have_empty_cells():
    rows = list(table([{"grid": "layer", "s": 0.12345}, {"grid": "relay", "n": 3}]))
    assert rows[0] == "| grid | s | n |"
    assert rows[2:4] == ["| layer | 0.123 |  |", "| relay |  | 3 |"]


@pytest.mark.slow
@pytest.mark.thorough
def test_the_whole_report_on_a_cpu(tmp_path):
    run = [sys.executable, "scripts/gpu_report.py", "--device=cpu", "--shape=codi-tiny"]
    run += ["--pairs=1", "--check_pairs=1", "--end_pairs=1", "--filling=64", f"--out={tmp_path}"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["left_out"] == {}
    assert {row["experiment"] for row in found["numbers"]} >= {"relay", "lens", "attention"}
    assert all(row.get("predictions that differ", 0) == 0 for row in found["numbers"])
    assert found["numbers"][0]["second run"] == "the same bytes"
    assert len(found["speed"]) == 20
    assert len(found["profiles"]) == 5
    assert (tmp_path / "report.md").read_text().count("## ") == 4
