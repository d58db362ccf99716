"""Imports flow one way, and what reads results needs none of the packages that measure."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import codi_patching

ROOT = Path(codi_patching.__file__).parent
ORDER = [
    *(
        "errors",
        "shipped",
        "results",
        "patching",
        "metrics",
        "models",
        "data",
        "measuring",
        "experiments",
    ),
    *("analysis", "reporting", "saved_results", "hand_runs", "hand_calls", "hand_patching", "api"),
    *("callbacks", "training", "commands", "cli"),
]
"""Each may import only what stands before it. `__init__` and `__main__` are above all."""

HEAVY = ("lightning", "torchmetrics", "transformers", "torch")
SLOW = ("scipy.stats", "scipy.optimize", "matplotlib", "wandb")
"""Of what a command needs only where it draws, matches or logs."""


def imported_names(path):
    """Full names of everything of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.startswith("codi_patching."))


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def files():
    return [p for p in sorted(ROOT.rglob("*.py")) if room(p) not in ("__init__", "__main__")]


def test_every_file_is_in_a_room():
    assert {room(path) for path in files()} <= set(ORDER)


def test_no_module_imports_what_comes_after_it():
    checked = 0
    for path in files():
        for name in imported_names(path):
            other = name.split(".")[1]
            checked += 1
            assert other in ORDER, f"{path} imports {name}"
            assert ORDER.index(other) <= ORDER.index(room(path)), f"{path} imports {name}"
    assert checked > 100


def test_no_two_files_of_a_room_import_each_other():
    wanted = {}
    for path in files():
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        wanted[module] = {
            m for name in imported_names(path) for m in (name, name.rpartition(".")[0])
        }

    def reach(module, path):
        assert module not in path, f"imports go round: {' -> '.join([*path, module])}"
        if module not in seen:
            for other in wanted[module] & wanted.keys():
                reach(other, [*path, module])
            seen.add(module)

    seen = set()
    for module in wanted:
        reach(module, [])


def test_no_file_is_called_by_a_name_that_says_nothing():
    names = {path.stem for path in ROOT.rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc"}


def loaded(*modules, among=HEAVY):
    """The packages among some that are loaded with some modules, in a process of its own."""
    code = f"import importlib, sys, json\nfor m in {modules!r}: importlib.import_module(m)\n"
    code += f"print(json.dumps([h for h in {among!r} if h in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def modules(name, *but):
    return sorted(
        f"codi_patching.{name}.{p.stem}"
        for p in (ROOT / name).glob("[!_]*.py")
        if p.stem not in but
    )


def test_reading_results_loads_nothing_that_measures():
    read = modules("results", "records", "store", "write")
    assert "codi_patching.results.read" in read
    assert loaded("codi_patching", *read) == []


def test_keeping_and_writing_results_needs_tensors_alone():
    assert loaded(*modules("results")) == ["torch"]


def test_saying_what_results_show_loads_nothing_that_measures():
    said = [*modules("analysis"), *modules("reporting"), "codi_patching.saved_results"]
    assert loaded(*said, "codi_patching.cli") == []


def test_a_report_starts_without_what_draws_and_without_the_large_library_of_statistics():
    assert loaded("codi_patching.commands.report", among=(*HEAVY, *SLOW)) == []


def test_help_starts_with_the_standard_library_alone():
    code = (
        "import sys\nsys.argv = ['codi-patching', '--help']\nfrom codi_patching.cli import main\n"
        "try: main()\nfinally: print(sorted({'numpy', 'xarray', 'yaml'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


@pytest.mark.thorough
@pytest.mark.slow
def test_a_run_without_loggers_starts_without_theirs():
    code = (
        "import sys\nfrom codi_patching.cli import main\n"
        "options = ['--config', 'position', '--trainer.logger=false', '--print_config']\n"
        "sys.argv = ['codi-patching', 'predict', *options]\n"
        "try: main()\nfinally: print('wandb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


@pytest.mark.slow
def test_results_are_read_where_the_measuring_packages_cannot_be_imported(tmp_path):
    """As `report` and `compare` run on a machine without a model."""
    blocked = f"import sys\nfor name in {HEAVY!r}: sys.modules[name] = None\n"
    code = "import codi_patching as cp\ntry: cp.load_results('.')\nexcept ValueError as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "expected one *_patching_results.json in ., got 0" in done.stdout


def test_public_names_are_there_and_others_are_not():
    for name in codi_patching.__all__:
        assert getattr(codi_patching, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        codi_patching.nonsense  # noqa: B018
