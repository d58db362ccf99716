"""Trackers get what is in the results: W&B, TensorBoard, CSV and MLflow really write."""

import csv
import json
import math
import struct

import numpy as np
import pytest
from findings_maker import FINDINGS
from results_maker import make, records_of, run_of, write

from codi_patching.analysis.validity import check_run
from codi_patching.reporting.names import tags
from codi_patching.reporting.pipeline import ReportOptions, write_derived
from codi_patching.reporting.tracking import (
    aggregate_table,
    cells_table,
    findings_table,
    layer_series,
    leading_cells,
    log_to,
    scalars,
    validity_table,
)
from codi_patching.results.read import read_results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results in a folder with everything that is derived from them but the page."""
    run = run_of(layers=3, columns=2)
    folder = tmp_path_factory.mktemp("tracked") / "out"
    write(folder, run, records_of(run, pairs=5, planted={(1, 0): 0.4}))
    write_derived(folder, ReportOptions(pair_sheets=False, page=False), FINDINGS)
    return read_results(folder)


def test_tables(results):
    cells = cells_table(results)
    assert cells.columns[:4] == ["pair_id", "layer", "position", "structural_zero"]
    assert len(cells.rows) == 5 * 6
    column = cells.columns.index("control_kl_divergence")
    values = [row[column] for row in cells.rows]
    np.testing.assert_array_equal(values, results.control["kl_divergence"].reshape(-1))
    summary = aggregate_table(results.folder, results.run)
    assert summary.columns == [
        "metric",
        "layer",
        "position",
        "mean",
        "std",
        "ci_low",
        "ci_high",
        "n",
    ]
    assert len(summary.rows) == 5 * 22  # cells that are free × (own, control, two content effects)
    assert validity_table(check_run(results)).rows[0][0] == "unchanged files"
    assert findings_table(FINDINGS).rows[2][:3] == ["Early or late?", "not applicable", None]


def test_undefined_values_are_none_in_tables():
    table = cells_table(make(run_of("iterative", layers=2, columns=2), pairs=1))
    column = table.columns.index("cosine_to_clean")
    assert [row[column] is None for row in table.rows] == [False, True, False, True]


def test_scalars_and_series(results):
    found = scalars(results, check_run(results), FINDINGS)
    assert found["largest_kl/kl_divergence"] == pytest.approx(
        results.values["kl_divergence"][:, 1, 0].mean()
    )
    assert found["findings/yes"] == 1
    assert found["checks_failed"] == 0
    assert not any(isinstance(value, dict | list) or math.isnan(value) for value in found.values())
    assert leading_cells(results) == {
        "largest_content/cell": "layer 1, position 0",
        "largest_kl/cell": "layer 1, position 0",
    }
    series = dict(layer_series(results))
    assert list(series) == [0, 1, 2]
    assert series[1]["content_effect"] == pytest.approx(found["largest_content/effect"])
    expected = ["resid_post", "recomputed", "denoising", "clean", "control-sibling"]
    assert tags(results.run) == expected


def read_wandb(path):
    """The records of an offline run: LevelDB's log format around W&B's own messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, message = path.read_bytes(), b""
    assert content[:4] == b":W&B"
    place = 7
    while place + 7 <= len(content):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        if kind == 0:  # padding
            place += room
            continue
        message += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(message)
            message = b""


@pytest.fixture(scope="module")
def logged(results, tmp_path_factory):
    """What an offline run of W&B wrote: history, summary, artifacts, and its folder."""
    import wandb

    folder = tmp_path_factory.mktemp("wandb")

    class WandbLogger:
        """As Lightning's: known by its name, with the run as `experiment`."""

        experiment = wandb.init(
            project="x", dir=folder, mode="offline", settings=wandb.Settings(silent=True)
        )

    log_to(WandbLogger(), results.folder, results, FINDINGS)
    WandbLogger.experiment.finish()
    wandb.teardown()  # its service writes the last of the file
    (run,) = (folder / "wandb").glob("offline-run-*")
    history, summary, artifacts = {}, {}, []
    for record in read_wandb(next(run.glob("*.wandb"))):
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            history.setdefault(name, []).append(json.loads(item.value_json))
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if record.request.log_artifact.artifact.type:
            artifacts.append(record.request.log_artifact.artifact)
        if record.artifact.type:
            artifacts.append(record.artifact)
    return run, history, summary, artifacts


