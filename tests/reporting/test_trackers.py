"""Trackers get what is in the results: W&B, TensorBoard, CSV and MLflow really write."""

import csv
import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
from lens_maker import write_lens
from made_reports import claim, finding
from PIL import Image
from results_maker import make, records_of, run_of, write

from codi_patching.analysis.checks import Check
from codi_patching.analysis.report import build_report
from codi_patching.reporting.names import tags
from codi_patching.reporting.rows import table_rows
from codi_patching.reporting.runs import ReportOptions, report_folder
from codi_patching.reporting.trackers import _parameters as parameters_of
from codi_patching.reporting.trackers import _tables as tables_of
from codi_patching.reporting.trackers import layer_series, leading_cells, log_to, scalars
from codi_patching.results.read import read_results

OPTIONS = ReportOptions(pair_sheets=False, page=False)
PAIRS, ABLE = 5, 5
"""Pairs, and cells of 3 layers × 2 positions that are no structural zero."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results with everything that is derived from them but the page."""
    run = run_of(layers=3, columns=2)
    made = tmp_path_factory.mktemp("tracked") / "out"
    return write(made, run, records_of(run, pairs=PAIRS, planted={(1, 0): 0.4}))


@pytest.fixture(scope="module")
def report(folder):
    return report_folder(folder, OPTIONS).report


@pytest.fixture(scope="module")
def data(report, folder):
    return read_results(folder)


def content_effect(data, layer, position):
    """The smaller of the mean rises over the unpatched run and over the control."""
    own, control = (
        data["clean_probability"].sel(layer=layer, column=position, arm=arm).values
        for arm in ("own", "control")
    )
    base = data["run_clean_probability"].sel(run="base").values
    return min(np.mean(own - base), np.mean(own - control))


def test_scalars_and_series(report, data):
    found = scalars(report)
    kl = data["kl_divergence"].sel(arm="own").mean("pair").values
    assert found["largest_kl"] == pytest.approx(kl.max())
    assert found["largest_content"] == pytest.approx(content_effect(data, "1", "0"))
    assert (found["num_pairs"], found["checks_failed"]) == (PAIRS, 0)
    assert not any(isinstance(value, dict | list) or math.isnan(value) for value in found.values())
    assert leading_cells(report) == {
        "largest_content/cell": "layer 1, position 0",
        "largest_kl/cell": "layer 1, position 0",
    }
    series = dict(layer_series(report))
    assert list(series) == [0, 1, 2]
    assert series[1]["content_effect"] == pytest.approx(content_effect(data, "1", "0"))
    assert series[1]["kl_divergence"] == pytest.approx(kl[1].max())
    expected = ["resid_post", "recomputed", "denoising", "clean", "control-sibling"]
    assert tags(data.attrs["run"]) == expected


