"""What the loggers get is what is in the results; one that fails costs a warning."""

import csv
import json
import math
import struct
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import psutil
import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger

from codi_patching.callbacks.figures import draw
from codi_patching.callbacks.loggers import ResultsLogger, log_results
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.results import read_results
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching

ROOT = Path(__file__).parent.parent


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
        message += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(message)
            message = b""


def predict(folder, *options, **more):
    command = [
        *(sys.executable, "-m", "codi_patching", "predict"),
        *(f"--config={ROOT}/configs/position.yaml", "--figures.pairs=false"),
        *("--validity.pairs=0", "--results.dir=out", *options),
    ]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more
    )


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A run with the loggers that it has if nothing is said."""
    folder = tmp_path_factory.mktemp("logged")
    process = predict(folder)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    return folder


@pytest.mark.slow
def test_wandb_has_every_metric_of_every_pair_and_cell(logged):
    results = read_results(logged / "out")
    (run,) = (logged / "runs" / "wandb").glob("offline-run-*")
    records = list(read_wandb(next(run.glob("*.wandb"))))
    (first, *_) = (r.run for r in records if r.WhichOneof("record_type") == "run")
    assert first.display_name == "10-30_llama_gsm8k_position_patching"
    assert first.project == "codi_patching"
    history = {}
    summary = {}
    config = {}
    for record in records:
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            history.setdefault(name, []).append(json.loads(item.value_json))
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        for item in record.config.update:
            config[item.key] = json.loads(item.value_json)
    assert history["pairs_done"] == [8, 16, 24, 32, 40, 48, 56, 57]
    (path,) = history["cells/path"]
    table = json.loads((run / "files" / path).read_text())
    assert len(table["data"]) == 57 * 80
    assert table["columns"][:4] == ["pair_id", "layer", "position", "structural_zero"]
    for index, metric in enumerate(results.metadata["metrics"]):
        assert table["columns"][4 + index] == metric
        column = [row[4 + index] for row in table["data"]]
        written = np.array([math.nan if value is None else value for value in column])
        np.testing.assert_array_equal(written, results.values[metric].reshape(-1))
    assert [row[0] for row in table["data"][::80]] == results.pair_ids
    aggregate = json.loads((logged / "out" / "aggregate.json").read_text())
    top = summary["top_1"]
    assert (top["layer"], top["position"]) == ("15", "3")
    assert top["kl_divergence"] == aggregate["top_cells"][0]["kl_divergence"]["mean"]
    means = json.loads((run / "files" / history["aggregate/path"][0]).read_text())
    assert len(means["data"]) == 8 * 79
    assert {"figures/kl_divergence/path", "figures/recovery/path"} <= set(history)
    assert config["checkpoint_sha256"] == results.metadata["checkpoint_sha256"]
    assert config["config"]["model"]["init_args"]["latents"] == "recomputed"


@pytest.mark.slow
def test_csv_has_a_row_for_each_pair_and_cell(logged):
    with (logged / "runs" / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (logged / "out" / "results.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert len(rows) == 57 * 80
    for row, other in zip(rows, expected, strict=True):
        assert {key: row[key] for key in other} == other


@pytest.mark.slow
def test_wandb_killed_in_mid_run(logged, tmp_path):
    process = predict(tmp_path)
    while not list(tmp_path.glob("out/partial/*.safetensors")):
        assert process.poll() is None
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    services = [c for c in children if "wandb-core" in " ".join(c.cmdline())]
    assert services
    for service in services:
        service.kill()
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert "WandbLogger failed and gets nothing more of this run" in error
    assert "Traceback" not in error
    for path in (logged / "out").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "runs" / "csv" / "version_0" / "metrics.csv").exists()


@pytest.mark.slow
def test_no_disk_and_no_server_for_the_logger(tmp_path):
    """A file in place of its folder; a server that is not there. Neither at start nor later."""
    (tmp_path / "runs").write_text("in the way")
    few = "--data.max_pairs=2"
    process = predict(tmp_path, few, f"--config={ROOT}/configs/loggers/tensorboard.yaml")
    error = process.communicate()[1]
    assert (process.returncode, "TensorBoardLogger failed" in error) == (0, True), error
    server = "--trainer.logger.tracking_uri=sqlite:////nowhere/mlflow.db"
    mlflow = f"--config={ROOT}/configs/loggers/mlflow.yaml"
    process = predict(tmp_path, few, mlflow, server, "--results.dir=again")
    error = process.communicate()[1]
    assert (process.returncode, "MLFlowLogger failed" in error) == (0, True), error
    assert read_results(tmp_path / "again").pair_ids == read_results(tmp_path / "out").pair_ids


@pytest.fixture
def written(checkpoint, predict):
    """Results of a small random model, with a figure."""
    results = predict(PositionPatching(checkpoint))
    draw(results, "kl_divergence", slice(None), 1).savefig(predict.folder / "kl_divergence.png")
    return predict.folder, results


def test_tensorboard(written, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, results = written
    logger = TensorBoardLogger(tmp_path / "tb", name="x")
    log_results(logger, folder, results)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    for metric, values in results.values.items():
        for layer in range(3):
            for position in range(3):
                own = values[:, layer, position]
                found = events.Scalars(f"{metric}/layer {layer}/position {position}")
                expected = [(s, v) for s, v in enumerate(own) if not math.isnan(v)]
                assert [event.step for event in found] == [step for step, _ in expected]
                np.testing.assert_allclose(
                    [event.value for event in found], [v for _, v in expected], rtol=1e-6
                )
    (mean,) = events.Scalars("mean/kl_divergence/layer 1/1")
    assert mean.value == pytest.approx(results.values["kl_divergence"][:, 1, 1].mean())
    assert events.Tags()["images"] == ["kl_divergence"]


def test_mlflow(written, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder, results = written
    logger = MLFlowLogger("x", save_dir=str(tmp_path / "mlflow"))
    log_results(logger, folder, results)
    client, run = logger.experiment, logger.run_id
    found = client.get_metric_history(run, "kl_divergence/layer 1/position 2")
    by_step = sorted(found, key=lambda metric: metric.step)
    assert [m.value for m in by_step] == results.values["kl_divergence"][:, 1, 2].tolist()
    assert client.get_run(run).data.params["data_sha256"] == results.metadata["data_sha256"]
    assert {a.path for a in client.list_artifacts(run)} == {"kl_divergence.png", "results.csv"}


def test_csv_of_a_layer_experiment(checkpoint, predict, tmp_path):
    results = predict(LayerPatching(checkpoint=checkpoint))
    logger = CSVLogger(tmp_path, name="csv")
    log_results(logger, predict.folder, results)
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["position"] for row in rows] == ["all"] * 9
    kl = [float(row["kl_divergence"]) for row in rows]
    assert kl == results.values["kl_divergence"].flatten().tolist()


class Broken(CSVLogger):
    """Fails at one method."""

    def __init__(self, folder, fails):
        super().__init__(folder)
        self.fails = fails

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "__dict__").get("fails"):
            raise ConnectionError("no route to host")
        return super().__getattribute__(name)


@pytest.mark.parametrize("fails", ["experiment", "log_hyperparams", "log_metrics", "finalize"])
def test_a_logger_that_fails_is_a_warning(checkpoint, predict, tmp_path, fails):
    expected = predict(PositionPatching(checkpoint))
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=CSVLogger(tmp_path / "good"),
        enable_progress_bar=False,
        callbacks=[
            ResultsWriter(str(tmp_path / "out")),
            ResultsLogger([Broken(tmp_path / "broken", fails)]),
        ],
    )
    data = PairsDataModule(str(tmp_path / "pairs.json"))
    with pytest.warns(UserWarning, match=r"Broken failed .* not affected: no route to host"):
        trainer.predict(PositionPatching(checkpoint), data, return_predictions=False)
    for metric, values in read_results(tmp_path / "out").values.items():
        np.testing.assert_array_equal(values, expected.values[metric])
    assert list((tmp_path / "good").rglob("metrics.csv"))
