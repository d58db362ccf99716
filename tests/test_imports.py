"""Imports flow one way."""

import ast
from pathlib import Path

import codi_patching

ROOT = Path(codi_patching.__file__).parent
ORDER = ["analysis", "patching", "metrics", "models", "data", "training", "experiments", "callbacks", "cli"]


def imported_parts(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("codi_patching."):
                yield name.split(".")[1]


def test_no_module_imports_what_comes_after_it():
    checked = 0
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part in ORDER:
            for other in imported_parts(path):
                checked += 1
                assert ORDER.index(other) <= ORDER.index(part), f"{path} imports {other}"
    assert checked > 30


def test_no_file_is_called_by_a_name_that_says_nothing():
    names = {path.stem for path in ROOT.rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc"}
