"""The experiments of a study, as its configuration names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codi_patching.errors import InputError

SHARED = tuple(
    f"--model.{name}"
    for name in (
        "checkpoint", "base_model", "num_latents", "lora_alpha", "prompt_eos", "answer_prefix",
    )
)  # fmt: skip
"""Options of the model that every arm takes; the others are of patching."""


@dataclass(frozen=True)
class Arm:
    """One experiment of a study.

    Attributes:
        name: Of its folder.
        options: Of `predict`.
        folder: Where its results are.
        patches: Whether it patches; lens, attention and knock-out do not, and run once in all
            directions.
    """

    name: str
    options: tuple[str, ...]
    folder: Path
    patches: bool = True

    def command(self, options: Sequence[str]) -> list[str]:
        """The arguments of its `predict`.

        Args:
            options: Of the study, which hold for every arm. Those of patching, such as
                `--model.site kv`, are left out of an arm that patches nothing.
        """
        taken = options if self.patches else _without_patching(options)
        return [*self.options, *taken]


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
    if not isinstance(named, dict) or not all(
        isinstance(arm, dict) and "class_path" in arm for arm in named.values()
    ):
        raise InputError(f"expected {config} to have `arms` by name, each with a class_path")
    unknown = sorted(content.keys() - {"arms", "directions"})
    if unknown:
        raise InputError(f"expected arms and directions in {config}, got {', '.join(unknown)}")
    wanted = list(directions or content.get("directions") or ["denoising"])
    arms = []
    patching = {name: arm for name, arm in named.items() if _patches(arm)}
    for direction in wanted:
        for name, arm in patching.items():
            place = name if direction == "denoising" else f"{name}_{direction}"
            options = _options(arm, f"--model.direction={direction}")
            arms.append(Arm(place, options, folder / place))
    others = {name: arm for name, arm in named.items() if not _patches(arm)}
    return arms + [Arm(name, _options(arm), folder / name, False) for name, arm in others.items()]


def _options(arm: dict[str, Any], *more: str) -> tuple[str, ...]:
    arguments = dict(arm.get("init_args") or {})
    own = (f"--model.{key}={value}" for key, value in arguments.items())
    return (f"--model={arm['class_path']}", *more, *own)


def _patches(arm: dict[str, Any]) -> bool:
    name = str(arm["class_path"]).rpartition(".")[2]
    return name not in ("LensExperiment", "AttentionExperiment", "KnockoutExperiment")


def _without_patching(options: Sequence[str]) -> list[str]:
    """Options without those of `--model.…` that only patching has, and their values."""
    kept: list[str] = []
    dropped = False
    for option in options:
        if option.startswith("--"):
            key = option.partition("=")[0]
            dropped = key.startswith("--model.") and key not in SHARED
        if not dropped:
            kept.append(option)
        dropped = dropped and "=" not in option
    return kept
