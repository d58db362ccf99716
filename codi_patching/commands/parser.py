"""How mistakes on the command line are shown: one line, with the nearest thing that exists."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from lightning.pytorch.cli import LightningArgumentParser


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line on stderr, exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and what was probably meant."""
        print(f"codi-patching: {explain(message, _options_of(self))}", file=sys.stderr)
        sys.exit(2)


def _options_of(parser: Any) -> list[str]:
    """The options of a parser and of its subcommands."""
    options: list[str] = []
    for action in parser._actions:
        options += action.option_strings
        if isinstance(action.choices, dict):
            for subparser in action.choices.values():
                options += _options_of(subparser)
    return options


def explain(message: str, known: list[str]) -> str:
    """A parser's message in one line.

    Args:
        message: As argparse or jsonargparse gives it, perhaps over many lines.
        known: Options that exist.
    """
    if "ecognized arguments" in message:
        options = [o.partition("=")[0] for o in re.findall(r"--[\w.+=-]+", message)]
        option = next((option for option in options if option not in known), options[0])
        return f"unknown option {option}{_nearest(option, [*known, *_model_options()])}"
    if refused := re.search(r"Option '([\w.]+)' is not accepted", message):
        return _explain_model_option(refused[1])
    if refused := re.search(r"Key '([\w.]+)' is not expected", message):
        return f"unknown key {refused[1]}{_nearest(refused[1], [o.lstrip('-') for o in known])}"
    key = re.search(r'Parser key "([\w.]+)"', message)
    if key and key[1] in _model_hints():
        return _explain_model_option(key[1])
    expected = [
        re.sub(r"<class '(\w+)'>|typing\.", r"\1", line.strip(" -"))
        for line in message.splitlines()
        if "xpected" in line and "NoneType" not in line and "NestedArg" not in line
    ]
    got = re.search(r"(?:Got value|Given value): ?(\S.*?)$", message, re.MULTILINE)
    where = f"--{key[1]}: " if key else ""
    if not expected:
        return where + " ".join(message.partition(":\n")[2].split() or message.split())
    answer = expected[-1][0].lower() + expected[-1][1:]
    known_value = "Got value" in answer or got is None
    return where + (answer if known_value else f"{answer}, got {got[1]}")  # type: ignore[index]


def _nearest(option: str, known: list[str]) -> str:
    """What was probably meant."""
    close = difflib.get_close_matches(option, known, n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else "; codi-patching predict --help lists them"


def _model_hints() -> dict[str, Any]:
    """Types of the experiments' options, by name."""
    from codi_patching.experiments.base import Experiment
    from codi_patching.experiments.iterative import IterativePatching
    from codi_patching.experiments.patching import PatchingExperiment

    hints: dict[str, Any] = {}
    for cls in (Experiment, PatchingExperiment, IterativePatching):
        hints |= get_type_hints(cls.__init__)
    return hints


def _model_options() -> list[str]:
    return [f"--model.{name}" for name in _model_hints()]


def _explain_model_option(name: str) -> str:
    """Why an option of an experiment was refused: it does not exist, or has another value."""
    hints, option = _model_hints(), f"--model.{name}"
    if name not in hints:
        return f"unknown option {option}{_nearest(option, _model_options())}"
    if get_origin(hints[name]) is Literal:
        return f"expected {option} to be one of {', '.join(map(str, get_args(hints[name])))}"
    wanted = re.sub(r"<class '(\w+)'>", r"\1", str(hints[name]))
    return f"expected {option} to be {wanted}; this experiment may have no such option"
