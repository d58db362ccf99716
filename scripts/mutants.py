"""Put small faults into the package, one at a time, and list those that no test notices.

    make mutants ROOMS="analysis metrics" EACH=5
    python scripts/mutants.py analysis/contrasts.py --each 40 --seed 1

A fault turns round a sign, a comparison, a condition or two arguments, moves a number by one, drops
a filter or puts one name for its opposite. It is made in a copy of the package, where the tests
that run its line are run: short ones, a case of each, those of files that name the module first;
then those that see the most. Which test runs which line, and how long it takes, is of one run
of the whole suite under coverage, which `make mutants` makes. Some faults change nothing that
matters.
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
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from coverage import CoverageData

ROOT = Path(__file__).resolve().parents[1]
LARGE = ("lightning.pytorch", "pytest", "scipy.stats", "transformers", "xarray")
TRACED = ROOT / ".mutants"
"""The run of the suite: coverage with a context for each test, and its times as JUnit's XML."""
STEP = re.compile(r"(\|(setup|run|teardown)| \((setup|call|teardown)\))$")
"""Of a test, in a context: what pytest-cov says, and what pytest tells the programs it starts."""
SECONDS = 120.0
"""Of tests, for one fault, as they took under coverage, which is about twice as long."""

_OPPOSITES = """min max|minimum maximum|fmin fmax|any all|argmax argmin|nanargmax nanargmin|sf cdf|
sum mean|own control|OWN CONTROL|base source|clean corrupted|total direct|low high|single whole|
unpatched control|early late|first second|up down|row column|rise fall|above below|one other|
Add Sub|Mult Div|BitAnd BitOr|And Or|Lt LtE|Gt GtE|Eq NotEq|In NotIn|Is IsNot|Pow Mult"""
OTHER: dict[str, str] = {}
for pair in _OPPOSITES.replace("\n", "").split("|"):
    OTHER = {pair.split()[1]: pair.split()[0], pair.split()[0]: pair.split()[1], **OTHER}
ALIKE = ("min", "max", "minimum", "maximum", "fmin", "fmax", "transpose", "equal", "hypot")
"""Functions to which the order of two arguments is all one."""
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
        case ast.Call(func=function, args=[first, second, *rest], keywords=keywords):
            if ast.unparse(function).rpartition(".")[2] not in ALIKE:
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
                line = next(part.lineno for part in ast.walk(child) if hasattr(part, "lineno"))
                yield line, old, made, text
                setattr(tree, name, value)
            if isinstance(child, ast.AST):
                yield from faults(child, root)


def statement_at(tree: ast.Module, line: int) -> ast.stmt:
    """The innermost statement that a line is in."""
    holding = [
        node for node in ast.walk(tree) if isinstance(node, ast.stmt) and line in lines_of(node)
    ]
    return min(holding, key=lambda node: len(lines_of(node)))


def lines_of(node: ast.stmt) -> range:
    """The lines of a statement, from its first to its last."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def called_lines(tree: ast.AST) -> set[int]:
    """The lines that run when a function is called, not when the module is imported."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {line for body in bodies for statement in body for line in lines_of(statement)}


class Tests:
    """Which tests run which line, by a run of the whole suite."""

    def __init__(self) -> None:
        self.data = CoverageData(str(TRACED / "coverage"))
        self.data.read()
        self.seconds: dict[str, float] = {}
        self.passing: set[str] = set()  # without a fault
        for case in ElementTree.parse(TRACED / "times.xml").iter("testcase"):
            file = case.get("classname", "").replace(".", "/") + ".py"
            self.seconds[f"{file}::{case.get('name')}"] = float(case.get("time", 0))

    def of(self, name: str, line: int) -> list[str]:
        """Those that run a line of a file; of one that is run at import, what it is for.

        That is the function whose head it stands in, or the lines that use what it sets; else all
        of the file.
        """
        path = ROOT / "codi_patching" / name
        tree = ast.parse(path.read_text())
        statement, called = statement_at(tree, line), called_lines(tree)
        if line in called:
            tests = self.running(path, [line]) or self.running(path, lines_of(statement))
        else:
            tests = self.running(path, called.intersection(lines_of(statement)))
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                tests = self.using(statement)
        return self.chosen(tests or self.running(path, called), name)

    def using(self, statement: ast.Assign | ast.AnnAssign) -> set[str]:
        """Those that run a line with the name that a statement sets."""
        first = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        used = re.compile(rf"\b{re.escape(ast.unparse(first))}\b").search
        tests = set[str]()
        for other in sorted((ROOT / "codi_patching").rglob("*.py")):
            text = other.read_text()
            named = {at for at, content in enumerate(text.splitlines(), 1) if used(content)}
            if named:
                tests |= self.running(other, named & called_lines(ast.parse(text)))
        return tests

    def running(self, path: Path, lines: Iterable[int]) -> set[str]:
        """Those that run any of some lines of a file."""
        by_line = self.data.contexts_by_lineno(str(path))
        found = {STEP.sub("", each) for at in lines for each in by_line.get(at, ())}
        return found - {""}

    def chosen(self, tests: set[str], name: str) -> list[str]:
        """Tests of SECONDS in all: half of them short ones, half those that see the most.

        Of the short ones, a case of each function before more of one; those that take longest see
        most, a whole run or all figures of a report.
        """
        module = "codi_patching." + name.removesuffix(".py").replace("/", ".")
        names = {
            file: module in (ROOT / file).read_text() for file in {t.split("::")[0] for t in tests}
        }
        ranked, cases = [], Counter[str]()
        for test in sorted(tests, key=lambda test: (self.cost(test), test)):
            cases[function := test.partition("[")[0]] += 1
            ranked.append((cases[function], not names[test.split("::")[0]], self.cost(test), test))
        short = self.within(SECONDS / 2, [test for *_, test in sorted(ranked)])
        left = [test for *_, test in sorted(ranked, key=lambda each: -each[2])]
        longer = self.within(SECONDS / 2, [test for test in left if test not in short])
        return short + longer or [test for *_, test in ranked[:1]]

    def within(self, seconds: float, tests: list[str]) -> list[str]:
        """Those that fit in a time, one after the other, none longer than a fourth of it."""
        taken: list[str] = []
        for test in tests:
            if self.cost(test) <= min(seconds - sum(map(self.cost, taken)), seconds / 4):
                taken.append(test)
        return taken

    def cost(self, test: str) -> float:
        """Its seconds, and a little for each test there is."""
        return 0.01 + self.seconds.get(test, 5.0)


