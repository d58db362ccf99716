"""How mistakes on the command line are shown: one line, with the nearest thing that exists."""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch import callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from codi_patching.commands.one_line import nearest, refuse
from codi_patching.errors import InputError
from codi_patching.experiments.attention import AttentionExperiment
from codi_patching.experiments.head import HeadPatching
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.knockout import KnockoutExperiment
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.lens import LensExperiment
from codi_patching.experiments.position import PositionPatching

EXPERIMENTS = (
    LayerPatching,
    PositionPatching,
    IterativePatching,
    HeadPatching,
    LensExperiment,
    AttentionExperiment,
    KnockoutExperiment,
)
"""Imported so that `--model PositionPatching` finds them by their short names."""

_WANTED_MODEL = {
    "predict": ("an experiment", "position"),
    "fit": ("a training", "train_codi_tiny"),
}
"""What `--model` is called of a command, and a file that sets one."""

_LOGGER = re.compile(r"--trainer\.(logger|callbacks)(=|$)")

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "Iterable": "a list",
}
"""What jsonargparse names by type, in words."""


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line on stderr, exit status 2; options are written in full."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, and what was probably meant."""
        refuse(explain(message, _options_of(self), sys.argv[1:]))


class OneLineCLI(LightningCLI):
    """Lightning's command line; options that cannot be used are refused in one line."""

    def before_instantiate_classes(self) -> None:
        """Expand `~` where an option begins with it."""
        _expand_home(self.config)

    def instantiate_classes(self) -> None:
        """Make model, data and trainer.

        Raises:
            InputError: One of them, a logger, a callback or a plugin refuses its options.
        """
        try:
            super().instantiate_classes()
        except InputError:
            raise
        except (ValueError, TypeError, ImportError, RuntimeError) as error:
            cause: BaseException = error
            while deeper := cause.__cause__ or cause.__context__:
                cause = deeper
            if isinstance(cause, InputError):
                raise cause from error
            raise InputError(" ".join(str(cause).split()) or type(cause).__name__) from error


def _expand_home(values: Any) -> None:
    """Expand `~` at the beginning of every text in a configuration, in place."""
    named = vars(values) if isinstance(values, Namespace) else values
    for key in range(len(values)) if isinstance(values, list) else list(named):
        if isinstance(values[key], Namespace | dict | list):
            _expand_home(values[key])
        elif isinstance(values[key], str) and re.match(r"~(/|$)", values[key]):
            values[key] = os.path.expanduser(values[key])


def _options_of(parser: Any) -> list[str]:
    """The options of a parser and of its subcommands."""
    options: list[str] = []
    for action in parser._actions:
        options += action.option_strings
        if isinstance(action.choices, dict):
            for subparser in action.choices.values():
                options += _options_of(subparser)
    return options


def explain(message: str, known: list[str], args: list[str]) -> str:
    """A parser's message in one line.

    Args:
        message: As argparse or jsonargparse gives it, perhaps over many lines.
        known: Options that exist.
        args: The command line: what a message calls `latents` may be `--model.latents` there.
    """
    command = next(iter(args), "predict")
    message = re.sub(r"^.*?Call to compute_fn of link .*? failed: ", "", message, flags=re.DOTALL)
    if "ecognized arguments" in message:
        return _explain_unrecognized(message, known, command)
    if "required: " in message and "model" in message:
        what, config = _WANTED_MODEL.get(command, _WANTED_MODEL["predict"])
        return f"expected {what}: add --config {config} or --model CLASS"
    lacking = re.fullmatch(r"the following arguments are required: (\w+)", message.strip())
    group = next((arg.partition("=")[0] for arg in args if _LOGGER.match(arg)), "")
    if lacking and group:
        return f"expected {group}.{lacking[1]} too"
    if refused := re.search(r"Option '([\w.]+)' is not accepted", message):
        return _explain_option_of_class(_as_typed(refused[1], args), command)
    if refused := re.search(r"(?:Key|accept option) '([\w.]+)'", message):
        return f"unknown key {refused[1]}{nearest(refused[1], _bare(known), command)}"
    key = re.search(r'(?:Parser key "|--)([\w.]+)(?:\.help:|")', message)
    if unknown := re.search(r"import path string: (\S+)|given class_path '(\S+)'", message):
        return _explain_class(unknown[1] or unknown[2], key[1] if key else "", message)
    if wanted := _wanted(message):
        got = re.findall(r"(?:Got value|Given value): ?(\S.*?)$", message, re.MULTILINE)
        where = _as_typed(key[1], args) if key else "it"
        return f"expected {where} to be {wanted}" + (f", got {got[-1]}" if got else "")
    return " ".join(re.sub(r'Parser key "[\w.]+":', "", message).split())


