"""The command line, end to end on the shipped model, and what becomes of options and errors."""

import gc
import inspect
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import results_maker
import yaml

from codi_patching import cli
from codi_patching.commands.config_files import (
    SHIPPED_CONFIGS,
    config_names,
    find_config,
    with_files,
)
from codi_patching.commands.logger_options import without_missing
from codi_patching.commands.study import _report_options
from codi_patching.commands.study_arms import SHARED, read_arms
from codi_patching.errors import InputError
from codi_patching.experiments.base import Experiment
from codi_patching.metrics.table import METRICS
from codi_patching.reporting.runs import ReportOptions
from codi_patching.results.dataset import has_control, run_of
from codi_patching.results.folder import FolderLock
from codi_patching.results.layout import derived_files
from codi_patching.results.read import read_results

ROOT = Path(__file__).parent.parent
CONFIGS = [name for name in config_names() if name not in ("study", "sweep")]
NO_LOGGER = "--trainer.logger=false"
FEW = ("--data.max_pairs=2", NO_LOGGER)
BARE = ("--report.page=false", "--report.figures=false")


def codi_patching(*args, cwd=ROOT, **options):
    return subprocess.run(
        [sys.executable, "-m", "codi_patching", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        **options,
    )


@pytest.fixture
def program(monkeypatch, capsys):
    """Runs the program in this process; gives exit status, stdout and stderr."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["codi-patching", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        code = ended.value.code
        return (1, out, err + code) if isinstance(code, str) else (code, out, err)

    return run


@pytest.fixture(scope="module")
def position_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    done = codi_patching(
        "predict",
        "--config=configs/position.yaml",
        "--config=test_mode",
        f"--results.dir={folder}",
        NO_LOGGER,
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.slow
def test_position_patching_in_test_mode(position_run):
    folder, done = position_run
    results = read_results(folder)
    assert set(run_of(results).metrics) == set(METRICS)
    assert has_control(results)
    assert all(results[name].shape == (5, 16, 5, 2) for name in METRICS)
    written = {path.name for path in folder.iterdir()}
    assert written >= {
        "position_patching_results.json",
        "results.csv",
        "aggregate.json",
        "validity.json",
        "SHA256SUMS",
        "report.html",
        "pairs",
    }
    assert list(folder.glob("*.png"))
    assert "66 pairs, 9 left out because both answers are equal" in done.stderr
    assert "Position patching of codi-tiny" in done.stdout
    assert f"written to {folder}" in done.stdout
    assert "runs/s" not in done.stdout + done.stderr
    assert "Tip" not in done.stderr
    assert "Traceback" not in done.stderr


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "torchmetrics", "transformers", "pytorch_lightning"):
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, Block())
sys.argv = ["codi-patching", *sys.argv[1:]]
from codi_patching.cli import main
main()
"""


@pytest.mark.slow
def test_a_report_needs_no_model_and_gives_the_same_bytes(position_run):
    folder, _ = position_run
    before = contents(folder)
    for path in derived_files(folder):
        path.unlink()
    assert len(contents(folder)) == 2
    command = [sys.executable, "-c", BLOCKED, "report", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == before


@pytest.mark.slow
@pytest.mark.thorough
def test_the_same_command_runs_nothing_and_reports_again(position_run, tmp_path):
    made, first = position_run
    folder = shutil.copytree(made, tmp_path / "out")
    drawn = (".png", ".html")
    before = {path: of for path, of in contents(folder).items() if path.suffix not in drawn}
    command = ["predict", "--config=position", f"--results.dir={folder}"]
    command += ["--data.max_pairs=5", NO_LOGGER, *BARE]
    again = codi_patching(*command)
    assert again.returncode == 0, again.stderr
    assert "holds this run's results already: nothing is run again" in again.stderr
    assert again.stdout == first.stdout.replace(str(made), str(folder))
    assert contents(folder) == before

    refused = codi_patching(*command, "--model.direction=noising")
    assert refused.returncode == 1
    assert "with another config.model.init_args.direction, direction: set" in refused.stderr
    assert "--results.overwrite true" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert contents(folder) == before


def study_of(folder, arms):
    """The option of a study of some of its arms."""
    config = yaml.safe_load((SHIPPED_CONFIGS / "study.yaml").read_text())
    config["arms"] = {name: config["arms"][name] for name in arms}
    (folder / "study.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return f"--config={folder}/study.yaml"


@pytest.mark.slow
@pytest.mark.thorough
def test_a_study_runs_every_arm_once_and_compares(tmp_path):
    arms = ["layer_frozen", "lens"]
    command = ["study", study_of(tmp_path, arms), f"--dir={tmp_path}/study", NO_LOGGER]
    command += ["--data.max_pairs=2", *BARE]
    command += ['--report.strata=["changed_step"]']
    done = codi_patching(*command)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "study").iterdir()} == {*arms, "comparison"}
    findings = json.loads((tmp_path / "study/comparison/comparison.json").read_text())["findings"]
    assert all(finding["answer"] != "yes" for finding in findings)  # too few pairs for any
    written = {path.suffix for path in (tmp_path / "study/comparison").rglob("*.*")}
    assert written == {".json", ".md", ".csv", ".tex"}  # no page, no figures, as the arms
    before = contents(tmp_path / "study")
    again = codi_patching(*command)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("nothing is run again") == 2
    assert contents(tmp_path / "study") == before

    alone = codi_patching(
        *("compare", *(tmp_path / "study" / arm for arm in arms), f"--dir={tmp_path}/alone"),
        *("--no_figures", "--no_page", "--strata", "changed_step"),
    )
    assert alone.returncode == 0, alone.stderr
    assert contents(tmp_path / "alone") == contents(tmp_path / "study/comparison")


@pytest.mark.filterwarnings("ignore")
def test_a_comparison_of_a_study_is_made_as_its_arms_are(tmp_path):
    (tmp_path / "mine.yaml").write_text("report: {format: [svg, pdf], figures: false}\n")
    (arm, *_) = read_arms(SHIPPED_CONFIGS / "study.yaml", tmp_path, None)
    asked = [f"--config={tmp_path}/mine.yaml", '--report.strata=["kind", "source"]']
    options = _report_options(arm, asked)
    assert (options.figures, options.page) == (False, True)
    assert options.formats == ("svg", "pdf")
    assert options.strata == ("kind", "source")


def test_a_report_waits_for_no_run_but_says_who_writes(program, tmp_path):
    run = results_maker.run_of(layers=2, columns=2)
    results_maker.write(tmp_path / "out", run, results_maker.records_of(run, pairs=3))
    command = ("report", tmp_path / "out", "--no_figures", "--no_page")
    with FolderLock(tmp_path / "out"):
        before = contents(tmp_path / "out")
        status, out, err = program(*command)
        assert (status, out) == (1, "")
        assert f"(process {os.getpid()} on " in err
        assert contents(tmp_path / "out") == before
    assert program(*command)[0] == 0


def test_a_study_runs_what_patches_nothing_once_and_without_options_of_patching(tmp_path):
    arms = read_arms(SHIPPED_CONFIGS / "study.yaml", tmp_path, ["denoising", "noising"])
    assert len(arms) == 15
    lens, *others = (arm for arm in arms if not arm.patches)
    assert lens.folder == tmp_path / "lens"
    assert [arm.folder.name for arm in others] == ["attention", "knockout"]
    assert not any("direction" in option for arm in (lens, *others) for option in arm.options)
    asked = ["--model.site", "kv", "--model.checkpoint", "c", "--model.control=none", "--data.x=1"]
    assert lens.command(asked)[-3:] == ["--model.checkpoint", "c", "--data.x=1"]
    assert arms[0].command(asked)[-6:] == asked
    shared = inspect.signature(Experiment).parameters.keys() - {"seed"}
    assert {f"--model.{name}" for name in shared} == set(SHARED)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["predict", "--config=position"], ["study"]])
