"""The commands and code of README and docs, as they stand there, on few pairs."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import benchmark
import pytest

from codi_patching import cli
from codi_patching.analysis.report import build_report
from codi_patching.commands.study import parse
from codi_patching.commands.study_arms import read_arms
from codi_patching.reporting.console import console_text
from codi_patching.results.read import read_results
from codi_patching.shipped import SHIPPED, SHIPPED_PAIRS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
README = (ROOT / "README.md").read_text()
DOCS = {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text()
    for folder in (".", "howto", "reference")
    for path in sorted((ROOT / "docs" / folder).glob("*.md"))
}
RUN = ("reference/options.md", "howto/loggers.md", "howto/pairs.md", "howto/resume.md")
PAGES = {"README.md": README, **{name: DOCS[name] for name in RUN}}
"""Pages whose commands all run; some need what others made."""
EXAMPLES = re.findall(r"^\| `(--\S+ \S+)` \|", DOCS["reference/options.md"], re.MULTILINE)
FEW = ["--data.max_pairs=2", "--model.self_patch_pairs=1", "--model.verify_pairs=1"]
PLAIN = ["--report.pair_sheets=false", "--report.figures=false", "--report.page=false"]
ELSEWHERE = ("hf ", "zen-E/", "wandb sweep", "pip install")
"""Of commands that need a network."""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def commands_of(text):
    """The commands of a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def blocks_of(page):
    """The Python of a page of the docs."""
    return re.findall(r"```python\n(.*?)```", DOCS[page], re.DOTALL)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Runs `codi-patching …` in this process, in an empty folder; gives its exit status."""
    monkeypatch.chdir(tmp_path)

    def run(args):
        monkeypatch.setattr(sys, "argv", ["codi-patching", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    return run


@pytest.fixture
def files(tmp_path):
    """What the commands take for granted: pairs and questions."""
    pairs = json.loads(SHIPPED_PAIRS["codi-tiny"].read_text())
    (tmp_path / "my_pairs.jsonl").write_text("\n".join(map(json.dumps, pairs[:4])))
    (tmp_path / "my_pairs.json").write_text(json.dumps(pairs[:4]))
    (tmp_path / "test.jsonl").write_text("\n".join(json.dumps(p["clean"]) for p in pairs[:4]))


@pytest.mark.parametrize(
    "page", ["README.md", *(pytest.param(page, marks=pytest.mark.thorough) for page in RUN)]
)
def test_every_command_runs(page, program, files, tmp_path):
    run = []
    for command in commands_of(PAGES[page]):
        name, *args = shlex.split(command)
        if any(part in command for part in ELSEWHERE):
            continue
        if name == "make":
            continue  # run by CI
        assert name == "codi-patching", command
        if args[0] == "study":  # run to its end by a test of its own
            parse(args[1:])
            for arm in ("layer_frozen", "position_recomputed", "relay", "lens"):
                shutil.copytree(RESULTS / "codi-tiny" / arm, tmp_path / "results/study" / arm)
            run.append(command)
            continue
        measures = args[0] == "predict"
        more = [*FEW, *PLAIN] if measures else []
        more += [] if "logger" in command or not measures else ["--trainer.logger=false"]
        assert program([*args, *more]) in (None, 0), command
        run.append(command)
    assert run


@pytest.mark.thorough
def test_the_code_of_the_python_page_runs(program, tmp_path):  # program: in an empty folder
    for name, arm in {"position": "position_recomputed", "layer": "layer_frozen"}.items():
        shutil.copytree(RESULTS / "codi-tiny" / arm, tmp_path / "results" / name)
    page = {"__name__": "page"}
    for code in blocks_of("howto/python.md"):
        exec(compile(code, "howto/python.md", "exec"), page)
    assert (tmp_path / "out" / "position_patching_results.json").exists()
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block[1], "README.md", "exec"), {"__name__": "page"})
    for name in ("reference/files.md", "howto/figures.md", "howto/family.md"):
        for code in blocks_of(name):
            exec(compile(code, name, "exec"), {"__name__": "page"})
    assert (tmp_path / "carried.pdf").exists()
    for name in ("howto/figures.md", "howto/share.md"):  # of the same results
        for command in commands_of(DOCS[name]):
            assert program(shlex.split(command)[1:]) == 0, command
    assert (tmp_path / "results" / "index.html").exists()


def test_short_answers_are_short():
    """Each want of a user in at most three lines."""
    answers = DOCS["howto/python.md"].partition("## Short answers")[2].partition("## Results")[0]
    blocks = re.findall(r"```python\n(.*?)```", answers, re.DOTALL)
    assert len(blocks) == 8
    assert all(len(block.splitlines()) <= 3 for block in blocks)


def test_links_lead_somewhere():
    for name, text in {"README.md": README, **DOCS}.items():
        here = ROOT if name == "README.md" else (ROOT / "docs" / name).parent
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text):
            if "://" not in "".join(link):
                assert (here / "".join(link)).exists(), f"{name}: {link}"


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_make_reproduce_writes_what_is_shipped():
    """Its command as make would run it names the folders that are there."""
    shown = subprocess.run(
        ["make", "-n", "-s", "reproduce", "VENV=/nowhere"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    commands = [
        shlex.split(line)
        for line in shown.stdout.replace("\\\n", " ").splitlines()
        if "codi-patching" in line
    ]
    written = {RESULTS / "models" / "comparison"}
    for _, command, *rest in commands:
        if command == "study":
            asked, options = parse(rest)
            arms = read_arms(ROOT / asked.config, ROOT / asked.dir, asked.directions)
            assert options[options.index("--model.checkpoint") + 1] == asked.dir.name
            written |= {ROOT / asked.dir / "comparison", *(arm.folder for arm in arms)}
        elif command == "predict":
            written.add(ROOT / rest[rest.index("--results.dir") + 1])
        else:
            assert command == "compare"
            assert all((ROOT / folder).is_dir() for folder in rest if folder.startswith("docs/"))
    assert written == {path for path in RESULTS.glob("*/*") if path.is_dir()}
    assert {path.name for path in RESULTS.iterdir()} == {*SHIPPED, "models"}
    assert "--report.pair_sheets false" in shown.stdout
    assert not list(RESULTS.rglob("pairs"))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_results_are_of_the_shipped_model_and_pairs(name):
    of_model = [SHIPPED[name] / "model.safetensors", SHIPPED_PAIRS[name]]
    known = [sha256(path.read_bytes()).hexdigest() for path in of_model]
    files = list((RESULTS / name).glob("*/*_results.json"))
    assert files
    for path in files:
        about = json.loads(path.read_text())["metadata"]
        assert [about["checkpoint_sha256"], about["data_sha256"]] == known, path


def test_what_the_demo_prints_is_what_the_shipped_results_say():
    (quoted,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    data = read_results(RESULTS / "codi-tiny" / "position_recomputed")
    assert console_text(build_report([data])).startswith(quoted.rstrip())


def test_the_benchmark_takes_the_options_that_documents_name():
    found = [
        command
        for text in (README, *DOCS.values())
        for command in re.findall(r"python scripts/benchmark\.py ([^`\n]+)", text)
    ]
    assert len(found) > 1
    for command in found:
        benchmark.parse(shlex.split(command))


@pytest.mark.thorough
def test_every_option_is_documented_by_an_example_that_is_accepted(program, capsys):
    assert len(EXAMPLES) > 20
    options = {example.split()[0] for example in EXAMPLES}
    for example in EXAMPLES:
        config = "iterative" if re.search("strategy|trace_pair", example) else "position"
        config = "knockout" if "window" in example else config
        config = "head" if "model.position " in example else config
        args = ["predict", f"--config={config}", *example.split(), "--print_config"]
        assert program(args) == 0, example
    capsys.readouterr()
    program(["predict", "--help"])
    listed = set(re.findall(r"^  (--(?:data|results)\.\w+)", capsys.readouterr().out, re.MULTILINE))
    assert listed <= options
