"""The command line, end to end on the shipped model."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from codi_patching import cli
from codi_patching.commands.study_arms import SHARED, read_arms
from codi_patching.experiments.base import Experiment
from codi_patching.metrics.grid import GRID_METRICS
from codi_patching.results.folder import FolderLock
from codi_patching.results.layout import derived_files
from codi_patching.results.read import read_results

ROOT = Path(__file__).parent.parent
CONFIGS = {
    path.relative_to(ROOT / "configs").with_suffix("").as_posix().replace("/", "_"): path
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
    if path.stem not in ("study", "sweep")
}
NO_LOGGER = "--trainer.logger=false"
FEW = ("--data.max_pairs=4", NO_LOGGER)


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
    monkeypatch.setenv("MKL_CBWR", "AUTO")  # set by the program otherwise, and left behind

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
        "--config=configs/test_mode.yaml",
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
    assert len(results.pair_ids) == 5
    assert set(results.values) == set(results.control) == set(GRID_METRICS)
    assert all(v.shape == (5, 16, 5) for v in results.values.values())
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
    assert "position patching" in done.stdout
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
def test_the_same_command_runs_nothing_and_reports_again(position_run):
    folder, first = position_run
    before = contents(folder)
    for path in derived_files(folder):
        path.unlink()
    command = ["predict", "--config=configs/position.yaml", f"--results.dir={folder}"]
    command += ["--data.max_pairs=5", NO_LOGGER]
    again = codi_patching(*command)
    assert again.returncode == 0, again.stderr
    assert "holds this run's results already: nothing is run again" in again.stderr
    assert again.stdout == first.stdout
    assert contents(folder) == before

    refused = codi_patching(*command, "--model.direction=noising")
    assert refused.returncode == 1
    assert "with another config.model.init_args.direction, direction: set" in refused.stderr
    assert "--results.overwrite true" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert contents(folder) == before


@pytest.mark.slow
def test_a_study_runs_every_arm_once_and_compares(tmp_path):
    config = yaml.safe_load((ROOT / "configs" / "study.yaml").read_text())
    arms = ["layer_frozen", "position_recomputed", "lens"]
    config["arms"] = {name: arm for name, arm in config["arms"].items() if name in arms}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    command = ["study", f"--config={tmp_path}/study.yaml", f"--dir={tmp_path}/study", NO_LOGGER]
    command += ["--data.max_pairs=2", "--report.page=false", "--report.figures=false"]
    done = codi_patching(*command)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "study").iterdir()} == {*arms, "comparison"}
    findings = json.loads((tmp_path / "study/comparison/comparison.json").read_text())["findings"]
    assert all(finding["verdict"] != "yes" for finding in findings)  # too few pairs for any
    before = contents(tmp_path / "study")
    again = codi_patching(*command)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("nothing is run again") == 3
    assert contents(tmp_path / "study") == before

    alone = codi_patching(
        *("compare", *(tmp_path / "study" / arm for arm in arms), f"--dir={tmp_path}/alone"),
    )
    assert alone.returncode == 0, alone.stderr
    written = [tmp_path / f / "comparison.json" for f in ("study/comparison", "alone")]
    assert written[0].read_bytes() == written[1].read_bytes()


def test_a_study_runs_the_lens_once_and_without_options_of_patching(tmp_path):
    arms = read_arms(ROOT / "configs" / "study.yaml", tmp_path, ["denoising", "noising"])
    assert len(arms) == 13
    (lens,) = [arm for arm in arms if not arm.patches]
    assert lens.folder == tmp_path / "lens"
    assert not any("direction" in option for option in lens.options)
    asked = ["--model.site", "kv", "--model.checkpoint", "c", "--model.control=none", "--data.x=1"]
    assert lens.command(asked)[-3:] == ["--model.checkpoint", "c", "--data.x=1"]
    assert arms[0].command(asked)[-6:] == asked
    shared = inspect.signature(Experiment).parameters.keys() - {"seed"}
    assert {f"--model.{name}" for name in shared} == set(SHARED)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["predict", "--config=configs/position.yaml"], ["study"]])
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
def test_a_dry_run_says_what_a_study_would_cost_and_writes_nothing(tmp_path):
    done = codi_patching("study", "--dry_run", f"--dir={tmp_path}/study", "--data.max_pairs=6")
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line}
    assert lines["position_recomputed"][1:3] == ["6", "972"]  # 6 × 2 × (80 + 1)
    said = done.stderr.splitlines()
    assert said[0] == "study: trying arm 1 of 7, layer_frozen"
    assert not [line for line in said if "Tip" in line or "GPU" in line]
    assert lines["layer_frozen"][1:3] == ["6", "204"]
    assert lines["lens"][1:3] == ["6", "6"]
    assert "in all about" in done.stdout
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_seeds_in_a_loop_do_not_collide(tmp_path, program):
    for seed in (1, 2, 3, 1):
        status, _, err = program(
            *("predict", f"--config={ROOT}/configs/layer.yaml", f"--seed_everything={seed}"),
            *(f"--results.dir={tmp_path}/sweep", "--results.folder_by_run=true", *FEW),
            *("--report.page=false", "--report.figures=false"),
        )
        assert status == 0, err
    folders = sorted(path.name for path in (tmp_path / "sweep").iterdir())
    assert [name.rpartition("_")[0] for name in folders] == [
        f"layer_frozen_denoising_seed{seed}" for seed in (1, 2, 3)
    ]
    assert all(read_results(tmp_path / "sweep" / name).run.seed for name in folders)


def test_the_sweep_file_names_options_that_exist(program):
    sweep = yaml.safe_load((ROOT / "configs" / "sweep.yaml").read_text())
    options = [f"--{key}={given['values'][-1]}" for key, given in sweep["parameters"].items()]
    command = [part for part in sweep["command"] if not part.startswith("${")]
    status, out, err = program(
        *(part.replace("configs/", f"{ROOT}/configs/") for part in command),
        *options,
        "--print_config",
    )
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
    status, out, err = program("predict", f"--config={ROOT}/configs/position.yaml", option)
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
    position = f"--config={ROOT}/configs/position.yaml"
    status, out, err = program("predict", position, f"--config={tmp_path}/mine.yaml")
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predcit", "unknown command predcit: did you mean predict?"),
        ("predict --data.max_pairs=2", "add --config configs/position.yaml or --model CLASS"),
        ("predict --config=none.yaml", "none.yaml does not exist: set --config"),
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
        ("fast_dev_run=true", "configs/test_mode.yaml"),
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
        *("predict", f"--config={ROOT}/configs/layer.yaml", f"--trainer.{option}", *FEW),
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
        *("predict", f"--config={ROOT}/configs/layer.yaml", *FEW, f"--results.dir={tmp_path}/out"),
        *(f"--trainer.{option}" for option in options),
        *("--report.page=false", "--report.figures=false"),
    )
    assert status == 0, err
    assert "layer patching" in out
    assert read_results(tmp_path / "out").run.precision == "64-true"


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
def test_shipped_configs_resolve_to_their_golden_file(name, monkeypatch, program):
    """Overlays on position patching; `tests/golden` is what they resolved to when read by eye."""
    path = CONFIGS[name]
    command = ["fit" if name.startswith("train") else "predict"]
    if command == ["predict"] and "class_path: codi_patching." not in path.read_text():
        command.append("--config=configs/position.yaml")
    monkeypatch.chdir(ROOT)
    status, out, err = program(*command, f"--config={path}", "--print_config")
    assert status == 0, err
    golden = ROOT / "tests" / "golden" / f"{name}.yaml"
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(out)
    assert yaml.safe_load(out) == yaml.safe_load(golden.read_text())


@pytest.mark.slow
def test_random_checkpoints_of_the_published_layout_run(tmp_path):
    make = [sys.executable, "scripts/make_random_checkpoint.py", "--family=llama"]
    subprocess.run([*make, str(tmp_path)], check=True, cwd=ROOT)
    command = [
        "predict",
        "--config=configs/position.yaml",
        "--config=configs/models/llama_1b.yaml",
        f"--model.checkpoint={tmp_path}/pytorch_model.bin",
        f"--model.base_model={tmp_path}/base",
        "--data.max_pairs=2",
        NO_LOGGER,
        f"--results.dir={tmp_path}/out",
    ]
    refused = codi_patching(*command)
    assert refused.returncode == 1
    assert "codi-patching pairs" in refused.stderr
    done = codi_patching(*command, "--data.pairs=shipped")
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "out")
    assert results.values["kl_divergence"].shape == (2, 3, 6)
    assert results.run.precision == "bf16-true"
    assert "LoRA merged into 21 weights with alpha 32" in done.stderr


@pytest.mark.slow
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