@pytest.mark.thorough
def test_sigterm_ends_a_run_and_what_it_started(command, tmp_path):
    """At once, with status 143; what is done is kept, and the folder is free."""
    place = f"--results.dir={tmp_path}/out" if command[0] == "predict" else f"--dir={tmp_path}"
    with subprocess.Popen(
        [sys.executable, "-m", "codi_patching", *command, place, NO_LOGGER, "--data.batch_size=1"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        while not (kept := list(tmp_path.glob("*/partial/000000.safetensors"))):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    folder = kept[0].parents[1]
    lock = FolderLock(folder)
    lock.acquire()  # refused while another process has it
    lock.release()
    assert kept[0].exists()
    assert not list(folder.glob("*_results.json"))


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("--results.dir=x", "set --dir"),
        ("--model.latents=frozen", "set --config to a file of other arms"),
        ("--model.direction=noising", "set --directions"),
    ],
)
def test_a_study_refuses_what_is_each_arms_own(program, tmp_path, option, advice):
    status, _, error = program("study", f"--dir={tmp_path}", option)
    assert status != 0
    assert f"{option.partition('=')[0]} is each arm's own in a study: {advice}" in error


@pytest.mark.slow
@pytest.mark.thorough
def test_a_dry_run_says_what_a_study_would_cost_and_writes_nothing(tmp_path):
    config = study_of(tmp_path, ["layer_frozen", "position_recomputed", "lens"])
    few = (f"--dir={tmp_path}/study", "--data.max_pairs=6")
    done = codi_patching("study", config, "--dry_run", *few)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    assert lines["position_recomputed"][1:3] == ["6", "972"]  # 6 × 2 × (80 + 1)
    said = done.stderr.splitlines()
    assert said[0] == "study: trying arm 1 of 3, layer_frozen"
    assert not [line for line in said if "Tip" in line or "GPU" in line]
    assert lines["layer_frozen"][1:3] == ["6", "204"]
    assert lines["lens"][1:3] == ["6", "6"]
    assert "in all about" in done.stdout
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_seeds_in_a_loop_do_not_collide(tmp_path, program):
    for seed in (1, 2, 3, 1):
        status, _, err = program(
            *("predict", "--config=layer", f"--seed_everything={seed}"),
            *(f"--results.dir={tmp_path}/sweep", "--results.folder_by_run=true", *FEW),
            *BARE,
        )
        assert status == 0, err
    folders = sorted(path.name for path in (tmp_path / "sweep").iterdir())
    assert [name.rpartition("_")[0] for name in folders] == [
        f"layer_frozen_denoising_seed{seed}" for seed in (1, 2, 3)
    ]
    assert all(run_of(read_results(tmp_path / "sweep" / name)).seed for name in folders)


