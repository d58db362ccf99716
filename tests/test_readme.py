"""The commands of the README, as they stand there, on few pairs."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from codi_patching import cli
from codi_patching.data.pairs import SHIPPED_PAIRS

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
FEW = ["--data.max_pairs=2", "--figures.pairs=false", "--validity.pairs=1"]

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
        if name == "codi-patching":
            quiet = [] if "logger" in command else ["--trainer.logger=false"]
            assert program([*args, *FEW, *quiet]) in (None, 0), command
        elif name == "python":
            subprocess.run([sys.executable, *args], cwd=tmp_path, check=True)
        else:
            assert name == "make", command  # run by CI
            continue
        run.append(command)
    assert len(run) > 12
    written = {path.name for path in (tmp_path / "results").iterdir()}
    assert written == {"layer", "position", "iterative", "iterative_cumulative", "comparison"}


def test_make_reproduce_writes_reports_and_results(program, tmp_path):
    """Its commands as make would run them, on two pairs, twice: the second changes nothing."""
    shown = subprocess.run(
        ["make", "-n", "-s", "reproduce", "VENV=/nowhere"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = shown.stdout.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if "codi-patching predict" in line]
    assert len(commands) == 4
    before = {}
    for _ in range(2):
        for command in commands:
            assert program([*command[1:], *FEW]) in (None, 0)
        docs = tmp_path / "docs"
        found = {p.relative_to(docs): p.read_bytes() for p in docs.rglob("*") if p.is_file()}
        assert before in ({}, found)
        before = found
    reports = {path.stem for path in (tmp_path / "docs" / "experiments").iterdir()}
    shipped = {path.stem for path in (ROOT / "docs" / "experiments").iterdir()}
    assert reports == shipped
    assert (docs / "results" / "comparison" / "report.html").exists()


def test_every_option_is_documented_by_an_example_that_is_accepted(program, capsys):
    assert len(EXAMPLES) > 25
    options = {example.split()[0] for example in EXAMPLES}
    for example in EXAMPLES:
        config = "iterative" if re.search("strategy|trace_pair", example) else "position"
        args = ["predict", f"--config=configs/{config}.yaml", *example.split(), "--print_config"]
        assert program(args) == 0, example
    capsys.readouterr()
    program(["predict", "--help"])
    groups = "data|results|figures|validity|page|report"
    listed = set(re.findall(rf"^  (--(?:{groups})\.\w+)", capsys.readouterr().out, re.MULTILINE))
    assert listed <= options
