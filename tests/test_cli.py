"""The command line, end to end on the shipped model, in processes of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from codi_patching import cli
from codi_patching.data.results import read_results
from codi_patching.metrics.grid import GRID_METRICS

ROOT = Path(__file__).parent.parent
CONFIGS = {
    path.relative_to(ROOT / "configs").with_suffix("").as_posix().replace("/", "_"): path
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
}


def codi_patching(*args, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "codi_patching", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


@pytest.fixture(scope="module")
def position_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    done = codi_patching(
        "predict",
        "--config=configs/position.yaml",
        "--config=configs/test_mode.yaml",
        f"--results.dir={folder}",
    )
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_position_patching_in_test_mode(position_run):
    folder, done = position_run
    results = read_results(folder)
    assert len(results.pair_ids) == 5
    assert set(results.values) == set(GRID_METRICS)
    assert all(v.shape == (5, 16, 5) for v in results.values.values())
    written = {path.name for path in folder.iterdir()}
    assert written == {
        "position_patching_results.json",
        "results.csv",
        "aggregate.json",
        "validity.json",
        "SHA256SUMS",
        "report.html",
        "kl_divergence.png",
        "recovery.png",
        "pairs",
    }
    assert len(list((folder / "pairs").glob("*.png"))) == 5
    assert "66 pairs, 9 left out because both answers are equal" in done.stderr
    assert "rank  layer    position  KL (nats)" in done.stderr
    assert "layer 15, position 4: 100%" in done.stdout


@pytest.mark.slow
def test_positions_differ_and_the_answer_moves(position_run):
    """Where in the thoughts: some cells move the answer by a lot, some not at all."""
    kl = read_results(position_run[0]).values["kl_divergence"].mean(0)
    assert kl.max() > 0.3
    assert kl.max() > 10 * np.median(kl[:, 4])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "shape", "figures"),
    [
        ("layer", (2, 16), {"kl_divergence", "recovery"}),
        (
            "iterative_cumulative",
            (2, 16, 5),
            {"kl_divergence", "recovery"}
            | {f"trajectory_{m}" for m in ("kl_divergence", "recovery")}
            | {f"trajectory_cosine_to_{m}" for m in ("clean", "corrupted")},
        ),
    ],
)
def test_the_other_experiments(tmp_path, config, shape, figures):
    done = codi_patching(
        "predict",
        f"--config=configs/{config}.yaml",
        "--data.max_pairs=2",
        f"--results.dir={tmp_path}/a folder with ümlauts",
    )
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "a folder with ümlauts")
    assert results.values["kl_divergence"].shape == shape
    assert {p.stem for p in (tmp_path / "a folder with ümlauts").glob("*.png")} == figures


@pytest.mark.slow
def test_the_same_command_writes_the_same_bytes_and_others_are_refused(position_run):
    folder, _ = position_run
    path = folder / "position_patching_results.json"
    before = path.read_bytes()
    command = ["predict", "--config=configs/position.yaml", f"--results.dir={folder}"]
    command += ["--data.max_pairs=5", "--figures.pairs=false"]
    again = codi_patching(*command)
    assert again.returncode == 0, again.stderr
    assert path.read_bytes() == before

    refused = codi_patching(*command, "--model.direction=noising")
    assert refused.returncode == 1
    assert "with another config.model.init_args.direction, direction: set" in refused.stderr
    assert "--results.overwrite true" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--data.pairs=/nowhere.json"], 1, "set --data.pairs"),
        (["--model.unknown=1"], 2, "unknown"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path, args, status, message):
    folder = f"--results.dir={tmp_path}/out"
    done = codi_patching("predict", "--config=configs/position.yaml", folder, *args)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_three_experiments_and_their_comparison(tmp_path):
    """The last one finds the others' results and compares; `compare` alone gives the same bytes."""
    options = ["--data.max_pairs=4", "--figures.pairs=false", "--validity.pairs=1"]
    for config in ("layer", "position", "iterative"):
        named = [f"--comparison.{n}={tmp_path}/{n}" for n in ("layer", "position")]
        done = codi_patching(
            *("predict", f"--config=configs/{config}.yaml", f"--results.dir={tmp_path}/{config}"),
            *options,
            *(named if config == "iterative" else []),
            f"--comparison.dir={tmp_path}/out",
        )
        assert done.returncode == 0, done.stderr
    assert "Is iterative patching (relay) more effective than parallel patching?" in done.stderr
    folders = [f"--{n}={tmp_path}/{n}" for n in ("layer", "position", "iterative")]
    alone = codi_patching("compare", *folders, f"--dir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    written = [tmp_path / folder / "comparison.json" for folder in ("out", "alone")]
    assert written[0].read_bytes() == written[1].read_bytes()

    refused = codi_patching("compare", *folders, f"--iterative={tmp_path}/none", "--dir=x")
    assert refused.returncode == 1
    assert refused.stderr.startswith("codi-patching: expected one *_patching_results.json in")


@pytest.mark.slow
def test_help_names_both_commands_and_no_command_is_an_error():
    shown = codi_patching("--help")
    assert shown.returncode == 0
    assert "predict" in shown.stdout
    assert "fit" in shown.stdout
    assert codi_patching().returncode == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configs_resolve_to_their_golden_file(name, monkeypatch, capsys):
    """Overlays on position patching; `tests/golden` is what they resolved to when read by eye."""
    path = CONFIGS[name]
    command = ["fit" if name.startswith("train") else "predict"]
    if command == ["predict"] and "codi_patching.experiments" not in path.read_text():
        command.append("--config=configs/position.yaml")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MKL_CBWR", "AUTO")  # set by the program otherwise, and left behind
    monkeypatch.setattr(sys, "argv", ["x", *command, f"--config={path}", "--print_config"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    golden = (ROOT / "tests" / "golden" / f"{name}.yaml").read_text()
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(golden)


@pytest.mark.slow
def test_scripts_run_on_the_shipped_model(tmp_path):
    out = tmp_path / "pairs.json"
    prepare = [sys.executable, "scripts/prepare_pairs.py", f"--out={out}"]
    options = {"capture_output": True, "text": True, "cwd": ROOT, "check": False}
    made = subprocess.run([*prepare, "--different=3", "--equal=1"], **options)
    assert made.returncode == 0, made.stderr
    records = json.loads(out.read_text())
    assert len(records) == 4
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(json.dumps(r["clean"]) for r in records))
    evaluate = [sys.executable, "scripts/evaluate_codi.py", f"--data={questions}"]
    evaluated = subprocess.run(evaluate, **options)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "own thoughts         100.00%" in evaluated.stdout
    assert "thoughts zeroed        0.00%" in evaluated.stdout


@pytest.mark.slow
def test_random_checkpoints_of_the_published_layout_run(tmp_path):
    make = [sys.executable, "scripts/make_random_checkpoint.py", "--family=llama"]
    subprocess.run([*make, str(tmp_path)], check=True, cwd=ROOT)
    done = codi_patching(
        "predict",
        "--config=configs/position.yaml",
        "--config=configs/models/llama_1b.yaml",
        f"--model.checkpoint={tmp_path}/pytorch_model.bin",
        f"--model.base_model={tmp_path}/base",
        "--data.max_pairs=2",
        f"--results.dir={tmp_path}/out",
    )
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "out")
    assert results.values["kl_divergence"].shape == (2, 3, 6)
    assert results.metadata["precision"] == "bf16-true"
    assert "LoRA merged into 21 weights with alpha 32" in done.stderr
    assert "WARNING: the model answers fewer than half" in done.stderr


@pytest.mark.slow
def test_the_benchmark_measures_all_three_ways(tmp_path):
    options = ["--pairs=1", "--sample=1", "--repeats=1", "--prompt=20", "--shared=8"]
    run = [sys.executable, "scripts/benchmark.py", *options, f"--json={tmp_path}/out.json"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    results = {
        r["experiment"]: r for r in json.loads((tmp_path / "out.json").read_text())["results"]
    }
    assert set(results) == {"layer", "position", "iterative"}
    for result in results.values():
        assert all(seconds > 0 for seconds in result["seconds_a_pair"].values())
    tokens = results["position"]["token_layers"]
    assert tokens["textbook"] == 97 * 16 * (20 + 5 + 5)
    assert tokens["unpatched"] == 16 * (20 + 12 + 2 * 10)
    assert tokens["computed"] < tokens["least"]