def test_the_sweep_file_names_options_that_exist(program):
    sweep = yaml.safe_load((SHIPPED_CONFIGS / "sweep.yaml").read_text())
    options = [f"--{key}={given['values'][-1]}" for key, given in sweep["parameters"].items()]
    command = [part for part in sweep["command"] if not part.startswith("${")]
    status, out, err = program(*command, *options, "--print_config")
    assert status == 0, err
    assert yaml.safe_load(out)["results"]["folder_by_run"] is True


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--modle.latents=frozen", "unknown option --modle.latents: did you mean --model.latents?"),
        ("--model.latent=frozen", "unknown option --model.latent: did you mean --model.latents?"),
        ("--model.latents=thawed", "--model.latents to be one of frozen, recomputed"),
        ("--trainer.precison=32", "did you mean --trainer.precision?"),
        ("--data.max_pears=3", "did you mean --data.max_pairs?"),
        ("--results.overwite=true", "did you mean --results.overwrite?"),
        ("--data.max_pair=2", "did you mean --data.max_pairs?"),
        ("--data.max_pairs=two", "expected --data.max_pairs to be a whole number, got two"),
        ("--model=PostionPatching", "unknown experiment PostionPatching: did you mean Pos"),
        ("--model=my.Own", "(No module named 'my'): expected one of LayerPatching, Position"),
        ("--model.top=3", "--model.top is an option of LensExperiment only"),
        ("--trainer.logger=CSVLoger", "unknown logger CSVLoger: did you mean CSVLogger?"),
        ("--trainer.precision=65-true", "64, 32, 16, bf16, got 65-true"),
        ("--model.help=Position", "unknown experiment Position: did you mean PositionPat"),
        ("extra", "unexpected argument extra"),
    ],
)
def test_a_mistyped_option_is_one_line(program, option, message):
    status, out, err = program("predict", "--config=position", option)
    assert status == 2
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("codi-patching")]) == 1
    assert out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dta: {max_pairs: 2}", "unknown key dta.max_pairs: did you mean data.max_pairs?"),
        ("model: {class_path: LayerPaching}", "LayerPaching: did you mean LayerPatching?"),
        (
            "trainer: {logger: {class_path: CSVLogger, init_args: {save_dr: x}}}",
            "unknown key save_dr: did you mean save_dir?",
        ),
        ("model: {init_args: {latents: thawed}}", "--model.latents to be one of frozen, recomp"),
    ],
)
def test_a_mistyped_key_of_a_file_is_one_line(program, tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    position = "--config=position"
    status, out, err = program("predict", position, f"--config={tmp_path}/mine.yaml")
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predcit", "unknown command predcit: did you mean predict?"),
        ("predict --data.max_pairs=2", "add --config position or --model CLASS"),
        ("predict --config=none.yaml", "none.yaml does not exist: set --config to a file, or to"),
        ("predict --config postion", "postion does not exist: did you mean --config position?"),
        ("predict --config position --seed 7", "--seed: did you mean --seed_everything?"),
        ("predict --config position --model.seed=7", "--model.seed is the run's: set --seed_every"),
        ("fit --config train_codi", "train_codi does not exist: did you mean --config train_codi_"),
        ("study --config=studi", "studi does not exist: did you mean --config study?"),
        ("study --seed 7", "unknown option --seed: did you mean --seed_everything?"),
        ("study --dir=", "argument --dir: expected a path, got an empty text"),
        ("predict --config position --results.dir=", "expected --results.dir to be a path"),
        ("report results/postion", "results/postion does not exist: name a folder"),
        ("compare --dri=x", "unknown option --dri: did you mean --dir?"),
        ("evaluate --chekpoint=x", "unknown option --chekpoint: did you mean --checkpoint?"),
        ("study --dryrun", "unknown option --dryrun: did you mean --dry_run?"),
        ("study --dry_run --model.latnts=x", "did you mean --model.latents?"),
        ("fit --model.hiden_size=3", "unknown option --model.hiden_size: did you mean"),
        ("pairs --questions=x", "pairs: the following arguments are required: --output"),
    ],
)
def test_a_mistake_in_any_command_is_one_line(program, command, message):
    status, out, err = program(*command.split())
    assert status in (1, 2)
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("limit_predict_batches=2", "set --data.max_pairs"),
        ("limit_predict_batches=1", "set --data.max_pairs"),  # one batch; 1.0 is all
        ("accelerator=gp", "invalid accelerator name"),
        ("strategy=fsdp", "requires a GPU accelerator"),
        ("fast_dev_run=true", "--config test_mode"),
        ("barebones=true", "--trainer.barebones"),
        ("overfit_batches=2", "--data.max_pairs"),
        ("use_distributed_sampler=false", "every pair in every process"),
        ("precision=bf16-mixed", "autocast rounds"),
    ],
)
def test_trainer_options_that_cannot_work_are_refused_before_the_work(
    program, tmp_path, option, message
):
    status, _, err = program(
        *("predict", "--config=layer", f"--trainer.{option}", *FEW),
        f"--results.dir={tmp_path}/out",
    )
    assert status == 1
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trainer_options_that_work(program, tmp_path):
    options = [
        "enable_progress_bar=false", "enable_model_summary=false", "enable_checkpointing=false",
        "deterministic=true", "benchmark=false", "inference_mode=false", "detect_anomaly=true",
        "num_sanity_val_steps=0", "max_epochs=3", "max_time=00:01:00:00", "log_every_n_steps=7",
        "limit_predict_batches=1.0", "profiler=simple", "accelerator=cpu", "devices=1",
        "strategy=auto", "precision=64-true", f"default_root_dir={tmp_path}", "num_nodes=1",
        "sync_batchnorm=false", "limit_val_batches=0",
    ]  # fmt: skip
    status, out, err = program(
        *("predict", "--config=layer", *FEW, f"--results.dir={tmp_path}/out"),
        *(f"--trainer.{option}" for option in options),
        *BARE,
    )
    assert status == 0, err
    assert "Layer patching of codi-tiny" in out
    assert run_of(read_results(tmp_path / "out")).precision == "64-true"


