"""Put small faults into the package, one at a time, and list those that no test notices.

    python scripts/mutants.py analysis metrics --each 5
    python scripts/mutants.py analysis/contrasts.py --each 40 --seed 1

A fault turns round a sign, a comparison, a condition or two arguments, moves a number by one, drops
a filter or puts one name for its opposite. It is made in a copy of the package, where the file's
tests are run; some faults change nothing that matters.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import copy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGE = ("lightning.pytorch", "pytest", "scipy.stats", "transformers", "xarray")
TESTS = """
analysis                 tests/analysis
analysis/agreement.py    tests/test_validity.py
analysis/checks.py       tests/test_validity.py
analysis/contrasts.py    tests/analysis/test_contrasts.py tests/analysis/test_questions.py
analysis/courses.py      tests/analysis/test_courses.py tests/analysis/test_questions.py
analysis/effects.py      tests/analysis/test_effects.py tests/analysis/test_questions.py
analysis/inference.py    tests/analysis/test_inference.py tests/analysis/test_questions.py
analysis/made_again.py   tests/test_validity.py
analysis/max_t.py        tests/analysis/test_max_t.py tests/analysis/test_questions.py
analysis/used.py         tests/analysis/test_used.py tests/analysis/test_questions.py
analysis/validity.py     tests/test_validity.py
callbacks                tests/test_results.py tests/test_loggers.py tests/test_experiments.py
data                     tests/test_pairs.py tests/test_twins.py tests/test_word_problems.py
experiments              tests/test_experiments.py tests/test_iterative.py tests/test_controls.py
measuring                tests/test_experiments.py tests/test_by_hand.py
metrics                  tests/test_metrics.py codi_patching/metrics
models                   tests/test_codi.py tests/test_checkpoint.py tests/test_answers.py
patching                 tests/test_reference.py tests/test_sites.py tests/test_sweep.py
reporting                tests/reporting
results                  tests/test_results.py
training                 tests/test_training.py
"""
"""By room, and by file where few of the room's are about it; besides those that import a file."""

_OPPOSITES = """min max|minimum maximum|fmin fmax|any all|argmax argmin|nanargmax nanargmin|sf cdf|
sum mean|own control|OWN CONTROL|base source|clean corrupted|total direct|low high|single whole|
unpatched control|early late|first second|up down|row column|rise fall|above below|one other|
Add Sub|Mult Div|BitAnd BitOr|And Or|Lt LtE|Gt GtE|Eq NotEq|In NotIn|Is IsNot|Pow Mult"""
OTHER: dict[str, str] = {}
for pair in _OPPOSITES.replace("\n", "").split("|"):
    OTHER = {pair.split()[1]: pair.split()[0], pair.split()[0]: pair.split()[1], **OTHER}
SKIPPED = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)


def replaced(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901 a table of kinds of nodes
    """What may stand for a node, one fault each."""

    def changed(**fields: object) -> ast.AST:
        made = copy(node)
        made.__dict__.update(fields)
        return made

    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op).__name__ in OTHER:
            yield changed(op=getattr(ast, OTHER[type(op).__name__])())
        case ast.Compare(ops=[op]):
            yield changed(ops=[getattr(ast, OTHER[type(op).__name__])()])
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool() as value):
            yield changed(value=not value)
        case ast.Constant(value=int() | float() as value):
            yield from (changed(value=value + 1), changed(value=value - 1))
        case ast.Constant(value=str() as value) if value in OTHER:
            yield changed(value=OTHER[value])
        case ast.Name(id=name, ctx=ast.Load()) if name in OTHER:
            yield changed(id=OTHER[name])
        case ast.Attribute(attr=name) if name in OTHER:
            yield changed(attr=OTHER[name])
        case ast.Slice():
            yield from (changed(**{end: None}) for end in ("lower", "upper") if getattr(node, end))
        case ast.IfExp(body=body, orelse=orelse):
            yield changed(body=orelse, orelse=body)
        case ast.If(test=test):
            yield changed(test=ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[_, *rest]):
            yield changed(ifs=rest)
        case ast.Call(args=[first, second, *rest], keywords=keywords):
            yield changed(args=[second, first, *rest])
            yield from (changed(keywords=keywords[:-1]) for _ in keywords[-1:])


