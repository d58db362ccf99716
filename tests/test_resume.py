"""A run goes on where it stopped, alone or in several processes, and ends with the same bytes."""

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from codi_patching.callbacks.results import ResultsWriter
from codi_patching.callbacks.validity import ValidityReport
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.records import ExcludedPair, PairResult, Records, ResultsError
from codi_patching.data.results import read_results, write_activations
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.models.answers import PairError

ROOT = Path(__file__).parent.parent


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def run(checkpoint, pairs_file, tmp_path):
    """Run an experiment into a folder; returns the ids of the pairs that really ran."""

    def run(folder, kind=PositionPatching, overwrite=False, fail_at=None, **options):
        experiment = kind(checkpoint=checkpoint, **options)
        ran, own = [], experiment.run_pair

        def run_pair(pair, unpatched):
            if pair.pair_id == fail_at:
                raise RuntimeError("stopped")
            ran.append(pair.pair_id)
            return own(pair, unpatched)

        experiment.run_pair = run_pair
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[ResultsWriter(str(tmp_path / folder), overwrite), ValidityReport(pairs=1)],
        )
        data = PairsDataModule(pairs_file, batch_size=1)
        with pytest.raises(RuntimeError, match="stopped") if fail_at else nullcontext():
            trainer.predict(experiment, data, return_predictions=False)
        return ran

    return run


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PositionPatching, {}),
        (IterativePatching, {"strategy": "relay", "trace_pair": "p0"}),
        (IterativePatching, {"strategy": "cumulative", "source": "mean"}),
    ],
)
def test_a_run_that_stopped_goes_on(run, tmp_path, kind, options):
    assert run("whole", kind, **options) == ["p0", "p1", "p2"]
    assert run("stopped", kind, fail_at="p2", **options) == ["p0", "p1"]
    assert {p.name for p in (tmp_path / "stopped").rglob("*")} == {
        *("partial", "run.json", "000000.safetensors", "000001.safetensors"),
    }
    assert run("stopped", kind, **options) == ["p2"]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_finished_results_are_not_run_again_unless_told_so(run, tmp_path):
    run("out")
    before = contents(tmp_path / "out")
    assert run("out") == []
    assert contents(tmp_path / "out") == before
    assert run("out", overwrite=True) == ["p0", "p1", "p2"]
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_run_is_refused_by_key(run, tmp_path, finished):
    run("out", fail_at=None if finished else "p1")
    before = contents(tmp_path / "out")
    with pytest.raises(
        ResultsError,
        match=r"another run, with another config\.model\.init_args\.direction, "
        r"config\.model\.init_args\.source, direction, source: set",
    ):
        run("out", direction="noising", source="zero")
    with pytest.raises(ResultsError, match=r"with another .*experiment, grid\.column, .*strategy"):
        run("out", IterativePatching)
    assert contents(tmp_path / "out") == before
    assert run("out", IterativePatching, overwrite=True) == ["p0", "p1", "p2"]
    assert read_results(tmp_path / "out").metadata["experiment"] == "iterative"
    run("alone", IterativePatching)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@pytest.mark.parametrize("name", ["position_patching_results.json", "results.csv"])
def test_results_that_were_changed_or_lost_are_refused(run, tmp_path, name):
    run("out")
    path = tmp_path / "out" / name
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(ResultsError, match=f"{name} .* changed since .* --results.overwrite true"):
        run("out")
    path.unlink()
    if name == "results.csv":
        with pytest.raises(ResultsError, match=f"{name} .* changed since"):
            run("out")
    assert run("out", overwrite=True) == ["p0", "p1", "p2"]


def test_results_that_are_not_whole_are_refused(run, tmp_path):
    run("out")
    path = tmp_path / "out" / "position_patching_results.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ResultsError, match=r"not a complete results file.*results.overwrite true"):
        run("out")


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
    monkeypatch.setattr(PositionPatching, "run_pair", refuse)
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


def test_records_are_read_as_they_were_written(tmp_path):
    records = Records(tmp_path)
    records.begin({"seed": 1})
    assert records.metadata() == {"seed": 1}
    values = {"kl": np.array([[0.1, np.nan]]), "recovery": np.array([[-0.0, 1e-300]])}
    kept = [
        PairResult("ü", {"x": 0.1}, values, torch.ones(2, 3).bfloat16(), [{"layer": "0"}]),
        ExcludedPair("b", "too long"),
    ]
    records.write(8, kept)
    first, second = records.read(8, ["ü", "b"])
    assert second == kept[1]
    assert (first.pair_id, first.baseline, first.trace) == ("ü", {"x": 0.1}, [{"layer": "0"}])
    for metric, value in values.items():
        assert first.values[metric].tobytes() == value.tobytes()
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


def test_an_odd_number_of_processes(pairs_file):
    data = PairsDataModule(pairs_file, batch_size=2)
    data.setup("predict")
    data.trainer = type("Trainer", (), {"world_size": 3})()
    with pytest.raises(ValueError, match="at most 2 processes, one for each batch of 2 pairs, got"):
        data.predict_dataloader()


# -- the program, on the shipped model ----------------------------------------------------------


def command(folder, *options, config="position"):
    return [
        *("predict", f"--config={ROOT}/configs/{config}.yaml", f"--results.dir={folder}"),
        *("--figures.pairs=false", "--validity.pairs=2", *options),
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
    kill = [sys.executable, "scripts/kill_runs.py", "--kills=6", "--longest=3", "--seed=3"]
    done = subprocess.run(
        [*kill, *command(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed") == 6
    assert contents(tmp_path / "out") == contents(undisturbed)


@pytest.mark.slow
def test_one_thread_the_same_bytes(undisturbed, tmp_path):
    done = program(*command(tmp_path / "out"), env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(undisturbed)


TWO = ("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp")


@pytest.mark.slow
def test_two_processes_the_same_bytes_even_if_one_dies(tmp_path):
    few = ("--data.max_pairs=20", "--data.batch_size=2")
    options = {"config": "iterative", "folder": tmp_path / "one" / "out"}
    alone = program(*command(options["folder"], *few, config="iterative"))
    assert alone.returncode == 0, alone.stderr

    folder = tmp_path / "two" / "out"
    both = [sys.executable, "-m", "codi_patching", *command(folder, *few, *TWO, config="iterative")]
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
    assert contents(folder) == contents(options["folder"])
    metadata = json.loads((folder / "iterative_patching_results.json").read_text())["metadata"]
    assert metadata["num_pairs"] == 20


@pytest.mark.slow
def test_a_full_disk_loses_nothing(undisturbed, tmp_path):
    """A file may have 400 kB: records fit, the results file does not."""
    limited = program(
        *command(tmp_path / "out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)),
    )
    assert limited.returncode == 1
    assert "cannot be written (File too large); the pairs that are done are kept" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert not list((tmp_path / "out").glob("*.partial"))
    done = program(*command(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "going on with the run that was begun" in done.stderr
    assert contents(tmp_path / "out") == contents(undisturbed)