def test_help_is_of_this_program(program):
    status, out, _ = program("predict", "--help")
    assert status == 0
    for option in ("--model.latents", "--model.control", "--data.pairs", "--results.dir"):
        assert option in out
    assert "LensExperiment" in out
    assert len(out.splitlines()) < 250
    assert "--trainer.profiler" in program("predict", "--trainer.help")[1]
    status, out, _ = program("--help")
    assert status == 0
    assert all(name in out for name in ("predict", "study", "compare", "report", "evaluate"))
    assert program("--version")[1].startswith("codi-patching 0.")
    assert program()[0] == 2
    assert program("patch")[0] == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configs_resolve_to_their_golden_file(name, monkeypatch, tmp_path, program):
    """Overlays on position patching; `tests/golden` is what they resolved to when read by eye."""
    command = ["fit" if name.startswith("train") else "predict"]
    if command == ["predict"] and "class_path: codi_patching." not in find_config(name).read_text():
        command.append("--config=position")
    monkeypatch.chdir(tmp_path)
    status, out, err = program(*command, f"--config={name}", "--print_config")
    assert status == 0, err
    golden = ROOT / "tests" / "golden" / f"{name.replace('/', '_')}.yaml"
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(out)
    assert yaml.safe_load(out) == yaml.safe_load(golden.read_text())


@pytest.mark.parametrize("name", config_names())
def test_a_config_opens_with_a_command_that_names_it(name):
    first = find_config(name).read_text().splitlines()[0]
    assert first.startswith("# ")
    assert re.search(rf"\b{name}\b", first)


def test_runs_of_the_arms_have_folders_of_their_own():
    measured = [name for name in CONFIGS if not name.startswith("train")]
    configs = {name: yaml.safe_load(find_config(name).read_text()) for name in measured}
    arms = {name: c for name, c in configs.items() if c.get("model", {}).get("class_path")}
    folders = [
        c.get("results", {}).get("dir") or f"results/{name.partition('_')[0]}"
        for name, c in arms.items()
    ]
    assert len(arms) == 13
    assert len(set(folders)) == 13
    assert configs["noising"]["results"] == {"dir": "results/noising", "folder_by_run": True}


