"""A run is resumed where it stopped, in one process or several, and ends with the same bytes."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import psutil
import pytest
from conftest import quiet_trainer
from lens_maker import write_lens
from lightning.pytorch.loggers import CSVLogger
from memory_logger import Memory

import codi_patching as cp
from codi_patching.callbacks.progress import PatchingProgress
from codi_patching.callbacks.report_at_end import Report
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.errors import InputError
from codi_patching.experiments import describe
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.lens import LensExperiment
from codi_patching.experiments.position import PositionPatching
from codi_patching.results.description import ResultsError
from codi_patching.results.files import changed_files
from codi_patching.results.folder import FolderLock
from codi_patching.results.read import read_results
from codi_patching.results.records import ExcludedPair

ROOT = Path(__file__).parent.parent
LOCKS = {".lock", ".owner"}


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in LOCKS
    }


@pytest.fixture
def pairs_file(pairs_file):
    """The pairs with their reasoning steps, for the lens."""
    records = json.loads(Path(pairs_file).read_text())
    for record, step in zip(records, ("16-3=13", "9+3=12", "5-1=4")):
        record["clean"]["reasoning_steps"] = [f"<<{step}>>"]
    Path(pairs_file).write_text(json.dumps(records))
    return pairs_file


@pytest.fixture
def run(checkpoint, pairs_file, tmp_path):
    """Run an experiment into a folder; returns the ids of the pairs that really ran."""

    def run(folder, kind=PositionPatching, overwrite=False, fail_at=None, batch_size=1, **options):
        experiment = kind(checkpoint=checkpoint, **options)
        ran, own = [], experiment.predict_step

        def predict_step(batch, batch_idx):
            ids = [pair.pair_id for pair in batch.pairs]
            if fail_at in ids:
                raise RuntimeError("stopped")
            ran.extend(ids)
            return own(batch, batch_idx)

        experiment.predict_step = predict_step
        trainer = quiet_trainer(ResultsWriter(str(tmp_path / folder), overwrite))
        data = PairsDataModule(pairs_file, batch_size=batch_size)
        with pytest.raises(RuntimeError, match="stopped") if fail_at else nullcontext():
            trainer.predict(experiment, data, return_predictions=False)
        run.experiment = experiment
        return ran

    return run


# -- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PositionPatching, {}),
        (IterativePatching, {"strategy": "relay", "trace_pair": "p0"}),
        pytest.param(
            IterativePatching,
            {"strategy": "cumulative", "source": "mean"},
            marks=pytest.mark.thorough,
        ),
        (LensExperiment, {}),
    ],
)
def test_a_run_that_stopped_is_resumed(run, tmp_path, kind, options):
    assert run("whole", kind, **options) == ["p0", "p1", "p2"]
    assert run("stopped", kind, fail_at="p2", **options) == ["p0", "p1"]
    assert {p.name for p in (tmp_path / "stopped").rglob("*")} - LOCKS == {
        *("partial", "run.json", "000000.safetensors", "000001.safetensors"),
    }
    assert run("stopped", kind, **options) == ["p2"]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_the_metrics_count_what_an_earlier_start_measured(run, tmp_path):
    """Their maps and the means of what was written are two ways to the same numbers."""
    run("out", fail_at="p2")
    assert run("out") == ["p2"]
    data = read_results(tmp_path / "out")
    for name, found in run.experiment.metrics.compute().items():
        mean = data[name].mean("pair").transpose("arm", "layer", "column").values
        np.testing.assert_allclose(found.numpy(), mean, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("before", "after", "fail_at", "ran"),
    [
        (2, 1, "p2", ["p2"]),  # p0 and p1 are kept together, and used one by one
        (1, 2, "p1", ["p0", "p1", "p2"]),  # p0 alone is half of a batch
        pytest.param(1, 2, "p2", ["p2"], marks=pytest.mark.thorough),
    ],
)
def test_a_run_is_resumed_with_another_batch_size(run, tmp_path, before, after, fail_at, ran):
    """As after running out of memory: how pairs are grouped is no part of what is run."""
    run("whole", batch_size=before)
    run("out", batch_size=before, fail_at=fail_at)
    assert run("out", batch_size=after, max_rows=4) == ran
    ours, theirs = read_results(tmp_path / "out"), read_results(tmp_path / "whole")
    assert ours.attrs["run"].config == theirs.attrs["run"].config
    assert ours["pair"].values.tolist() == ["p0", "p1", "p2"]
    for metric in ours.attrs["run"].metrics:
        np.testing.assert_allclose(ours[metric], theirs[metric], rtol=1e-3, atol=1e-5)
    mean = ours["recovery"].mean("pair").transpose("arm", "layer", "column").values
    counted = run.experiment.metrics["recovery"].compute().numpy()
    np.testing.assert_allclose(counted, mean, rtol=1e-6, atol=1e-9)
    assert run("out", batch_size=3) == []


def test_a_finished_run_started_again_runs_nothing_and_keeps_its_bytes(run, tmp_path):
    run("out")
    before = contents(tmp_path / "out")
    assert run("out") == []
    assert contents(tmp_path / "out") == before
    assert run("out", overwrite=True) == ["p0", "p1", "p2"]
    assert contents(tmp_path / "out") == before


def test_derived_files_are_nobodys_business_here(run, tmp_path):
    """They can be made again: changed or lost, the results are still whole."""
    run("out")
    (tmp_path / "out" / "results.csv").write_text("mine")
    assert changed_files(tmp_path / "out") == []
    assert run("out") == []
    assert (tmp_path / "out" / "results.csv").read_text() == "mine"
    assert run("out", overwrite=True) == ["p0", "p1", "p2"]
    assert not (tmp_path / "out" / "results.csv").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_run_is_refused_by_key(run, tmp_path, finished):
    run("out", fail_at=None if finished else "p1")
    before = contents(tmp_path / "out")
    with pytest.raises(
        ResultsError,
        match=r"another run, with another config\.model\.init_args\.direction, "
        r"config\.model\.init_args\.source, control, direction, source: set",
    ):
        run("out", direction="noising", source="zero")
    with pytest.raises(ResultsError, match=r"with another .*experiment, grid\.column, .*strategy"):
        run("out", IterativePatching)
    assert contents(tmp_path / "out") == before
    assert run("out", IterativePatching, overwrite=True) == ["p0", "p1", "p2"]
    assert read_results(tmp_path / "out").attrs["run"].experiment == "iterative"
    run("alone", IterativePatching)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_another_seed_is_another_run(run, tmp_path):
    run("out", fail_at="p1")
    with pytest.raises(ResultsError, match=r"another config.*seed.*, seed: set"):
        run("out", seed=7)


def other_code(monkeypatch, **changes):
    here = describe.describe_code()
    monkeypatch.setattr(describe, "describe_code", lambda: replace(here, **changes))


def test_a_run_of_other_code_is_not_resumed(run, tmp_path, monkeypatch):
    run("out", fail_at="p2")
    before = contents(tmp_path / "out")
    with monkeypatch.context() as context:
        other_code(context, sha256="0" * 64)
        with pytest.raises(ResultsError, match=r"with another code\.sha256: set dir"):
            run("out")
        assert contents(tmp_path / "out") == before
    assert run("out") == ["p2"]


def test_what_is_only_recorded_of_the_code_does_not_matter(run, tmp_path, monkeypatch):
    run("out", fail_at="p2")
    other_code(monkeypatch, version="99", git_commit="abc", git_changed=True)
    assert run("out") == ["p2"]
    assert read_results(tmp_path / "out").attrs["run"].code.version != "99"


def test_finished_results_of_other_code_are_accepted(run, tmp_path, monkeypatch, caplog):
    run("out")
    before = contents(tmp_path / "out")
    other_code(monkeypatch, sha256="0" * 64, version="99")
    assert run("out") == []
    assert contents(tmp_path / "out") == before
    assert read_results(tmp_path / "out").attrs["run"].code.sha256 != "0" * 64


def test_measured_files_that_were_changed_are_refused(run, tmp_path):
    run("out", IterativePatching, trace_pair="p1")
    for name in ("iterative_patching_results.json", "activations.safetensors", "trace_p1.csv"):
        path = tmp_path / "out" / name
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"1", b"2", 1))
        with pytest.raises(ResultsError, match=f"{name} .* changed since .* overwrite t"):
            run("out", IterativePatching, trace_pair="p1")
        if name == "trace_p1.csv":
            path.unlink()
            with pytest.raises(ResultsError, match=f"{name} .* changed since"):
                run("out", IterativePatching, trace_pair="p1")
        path.write_bytes(whole)
    for kind, folder in ((IterativePatching, "out"), (LensExperiment, "lens")):
        options = {"trace_pair": "p1"} if folder == "out" else {}
        run(folder, kind, **options)
        sums = tmp_path / folder / "SHA256SUMS"
        whole = sums.read_bytes()
        for damaged in (b"", b"\xff" + whole, whole[:-3]):
            sums.write_bytes(damaged)
            with pytest.raises(ResultsError, match="changed since"):
                run(folder, kind, **options)
        sums.unlink()
        with pytest.raises(ResultsError, match=r"SHA256SUMS in .* changed since"):
            run(folder, kind, **options)
        sums.write_bytes(whole)
    assert run("out", IterativePatching, trace_pair="p1") == []


def test_results_that_are_not_whole_are_refused(run, tmp_path):
    run("out")
    path = tmp_path / "out" / "position_patching_results.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ResultsError, match=r"not a complete results file.*overwrite true"):
        run("out")
    assert run("out", overwrite=True) == ["p0", "p1", "p2"]


def test_files_of_someone_else_are_not_replaced(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.csv").write_text("mine")
    with pytest.raises(ResultsError, match=r"out has results.csv, which this run would replace"):
        run("out")
    assert contents(tmp_path / "out") == {Path("results.csv"): b"mine"}


@pytest.mark.filterwarnings("ignore:pair p")
def test_a_run_that_gives_nothing_keeps_what_was_there(run, tmp_path, monkeypatch):
    run("out")
    before = contents(tmp_path / "out")
    monkeypatch.setattr(PositionPatching, "predict_step", refuse)
    with pytest.raises(ResultsError, match="no pair could be run; p0 was left out because no"):
        run("out", overwrite=True)
    kept = contents(tmp_path / "out")
    assert {path: kept[path] for path in before} == before


def refuse(_, batch, __):
    return [ExcludedPair(pair.pair_id, "no") for pair in batch.pairs]


def test_a_damaged_record_is_made_again(run, tmp_path):
    run("whole")
    run("out", fail_at="p2")
    records = sorted((tmp_path / "out" / "partial").glob("*.safetensors"))
    records[0].write_bytes(records[0].read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"000000.safetensors is damaged"):
        assert run("out") == ["p0", "p2"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    run("flipped", fail_at="p2")
    path = tmp_path / "flipped" / "partial" / "000001.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"000001.safetensors is damaged .* not what was written"):
        assert run("flipped") == ["p1", "p2"]
    assert contents(tmp_path / "flipped") == contents(tmp_path / "whole")
    run("other", fail_at="p2")
    (tmp_path / "other" / "partial" / "run.json").write_text("{")
    with pytest.raises(ResultsError, match=r"run.json is damaged"):
        run("other")
    assert run("other", overwrite=True) == ["p0", "p1", "p2"]


def test_a_batch_of_another_run_is_made_again(run, tmp_path):
    """A frozen run's batch in a recomputed one's folder, of the same pairs and shapes."""
    run("whole")
    run("out", fail_at="p2")
    run("frozen", fail_at="p1", latents="frozen")
    batch = Path("partial") / "000000.safetensors"
    (tmp_path / "out" / batch).write_bytes((tmp_path / "frozen" / batch).read_bytes())
    with pytest.warns(UserWarning, match=r"000000.safetensors is damaged .* to another run"):
        assert run("out") == ["p0", "p2"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_records_and_no_missing_batch_still_make_the_results(run, tmp_path, monkeypatch):
    """Stopped after the last batch, before the files were written."""
    run("whole")
    with monkeypatch.context() as context:
        context.setattr(ResultsWriter, "_write", lambda _: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(ResultsError, match="full"):
            run("out")
    assert len(list((tmp_path / "out" / "partial").glob("*.safetensors"))) == 3
    assert run("out") == []
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# -- the data give what is missing --------------------------------------------------------------


def test_the_data_module_yields_the_batches_that_are_missing(pairs_file):
    data = PairsDataModule(pairs_file, batch_size=2)
    data.setup("predict")

    def ids():
        return [(b.first, [p.pair_id for p in b.pairs]) for b in data.predict_dataloader()]

    assert ids() == [(0, ["p0", "p1"]), (2, ["p2"])]
    data.leave_out([0])
    assert ids() == [(2, ["p2"])]
    assert [batch.first for batch in data.batches] == [0, 2]
    data.leave_out([0, 2])
    assert ids() == []
    data.leave_out([])
    assert len(ids()) == 2


def test_an_odd_number_of_processes(pairs_file):
    data = PairsDataModule(pairs_file, batch_size=2)
    data.setup("predict")
    data.trainer = SimpleNamespace(world_size=3, global_rank=0)
    data.leave_out([0])  # what is missing does not decide it
    with pytest.raises(InputError, match="at most 2 processes, one for each batch of 2 pairs, got"):
        data.predict_dataloader()


# -- from Python, with a user's own callback and logger -----------------------------------------


class Mine(pl.Callback):
    """Looks at what the trainer has, whenever it is asked."""

    def __init__(self, logger):
        self.logger, self.seen, self.pairs = logger, [], []

    def look(self, name, trainer):
        assert trainer.logger is self.logger, name
        assert trainer.loggers == [self.logger]
        assert any(callback is self for callback in trainer.callbacks)
        self.seen.append(name)

    def setup(self, trainer, pl_module, stage):
        self.look("setup", trainer)

    def on_predict_start(self, trainer, pl_module):
        self.look("start", trainer)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, *_):
        self.look("batch", trainer)
        self.pairs += [result.pair_id for result in outputs]
        trainer.logger.log_metrics({"mine": len(self.pairs)}, step=len(self.pairs))

    def on_predict_end(self, trainer, pl_module):
        self.look("end", trainer)

    def teardown(self, trainer, pl_module, stage):
        self.look("teardown", trainer)


def test_a_users_own_callback_and_logger_are_left_in_place(checkpoint, pairs_file, tmp_path):
    logger = CSVLogger(tmp_path, "mine")
    mine = Mine(logger)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[mine, cp.ResultsWriter(str(tmp_path / "out"))],
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    experiment = cp.PositionPatching(checkpoint=checkpoint)
    given = trainer.predict(experiment, datamodule=cp.PairsDataModule(pairs_file, batch_size=2))
    assert mine.seen == ["setup", "start", "batch", "batch", "end", "teardown"]
    assert mine.pairs == ["p0", "p1", "p2"]
    assert trainer.logger is logger
    logger.save()
    assert (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0].count("mine") == 1
    assert [result.pair_id for batch in given for result in batch] == mine.pairs
    data = read_results(tmp_path / "out")
    assert data["pair"].values.tolist() == mine.pairs
    assert data["arm"].values.tolist() == ["own", "control"]


def test_the_seed_is_the_argument(checkpoint, predict, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert predict(PositionPatching(checkpoint=checkpoint)).run.seed == 42
    assert predict(PositionPatching(checkpoint=checkpoint, seed=9)).run.seed == 9


def test_the_writer_refuses_another_module(tmp_path):
    with pytest.raises(TypeError, match="expected an Experiment, got LightningModule"):
        ResultsWriter(str(tmp_path)).setup(quiet_trainer(), pl.LightningModule(), "predict")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_the_lens_is_left_alone(checkpoint, pairs_file, tmp_path, overwrite):
    write_lens(tmp_path, pairs=1)
    writer = ResultsWriter(str(tmp_path), overwrite=overwrite)
    with pytest.raises(ResultsError, match=r"has lens_results\.json, of another kind"):
        quiet_trainer(writer).predict(
            PositionPatching(checkpoint=checkpoint), PairsDataModule(pairs_file)
        )


def test_progress_counts_patched_runs(checkpoint, pairs_file, tmp_path, capsys):
    bar = PatchingProgress(every=0.0)
    trainer = quiet_trainer(bar, ResultsWriter(str(tmp_path / "out")), enable_progress_bar=True)
    data = PairsDataModule(pairs_file, batch_size=2)
    trainer.predict(PositionPatching(checkpoint=checkpoint), data, return_predictions=False)
    out, err = capsys.readouterr()
    # three pairs, (9 cells and a ceiling), own and control
    assert "runs: 60 of 60; pair p2, control, all thoughts at all layers" in err
    assert "runs:" not in out


def test_progress_counts_the_questions_of_the_lens(checkpoint, pairs_file, tmp_path, capsys):
    bar = PatchingProgress(every=0.0)
    trainer = quiet_trainer(bar, ResultsWriter(str(tmp_path / "out")), enable_progress_bar=True)
    data = PairsDataModule(pairs_file, batch_size=2)
    trainer.predict(LensExperiment(checkpoint=checkpoint), data, return_predictions=False)
    assert capsys.readouterr().err.splitlines()[-1] == "runs: 3 of 3"


def test_trackers_are_told_of_a_run_while_it_goes_on(checkpoint, pairs_file, tmp_path):
    tracker, report = Memory(), Report(figures=False, page=False)
    report.teardown = lambda *_, **__: None  # the report itself is another matter
    folder = tmp_path / "out"
    trainer = quiet_trainer(ResultsWriter(str(folder)), report, logger=tracker)
    data = PairsDataModule(pairs_file, batch_size=2)
    trainer.predict(PositionPatching(checkpoint=checkpoint), data, return_predictions=False)
    (first, some), (last, every) = tracker.told
    assert (first, some["pairs_done"]) == (2, 2)
    assert (last, every["pairs_done"]) == (3, 3)
    kl = read_results(folder)["kl_divergence"].sel(arm="own")
    for told, pairs in ((some, kl[:2]), (every, kl)):
        largest = pairs.mean("pair").max().item()
        assert told["running_max/kl_divergence"] == pytest.approx(largest, rel=1e-6)


# -- two runs on one folder ---------------------------------------------------------------------

HOLD = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
import lightning.pytorch as pl
from conftest import quiet_trainer
import codi_patching as cp

class Wait(pl.Callback):
    def on_predict_batch_end(self, *_):
        print("holding", flush=True)
        sys.stdin.readline()

trainer = quiet_trainer(cp.ResultsWriter({folder!r}), Wait())
data = cp.PairsDataModule({pairs!r}, batch_size=1)
trainer.predict(cp.PositionPatching(checkpoint={checkpoint!r}), data, return_predictions=False)
"""


