"""`codi-patching study`: every experiment that a comparison needs, then the comparison.

Each arm is a `predict` of its own, in a folder of the study; one that is finished is not run again,
one that was killed is resumed. Whatever options follow go to each `predict`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codi_patching.errors import InputError

_CONFIG = Path(__file__).parents[2] / "configs" / "study.yaml"


@dataclass(frozen=True)
class Arm:
    """One experiment of a study.

    Attributes:
        name: Of its folder.
        options: Of `predict`.
        folder: Where its results are.
    """

    name: str
    options: tuple[str, ...]
    folder: Path


def read_arms(config: Path, folder: Path, directions: Sequence[str] | None) -> list[Arm]:
    """The arms that a study's configuration names.

    Args:
        config: A YAML file with `arms`, and perhaps `directions`.
        folder: Of the study.
        directions: In place of the configuration's.

    Raises:
        InputError: It is not such a file.
    """
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{config} cannot be read ({error}): set --config") from error
    named = content.get("arms") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(isinstance(arm, dict) for arm in named.values()):
        raise InputError(f"expected {config} to have `arms` by name, each with a class_path")
    unknown = sorted(content.keys() - {"arms", "directions"})
    if unknown:
        raise InputError(f"expected arms and directions in {config}, got {', '.join(unknown)}")
    wanted = list(directions or content.get("directions") or ["denoising"])
    arms = []
    for direction in wanted:
        for name, arm in named.items():
            place = name if direction == "denoising" else f"{name}_{direction}"
            options = [f"--model={arm['class_path']}", f"--model.direction={direction}"]
            options += [f"--model.{key}={value}" for key, value in _arguments(arm).items()]
            arms.append(Arm(place, tuple(options), folder / place))
    return arms


def _arguments(arm: dict[str, Any]) -> dict[str, Any]:
    return dict(arm.get("init_args") or {})


def parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The study's own options, and those of each `predict`."""
    parser = argparse.ArgumentParser(
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
    return parser.parse_known_args(args)


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
        command = ["predict", *arm.options, *options, f"--results.dir={arm.folder}"]
        if asked.docs is not None:
            command.append(f"--report.docs={asked.docs}")
        status = subprocess.run([sys.executable, "-m", "codi_patching", *command], check=False)
        if status.returncode not in (0, 3):
            raise InputError(
                f"arm {arm.name} ended with status {status.returncode}; the same command resumes it"
            )
        worst = max(worst, status.returncode)
    from codi_patching.commands import compare

    folders = [str(arm.folder) for arm in arms]
    return max(worst, compare.run([*folders, f"--dir={asked.dir / 'comparison'}"]))