def faults(tree: ast.AST, root: ast.AST) -> Iterator[tuple[int, str, str, str]]:
    """All faults under a node: the line, what stands there, what then does, the whole source."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list") or isinstance(tree, SKIPPED):
            continue
        owner, places = (value, range(len(value))) if isinstance(value, list) else (None, [0])
        for at in places:
            child = value if owner is None else owner[at]
            for new in replaced(child) if isinstance(child, ast.AST) else ():
                setattr(tree, name, new if owner is None else [*owner[:at], new, *owner[at + 1 :]])
                old, made = (ast.unparse(each).partition("\n")[0][:70] for each in (child, new))
                text = ast.unparse(ast.fix_missing_locations(root))
                yield getattr(child, "lineno", 0), old, made, text
                setattr(tree, name, value)
            if isinstance(child, ast.AST):
                yield from faults(child, root)


def tests_of(name: str) -> str:
    """The tests of a file: the table's for it, or else the room's after those that import it."""
    of = dict(line.split(maxsplit=1) for line in TESTS.strip().splitlines())
    if name in of:
        return of[name]
    module = "codi_patching." + name.removesuffix(".py").replace("/", ".")
    importing = [
        str(path)
        for path in sorted(Path("tests").rglob("test_*.py"))
        if re.search(rf"{re.escape(module)}\b", path.read_text())
    ]
    return " ".join(dict.fromkeys([*importing, *of[name.partition("/")[0]].split()]))


def passes(tests: str, limit: int) -> bool:
    """Whether tests pass in the working folder, in a fork that has the large libraries already."""
    if child := os.fork():
        return os.waitpid(child, 0)[1] == 0
    signal.alarm(limit)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not thorough"]
    os._exit(int(pytest.main([*options, *tests.split()])))


def try_file(path: Path, name: str, tests: str, each: int, seed: int) -> tuple[int, int]:
    """Faults of a file, so many of them at random: how many are noticed, of how many."""
    source, begun, noticed = path.read_text(), time.monotonic(), 0
    if not passes(tests, 900):
        sys.exit(f"{tests}: fails without a fault")
    limit, tree = int(30 + 5 * (time.monotonic() - begun)), ast.parse(source)
    found = list(faults(tree, tree))
    drawn = random.Random(f"{seed} {name}").sample(found, min(each, len(found)))
    for line, old, new, changed in sorted(drawn):
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()
        path.write_text(changed)
        noticed += not (unseen := passes(tests, limit))
        if unseen:
            print(f"    {name}:{line}: {old}  ->  {new}", flush=True)
    path.write_text(source)
    print(f"{name}: {noticed} of {len(drawn)} noticed", flush=True)
    return noticed, len(drawn)


def main() -> None:
    """Try faults in the rooms or files that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="rooms, or files of them: analysis/bounds.py")
    parser.add_argument("--each", type=int, default=5, help="faults a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", help="instead of the table's")
    given = parser.parse_args()
    for name in LARGE:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        for kept in ("codi_patching", "tests", "scripts"):
            shutil.copytree(ROOT / kept, f"{folder}/{kept}")
        for other in {*os.listdir(ROOT)} - {*os.listdir(folder)}:
            os.symlink(ROOT / other, f"{folder}/{other}")
        os.chdir(folder)
        package, counts = Path("codi_patching"), []
        for path in (
            p for n in given.names for p in sorted((package / n).rglob("*.py")) or [package / n]
        ):
            name = str(path.relative_to(package))
            if path.name != "__init__.py":
                tests = given.tests or tests_of(name)
                counts.append(try_file(path, name, tests, given.each, given.seed))
        noticed, drawn = map(sum, zip(*counts, strict=True))
        print(f"{noticed} of {drawn} noticed ({noticed / drawn:.0%})")


if __name__ == "__main__":
    main()
