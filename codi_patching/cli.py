"""The command line: which subcommand runs, and how its errors are shown.

A subcommand's module is imported when it is asked for: `report` and `compare` need no model.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import FrameType, ModuleType
from typing import NoReturn

from codi_patching.commands.one_line import OneLineArgumentParser, nearest, refuse
from codi_patching.errors import INPUT_ERRORS, InputError, plain_text

_INTERRUPTED = 128 + signal.SIGINT
"""Exit status after Ctrl-C."""

_COMMANDS = {
    "predict": "measure one experiment:     predict --config position",
    "study": "measure all, then compare:  study --dir results/study",
    "compare": "what results say together:  compare results/layer results/position --dir out",
    "report": "figures and page again:     report results/position",
    "index": "a page over many runs:      index results",
    "evaluate": "how often it is right:      evaluate --checkpoint zen-E/CODI-gpt2 --data F",
    "pairs": "pairs from questions:       pairs --questions test.jsonl --output pairs.json",
    "fit": "train a small CODI model:   fit --config train_codi_tiny",
}

_AFTER_INTERRUPT = {
    "predict": "; the same command resumes",
    "study": "; the same command resumes",
    "pairs": "; the same command resumes",
    "evaluate": "; with --output the same command resumes",
    "fit": "; --ckpt_path resumes from a checkpoint",
}

_GROUPED = ("predict", "study", "fit")
"""Commands whose options are named by group, as in `--data.pairs`; the others' are not."""

_CALLED = {
    "study": {"results.dir": "--dir", "report.comparison_dir": "--dir", "report.docs": "--docs"},
    "compare": {"results.dir": "--dir", "report.comparison_dir": "--dir"},
    "report": {"results.dir": "another folder"},
}
"""Arguments that a command calls otherwise than by their own names."""

_USAGE = f"""usage: codi-patching {{{",".join(_COMMANDS)}}} [--config FILE] [options]

{"".join(f"  {name:<10}{text}{chr(10)}" for name, text in _COMMANDS.items())}
codi-patching COMMAND --help lists the options of each; codi-patching --version.
"""


def main() -> None:
    """Entry point: bad input gives one line and exit status 1.

    With `CODI_PATCHING_TRACEBACK` in the environment, the traceback too.
    """
    args = sys.argv[1:]
    if args and args[0] in ("-h", "--help"):
        print(_USAGE, end="")
        sys.exit(0)
    if args and args[0] == "--version":
        from importlib.metadata import version  # slow to import

        print(f"codi-patching {version('codi_patching')}")
        sys.exit(0)
    if not args:
        print(_USAGE, end="", file=sys.stderr)
        sys.exit(2)
    if args[0] not in _COMMANDS:
        refuse(f"unknown command {args[0]}{nearest(args[0], list(_COMMANDS))}")
    if sys.flags.optimize > 1 and args[0] not in ("compare", "report", "index"):
        refuse("transformers cannot be imported without docstrings: run Python without -OO")
    _quieten()
    if hasattr(sys.stdout, "reconfigure"):  # a console may have no ≥
        sys.stdout.reconfigure(errors="backslashreplace")
    with _stopped_by_signals():
        _end(*args)


def _end(name: str, *args: str) -> NoReturn:
    """Run a subcommand, and end with its exit status or with its error in a line."""
    rank = os.environ.get("LOCAL_RANK", "0")
    try:
        sys.exit(_run(name, *args))
    except SystemExit as ended:
        if ended.code == _INTERRUPTED and rank == "0":
            print(f"codi-patching: interrupted{_AFTER_INTERRUPT.get(name, '')}", file=sys.stderr)
        raise
    except BrokenPipeError:  # `… | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except INPUT_ERRORS as error:
        if os.environ.get("CODI_PATCHING_TRACEBACK"):
            raise
        process = f" (process {rank})" if rank != "0" else ""
        sys.exit(f"codi-patching{process}: {_told(error, name)}")


def _told(error: Exception, command: str) -> str:
    """An error's message, arguments named as options of the command."""
    return (
        error.naming(partial(_option, command))
        if isinstance(error, InputError)
        else plain_text(str(error))
    )


def _option(command: str, argument: str) -> str:
    """What a command calls an argument such as `data.pairs`."""
    usual = argument if command in _GROUPED else argument.rpartition(".")[2]
    return _CALLED.get(command, {}).get(argument, f"--{usual}")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Within, SIGTERM and Ctrl-C end the program at once: what is done is kept.

    Ctrl-C stays ignored where it was, as in what `nohup` or a study starts.
    """
    taken = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        taken.append(signal.SIGINT)
    before = {number: signal.signal(number, _stop) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    """End, and what was started ends too; a second signal does not wait for that."""
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


def _run(name: str, *args: str) -> int:
    """Run a subcommand; most say their options to a parser, Lightning's parse their own."""
    command = _imported(name)
    if not hasattr(command, "add_arguments"):
        return int(command.run(list(args)))
    description = (command.__doc__ or name).splitlines()[0]
    description = description.partition("`: ")[2] or description
    parser = OneLineArgumentParser(
        f"codi-patching {name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_arguments(parser)
    return int(command.run(parser.parse_args(args)))


def _imported(name: str) -> ModuleType:
    """A subcommand's module.

    Importing torch and Lightning makes about a million objects that live to the end. Searching them
    for garbage takes a fifth of the start-up time, so they are left out of collection.
    """
    path = f"codi_patching.commands.{name}"
    if path in sys.modules:
        return sys.modules[path]
    gc.disable()
    try:
        return import_module(path)
    finally:
        gc.freeze()
        gc.enable()


def _is_no_tip(record: logging.LogRecord) -> bool:
    """Whether it is no advertisement of Lightning's."""
    return "Tip:" not in str(record.msg)


def _quieten() -> None:
    """Silence what a user of this program can do nothing about."""
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(_is_no_tip)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    warnings.filterwarnings("ignore", message="Total length of `DataLoader` across ranks is zero")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", module="lightning")
    # MLflow's store in plain files asks for a word; and nothing of ours is told to anyone.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("WANDB_SILENT", "true")
