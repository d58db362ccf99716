"""The commands of the README, as they stand there, on few pairs."""

import json
import re
import shlex
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import benchmark
import pytest

from codi_patching import cli
from codi_patching.commands.study import parse
from codi_patching.commands.study_arms import read_arms
from codi_patching.data.pair_files import SHIPPED_PAIRS
from codi_patching.models.loading.load import SHIPPED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for block in BLOCKS
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith("$ ")
]
EXAMPLES = re.findall(r"^\| `(--\S+ \S+)` \|", README, re.MULTILINE)
FEW = ["--data.max_pairs=2", "--model.self_patch_pairs=1", "--report.pair_sheets=false"]
ELSEWHERE = ("hf ", "zen-E/", "wandb sweep")
"""Of commands that need a network."""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Runs `codi-patching …` in this process; gives its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)

    def run(args):
        monkeypatch.setattr(sys, "argv", ["codi-patching", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    return run


@pytest.fixture
def files(tmp_path):
    """What the commands take for granted: pairs, questions, a published checkpoint."""
    pairs = json.loads(SHIPPED_PAIRS.read_text())
    (tmp_path / "my_pairs.jsonl").write_text("\n".join(map(json.dumps, pairs[:4])))
    (tmp_path / "my_pairs.json").write_text(json.dumps(pairs[:4]))
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(p["clean"]) for p in pairs[:4]))
    make = [sys.executable, ROOT / "scripts" / "make_random_checkpoint.py", "--family=llama"]
    subprocess.run([*make, str(tmp_path)], check=True)


def test_every_command_runs(program, files, tmp_path):
    run = []
    for command in COMMANDS:
        name, *args = shlex.split(command)
        if any(part in command for part in ELSEWHERE):
            continue
        if name == "codi-patching":
            measures = args[0] in ("predict", "study")
            quiet = [] if "logger" in command or not measures else ["--trainer.logger=false"]
            assert program([*args, *(FEW if measures else []), *quiet]) in (None, 0), command
        else:
            assert name == "make", command  # run by CI
            continue
        run.append(command)
    assert len(run) > 9
    study = {path.name for path in (tmp_path / "results" / "study").iterdir()}
    assert study >= {"layer_frozen", "position_recomputed", "relay", "comparison"}


def test_make_reproduce_writes_what_is_shipped(tmp_path):
    """Its command as make would run it names the folders that are there."""
    shown = subprocess.run(
        ["make", "-n", "-s", "reproduce", "VENV=/nowhere"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (command,) = [
        shlex.split(line)
        for line in shown.stdout.replace("\\\n", " ").splitlines()
        if "codi-patching" in line
    ]
    asked, options = parse(command[2:])
    arms = read_arms(ROOT / asked.config, ROOT / asked.dir, asked.directions)
    assert {arm.folder for arm in arms} | {ROOT / "docs" / "results" / "comparison"} == {
        path for path in (ROOT / "docs" / "results").iterdir() if path.is_dir()
    }
    assert "--trainer.logger" in options


def test_the_shipped_results_are_of_the_shipped_model_and_pairs():
    known = {sha256(SHIPPED_PAIRS.read_bytes()).hexdigest()}
    known.add(sha256((SHIPPED["codi-tiny"] / "model.safetensors").read_bytes()).hexdigest())
    files = list((ROOT / "docs" / "results").glob("*/*_results.json"))
    assert files
    for path in files:
        about = json.loads(path.read_text())["metadata"]
        assert {about["checkpoint_sha256"], about["data_sha256"]} == known, path


def test_the_findings_that_are_quoted_are_the_shipped_ones():
    found = json.loads((ROOT / "docs/results/position_recomputed/findings.json").read_text())
    sentences = {finding["sentence"] for finding in found["findings"]}
    quoted = re.findall(r"\? [A-Z ]+\n((?:    .+\n)+)", README)
    assert len(quoted) == 2
    assert {" ".join(block.split()) for block in quoted} <= sentences


def test_the_benchmark_takes_the_options_that_documents_name():
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [
        command
        for document in documents
        for command in re.findall(r"python scripts/benchmark\.py ([^`\n]+)", document.read_text())
    ]
    assert len(found) > 3
    for command in found:
        benchmark.parse(shlex.split(command))


def test_every_option_is_documented_by_an_example_that_is_accepted(program, capsys):
    assert len(EXAMPLES) > 20
    options = {example.split()[0] for example in EXAMPLES}
    for example in EXAMPLES:
        config = "iterative" if re.search("strategy|trace_pair", example) else "position"
        args = ["predict", f"--config=configs/{config}.yaml", *example.split(), "--print_config"]
        assert program(args) == 0, example
    capsys.readouterr()
    program(["predict", "--help"])
    listed = set(re.findall(r"^  (--(?:data|results)\.\w+)", capsys.readouterr().out, re.MULTILINE))
    assert listed <= options
