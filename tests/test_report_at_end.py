"""What follows a run: when its report is made, who is told, and what is compared with it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from memory_logger import Memory

import codi_patching.callbacks.report_at_end as at_end
import codi_patching.reporting.runs as reporting
from codi_patching.callbacks.loggers import SafeLogger
from codi_patching.callbacks.report_at_end import Report
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairBatch, PairsDataModule
from codi_patching.errors import InputError
from codi_patching.experiments.position import PositionPatching
from codi_patching.results.description import ResultsError


class Writer(ResultsWriter):
    """Its results are there, or not; says what becomes of the folder."""

    def __init__(self, folder, finished=True):
        super().__init__(str(folder))
        self.folder, self.given, self.finished, self.seen = folder, finished, False, []

    def teardown(self, *_):
        self.seen.append("written")
        self.finished = self.given

    def release(self):
        self.seen.append("released")


@pytest.fixture
def trainer(tmp_path):
    """A trainer of one process, whose results are in `out`."""
    return SimpleNamespace(
        callbacks=[Report(), Writer(tmp_path / "out")],
        loggers=[],
        is_global_zero=True,
        world_size=1,
        strategy=SimpleNamespace(broadcast=lambda given: given),
    )


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Reports and comparisons are made of names alone; `made.failed` are those that fail."""
    made = SimpleNamespace(reports=[], comparisons=[], logged=[], failed=set())

    def report_folder(*given):
        made.reports.append(given)
        return SimpleNamespace(text="the report", failed="report" in made.failed, report="said")

    def compare_folders(*given):
        made.comparisons.append(given)
        if "refused" in made.failed:
            raise ResultsError("they differ in seed")
        return SimpleNamespace(text="the comparison", failed="comparison" in made.failed)

    def log_to(logger, folder, report):
        if isinstance(logger, Memory) and "logging" in made.failed:
            raise OSError("no space left")
        made.logged.append((logger, folder, report))

    monkeypatch.setattr(reporting, "report_folder", report_folder)
    monkeypatch.setattr(reporting, "compare_folders", compare_folders)
    monkeypatch.setattr("codi_patching.reporting.trackers.log_to", log_to)
    told = lambda line: made.logged.append(line)  # noqa: E731
    monkeypatch.setattr(at_end, "rank_zero_info", told)
    for name in ("other", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "position_patching_results.json").touch()
    return made


def test_what_a_report_is_made_of_by_default():
    options = Report().options
    assert (options.figures, options.pair_sheets, options.page) == (True, True, True)
    assert (options.top, options.docs, options.formats, options.strata) == (5, None, ("png",), ())


def test_each_option_of_a_report_is_its_own(tmp_path):
    report = Report(
        figures=True, pair_sheets=False, page=False, top=3, docs="d", name="n", format=["svg"],
        compare_with=["a", "b"], comparison_dir="c", strata=["kind"],
    )  # fmt: skip
    options = report.options
    assert (options.figures, options.pair_sheets, options.page) == (True, False, False)
    assert (options.top, options.docs, options.formats) == (3, Path("d"), ("svg",))
    assert (options.strata, report.name) == (("kind",), "n")
    assert (report.compare_with, report.comparison_dir) == ([Path("a"), Path("b")], Path("c"))
    assert not Report(figures=False).options.pair_sheets
    with pytest.raises(InputError, match="expected the name of a report"):
        Report(name="a/b")


def test_the_folder_is_kept_for_the_report(trainer, made):
    report, writer = trainer.callbacks
    report.setup(trainer, None, "predict")
    assert writer.released_later
    report.teardown(trainer, None, "predict")
    assert writer.seen == ["written", "released"]
    assert made.reports == [(writer.folder, report.options, None)]
    assert not report.failed


