"""Weight files: which of a folder's they are; how names and errors of others are shown."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from codi_patching.errors import InputError, brief
from codi_patching.models.strict_json import read_object

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NAMES = ("pytorch_model.bin", "model.safetensors", *_INDICES)
_ONE_SHARD = "model-00001-of-00001.safetensors"
_LONGEST = 200
"""Characters that are shown of what a file or another library says."""


class CheckpointError(InputError):
    """A checkpoint cannot be loaded completely."""


def file_sha256(*paths: Path) -> str:
    """SHA-256 of a file's bytes, or of several files' digests, as hexadecimal digits."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def weight_names(names: Iterable[str]) -> list[str]:
    """Those of a folder's file names that can hold a model's weights; a shard's index for it.

    `checkpoint_28`, without an ending, is what Coconut's code writes after an epoch.
    """
    found = set(names)
    fitting = [name for name in _NAMES if name in found]
    if _INDICES[0] not in found and _ONE_SHARD in found:
        fitting.append(_ONE_SHARD)
    epochs = (name for name in found if name.startswith("checkpoint_"))
    return fitting + sorted(name for name in epochs if name.removeprefix("checkpoint_").isdigit())


def shards(index: Path) -> dict[str, str]:
    """For each tensor the name of the file, beside an index, that holds it.

    Raises:
        CheckpointError: It cannot be read, or names anything but files beside it.
    """
    try:
        found = read_object(index).get("weight_map")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{index} is not the index of a sharded checkpoint: {in_one_line(error)}"
        ) from error
    if not isinstance(found, dict) or not found:
        raise CheckpointError(
            f"{index} is not the index of a sharded checkpoint: it has no weight_map"
        )
    for name in found.values():
        plain = isinstance(name, str) and len(name) <= _LONGEST and name != index.name
        if not plain or not re.fullmatch(r"\w[\w.-]*", name):
            raise CheckpointError(
                f"{index}: expected its weight_map to name files beside it, got {brief(name)}"
            )
    return found


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights: the file itself, or the index of a sharded one and shards.

    Raises:
        CheckpointError: One is missing, or the index cannot be read.
    """
    if path.is_dir():
        found = weight_names(file.name for file in path.iterdir() if file.is_file())
        if len(found) != 1:
            raise CheckpointError(
                f"expected one of {', '.join(_NAMES)}, {_ONE_SHARD} or checkpoint_N in {path}, got "
                f"{len(found)}{_in_brackets(found)}: name the file with [[model.checkpoint]]"
            )
        path = path / found[0]
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: set [[model.checkpoint]]")
    if path.suffix != ".json":
        return [path]
    names = sorted(set(shards(path).values()))
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{path} names {', '.join(missing)}, not in {path.parent}")
    return [path, *(path.parent / name for name in names)]


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def shorten(problems: Sequence[str], most: int = 5) -> str:
    """The first few problems, each in a short line of plain characters, and how many more."""
    more = f" and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(_plain(problem) for problem in problems[:most]) + more


def in_one_line(error: Exception) -> str:
    """What another library says of an error, in a short line of plain characters."""
    return _plain(" ".join(str(error).split()).removesuffix(".") or type(error).__name__)


def _plain(text: str) -> str:
    """A text from outside, whose control and direction characters do not reach a terminal."""
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)