def _explain_unrecognized(message: str, known: list[str], command: str) -> str:
    words = message.partition("arguments:")[2].split()
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    if not options:
        return (
            f"unexpected argument {words[0]}; codi-patching {command} --help lists what may follow"
        )
    option = next((option for option in options if option not in known), options[0])
    return f"unknown option {option}{nearest(option, [*known, *_model_options()], command)}"


def _bare(options: Iterable[str]) -> list[str]:
    return [option.lstrip("-") for option in options]


def _as_typed(name: str, args: list[str]) -> str:
    """The option of the command line that a parser calls by its last part."""
    typed = [arg.partition("=")[0] for arg in args if arg.startswith("--")]
    same = [option for option in typed if option.endswith((f".{name}", f"--{name}"))]
    if same:
        return same[-1]
    return f"--model.{name}" if f"--model.{name}" in _model_options() else f"--{name}"


def _parameters(classes: Iterable[type]) -> dict[str, list[str]]:
    """Arguments of classes, and which of them have each."""
    owners: dict[str, list[str]] = {}
    for cls in classes:
        for name in inspect.signature(cls).parameters:
            owners.setdefault(name, []).append(cls.__name__)
    return owners


def _classes_of(option: str) -> Sequence[type]:
    """The classes that an option such as `trainer.logger` may name."""
    if option.startswith("trainer.logger"):
        return [getattr(loggers, name) for name in loggers.__all__]
    if option.startswith("trainer.callbacks"):
        return [getattr(callbacks, name) for name in callbacks.__all__]
    return EXPERIMENTS


def _model_options() -> list[str]:
    return [f"--model.{name}" for name in _parameters(EXPERIMENTS)]


def _explain_option_of_class(option: str, command: str) -> str:
    """Why an option of an experiment, a logger or a callback was refused."""
    group, _, name = option.lstrip("-").rpartition(".")
    if not group:
        candidates = [n for g in ("model", "trainer.logger") for n in _parameters(_classes_of(g))]
        return f"unknown key {name}{nearest(name, candidates, command)}"
    owners = _parameters(_classes_of(group))
    if name in owners:
        return f"{option} is an option of {', '.join(owners[name])} only"
    candidates = [f"--{group}.{known}" for known in owners]
    return f"unknown option {option}{nearest(option, candidates, command)}"


def _explain_class(name: str, key: str, message: str) -> str:
    """That a class does not exist, and which does."""
    kind = {"trainer.logger": "logger", "trainer.callbacks": "callback"}.get(key, "experiment")
    if key and kind == "experiment" and key.partition(".")[0] != "model":
        kind = "class"
    names = [cls.__name__ for cls in _classes_of(key)]
    if close := difflib.get_close_matches(name.rpartition(".")[2], names, n=1):
        return f"unknown {kind} {name}: did you mean {close[0]}?"
    if kind != "experiment":
        return f"unknown {kind} {name}: expected the name or the path of a class"
    reason = re.search(r"^ *(No module named .*|.* has no attribute .*)$", message, re.MULTILINE)
    told = f" ({reason[1].strip()})" if reason else ""
    return (
        f"unknown {kind} {name}{told}: expected one of {', '.join(names)}, or the path of a class"
    )


def _wanted(message: str) -> str:
    """What a value should have been, in words; empty if the message does not say."""
    choices: list[str] = []
    for literal in re.findall(r"Expected a typing\.Literal(\[.*?\])", message):
        choices += [str(one) for one in ast.literal_eval(literal)]
    if choices:
        return f"one of {', '.join(dict.fromkeys(choices))}"
    types = re.findall(r"Expected an? <class '([\w.]+)'>", message)
    words = [_TYPES.get(name.rpartition(".")[2], name) for name in types if name != "NoneType"]
    return " or ".join(dict.fromkeys(words))