def test_a_config_is_found_by_path_then_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = SHIPPED_CONFIGS / "position.yaml"
    for name in ("position", "position.yaml", "configs/position.yaml", "./configs/position.yaml"):
        assert find_config(name) == shipped
    assert find_config("models/gpt2") == SHIPPED_CONFIGS / "models" / "gpt2.yaml"
    assert (ROOT / "configs/position.yaml").samefile(shipped)
    (tmp_path / "models").mkdir()  # a folder is no configuration
    (tmp_path / "position").mkdir()
    assert find_config("position") == shipped
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "position.yaml").write_text("{}")
    assert find_config("configs/position.yaml") == Path("configs/position.yaml")
    assert find_config("position") == shipped


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("predict", "set --model.max_rows, --results.dir, --report.docs"),
        ("fit", "set --model.max_rows, --results.dir, --report.docs"),
        ("study", "set --model.max_rows, --dir, --docs"),
        ("evaluate", "set --max_rows, --dir, --docs"),
        ("compare", "set --max_rows, --dir, --docs"),
        ("report", "set --max_rows, another folder, --docs"),
    ],
)
def test_errors_name_arguments_as_the_command_does(program, monkeypatch, command, line):
    def fail(*_):
        raise InputError("set [[model.max_rows]], [[results.dir]], [[report.docs]]")

    monkeypatch.setattr(cli, "_run", fail)
    assert program(command) == (1, "", f"codi-patching: {line}")


def ending(monkeypatch, error):
    """A command that ends with an error, or with a status."""

    def end(*_):
        if isinstance(error, int):
            return error
        raise error

    monkeypatch.setattr(cli, "_run", end)


@pytest.mark.parametrize("status", [0, 3])
def test_the_status_is_the_command_s(program, monkeypatch, status):
    ending(monkeypatch, status)
    assert program("report", "x") == (status, "", "")


@pytest.mark.parametrize(
    ("command", "status", "rank", "said"),
    [
        ("predict", 130, None, "codi-patching: interrupted; the same command resumes\n"),
        ("evaluate", 130, "0", "codi-patching: interrupted; with --output the same command resum"),
        ("fit", 130, None, "codi-patching: interrupted; --ckpt_path resumes from a checkpoint\n"),
        ("report", 130, None, "codi-patching: interrupted\n"),
        ("predict", 130, "1", ""),
        ("predict", 143, None, ""),
        ("predict", 2, None, ""),
    ],
)
def test_an_interrupt_is_told_once_with_how_to_go_on(
    program, monkeypatch, command, status, rank, said
):
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    ending(monkeypatch, SystemExit(status))
    code, out, err = program(command)
    assert (code, out) == (status, "")
    assert err.startswith(said)
    assert bool(err) == bool(said)


@pytest.mark.parametrize(
    ("error", "rank", "said"),
    [
        (InputError("set [[data.pairs]]"), "0", "codi-patching: set --data.pairs"),
        (InputError("set [[data.pairs]]"), "2", "codi-patching (process 2): set --data.pairs"),
        (OSError(28, "No space\nleft"), "0", "codi-patching: [Errno 28] No space left"),
    ],
)
def test_bad_input_is_a_line_that_names_its_process(program, monkeypatch, error, rank, said):
    monkeypatch.setenv("LOCAL_RANK", rank)
    ending(monkeypatch, error)
    assert program("predict") == (1, "", said)
    monkeypatch.setenv("CODI_PATCHING_TRACEBACK", "1")
    with pytest.raises(type(error)):
        program("predict")


def test_a_fault_of_the_program_is_no_bad_input(program, monkeypatch):
    ending(monkeypatch, KeyError("ours"))
    with pytest.raises(KeyError):
        program("predict")


def test_nobody_who_reads_on_is_no_error():
    code = (
        "import sys\nfrom codi_patching import cli\n"
        "def end(*_): raise BrokenPipeError\n"
        "cli._run = end\nsys.argv[1:] = ['report']\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"BrokenPipeError" not in done.stderr


def test_usage_goes_where_it_was_asked_for(program):
    status, usage, err = program("-h")
    assert (status, err) == (0, "")
    assert usage.startswith("usage: codi-patching {predict,")
    assert program() == (2, "", usage)
    status, version, _ = program("--version")
    assert (status, version.split()[0]) == (0, "codi-patching")
    assert program("prediction") == (
        2, "", "codi-patching: unknown command prediction: did you mean predict?\n",
    )  # fmt: skip


@pytest.mark.parametrize("command", ["predict", "study", "compare", "report", "index"])
@pytest.mark.parametrize("optimize", [0, 1, 2])
def test_only_what_needs_a_model_needs_docstrings(program, monkeypatch, command, optimize):
    ending(monkeypatch, 0)
    others = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name[0] != "_"}
    monkeypatch.setattr(sys, "flags", SimpleNamespace(**others | {"optimize": optimize}))
    refused = optimize == 2 and command in ("predict", "study")
    status, _, err = program(command)
    assert (status, "run Python without -OO" in err) == (2 * refused, refused)


