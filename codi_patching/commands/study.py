"""`codi-patching study`: every experiment that a comparison needs, then the comparison.

Each arm is a `predict` of its own, in a folder of the study; one that is finished is not run again,
one that was killed is resumed. Whatever options follow go to each `predict`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from codi_patching.commands.one_line import OneLineArgumentParser, nearest
from codi_patching.commands.study_arms import read_arms
from codi_patching.errors import INVALID, InputError

_CONFIG = Path(__file__).parents[2] / "configs" / "study.yaml"

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
    parser.add_argument("--config", type=Path, default=_CONFIG, help="arms of the study")
    parser.add_argument("--dir", type=Path, default=Path("results/study"), help="output folder")
    parser.add_argument(
        "--directions", nargs="+", choices=("denoising", "noising"), help="one or both"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="say what it would cost, and run nothing"
    )
    parser.add_argument("--docs", type=Path, help="write reports, journal and inventory there")
    asked, others = parser.parse_known_args(args)
    own = [f"--{name}" for name in vars(asked)]
    for option in (other.partition("=")[0] for other in others):
        if option.startswith("--") and "." not in option and option != "--seed_everything":
            raise InputError(f"unknown option {option}{nearest(option, own, 'study')}")
        if option in _OWN:
            raise InputError(f"{option} is each arm's own in a study: {_OWN[option]}")
    return asked, others


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
        status = subprocess.run([sys.executable, "-m", "codi_patching", *command], check=False)
        if status.returncode == _REFUSED:
            return _REFUSED
        if status.returncode not in (0, INVALID):
            raise InputError(
                f"arm {arm.name} ended with status {status.returncode}: once what is said above is "
                "seen to, the same command goes on there; another --dir begins anew"
            )
        worst = max(worst, status.returncode)
    from codi_patching.reporting.runs import compare_folders

    report = compare_folders([arm.folder for arm in arms], asked.dir / "comparison")
    print(report.text)
    return max(worst, INVALID if report.failed else 0)
