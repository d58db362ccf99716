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
import torch
from conftest import quiet_trainer
from lens_maker import make_lens
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file, save_file

import codi_patching as cp
from codi_patching.callbacks.progress import PatchingProgress
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.errors import InputError
from codi_patching.experiments import describe
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.models.answers import PairError
from codi_patching.results.batches import ExcludedPair
from codi_patching.results.files import changed_files
from codi_patching.results.folder import FolderLock
from codi_patching.results.lens_store import write_lens
from codi_patching.results.read import read_results
from codi_patching.results.records import PairResult, Records
from codi_patching.results.schema import (
    Code,
    Control,
    Grid,
    PairDescription,
    ResultsError,
    RunDescription,
)
from codi_patching.results.store import write_activations

ROOT = Path(__file__).parent.parent
LOCKS = {".lock", ".owner"}


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in LOCKS
    }


@pytest.fixture
def run(checkpoint, pairs_file, tmp_path):
    """Run an experiment into a folder; returns the ids of the pairs that really ran."""

    def run(folder, kind=PositionPatching, overwrite=False, fail_at=None, **options):
        experiment = kind(checkpoint=checkpoint, **options)
        ran, own = [], experiment.run_pairs

        def run_pairs(starts, self_patch):
            ids = [start.pair.pair_id for start in starts]
            if fail_at in ids:
                raise RuntimeError("stopped")
            ran.extend(ids)
            return own(starts, self_patch)

        experiment.run_pairs = run_pairs
        trainer = quiet_trainer(ResultsWriter(str(tmp_path / folder), overwrite))
        data = PairsDataModule(pairs_file, batch_size=1)
        with pytest.raises(RuntimeError, match="stopped") if fail_at else nullcontext():
            trainer.predict(experiment, data, return_predictions=False)
        return ran

    return run


# -- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PositionPatching, {}),
        (IterativePatching, {"strategy": "relay", "trace_pair": "p0"}),
        (IterativePatching, {"strategy": "cumulative", "source": "mean"}),
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
    assert read_results(tmp_path / "out").run.experiment == "iterative"
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
        with pytest.raises(ResultsError, match=r"with another code\.sha256: set --results\.dir"):
            run("out")
        assert contents(tmp_path / "out") == before
    assert run("out") == ["p2"]


def test_what_is_only_recorded_of_the_code_does_not_matter(run, tmp_path, monkeypatch):
    run("out", fail_at="p2")
    other_code(monkeypatch, version="99", git_commit="abc", git_changed=True)
    assert run("out") == ["p2"]
    assert read_results(tmp_path / "out").run.code.version != "99"


def test_finished_results_of_other_code_are_accepted(run, tmp_path, monkeypatch, caplog):
    run("out")
    before = contents(tmp_path / "out")
    other_code(monkeypatch, sha256="0" * 64, version="99")
    assert run("out") == []
    assert contents(tmp_path / "out") == before
    assert read_results(tmp_path / "out").run.code.sha256 != "0" * 64


def test_measured_files_that_were_changed_are_refused(run, tmp_path):
    run("out", IterativePatching, trace_pair="p1")
    for name in ("iterative_patching_results.json", "activations.safetensors", "trace_p1.csv"):
        path = tmp_path / "out" / name
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"1", b"2", 1))
        with pytest.raises(ResultsError, match=f"{name} .* changed since .* --results.overwrite t"):
            run("out", IterativePatching, trace_pair="p1")
        if name == "trace_p1.csv":
            path.unlink()
            with pytest.raises(ResultsError, match=f"{name} .* changed since"):
                run("out", IterativePatching, trace_pair="p1")
        path.write_bytes(whole)
    assert run("out", IterativePatching, trace_pair="p1") == []


def test_results_that_are_not_whole_are_refused(run, tmp_path):
    run("out")
    path = tmp_path / "out" / "position_patching_results.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ResultsError, match=r"not a complete results file.*results.overwrite true"):
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
    monkeypatch.setattr(PositionPatching, "_measure_pair", refuse)
    with pytest.raises(ResultsError, match="no pair could be run; p0 was left out because no"):
        run("out", overwrite=True)
    kept = contents(tmp_path / "out")
    assert {path: kept[path] for path in before} == before


def refuse(*_):
    raise PairError("no")


