"""`codi-patching study`: every experiment that a comparison needs, then the comparison.

Each arm is a `predict` of its own, in a folder of the study; one that is finished is not run again,
one that was killed is resumed. Whatever options follow go to each `predict`.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codi_patching.commands.config_files import SHIPPED_CONFIGS, find_config, with_files
from codi_patching.commands.one_line import OneLineArgumentParser, nearest, path
from codi_patching.commands.study_arms import Arm, read_arms
from codi_patching.errors import INVALID, InputError

if TYPE_CHECKING:
    from codi_patching.reporting.runs import ReportOptions

_ARMS = SHIPPED_CONFIGS / "study.yaml"

_OWN = {
    "--results.dir": "set --dir",
    "--report.docs": "set --docs",
    "--report.name": "leave it out",
    "--model": "set --config to a file of other arms",
    "--model.direction": "set --directions",
    "--model.latents": "set --config to a file of other arms",
    "--model.strategy": "set --config to a file of other arms",
}
"""Options of `predict` that would make an arm another one, each with what to do instead."""

_REFUSED = 2
"""Exit status of a `predict` that was given options which do not exist; it has said so."""


def parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The study's own options, and those of each `predict`."""
    parser = OneLineArgumentParser(
        "codi-patching study",
        description="Run every experiment that a comparison needs, then compare.",
        epilog="All options of `codi-patching predict` may follow, such as --model.checkpoint, "
        "--data.pairs, --trainer.precision; they hold for every arm.",
    )
    parser.add_argument("--config", type=find_config, default=_ARMS, help="arms of the study")
    parser.add_argument("--dir", type=path, default=Path("results/study"), help="output folder")
    parser.add_argument(
        "--directions", nargs="+", choices=("denoising", "noising"), help="one or both"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="say what it would cost, and run nothing"
    )
    parser.add_argument("--docs", type=path, help="write reports, journal and inventory there")
    asked, others = parser.parse_known_args(args)
    own = ["--seed_everything", *(f"--{name}" for name in vars(asked))]
    for option in (other.partition("=")[0] for other in others):
        if option in _OWN:
            raise InputError(f"{option} is each arm's own in a study: {_OWN[option]}")
        if option.startswith("--") and "." not in option and option not in own:
            raise InputError(f"unknown option {option}{nearest(option, own, 'study')}")
    return asked, with_files(others)


def run(args: list[str]) -> int:
    """Run a study; returns the exit status."""
    asked, options = parse(args)
    arms = read_arms(asked.config, asked.dir, asked.directions)
    if asked.dry_run:
        from codi_patching.commands.estimate import print_estimate

        return print_estimate(arms, options)
    worst = 0
    for number, arm in enumerate(arms, 1):
        print(f"study: arm {number} of {len(arms)}, {arm.name}", file=sys.stderr)
        command = ["predict", *arm.command(options), f"--results.dir={arm.folder}"]
        if asked.docs is not None:
            command.append(f"--report.docs={asked.docs}")
        status = _run_alone(command)
        if status == _REFUSED:
            return _REFUSED
        if status not in (0, INVALID):
            raise InputError(
                f"arm {arm.name} ended with status {status}: fix the error above and rerun to "
                "resume; another --dir begins anew"
            )
        worst = max(worst, status)
    from codi_patching.reporting.runs import compare_folders

    made = compare_folders(
        [arm.folder for arm in arms], asked.dir / "comparison", _report_options(arms[0], options)
    )
    print(made.text)
    return max(worst, INVALID if made.failed else 0)


def _report_options(arm: Arm, options: Sequence[str]) -> ReportOptions:
    """What is made of each arm, from options and files; of the comparison it is the same."""
    from codi_patching.callbacks.report_at_end import Report
    from codi_patching.commands.estimate import configured, quiet_lightning

    with quiet_lightning():
        callbacks = configured(arm, options).trainer.callbacks
    return next(callback.options for callback in callbacks if isinstance(callback, Report))


_ENDING = {signal.SIGINT, signal.SIGTERM}


def _run_alone(command: Sequence[str]) -> int:
    """Run a command in a process of its own, which ends with this one; gives its exit status.

    Ctrl-C reaches both: it is ignored there, so that one line is said of it. Signals wait while the
    process starts: one that came then would end this process and leave the other behind.
    """
    process = None
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        process = subprocess.Popen(
            [sys.executable, "-m", "codi_patching", *command], preexec_fn=_ignore_interrupts
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        return process.wait()
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        raise


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