@pytest.fixture
def interrupts():
    """Sets what an interrupt does; what it did before is back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_end_the_program_and_are_as_before_afterwards(interrupts):
    interrupts(signal.default_int_handler)
    terminated = signal.getsignal(signal.SIGTERM)
    with cli._stopped_by_signals():
        for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            with pytest.raises(SystemExit) as ended:
                signal.raise_signal(number)
            assert ended.value.code == status
            assert signal.getsignal(number) == signal.SIG_DFL  # the next kills
    assert signal.getsignal(signal.SIGTERM) == terminated
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_ignored_stays_so(interrupts):
    interrupts(signal.SIG_IGN)
    with cli._stopped_by_signals():
        assert signal.getsignal(signal.SIGTERM) is cli._stop
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_what_a_user_can_do_nothing_about_is_silenced_and_what_was_set_is_kept(monkeypatch):
    names = {
        "JSONARGPARSE_DEPRECATION_WARNINGS": "off",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_SILENT": "true",
    }
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "false")
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            cli._quieten()
            warnings.warn("LightningCLI's args parameter is odd", stacklevel=1)
            warnings.warn("Total length of `DataLoader` across ranks is zero.", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
            kept = [
                bool(logger.filter(logging.LogRecord("x", 20, "x", 1, text, (), None)))
                for text in ("Tip: buy this", "16 pairs to run")
            ]
        finally:
            logger.removeFilter(cli._is_no_tip)
    assert {name: os.environ[name] for name in names} == {**names, "WANDB_SILENT": "false"}
    assert [str(one.message) for one in seen] == ["something else"]
    assert kept == [False, True]


def test_a_command_that_has_options_gets_them_parsed_and_others_as_they_are(monkeypatch):
    def add_arguments(parser):
        parser.add_argument("--seed", type=int)
        commands.append((parser.prog, parser.description))

    commands = []
    plain = SimpleNamespace(run=lambda args: len(args))
    doc = "`codi-patching x`: makes it.\n\nMore."
    parsed = SimpleNamespace(run=lambda args: args.seed, add_arguments=add_arguments, __doc__=doc)
    undocumented = SimpleNamespace(**{**vars(parsed), "__doc__": None})
    found = {"fit": plain, "report": parsed, "index": undocumented}
    monkeypatch.setattr(cli, "_imported", found.get)
    assert cli._run("fit", "--seed", "4", "x") == 3
    assert cli._run("report", "--seed", "4") == 4
    assert cli._run("index", "--seed=5") == 5
    assert commands == [("codi-patching report", "makes it."), ("codi-patching index", "index")]


def test_a_command_is_imported_once_and_garbage_is_collected_again(monkeypatch):
    here = ModuleType("codi_patching.commands.mine")
    monkeypatch.setattr(cli, "import_module", lambda path: (path, gc.isenabled()))
    assert cli._imported("mine") == ("codi_patching.commands.mine", False)
    assert gc.isenabled()
    monkeypatch.setitem(sys.modules, "codi_patching.commands.mine", here)
    assert cli._imported("mine") is here


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--config", "position"], ["--config", "position.yaml"]),
        (["-c", "position", "-c=layer"], ["-c", "position.yaml", "-c=layer.yaml"]),
        (["--config=lens", "lens", "--x=lens"], ["--config=lens.yaml", "lens", "--x=lens"]),
        (["lens", "--config", "lens"], ["lens", "--config", "lens.yaml"]),
        (["--config={data: {max_pairs: 2}}"], ["--config={data: {max_pairs: 2}}"]),
        (["--config", "a: b", "position"], ["--config", "a: b", "position"]),
    ],
)
def test_names_of_configurations_become_files(args, found):
    shipped = [part.replace(f"{SHIPPED_CONFIGS}/", "") for part in with_files(args)]
    assert shipped == found


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("xyz", "xyz does not exist: set --config to a file, or to one of attention, "),
        ("", "'' is a folder: set --config to a file"),
        ("models", "models does not exist: did you mean --config models/"),
        ("layr.yaml", "layr.yaml does not exist: did you mean --config layer?"),
    ],
)
def test_a_configuration_that_does_not_exist_ends_the_program(
    tmp_path, monkeypatch, capsys, asked, said
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        find_config(asked)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ([], {}),
        (["--no_figures"], {"figures": False, "pair_sheets": False}),
        (["--no_pair_sheets"], {"pair_sheets": False}),
        (["--no_page"], {"page": False}),
        (["--format", "svg", "pdf"], {"formats": ("svg", "pdf")}),
        (["--strata", "kind", "source"], {"strata": ("kind", "source")}),
        (["--top", "3"], {"top": 3}),
        (["--docs", "pages"], {"docs": Path("pages")}),
    ],
)
def test_each_option_of_a_report_does_what_it_says(program, monkeypatch, tmp_path, option, changed):
    made = []
    monkeypatch.setattr(
        "codi_patching.commands.report.report_folder",
        lambda *given: made.append(given) or SimpleNamespace(text="made", failed=False),
    )
    status, out, err = program("report", tmp_path, "--name=mine", *option)
    assert (status, out, err) == (0, "made\n", "")
    assert made == [(tmp_path, replace(ReportOptions(), **changed), "mine")]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--no_figures", "--no_page", "--pool", "--format=svg"])
def test_each_option_of_a_comparison_does_what_it_says(program, monkeypatch, tmp_path, option):
    changed = {
        "--no_figures": {"figures": False},
        "--no_page": {"page": False},
        "--pool": {"pool": True},
        "--format=svg": {"formats": ("svg",)},
    }
    made, failed = [], []
    monkeypatch.setattr(
        "codi_patching.commands.compare.compare_folders",
        lambda *given: made.append(given) or SimpleNamespace(text="made", failed=failed),
    )
    command = ("compare", "b", "a", "--dir", tmp_path, option)
    assert program(*command) == (0, "made\n", "")
    options = replace(ReportOptions(), **changed[option])
    assert made == [([Path("b"), Path("a")], tmp_path, options)]
    failed.append("a check")
    assert program(*command)[0] == 3


@pytest.mark.parametrize(("failed", "status"), [("", 0), ("a", 3), ("b", 3), ("ab", 3)])
def test_reports_of_several_folders_fail_if_one_does(
    program, monkeypatch, tmp_path, failed, status
):
    monkeypatch.setattr(
        "codi_patching.commands.report.report_folder",
        lambda folder, *_: SimpleNamespace(text=folder.name, failed=folder.name in failed),
    )
    folders = [tmp_path / name for name in "cab"] if failed else [tmp_path / "c"]
    assert program("report", *folders)[:2] == (
        status, "".join(f"{folder.name}\n" for folder in folders),
    )  # fmt: skip


def test_an_index_says_what_it_left_out_and_whether_a_check_fails(program, monkeypatch, tmp_path):
    index = SimpleNamespace(summary="3 runs", left_out={"a": "no\x1b results"}, failed=False)
    monkeypatch.setattr("codi_patching.commands.index.write_index", lambda folder: index)
    said = f"3 runs\nleft out a: no  results\nwritten to {tmp_path}\n"
    assert program("index", tmp_path) == (0, said, "")
    index.failed = True
    assert program("index", tmp_path) == (3, said, "")


def test_home_is_expanded_in_every_path(program, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("results: {dir: ~/out}\ndata: {pairs: ~/none.json}\n")
    status, _, err = program("predict", "--config=position", "--config=~/mine.yaml", NO_LOGGER)
    assert status == 1
    assert f"{tmp_path}/none.json: " in err
    status, _, err = program("report", "~/none")
    assert f"{tmp_path}/none does not exist" in err
    status, _, err = program("evaluate", "--checkpoint=~/none", "--problems=2")
    assert f"{tmp_path}/none" in err


def interrupted(process, begun):
    """What a process says when Ctrl-C is pressed at a terminal, once `begun` holds."""
    while not begun():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def started(*args):
    return subprocess.Popen(
        [sys.executable, "-m", "codi_patching", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip; a shell's background jobs ignore Ctrl-C, and so would their children


def test_ctrl_c_gives_one_line_while_modules_are_imported(tmp_path):
    with started("predict", "--config=position", f"--results.dir={tmp_path}/out") as process:
        maps = Path(f"/proc/{process.pid}/maps")
        said = interrupted(process, lambda: "libtorch" in maps.read_text())
    assert said == (130, "", "codi-patching: interrupted; the same command resumes\n")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_gives_one_line_in_a_study_which_ends_its_arm(tmp_path):
    with started("study", f"--dir={tmp_path}/out", NO_LOGGER) as process:
        assert process.stderr.readline() == "study: arm 1 of 9, layer_frozen\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        said = interrupted(process, children.read_text)
    assert said == (130, "", "codi-patching: interrupted; the same command resumes\n")


def test_a_console_without_an_encoding_for_everything_ends_no_command(tmp_path):
    name = "\N{GREEK SMALL LETTER ALPHA}"
    options = {"env": {**os.environ, "PYTHONIOENCODING": "latin-1"}, "encoding": "latin-1"}
    done = codi_patching("report", tmp_path / name, **options)
    assert done.returncode == 1
    assert "\\u03b1 does not exist" in done.stderr
    code = "import sys; from codi_patching import cli; cli._run = lambda *_: print('\u03b1'); "
    code += "sys.argv[1:] = ['report']; cli.main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=False, **options)
    assert (done.returncode, done.stdout) == (0, "\\u03b1\n")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["--help"], 0, "usage: codi-patching"),
        (["report", "none"], 1, "none does not exist"),
        (["predict", "--config=position"], 2, "run Python without -OO"),
    ],
)
def test_python_without_docstrings(command, status, said):
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "codi_patching", *command],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, said in done.stdout + done.stderr) == (status, True)
    assert "Traceback" not in done.stderr


def test_a_logger_that_is_not_installed_names_the_extra_that_has_it(monkeypatch):
    monkeypatch.setattr("codi_patching.commands.logger_options.find_spec", lambda _: None)
    names = ("CSVLogger", "TensorBoardLogger", "MLFlowLogger")
    csv, *others = (SimpleNamespace(class_path=f"lightning.pytorch.loggers.{n}") for n in names)
    with pytest.warns(UserWarning, match=r"pip install codi_patching\[tensorboard\]"):
        assert without_missing([csv, others[0]]) == [csv]
    with pytest.warns(UserWarning, match=r"pip install codi_patching\[mlflow\]"):
        assert without_missing(others[1]) == []
    assert without_missing(False) is False


def test_either_of_two_modules_will_do_for_a_logger(monkeypatch):
    there = {"tensorboardX": "found"}
    monkeypatch.setattr("codi_patching.commands.logger_options.find_spec", there.get)
    tensorboard = SimpleNamespace(class_path="lightning.pytorch.loggers.TensorBoardLogger")
    assert without_missing(tensorboard) == [tensorboard]
    assert without_missing(None) is None
    assert without_missing(True) is True


def test_help_explains_donors(program):
    told = " ".join(program("pairs", "--help")[1].split())
    assert "two other questions whose thoughts can be put into its own" in told


@pytest.mark.slow
@pytest.mark.thorough
def test_random_checkpoints_of_the_published_layout_run(tmp_path):
    make = [sys.executable, "scripts/make_random_checkpoint.py", "--family=llama"]
    subprocess.run([*make, str(tmp_path)], check=True, cwd=ROOT)
    command = [
        "predict",
        "--config=position",
        "--config=models/llama_1b",
        f"--model.checkpoint={tmp_path}/pytorch_model.bin",
        f"--model.base_model={tmp_path}/base",
        "--data.max_pairs=2",
        NO_LOGGER,
        *BARE,
        f"--results.dir={tmp_path}/out",
    ]
    refused = codi_patching(*command)
    assert refused.returncode == 1
    assert "codi-patching pairs" in refused.stderr
    done = codi_patching(*command, "--data.pairs=shipped")
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "out")
    assert results.kl_divergence.shape == (2, 3, 6, 2)
    assert run_of(results).precision == "bf16-true"
    assert "LoRA merged into 21 weights with alpha 32" in done.stderr


@pytest.mark.slow
@pytest.mark.thorough
def test_the_benchmark_measures_all_arms(tmp_path):
    options = ["--pairs=2", "--sample=1", "--repeats=1", "--prompt=20", "--shared=8", "--peers"]
    run = [sys.executable, "scripts/benchmark.py", *options, f"--json={tmp_path}/out.json"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    grids = json.loads((tmp_path / "out.json").read_text())["grids"]
    assert set(grids) == {"layer", "position_frozen", "position", "relay", "cumulative"}
    arms = {"sweep, own", "sweep, own and control", "textbook", "batched"}
    for grid in grids.values():
        assert arms <= set(grid["seconds"])
        assert all(seconds > 0 for seconds in grid["seconds"].values())
    assert grids["position_frozen"]["largest_difference"]["plain hooks, one batch"] < 1e-3
    tokens = grids["position"]["token_layers"]
    assert tokens["textbook"] == 97 * 16 * (20 + 5 + 5)
    assert tokens["unpatched"] == 16 * (20 + 12 + 2 * 10)
    assert "| layer | " in done.stdout
