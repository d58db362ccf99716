"""`--trainer.logger.…` where no logger is named: options of the default loggers."""

from __future__ import annotations

import copy
import inspect
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_warn

from codi_patching.commands.config_files import OPTIONS
from codi_patching.commands.one_line import nearest
from codi_patching.errors import InputError

_PREFIX = "--trainer.logger"

_EXTRAS = {
    "TensorBoardLogger": ("tensorboard", ("tensorboard", "tensorboardX")),
    "MLFlowLogger": ("mlflow", ("mlflow",)),
}
"""By logger, the extra of this package that has what it needs, and the modules that will do."""


def without_missing(configured: Any) -> Any:
    """The configured loggers but those that are not installed; a warning says how to install them.

    Args:
        configured: A class with arguments, a list of them, a truth value or None.
    """
    if configured is None or isinstance(configured, bool):
        return configured
    kept = []
    for one in configured if isinstance(configured, list) else [configured]:
        name = one.class_path.rpartition(".")[2]
        extra, modules = _EXTRAS.get(name, ("", ()))
        if extra and not any(map(find_spec, modules)):
            rank_zero_warn(
                f"{name} is not installed and gets nothing of this run: "
                f"pip install codi_patching[{extra}]"
            )
        else:
            kept.append(one)
    return kept


def apply_to_defaults(
    args: list[str], defaults: list[dict[str, Any]]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Take such options out of a command line, into each default logger that has them.

    Args:
        args: The options of `predict`.
        defaults: Loggers by `class_path` and `init_args`.

    Returns:
        The command line without them, and the loggers with them; none where the command names its
        own, or says that there are to be none: the default ones take a second to import.

    Raises:
        InputError: No default logger has such an option.
    """
    if _PREFIX in (arg.partition("=")[0] for arg in args) or _names_logger(args):
        return args, []
    loggers, rest, left = copy.deepcopy(defaults), [], list(args)
    while left:
        option, equals, value = left.pop(0).partition("=")
        if not option.startswith(f"{_PREFIX}.") or option == f"{_PREFIX}.help":
            rest.append(option + equals + value)
            continue
        if not equals:
            value = left.pop(0) if left else ""
        _set(loggers, option, yaml.safe_load(value))
    return rest, loggers


def _set(loggers: list[dict[str, Any]], option: str, value: object) -> None:
    name = option.removeprefix(f"{_PREFIX}.").removeprefix("init_args.")
    takes = {one["class_path"]: _arguments(one["class_path"]) for one in loggers}
    known = [f"{_PREFIX}.{name}" for names in takes.values() for name in names]
    if f"{_PREFIX}.{name}" not in known:
        raise InputError(f"unknown option {option}{nearest(option, known, 'predict')}")
    for one in loggers:
        if name in takes[one["class_path"]]:
            one["init_args"][name] = value


def _arguments(class_path: str) -> list[str]:
    parameters = inspect.signature(resolve_name(class_path)).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


def _names_logger(args: list[str]) -> bool:
    """Whether a configuration file names loggers; one that cannot be read is told of later."""
    for number, arg in enumerate(args):
        option, equals, path = arg.partition("=")
        if option not in OPTIONS:
            continue
        path = path if equals else "".join(args[number + 1 : number + 2])
        try:
            with open(path, encoding="utf-8") as file:
                trainer = (yaml.safe_load(file) or {}).get("trainer")
        except (OSError, yaml.YAMLError, AttributeError, UnicodeDecodeError):
            continue
        if isinstance(trainer, dict) and "logger" in trainer:
            return True
    return False
