"""The experiments of a study, as its configuration names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codi_patching.errors import InputError


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