@pytest.mark.parametrize("argument", ["docs", "comparison_dir"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(trainer, tmp_path, argument):
    (tmp_path / "file").touch()
    asked = {argument: str(tmp_path / "file" / "x")}
    report = Report(**asked, compare_with=["a"] if argument == "comparison_dir" else None)
    with pytest.raises(ResultsError, match=f"cannot be written .*: set {argument}"):
        report.setup(trainer, None, "predict")
    Report(comparison_dir=str(tmp_path / "file" / "x")).setup(trainer, None, "predict")


def test_a_field_of_strata_that_no_pair_has_is_refused_before_the_work(trainer, pairs_file):
    trainer.datamodule = PairsDataModule(pairs_file)
    trainer.datamodule.setup("predict")
    Report().setup(trainer, None, "predict")
    with pytest.raises(InputError, match="kind"):
        Report(strata=["kind"]).setup(trainer, None, "predict")
    trainer.datamodule = data = PairsDataModule(pairs_file, max_pairs=1)
    data.setup("predict")
    data.usable[-1] = replace(data.usable[-1], fields={"kind": "a"})  # which is not run
    with pytest.raises(InputError, match="kind"):
        Report(strata=["kind"]).setup(trainer, None, "predict")


def test_no_report_is_made_by_another_process_or_of_results_that_are_not_whole(
    trainer, tmp_path, made
):
    report = Report()
    for first, finished in ((False, True), (True, False)):
        trainer.is_global_zero = first
        trainer.callbacks = [report, writer := Writer(tmp_path / "out", finished)]
        report.teardown(trainer, None, "predict")
        assert writer.seen == ["written", "released"]
    trainer.callbacks = [report]
    report.teardown(trainer, None, "predict")
    assert (made.reports, made.logged) == ([], [])


def test_the_folder_is_given_up_where_the_report_fails(trainer, made, monkeypatch):
    monkeypatch.setattr(reporting, "report_folder", lambda *_: 1 / 0)
    report, writer = trainer.callbacks
    with pytest.raises(ZeroDivisionError):
        report.teardown(trainer, None, "predict")
    assert writer.seen == ["written", "released"]


def test_loggers_get_the_report_and_are_named_where_they_took_it(trainer, made, tmp_path):
    safe, failed = SafeLogger(Memory()), SafeLogger(Memory())
    plain = CSVLogger(str(tmp_path), "tables")
    trainer.loggers = [safe, failed, plain]
    failed.failed = True
    report, writer = trainer.callbacks
    report.teardown(trainer, None, "predict")
    assert made.logged == [
        (safe.inner, writer.folder, "said"),
        (plain, writer.folder, "said"),
        f"logged to Memory (here, memory), CSVLogger ({tmp_path}, tables)",
    ]
    assert safe.started
    made.logged.clear()
    made.failed.add("logging")
    trainer.loggers = [safe]
    with pytest.warns(UserWarning, match="Memory failed"):
        report.teardown(trainer, None, "predict")
    assert made.logged == []  # nobody took it, and nobody is named


def compared(trainer, tmp_path, *names):
    folders = [str(tmp_path / name) for name in names]
    report = Report(compare_with=folders, comparison_dir=str(tmp_path / "together"))
    report.teardown(trainer, None, "predict")
    return report


def test_results_are_compared_with_those_that_are_there(trainer, made, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    report = compared(trainer, tmp_path, "none", "other", "elsewhere/../out", "third")
    folders = [tmp_path / name for name in ("out", "other", "third")]
    assert made.comparisons == [(folders, tmp_path / "together", report.options)]
    assert made.logged == [f"not compared with {tmp_path}/none: no results there"]
    assert capsys.readouterr().out == "the report\nthe comparison\n"
    assert not report.failed


def test_nothing_is_compared_where_nothing_else_is_there(trainer, made, tmp_path, capsys):
    compared(trainer, tmp_path, "none", "nowhere", "out")
    assert made.comparisons == []
    told = f"not compared with {tmp_path}/none, {tmp_path}/nowhere: no results there"
    assert made.logged == [told]
    assert capsys.readouterr().out == "the report\n"


@pytest.mark.parametrize("which", ["report", "comparison"])
def test_a_check_that_fails_in_either_is_a_failure(trainer, made, tmp_path, which):
    made.failed.add(which)
    assert compared(trainer, tmp_path, "other").failed


def test_what_does_not_belong_together_costs_a_warning(trainer, made, tmp_path, capsys):
    made.failed.add("refused")
    with pytest.warns(UserWarning, match="no comparison: they differ in seed"):
        report = compared(trainer, tmp_path, "other")
    assert capsys.readouterr().out == "the report\n"
    assert not report.failed


class Measured:
    """A metric of an own and a control's map."""

    def __init__(self, own, update_called=True):
        self.update_called, self.maps = update_called, torch.tensor([own, [[99.0, 99.0]]])

    def compute(self):
        return self.maps


@pytest.mark.parametrize("processes", [1, 2])
def test_trackers_are_told_what_one_process_alone_can_know(trainer, pair, tmp_path, processes):
    experiment = PositionPatching()
    experiment.metrics = {
        "kl": Measured([[0.25, -1.0]]),
        "cosine": Measured([[float("nan"), -0.5]]),
        "unknown": Measured([[float("nan"), float("inf")]]),
        "untold": Measured([[1.0, 2.0]], update_called=False),
    }
    memory, safe = Memory(), SafeLogger(Memory())
    trainer.loggers = [CSVLogger(str(tmp_path)), memory, SafeLogger(CSVLogger(str(tmp_path))), safe]
    trainer.world_size = processes
    report = Report()
    for size in (2, 1):
        batch = PairBatch(0, [pair] * size)
        report.on_predict_batch_end(trainer, experiment, None, batch, 0)
    largest = {"running_max/kl": 0.25, "running_max/cosine": -0.5} if processes == 1 else {}
    expected = [(done, {"pairs_done": done, **largest}) for done in (2, 3)]
    assert memory.told == safe.inner.told == expected
    assert not list(tmp_path.iterdir())
