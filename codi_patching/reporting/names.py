"""What runs and reports are called: by model, data and experiment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from codi_patching.results.schema import RunDescription

SHIPPED_DATA = "word-problems"
"""Name of the pairs that ship with the package."""

_WEIGHTS = (".bin", ".safetensors", ".pt", ".pth", ".ckpt")


class Placed(Protocol):
    """What a run was made with."""

    @property
    def model(self) -> str:
        """Name, id, folder or file of the checkpoint."""

    @property
    def data(self) -> str:
        """File of pairs; empty for the shipped ones."""


class Named(Placed, Protocol):
    """What of a run its name is made of; see `RunDescription`."""

    @property
    def experiment(self) -> str:
        """Its kind."""

    @property
    def strategy(self) -> str | None:
        """Of a chain."""

    @property
    def latents(self) -> str:
        """Of later thoughts."""

    @property
    def direction(self) -> str:
        """Of the patch."""

    @property
    def source(self) -> str:
        """What is patched in."""

    @property
    def control(self) -> str:
        """What it is compared with."""

    @property
    def site(self) -> str:
        """What is overwritten."""


def run_name(run: Named) -> str:
    """Name of a run, for files, loggers and entries; what is unusual about it is appended.

    Example: `codi-tiny_word-problems_position`, `CODI-gpt2_gsm8k_iterative_relay_noising`.
    """
    parts = [model_name(run), data_name(run), run.experiment]
    if run.strategy:
        parts.append(run.strategy)
    return "_".join(_slug(part) for part in [*parts, *unusual(run)])


def unusual(run: Named) -> list[str]:
    """The settings of a run that are not the default."""
    default = {
        "latents": "frozen" if run.experiment == "layer" else "recomputed",
        "direction": "denoising",
        "source": "clean",
        "site": "resid_post",
    }
    found = [str(getattr(run, key)) for key, value in default.items() if getattr(run, key) != value]
    if run.source == "clean" and run.control != "sibling":
        found.append("no-control" if run.control == "none" else f"control-{run.control}")
    return found


def tags(run: Named) -> list[str]:
    """Settings by which trackers filter runs."""
    chain = [run.strategy] if run.strategy else []
    return [*chain, run.site, run.latents, run.direction, run.source, f"control-{run.control}"]


def model_name(run: Placed) -> str:
    """The last part of a model's id, folder or name; a file of weights is named by its folder.

    Example: `zen-E/CODI-gpt2` and `/models/CODI-gpt2/pytorch_model.bin` are `CODI-gpt2`.
    """
    path = Path(run.model)
    if path.suffix in _WEIGHTS and path.parent.name:
        path = path.parent
    return path.name or run.model


def data_name(run: Placed) -> str:
    """The file of pairs without its ending; the shipped pairs have a name."""
    return Path(run.data).stem if run.data else SHIPPED_DATA


def kind(run: RunDescription) -> str:
    """The experiment in words: `position patching`, `iterative patching (relay)`."""
    return f"{run.experiment} patching" + (f" ({run.strategy})" if run.strategy else "")


def title(run: RunDescription) -> str:
    """A heading: `Position patching of codi-tiny on word-problems (noising)`."""
    name = kind(run)
    odd = f" ({', '.join(words(part) for part in unusual(run))})" if unusual(run) else ""
    return f"{name[0].upper()}{name[1:]} of {model_name(run)} on {data_name(run)}{odd}"


def words(option: str) -> str:
    """An option's value as words, `random_pair` as `random pair`."""
    return option.replace("_", " ").replace("-", " ")


def counted(number: int, what: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "pair"), counted(57, "pair")
        ('1 pair', '57 pairs')
    """
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _slug(part: str) -> str:
    """A part of a name without what separates parts or paths."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.") or "unnamed"