@contextmanager
def another_process(folder, checkpoint, pairs_file):
    """A run that holds a folder, one pair done, until it is told to go on."""
    code = HOLD.format(
        tests=str(ROOT / "tests"),
        root=str(ROOT),
        folder=str(folder),
        pairs=pairs_file,
        checkpoint=checkpoint,
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while (line := process.stdout.readline().strip()) != "holding":
                assert line or process.poll() is None, process.stderr.read()
            yield process
        finally:
            process.kill()


def test_a_run_that_is_refused_leaves_one_that_has_kept_nothing_yet(run, tmp_path):
    run("out", fail_at="p1")  # for its partial/run.json
    (batch,) = (tmp_path / "out" / "partial").glob("000000.*")
    batch.unlink()
    lock = FolderLock(tmp_path / "out")
    lock.acquire()
    with pytest.raises(ResultsError, match="another run is writing"):
        run("out")
    assert (tmp_path / "out" / "partial" / "run.json").exists()
    lock.release()


@pytest.mark.parametrize("source", ["clean", "mean", "random_pair"])
def test_an_experiment_runs_again_on_other_pairs(checkpoint, pairs_file, tmp_path, source):
    again = PositionPatching(checkpoint=checkpoint, source=source, control="random_pair")
    for experiment, count, name in (
        (again, 2, "few"),
        (again, 3, "again"),
        (PositionPatching(checkpoint=checkpoint, source=source, control="random_pair"), 3, "fresh"),
    ):
        trainer = quiet_trainer(ResultsWriter(str(tmp_path / name)))
        data = PairsDataModule(pairs_file, max_pairs=count)
        trainer.predict(experiment, data, return_predictions=False)
    assert contents(tmp_path / "again") == contents(tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.thorough
def test_two_runs_at_once_on_one_folder(run, tmp_path, checkpoint, pairs_file):
    folder = tmp_path / "out"
    with another_process(folder, checkpoint, pairs_file) as first:
        with pytest.raises(
            ResultsError,
            match=rf"another run is writing to .*out \(process {first.pid} on "
            rf"{os.uname().nodename}\): wait for it, or set dir",
        ):
            run("out")
        with pytest.raises(ResultsError, match="another run is writing"):
            run("out", overwrite=True)
        assert len(list(folder.glob("partial/*.safetensors"))) == 1
        _, errors = first.communicate("\n\n\n", timeout=60)
        assert first.returncode == 0, errors
    assert read_results(folder)["pair"].values.tolist() == ["p0", "p1", "p2"]
    assert run("out") == []
    run("alone")
    assert contents(folder) == contents(tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_killed_run_gives_up_its_folder(run, tmp_path, checkpoint, pairs_file):
    with another_process(tmp_path / "out", checkpoint, pairs_file) as first:
        first.kill()
        first.wait()
        assert run("out") == ["p1", "p2"]
    run("alone")
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_run_that_ends_gives_up_its_folder_however_it_ends(run, tmp_path):
    run("out", fail_at="p1")
    lock = FolderLock(tmp_path / "out")
    lock.acquire()
    with pytest.raises(ResultsError, match=rf"another run .* \(process {os.getpid()} on"):
        run("out")
    lock.release()
    assert run("out") == ["p1", "p2"]
    lock.acquire()
    lock.release()


# -- the program, on the shipped model ----------------------------------------------------------


def command(folder, *options, config="position"):
    return [
        *("predict", f"--config={ROOT}/configs/{config}.yaml", f"--results.dir={folder}"),
        *("--trainer.logger=false", "--data.max_pairs=8", "--data.batch_size=2", *options),
        *(
            "--report.page=false",
            "--report.figures=false",
        ),  # see test_cli
    ]


def program(*args, added=(), **options):
    """The command, which sets its arithmetic itself, with variables of the environment added."""
    env = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    return subprocess.run(
        [sys.executable, "-m", "codi_patching", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**env, **dict(added)},
        **options,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "out"
    done = program(*command(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.thorough
def test_killed_at_random_moments_the_same_bytes(undisturbed, tmp_path):
    kill = [sys.executable, "scripts/kill_runs.py", "--kills=4", "--longest=3", "--seed=3"]
    done = subprocess.run(
        [*kill, *command(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"killed \d of 4", done.stdout)) == 4
    assert contents(tmp_path / "out") == contents(undisturbed)


@pytest.mark.slow
@pytest.mark.thorough
def test_another_number_of_threads_the_same_bytes(undisturbed, tmp_path):
    threads = "1" if os.environ.get("OMP_NUM_THREADS") != "1" else "2"
    done = program(*command(tmp_path / "out"), added={"OMP_NUM_THREADS": threads})
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(undisturbed)


TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp")


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_the_same_bytes_even_if_one_dies(tmp_path):
    alone = program(*command(tmp_path / "one" / "out", config="iterative"))
    assert alone.returncode == 0, alone.stderr

    folder = tmp_path / "two" / "out"
    both = [sys.executable, "-m", "codi_patching", *command(folder, *TWO, config="iterative")]
    with subprocess.Popen(both, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not list(folder.glob("partial/*.safetensors")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        (second,) = (
            child
            for child in psutil.Process(process.pid).children()
            if child.environ().get("LOCAL_RANK") == "1"
        )
        second.kill()
        process.stderr.read()
        assert process.wait(60) != 0
    assert not list(folder.glob("*.json"))
    done = program(*both[3:])
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(tmp_path / "one" / "out")
    metadata = json.loads((folder / "iterative_patching_results.json").read_text())["metadata"]
    assert metadata["num_pairs"] == 8


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_resume_what_one_left_with_a_single_batch_missing(undisturbed, tmp_path):
    """One of the two has nothing to run."""
    folder = tmp_path / "out"
    alone = [sys.executable, "-m", "codi_patching", *command(folder)]
    with subprocess.Popen(alone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(list(folder.glob("partial/*.safetensors"))) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert len(list(folder.glob("partial/*.safetensors"))) == 3  # of four
    done = program(*command(folder, *TWO))
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(undisturbed)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_full_disk_loses_nothing(undisturbed, tmp_path):
    """A file may have 300 kB: records of two pairs fit, the results file does not."""
    limited = program(
        *command(tmp_path / "out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )
    assert limited.returncode == 1
    assert "cannot be written (File too large); what is done already is kept" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert not list((tmp_path / "out").glob(".*.partial"))
    done = program(*command(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "resuming the run that was begun" in done.stderr
    assert contents(tmp_path / "out") == contents(undisturbed)
