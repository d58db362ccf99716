"""What runs and reports are called: by model, data and experiment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from codi_patching.errors import InputError, brief
from codi_patching.results.dataset import PAIR_KINDS
from codi_patching.results.description import THOUGHTS, RunDescription, RunLabel

SHIPPED_DATA = "word-problems"
"""Name of the pairs that ship with the package."""

Named = RunDescription | RunLabel

_WEIGHTS = (".bin", ".safetensors", ".pt", ".pth", ".ckpt")


def run_name(run: Named) -> str:
    """Name of a run, for files, loggers and entries; what is unusual about it is appended.

    Example: `codi-tiny_word-problems_position`, `CODI-gpt2_gsm8k_iterative_relay_noising`.
    """
    parts = [model_name(run), data_name(run), run.experiment]
    if run.strategy:
        parts.append(run.strategy)
    return "_".join(_slug(part) for part in [*parts, *unusual(run)])


def check_report_name(name: str | None) -> None:
    """Refuse a name of a report that is a path, or no name of a file.

    Raises:
        InputError: It is.
    """
    if name is not None and not re.fullmatch(r"\w[\w.+ -]*", name):
        raise InputError(
            "expected the name of a report, of letters, digits, spaces and . _ + -, got "
            f"{brief(name)}: set [[report.name]]"
        )


def unusual(run: Named) -> list[str]:
    """The settings of a run that are not the default."""
    if run.experiment in PAIR_KINDS:
        return []
    default = {
        "latents": "frozen" if run.experiment == "layer" else "recomputed",
        "direction": "denoising",
        "source": "clean",
        "site": "head" if run.experiment == "head" else "resid_post",
    }
    found = [str(getattr(run, key)) for key, value in default.items() if getattr(run, key) != value]
    if run.positions != THOUGHTS:
        found.append(run.places.replace(" ", "-"))
    if run.source == "clean" and run.control != "sibling":
        found.append("no-control" if run.control == "none" else f"control-{run.control}")
    return found


def tags(run: Named) -> list[str]:
    """Settings by which trackers filter runs."""
    chain = [run.strategy] if run.strategy else []
    return [*chain, run.site, run.latents, run.direction, run.source, f"control-{run.control}"]


def model_name(run: Named) -> str:
    """The last part of a model's id, folder or name; a file of weights is named by its folder.

    Example: `zen-E/CODI-gpt2` and `/models/CODI-gpt2/pytorch_model.bin` are `CODI-gpt2`.
    """
    if isinstance(run, RunDescription) and run.pooled:
        return " and ".join(map(_short, run.pooled))
    return _short(run.model)


def _short(model: str) -> str:
    path = Path(model)
    if path.suffix in _WEIGHTS and path.parent.name:
        path = path.parent
    return path.name or model


def data_name(run: Named) -> str:
    """The file of pairs without its ending; the shipped pairs have a name."""
    return Path(run.data).stem if run.data else SHIPPED_DATA


def kind(run: Named) -> str:
    """The experiment in words: `position patching`, `iterative patching, relay`, `lens`."""
    if run.experiment in PAIR_KINDS:
        return run.experiment
    return f"{run.experiment} patching" + (f", {run.strategy}" if run.strategy else "")


def edge_name(edge: str | None) -> str:
    """An edge of attention in words.

    Example:
        >>> edge_name("question->readout"), edge_name("0->3")
        ('question → readout', 'z0 → z3')
    """
    ends = (edge or "").split("->")
    return " → ".join(f"z{end}" if end.isdigit() else end for end in ends)


HEADS = {"attention": "mean over heads", "strongest": "most attentive head"}
"""Measures of attention in words."""


def reader_name(readers: Sequence[str], reader: str) -> str:
    """Who attends, in words.

    Example:
        >>> readers = ["bot", "0", "1", "readout 0", "readout 1"]
        >>> [reader_name(readers, name) for name in readers[1::2]]
        ['from z0', 'from readout token 0']
        >>> reader_name(readers, "readout 1")
        'from the token before the answer'
    """
    if reader == readers[-1]:
        return "from the token before the answer"
    if reader.isdigit():
        return f"from z{reader}"
    return f"from {reader.replace('readout', 'readout token')}"


def title(run: Named) -> str:
    """A heading: `Position patching of codi-tiny on word-problems, noising`."""
    parts = [f"{kind(run)} of {model_name(run)} on {data_name(run)}", *map(words, unusual(run))]
    name = ", ".join(parts)
    return f"{name[0].upper()}{name[1:]}"


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