class FirstFailure:
    """A plugin of pytest that writes down which test fails first."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest after each step of a test."""
        if report.failed and not self.file.exists():
            self.file.write_text(report.nodeid)


def failing(tests: list[str], limit: float) -> str | None:
    """The first of tests to fail, "" if none could be run or ended in time, None if all pass.

    They run in the working folder, in a fork that has the large libraries already.
    """
    (written := Path("failed").resolve()).unlink(missing_ok=True)
    if not (child := os.fork()):
        os.setsid()  # with the programs that tests start
        signal.alarm(int(limit))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider"]
        os._exit(int(pytest.main([*options, *tests], plugins=[FirstFailure(written)])))
    passed = os.waitpid(child, 0)[1] == 0
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return None if passed else written.read_text() if written.exists() else ""


def try_file(path: Path, name: str, tests: Tests, each: int, seed: int) -> tuple[int, int]:
    """Faults of a file, so many of them at random: how many are noticed, of how many."""
    source, noticed = path.read_text(), 0
    tree = ast.parse(source)
    found = list(faults(tree, tree))
    drawn = random.Random(f"{seed} {name}").sample(found, min(each, len(found)))
    for line, old, new, changed in sorted(drawn):
        chosen = tests.of(name, line)
        compiled_anew(path, changed)
        failed = failing(chosen, 60 + 5 * sum(map(tests.cost, chosen))) if chosen else None
        compiled_anew(path, source)
        if failed is not None and (again := failed or " ".join(chosen)) not in tests.passing:
            if failing([failed] if failed else chosen, 900) is not None:
                sys.exit(f"{again}: fails without a fault, or is not there: remove {TRACED}")
            tests.passing.add(again)
        noticed += failed is not None
        if failed is None:
            print(f"    {name}:{line}: {old}  ->  {new}", flush=True)
    print(f"{name}: {noticed} of {len(drawn)} noticed", flush=True)
    return noticed, len(drawn)


def compiled_anew(path: Path, source: str) -> None:
    """Write a module, and forget what was compiled of it."""
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()
    path.write_text(source)


def main() -> None:
    """Try faults in the rooms or files that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="rooms, or files of them: analysis/bounds.py")
    parser.add_argument("--each", type=int, default=5, help="faults a file")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tests = Tests()
    for name in LARGE:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        for kept in ("codi_patching", "tests", "scripts"):
            shutil.copytree(ROOT / kept, f"{folder}/{kept}")
        for other in {*os.listdir(ROOT)} - {*os.listdir(folder)}:
            os.symlink(ROOT / other, f"{folder}/{other}")
        os.chdir(folder)
        os.environ["PYTHONPATH"] = folder  # for the programs that tests start
        package, counts = Path("codi_patching"), []
        for path in (
            p for n in given.names for p in sorted((package / n).rglob("*.py")) or [package / n]
        ):
            name = str(path.relative_to(package))
            if path.name != "__init__.py":
                counts.append(try_file(path, name, tests, given.each, given.seed))
        noticed, drawn = map(sum, zip(*counts, strict=True))
        print(f"{noticed} of {drawn} noticed ({noticed / drawn:.0%})")


if __name__ == "__main__":
    main()
