import csv
import json
import math

import numpy as np
import pytest

from codi_patching.data.records import PairResult, ResultsError
from codi_patching.data.results import (
    aggregate,
    read_results,
    text_file,
    write_csv,
    write_results,
)

METADATA = {
    "experiment": "position",
    "seed": 1,
    "grid": {
        "shape": [2, 2],
        "layers": ["thought", "0"],
        "positions": ["0", "1"],
        "column": "position",
        "structural_zeros": [[1, 1]],
    },
    "metrics": ["kl_divergence", "recovery"],
}
RECORDS = [
    PairResult(
        "a",
        {"answer": "13"},
        {
            "kl_divergence": np.array([[1.0, 2.0], [3.0, 0.0]]),
            "recovery": np.array([[0.1, math.nan], [0.3, 0.0]]),
        },
    ),
    PairResult(
        'b "ü"',
        {"answer": "15"},
        {
            "kl_divergence": np.array([[3.0, 2.0], [7.0, 0.0]]),
            "recovery": np.array([[0.3, 0.5], [0.5, 0.0]]),
        },
    ),
]


@pytest.fixture
def folder(tmp_path):
    write_results(tmp_path / "position_patching_results.json", METADATA, RECORDS)
    return tmp_path


def test_results_are_nested_by_pair_layer_position_metric(folder):
    content = json.loads((folder / "position_patching_results.json").read_text())
    assert content["metadata"] == METADATA
    assert content["baseline"] == {"a": {"answer": "13"}, 'b "ü"': {"answer": "15"}}
    assert content["results"]["a"]["thought"]["1"] == {"kl_divergence": 2.0, "recovery": None}
    assert content["results"]['b "ü"']["0"]["0"] == {"kl_divergence": 7.0, "recovery": 0.5}


def test_what_is_read_is_what_was_written(folder):
    results = read_results(folder)
    assert results.pair_ids == ["a", 'b "ü"']
    for metric in METADATA["metrics"]:
        expected = np.stack([record.values[metric] for record in RECORDS])
        np.testing.assert_array_equal(results.values[metric], expected)
    assert results.structural.tolist() == [[False, False], [False, True]]


def test_a_layer_can_be_one_cell(tmp_path):
    metadata = {
        **METADATA,
        "grid": {
            "shape": [2],
            "layers": ["0", "1"],
            "positions": [],
            "column": "position",
            "structural_zeros": [[1]],
        },
    }
    values = {m: np.array([1.0, 0.0]) for m in METADATA["metrics"]}
    write_results(tmp_path / "layer_patching_results.json", metadata, [PairResult("a", {}, values)])
    content = json.loads((tmp_path / "layer_patching_results.json").read_text())
    assert content["results"]["a"]["0"]["kl_divergence"] == 1.0
    assert read_results(tmp_path).values["recovery"].tolist() == [[1.0, 0.0]]


def test_the_table_has_a_row_for_each_pair_and_cell(folder):
    write_csv(folder / "results.csv", METADATA, RECORDS)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[1] == {
        "pair_id": "a",
        "layer": "thought",
        "position": "1",
        "structural_zero": "0",
        "kl_divergence": "2.0",
        "recovery": "",
    }
    assert [row["structural_zero"] for row in rows] == ["0", "0", "0", "1"] * 2


def test_aggregates_by_hand(folder):
    summary = aggregate(read_results(folder), top_k=2)
    cells = summary["metrics"]["kl_divergence"]
    assert cells["thought"]["0"]["mean"] == 2.0
    assert cells["thought"]["0"]["std"] == pytest.approx(math.sqrt(2))
    assert (cells["thought"]["0"]["ci_low"], cells["thought"]["0"]["ci_high"]) == (1.0, 3.0)
    assert cells["0"]["1"] == {"structural_zero": True}
    assert summary["metrics"]["recovery"]["thought"]["1"]["n"] == 1
    assert [(c["layer"], c["position"]) for c in summary["top_cells"]] == [
        ("0", "0"),
        ("thought", "0"),
    ]


def test_an_incomplete_file_is_refused(folder):
    path = folder / "position_patching_results.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ResultsError, match="not a complete results file"):
        read_results(folder)
    path.unlink()
    with pytest.raises(ResultsError, match=r"expected one .* got 0"):
        read_results(folder)


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