def test_wandb_has_tables_figures_and_series(logged, results):
    run, history, _, _ = logged
    sizes = {"cells": 30, "aggregate": 110, "validity": 10, "findings": 3}
    for name, rows in sizes.items():
        (path,) = history[f"{name}/path"]
        table = json.loads((run / "files" / path).read_text())
        assert len(table["data"]) == rows, name
    assert {"figures/effects/path", "figures/recovery/path"} <= set(history)
    assert history["layer"] == [0, 1, 2]
    assert len(history["by_layer/kl_divergence"]) == 3
    assert history["by_layer/content_effect"][1] == pytest.approx(
        scalars(results, [])["largest_content/effect"]
    )


def test_wandb_has_a_flat_summary_and_the_folder(logged, results):
    _, _, summary, artifacts = logged
    own = {k: v for k, v in summary.items() if k.startswith(("largest_", "findings/", "num_"))}
    assert own["largest_content/cell"] == "layer 1, position 0"
    assert own["num_pairs"] == 5
    assert not any(isinstance(value, dict | list) for value in own.values())
    kinds = {artifact.type for artifact in artifacts}
    assert "results" in kinds
    (ours,) = [artifact for artifact in artifacts if artifact.type == "results"]
    assert ours.name == "codi-tiny_word-problems_position"
    names = {entry.path for entry in ours.manifest.contents}
    assert {"position_patching_results.json", "results.csv", "SHA256SUMS", "effects.png"} <= names


def test_tensorboard_has_a_few_scalars_and_the_maps(results, tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="x")
    log_to(logger, results.folder, results, FINDINGS)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Tags()["images"] == ["effects", "recovery"]
    assert len(events.Tags()["scalars"]) < 25
    layers = events.Scalars("by_layer/kl_divergence")
    assert [event.step for event in layers] == [0, 1, 2]


def test_csv_has_a_row_for_each_pair_and_cell(results, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path, name="x")
    log_to(logger, results.folder, results)
    logger.finalize("success")
    with (tmp_path / "x" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (results.folder / "results.csv").open() as file:
        expected = list(csv.DictReader(file))
    for row, other in zip(rows, expected, strict=True):
        assert {key: row[key] for key in other} == other


def test_mlflow_has_parameters_series_and_files(results, tmp_path, monkeypatch):
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger("x", save_dir=str(tmp_path / "mlflow"))
    log_to(logger, results.folder, results)
    client, run = logger.experiment, logger.run_id
    found = client.get_metric_history(run, "by_layer/content_effect")
    assert sorted(metric.step for metric in found) == [0, 1, 2]
    assert client.get_run(run).data.params["data_sha256"] == results.run.data_sha256
    names = {artifact.path for artifact in client.list_artifacts(run)}
    assert names == {
        "effects.png",
        "recovery.png",
        "results.csv",
        "aggregate.json",
        "validity.json",
    }


def test_any_other_logger_gets_parameters_and_the_summary(results):
    class Memory:
        def __init__(self):
            self.parameters, self.metrics, self.saved = {}, {}, 0

        def log_hyperparams(self, parameters):
            self.parameters |= parameters

        def log_metrics(self, metrics, step):
            self.metrics |= metrics

        def save(self):
            self.saved += 1

    logger = Memory()
    log_to(logger, results.folder, results)
    assert logger.parameters["grid/columns"] == "['0', '1']"
    assert logger.metrics == scalars(results, check_run(results))
    assert logger.saved == 1
