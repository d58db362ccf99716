"""Weight files: which of a folder's they are, and reading them without running code."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from codi_patching.errors import InputError
from codi_patching.models.strict_json import read_object

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NAMES = ("pytorch_model.bin", "model.safetensors", *_INDICES)
_ONE_SHARD = "model-00001-of-00001.safetensors"
_WRAPPED_IN = ("state_dict", "model_state_dict", "module")
"""Keys under which training programs keep a state dict, beside what else they save."""

_CONSTANTS = re.compile(r"(^|\.)(attn\.(masked_)?bias|inv_freq)$")
"""Buffers that older versions of transformers saved: the same in any file."""


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
    except ValueError as error:
        raise CheckpointError(
            f"{index} is not the index of a sharded checkpoint: {error}"
        ) from error
    if not isinstance(found, dict) or not found:
        raise CheckpointError(
            f"{index} is not the index of a sharded checkpoint: it has no weight_map"
        )
    for name in found.values():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise CheckpointError(
                f"{index}: expected its weight_map to name files beside it, got {name!r}"
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


def read_weights(files: Sequence[Path]) -> tuple[dict[str, Tensor], str]:
    """All tensors of the files, and the files' SHA-256, computed while they are read.

    Of several files the first is the index: each tensor is read from the file that it names.

    Raises:
        CheckpointError: A file is truncated, holds anything but tensors, would run code, or is not
            what the index says; or a tensor is of whole numbers.
    """
    index = shards(files[0]) if files[0].suffix == ".json" else None
    weights: dict[str, Tensor] = {}
    with ThreadPoolExecutor(max_workers=1) as beside:
        sha256 = beside.submit(file_sha256, *files)
        for path in files[1:] if index else files:
            read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
            found = read(path)
            weights |= _chosen(found, index, path) if index else found
        digest = sha256.result()
    quantised = [
        f"{name} is {str(value.dtype).removeprefix('torch.')}"
        for name, value in weights.items()
        if (not value.is_floating_point() or value.itemsize < 2) and not _CONSTANTS.search(name)
    ]
    if quantised:
        raise CheckpointError(
            f"{files[0]}: expected weights in 16 bits or more, got quantised ones, whose scales "
            f"are not read: {shorten(quantised)}"
        )
    return weights, digest


def _chosen(found: Mapping[str, Tensor], index: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    """Those tensors of a shard that the index says it holds; others are older copies of theirs."""
    problems = [f"{k} is not in the index" for k in found if k not in index]
    problems += [f"{k} is missing" for k, v in index.items() if v == path.name and k not in found]
    if problems:
        raise CheckpointError(f"{path} is not what its index says: {shorten(problems)}")
    return {name: value for name, value in found.items() if index[name] == path.name}


def unwrap(weights: dict[str, Tensor], path: Path) -> list[str]:
    """Take away what compiling added to names, and drop constants, in place.

    Returns:
        The names of the constants, which are not loaded.

    Raises:
        CheckpointError: Two weights have one name then.
    """
    dropped = [name for name in weights if _CONSTANTS.search(name)]
    for name in dropped:
        del weights[name]
    rename(weights, {name: name.replace("_orig_mod.", "") for name in weights}, path)
    return dropped


def rename(weights: dict[str, Tensor], names: Mapping[str, str], path: Path) -> None:
    """Give weights other names, in place.

    Raises:
        CheckpointError: Two would have the same.
    """
    doubled = [name for name, count in Counter(names.values()).items() if count > 1]
    if doubled:
        raise CheckpointError(f"{path}: two weights are both {shorten(doubled)}")
    renamed = {new: weights.pop(old) for old, new in names.items()}
    weights.update(renamed)


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
    for key in _WRAPPED_IN:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors")
    return content


def shorten(problems: Sequence[str], most: int = 5) -> str:
    """The first few problems, and how many more there are."""
    more = f" and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def first_line(error: Exception) -> str:
    """What another library says of an error, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
