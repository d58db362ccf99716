"""Weight files: which of a folder's they are, and reading them without running code."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codi_patching.errors import InputError

_INDEX = "model.safetensors.index.json"
_NAMES = ("pytorch_model.bin", "model.safetensors", _INDEX)
_ONE_SHARD = "model-00001-of-00001.safetensors"


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
    if _INDEX not in found and _ONE_SHARD in found:
        fitting.append(_ONE_SHARD)
    epochs = (name for name in found if name.startswith("checkpoint_"))
    return fitting + sorted(name for name in epochs if name.removeprefix("checkpoint_").isdigit())


def shards(index: Path) -> list[str]:
    """The names of the files that an index of a sharded checkpoint lists.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not the index of a sharded checkpoint") from error


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
                f"{len(found)}{_in_brackets(found)}: name the file with --model.checkpoint"
            )
        path = path / found[0]
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: set --model.checkpoint")
    if path.suffix != ".json":
        return [path]
    names = shards(path)
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{path} names {', '.join(missing)}, not in {path.parent}")
    return [path, *(path.parent / name for name in names)]


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def read_weights(files: Sequence[Path]) -> tuple[dict[str, Tensor], str]:
    """All tensors of the files, and the files' SHA-256, computed while they are read.

    Raises:
        CheckpointError: A file is truncated, holds anything but tensors, or would run code.
    """
    weights: dict[str, Tensor] = {}
    with ThreadPoolExecutor(max_workers=1) as beside:
        sha256 = beside.submit(file_sha256, *files)
        for path in files:
            if path.suffix == ".json":
                continue
            read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
            weights.update(read(path))
        return weights, sha256.result()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it holds more than tensors, and loading it could run code "
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole PyTorch file: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors")
    return content


def shorten(problems: Sequence[str], most: int = 5) -> str:
    """The first few problems, and how many more there are."""
    more = f" and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