def test_each_number_is_of_its_own_measure_cell_and_layer():
    run = run_of(layers=3, columns=2, thought=True, excluded={"p": "long"}, filtered=("q", "r"))
    planted, disrupting = {(1, 0): 0.4, (1, 1): 0.2}, {(2, 0): 6.0, (3, 0): 1.0}
    data = make(run, pairs=24, planted=planted, disrupting=disrupting)
    failing = Check("a", "0", "1", "fail"), Check("b", "0", "0", "pass"), Check("c", "", "", "pass")
    label = "position, recomputed"
    report = replace(build_report([data]), checks={label: failing})
    found, lead = scalars(report), report.finding("cells").lead
    kl = data["kl_divergence"].sel(arm="own").values.mean(0)
    assert found["largest_kl"] == pytest.approx(kl[2, 0])
    assert found["largest_content"] == pytest.approx(content_effect(data, "0", "0"))
    assert leading_cells(report) == {
        "largest_content/cell": "layer 0, position 0",
        "largest_kl/cell": "layer 1, position 0",
    }
    assert (found["excluded"], found["checks_failed"]) == (1, 1)
    assert found["cells/estimate"] == pytest.approx(lead.lead.mean) == found["largest_content"]
    other = next(f.key for f in report.findings if f.lead and not f.lead.claimed)
    assert (found["cells/claimed"], found[f"{other}/claimed"]) == (1, 0)
    series = dict(layer_series(report))
    assert list(series) == [0, 1, 2]  # the thoughts themselves are no layer
    for layer in range(3):
        shown = max(content_effect(data, str(layer), column) for column in "01"[: 2 - layer // 2])
        assert series[layer]["content_effect"] == pytest.approx(shown)
        assert series[layer]["kl_divergence"] == pytest.approx(kl[layer + 1].max())
    rows = tables_of(report)["findings"]
    names = ("question", "answer", "estimate", "p", "n")
    assert rows == [{name: getattr(row, name) for name in names} for row in table_rows(report)]


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


class Written:
    """What an offline run of W&B wrote: history, summary, artifacts, and its folder."""

    def __init__(self, folder, results, report):
        import wandb

        class WandbLogger:
            """As Lightning's: known by its name, with the run as `experiment`."""

            experiment = wandb.init(
                project="x", dir=folder, mode="offline", settings=wandb.Settings(silent=True)
            )

        log_to(WandbLogger(), results, report)
        WandbLogger.experiment.finish()
        wandb.teardown()  # its service writes the last of the file
        (self.run,) = (folder / "wandb").glob("offline-run-*")
        self.history, self.summary, self.artifacts = {}, {}, []
        for record in read_wandb(next(self.run.glob("*.wandb"))):
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                self.history.setdefault(name, []).append(json.loads(item.value_json))
            for item in record.summary.update:
                name = item.key or "/".join(item.nested_key)
                self.summary[name] = json.loads(item.value_json)
            found = [record.request.log_artifact.artifact, record.artifact]
            self.artifacts += [one for one in found if one.type == "results"]

    def table(self, name):
        """Columns, and rows."""
        (path,) = self.history[f"{name}/path"]
        content = json.loads((self.run / "files" / path).read_text())
        return content["columns"], content["data"]

    def files(self):
        """Name of the artifact, and of what is in it."""
        (ours,) = self.artifacts
        return ours.name, {entry.path for entry in ours.manifest.contents}


@pytest.fixture(scope="module")
def logged(folder, report, tmp_path_factory):
    return Written(tmp_path_factory.mktemp("wandb"), folder, report)


def test_wandb_has_tables_that_are_the_files(logged, folder, data):
    columns, rows = logged.table("cells")
    with (folder / "results.csv").open() as file:
        assert columns == next(csv.reader(file))
    column = columns.index("control_kl_divergence")
    values = data["kl_divergence"].sel(arm="control").values.reshape(-1)
    np.testing.assert_array_equal([row[column] for row in rows], values)
    columns, rows = logged.table("aggregate")
    assert columns == ["metric", "layer", "position", "mean", "std", "ci_low", "ci_high", "n"]
    assert len(rows) == ABLE * 22  # 10 metrics of own and control each, two content effects
    checks = json.loads((folder / "validity.json").read_text())["checks"]
    assert [row[0] for row in logged.table("validity")[1]] == [check["name"] for check in checks]
    assert logged.table("findings")[1][0][-1] == str(PAIRS)


def test_wandb_has_figures_and_series(logged, data):
    figures = {name for name in logged.history if name.startswith("figures/")}
    assert {"figures/content/path", "figures/effects/path"} <= figures
    assert logged.history["layer"] == [0, 1, 2]
    kl = data["kl_divergence"].sel(arm="own").mean("pair").max("column").values
    assert logged.history["by_layer/kl_divergence"] == pytest.approx(list(kl))


def test_wandb_has_a_flat_summary_and_the_folder(logged, report):
    own = {k: logged.summary[k] for k in [*scalars(report), *leading_cells(report)]}
    assert own["largest_content/cell"] == "layer 1, position 0"
    assert own["num_pairs"] == PAIRS
    assert not any(isinstance(value, dict | list) for value in own.values())
    name, names = logged.files()
    assert name == "codi-tiny_word-problems_position"
    assert names >= {"position_patching_results.json", "results.csv", "SHA256SUMS", "effects.png"}


def test_tensorboard_has_a_few_scalars_and_the_figures(folder, report, tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="x")
    log_to(logger, folder, report)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    assert {f"{name}.png" for name in events.Tags()["images"]} == {
        path.name for path in folder.glob("*.png")
    }
    assert len(events.Tags()["scalars"]) < 40
    layers = events.Scalars("by_layer/kl_divergence")
    assert [event.step for event in layers] == [0, 1, 2]


def test_csv_has_a_row_for_each_pair_and_cell(folder, report, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path, name="x")
    log_to(logger, folder, report)
    logger.finalize("success")
    with (tmp_path / "x" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "results.csv").open() as file:
        expected = list(csv.DictReader(file))
    for row, other in zip(rows, expected, strict=True):
        assert {key: row[key] for key in other} == other


def test_mlflow_has_parameters_series_and_files(folder, report, data, tmp_path, monkeypatch):
    from lightning.pytorch.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger("x", save_dir=str(tmp_path / "mlflow"))
    log_to(logger, folder, report)
    client, run = logger.experiment, logger.run_id
    found = client.get_metric_history(run, "by_layer/content_effect")
    assert sorted(metric.step for metric in found) == [0, 1, 2]
    assert client.get_run(run).data.params["data_sha256"] == data.attrs["run"].data_sha256
    names = {artifact.path for artifact in client.list_artifacts(run)}
    figures = {path.name for path in folder.glob("*.png")}
    assert names == figures | {"results.csv", "aggregate.json", "validity.json"}


class Memory:
    """Any other logger."""

    def __init__(self):
        self.parameters, self.metrics, self.saved = {}, {}, 0

    def log_hyperparams(self, parameters):
        self.parameters |= parameters

    def log_metrics(self, metrics, step):
        self.metrics |= metrics

    def save(self):
        self.saved += 1


def test_any_other_logger_gets_parameters_and_the_summary(folder, report):
    logger = Memory()
    log_to(logger, folder, report)
    assert logger.parameters["grid/columns"] == "['0', '1']"
    assert logger.metrics == scalars(report)
    assert logger.saved == 1


# -- the lens -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lens(tmp_path_factory):
    """A folder of the lens, and its report."""
    folder = write_lens(tmp_path_factory.mktemp("lens") / "out", 6, planted={(1, 1, 1): 1.0})
    return folder, report_folder(folder, OPTIONS).report


def test_wandb_has_the_lens(lens, tmp_path):
    logged = Written(tmp_path, *lens)
    assert "figures/lens_hit_rates/path" in logged.history
    assert logged.table("validity")[1]
    assert logged.summary["num_pairs"] == 6
    assert "cells/path" not in logged.history  # nothing was patched
    name, names = logged.files()
    assert name == "codi-tiny_word-problems_lens"
    assert "lens_results.json" in names


@pytest.mark.parametrize("kind", ["CSVLogger", "TensorBoardLogger", "MLFlowLogger"])
@pytest.mark.filterwarnings("ignore")
def test_others_have_the_lens(lens, tmp_path, monkeypatch, kind):
    from lightning.pytorch import loggers

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = getattr(loggers, kind)(save_dir=str(tmp_path))
    log_to(logger, *lens)
    logger.finalize("success")
    assert any(path.is_file() for path in tmp_path.rglob("*"))
    memory = Memory()
    log_to(memory, *lens)
    assert memory.parameters["experiment"] == "lens"
    assert memory.metrics["num_pairs"] == 6


# -- what is given to each kind -----------------------------------------------------------------


class Asked:
    """A logger that keeps what it is asked, with the step; known by the name of its class."""

    run_id = "r1"

    def __init__(self):
        self.calls = []
        self.experiment = self.config = self.summary = self

    def __getattr__(self, name):
        return lambda *given, **named: self.calls.append((name, *given, *named.values()))

    def of(self, name):
        return [given for called, *given in self.calls if called == name]


def asked(kind, folder, report):
    logger = type("Mine", (type(kind, (Asked,), {}),), {})()  # derived from one of that name
    log_to(logger, folder, report)
    return logger


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run with an undefined value, the thoughts' row and figures; its report finds nothing."""
    folder = tmp_path_factory.mktemp("small")
    data = make(run_of(layers=2, columns=2, thought=True), pairs=2, planted={(1, 1): 0.3})
    data["kl_divergence"][0, 1, 0, 0] = np.nan
    made = replace(build_report([data]), findings=())
    for name in ("effects.png", "content.png", "other.png", "results.csv", "validity.json"):
        Image.new("RGBA", (3, 2), (255, 0, 0, 9)).save(folder / name, "PNG")
    return folder, made


def test_any_logger_gets_the_summary_at_the_number_of_pairs(small):
    logger = asked("OtherLogger", *small)
    assert logger.of("log_metrics") == [[scalars(small[1]), 2]]
    assert [name for name, *_ in logger.calls] == ["log_hyperparams", "log_metrics", "save"]


def test_csv_gets_a_row_at_each_step_without_what_is_undefined(small):
    logger = asked("CSVLogger", *small)
    rows = logger.of("log_metrics")
    assert [step for _, step in rows] == list(range(2 * 3 * 2))
    assert "kl_divergence" not in rows[2][0]
    assert rows[2][0]["recovery"] == rows[2][0]["recovery"]
    assert all("kl_divergence" in row for row, step in rows if step != 2)
    assert (rows[7][0]["pair_id"], rows[7][0]["layer"]) == ("pair_01", "thought")


def test_tensorboard_gets_scalars_series_and_pictures_without_transparency(small):
    logger = asked("TensorBoardLogger", *small)
    summary, series = scalars(small[1]), dict(layer_series(small[1]))
    expected = [[name, value, 2] for name, value in summary.items()]
    expected += [[f"by_layer/{k}", v, n] for n, own in series.items() for k, v in own.items()]
    assert logger.of("add_scalar") == expected
    assert [(n, p.shape, o) for n, p, o in logger.of("add_image")] == [
        ("content", (2, 3, 3), "HWC"), ("effects", (2, 3, 3), "HWC"),
    ]  # fmt: skip
    assert logger.of("log_metrics") == []


def test_mlflow_gets_series_figures_and_the_tables_that_are_there(small):
    folder, made = small
    logger = asked("MLFlowLogger", *small)
    series = [
        [{f"by_layer/{k}": v for k, v in own.items()}, layer] for layer, own in layer_series(made)
    ]
    assert logger.of("log_metrics") == [[scalars(made), 2], *series]
    names = ("content.png", "effects.png", "results.csv", "validity.json")
    assert logger.of("log_artifact") == [["r1", str(folder / name)] for name in names]


def test_wandb_splits_long_tables_and_leaves_hidden_files(small, monkeypatch):
    import wandb

    folder, made = small
    (folder / ".lock").touch()
    (folder / "pairs").mkdir()
    monkeypatch.setattr(wandb.Table, "MAX_ROWS", 5)
    logger = asked("WandbLogger", folder, made)
    logged = {key: value for (own,) in logger.of("log") for key, value in own.items()}
    tables = {key: value.data for key, value in logged.items() if isinstance(value, wandb.Table)}
    assert [len(tables[name]) for name in ("cells", "cells_1", "cells_2")] == [5, 5, 2]
    assert tables["cells_2"][-1][:3] == ["pair_01", "1", "1"]
    assert {"aggregate", "validity"} <= set(tables)
    assert "findings" not in tables  # without a row
    assert logger.of("define_metric") == [
        ["layer", True], ["by_layer/*", "layer"],
    ]  # fmt: skip
    assert [own["layer"] for (own,) in logger.of("log") if "layer" in own] == [0, 1]
    (described, change), (summary,) = logger.of("update")
    assert (described["data_sha256"], change) == (run_of().data_sha256, True)
    assert summary == {**scalars(made), **leading_cells(made)}
    ((artifact,),) = logger.of("log_artifact")
    assert set(artifact.manifest.entries) == {
        "effects.png", "content.png", "other.png", "results.csv", "validity.json",
    }  # fmt: skip


def test_parameters_are_one_level_of_short_values():
    described = {
        "a": {"b": {"c": 1, "d": [1, 2]}, "e": {}}, "f": None, "g": "x" * 300, "h": 0.5, "i": (),
        "excluded": {"p1": "long", "p2": "odd"},
    }  # fmt: skip
    assert parameters_of(described) == {
        "a/b/c": 1, "a/b/d": "[1, 2]", "a/e": "{}", "f": None, "g": "x" * 250, "h": 0.5,
        "i": "[]", "excluded": "p1, p2",
    }  # fmt: skip


def test_what_is_not_finite_is_no_scalar_and_no_part_of_a_series(small):
    _, made = small
    lead = claim(mean=float("inf"), other=float("inf"))
    found = scalars(replace(made, findings=(finding("ceiling", 1, "yes", lead),)))
    assert "ceiling/estimate" not in found
    assert found["ceiling/claimed"] == 1
    (label, summary), *_ = made.summaries.items()
    table = summary.table.copy(deep=True)
    table["content_effect"][1, :] = np.nan
    series = dict(layer_series(replace(made, summaries={label: replace(summary, table=table)})))
    assert set(series[0]) == {"kl_divergence"}
    assert set(series[1]) == {"kl_divergence", "content_effect"}
    bare = replace(summary, top_content=(), top_kl=())
    found = replace(made, summaries={label: bare})
    assert leading_cells(found) == {}
    assert not any(name.startswith("largest") for name in scalars(found))