def test_a_damaged_record_is_made_again(run, tmp_path):
    run("whole")
    run("out", fail_at="p2")
    records = sorted((tmp_path / "out" / "partial").glob("*.safetensors"))
    records[0].write_bytes(records[0].read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"000000.safetensors is damaged"):
        assert run("out") == ["p0", "p2"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    run("other", fail_at="p2")
    (tmp_path / "other" / "partial" / "run.json").write_text("{")
    with pytest.raises(ResultsError, match=r"run.json is damaged"):
        run("other")
    assert run("other", overwrite=True) == ["p0", "p1", "p2"]


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
    frames = cp.load_results(tmp_path / "out")
    assert list(frames.pairs.index) == mine.pairs
    assert "control_kl_divergence" in frames.cells


def test_the_seed_is_the_argument(checkpoint, predict, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert predict(PositionPatching(checkpoint=checkpoint)).run.seed == 42
    assert predict(PositionPatching(checkpoint=checkpoint, seed=9)).run.seed == 9


def test_the_writer_refuses_another_module(tmp_path):
    with pytest.raises(TypeError, match="expected an Experiment, got LightningModule"):
        ResultsWriter(str(tmp_path)).setup(quiet_trainer(), pl.LightningModule(), "predict")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_the_lens_is_left_alone(checkpoint, pairs_file, tmp_path, overwrite):
    write_lens(tmp_path, make_lens(pairs=1))
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
    assert "60 of 60 patched runs; pair p2, control, all thoughts at all layers" in err
    assert "patched runs" not in out


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
def test_two_runs_at_once_on_one_folder(run, tmp_path, checkpoint, pairs_file):
    folder = tmp_path / "out"
    with another_process(folder, checkpoint, pairs_file) as first:
        with pytest.raises(
            ResultsError,
            match=rf"another run is writing to .*out \(process {first.pid} on "
            rf"{os.uname().nodename}\): wait for it, or set --results\.dir",
        ):
            run("out")
        with pytest.raises(ResultsError, match="another run is writing"):
            run("out", overwrite=True)
        assert len(list(folder.glob("partial/*.safetensors"))) == 1
        _, errors = first.communicate("\n\n\n", timeout=60)
        assert first.returncode == 0, errors
    assert read_results(folder).pair_ids == ("p0", "p1", "p2")
    assert run("out") == []
    run("alone")
    assert contents(folder) == contents(tmp_path / "alone")


@pytest.mark.slow
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


# -- records ------------------------------------------------------------------------------------


def some_run():
    return RunDescription(
        *("position", None, "recomputed", "denoising", "clean", "sibling", "resid_post"),
        *("m", "llama", 2, "c", {"tensors": 1}, "", "d", 1, "32-true", {"type": "cpu"}),
        *({"torch": "2"}, Code("s", "1"), Grid(("0",), "position", ("0", "1"))),
        *(("kl", "recovery"), 2, ("gone",), {}, {"seed": 1}),
    )


def test_records_are_read_as_they_were_written(tmp_path):
    records = Records(tmp_path)
    assert records.begun() is None
    records.begin(some_run())
    assert records.begun() == some_run()
    values = {"kl": np.array([[0.1, np.nan]]), "recovery": np.array([[-0.0, 1e-300]])}
    control = {"kl": np.array([[0.2, 0.3]]), "recovery": np.array([[np.nan, 7.0]])}
    runs = [{"kl": 0.1, "recovery": 2.0}] * 4
    described = PairDescription(
        *("b", "s", "1", "2", (3,), (4, 5), "g"), *runs, Control("random_pair", "t", "9", "c"), "d"
    )
    kept = [
        PairResult("ü", described, values, control, torch.ones(2, 3).bfloat16(), [{"layer": "0"}]),
        ExcludedPair("b", "too long"),
    ]
    records.write(8, kept)
    first, second = records.read(8, ["ü", "b"])
    assert second == kept[1]
    assert (first.pair_id, first.description, first.trace) == ("ü", described, [{"layer": "0"}])
    for ours, theirs in ((first.values, values), (first.control, control)):
        assert ours.keys() == theirs.keys()
        for metric, value in theirs.items():
            assert ours[metric].tobytes() == value.tobytes()
    torch.testing.assert_close(first.activations, kept[0].activations, rtol=0, atol=0)
    assert records.read(8, ["ü", "c"]) is None
    assert records.read(0) is None
    records.write(16, kept[1:])
    assert [result.pair_id for result in records] == ["ü"]
    assert next(iter(records)).activations is None
    records.remove()
    assert not records.folder.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_written_as_safetensors_writes_them(tmp_path, dtype):
    tensors = {f"p{i}": torch.randn(2, 3, 5).to(dtype).transpose(0, 1) for i in range(3)}
    write_activations(tmp_path / "ours", list(tensors), iter(tensors.values()))
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "theirs")
    found = load_file(tmp_path / "ours")
    assert found.keys() == tensors.keys()
    for name, tensor in load_file(tmp_path / "theirs").items():
        assert torch.equal(found[name], tensor)


# -- the program, on the shipped model ----------------------------------------------------------


def command(folder, *options, config="position"):
    return [
        *("predict", f"--config={ROOT}/configs/{config}.yaml", f"--results.dir={folder}"),
        *("--trainer.logger=false", "--data.max_pairs=12", "--data.batch_size=3", *options),
    ]


def program(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "codi_patching", *args],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "out"
    done = program(*command(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_killed_at_random_moments_the_same_bytes(undisturbed, tmp_path):
    kill = [sys.executable, "scripts/kill_runs.py", "--kills=4", "--longest=3", "--seed=3"]
    done = subprocess.run(
        [*kill, *command(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"killed \d of 4", done.stdout)) == 4
    assert contents(tmp_path / "out") == contents(undisturbed)


@pytest.mark.slow
def test_one_thread_the_same_bytes(undisturbed, tmp_path):
    done = program(*command(tmp_path / "out"), env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(undisturbed)


TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp")


@pytest.mark.slow
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
    assert metadata["num_pairs"] == 12


@pytest.mark.slow
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
def test_a_full_disk_loses_nothing(undisturbed, tmp_path):
    """A file may have 300 kB: records of three pairs fit, the results file does not."""
    limited = program(
        *command(tmp_path / "out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )
    assert limited.returncode == 1
    assert "cannot be written (File too large); what is done already is kept" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert not list((tmp_path / "out").glob("*.partial"))
    done = program(*command(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "resuming the run that was begun" in done.stderr
    assert contents(tmp_path / "out") == contents(undisturbed)
