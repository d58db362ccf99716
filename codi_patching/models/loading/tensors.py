"""Tensors of weight files, read without running code, under the names that training gave them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from codi_patching.models.loading.files import (
    CheckpointError,
    file_sha256,
    in_one_line,
    shards,
    shorten,
)

_WRAPPED_IN = ("state_dict", "model_state_dict", "module", "model")
"""Keys under which training programs keep a state dict, beside what else they save."""

_CONSTANTS = re.compile(r"(^|\.)(attn\.(masked_)?bias|inv_freq)$")
"""Buffers that older versions of transformers saved: the same in any file."""

_WRAPPERS = re.compile(r"_(?:orig_mod|checkpoint_wrapped_module|fsdp_wrapped_module)\.")
"""What compiling, checkpointing and sharding put into names."""

_POINTER = b"version https://git-lfs"


def read_weights(files: Sequence[Path]) -> tuple[dict[str, Tensor], str]:
    """All tensors of the files, and the files' SHA-256, computed while they are read.

    Of several files the first is the index: each tensor is read from the file that it names.

    Raises:
        CheckpointError: A file is truncated, holds anything but tensors, would run code, or is not
            what the index says; or a tensor is not of plain numbers in 16 bits or more.
    """
    index = shards(files[0]) if files[0].suffix == ".json" else None
    weights: dict[str, Tensor] = {}
    with ThreadPoolExecutor(max_workers=1) as beside:
        sha256 = beside.submit(file_sha256, *files)
        for path in files[1:] if index else files:
            found = _read(path)
            weights |= _chosen(found, index, path) if index else found
        digest = sha256.result()
    unlike = [f"{n} is {kind}" for n, v in weights.items() if (kind := _unlike_a_weight(n, v))]
    if unlike:
        raise CheckpointError(
            f"{files[0]}: expected dense weights in 16 bits or more (scales of quantised ones are "
            f"not read), got {shorten(unlike)}"
        )
    return weights, digest


def _unlike_a_weight(name: str, value: Tensor) -> str:
    """What a tensor is that cannot be a weight as it stands; empty if it can."""
    if _CONSTANTS.search(name):
        return ""
    if value.layout != torch.strided or value.is_nested or value.is_meta:
        return "not a dense tensor"
    number = value.is_floating_point() and value.itemsize >= 2
    return "" if number else str(value.dtype).removeprefix("torch.")


def _chosen(found: Mapping[str, Tensor], index: Mapping[str, str], path: Path) -> dict[str, Tensor]:
    """Those tensors of a shard that the index says it holds; others are older copies of theirs."""
    problems = [f"{k} is not in the index" for k in found if k not in index]
    problems += [f"{k} is missing" for k, v in index.items() if v == path.name and k not in found]
    if problems:
        raise CheckpointError(f"{path} is not what its index says: {shorten(problems)}")
    return {name: value for name, value in found.items() if index[name] == path.name}


def unwrap(weights: dict[str, Tensor], path: Path) -> list[str]:
    """Take away what wrapped modules have in their names, and drop constants, in place.

    Returns:
        The names of the constants, which are not loaded.

    Raises:
        CheckpointError: Two weights have one name then.
    """
    dropped = [name for name in weights if _CONSTANTS.search(name)]
    for name in dropped:
        del weights[name]
    rename(weights, {name: _WRAPPERS.sub("", name) for name in weights}, path)
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


def _read(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise CheckpointError(
            f"{path} is only a pointer of Git LFS: fetch the file itself with `git lfs pull`"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if start[:1] != b"\x80" and not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is not a whole PyTorch file, by its first and last bytes")
    return _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file: {in_one_line(error)}"
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it holds more than tensors{_objects(path)}, and loading it could "
            "run code: save its state dict alone"
        ) from error
    except Exception as error:  # torch raises what a broken pickle makes it stumble over
        raise CheckpointError(f"{path} is not a whole PyTorch file of tensors") from error
    while inner := _wrapped(content):
        content = inner
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"{path}: expected a dictionary of tensors, got {type(content).__name__}"
        )
    odd = [
        f"{key} is {type(value).__name__}"
        for key, value in content.items()
        if not isinstance(key, str) or not isinstance(value, Tensor)
    ]
    if odd:
        raise CheckpointError(f"{path}: expected a dictionary of tensors, but {shorten(odd)}")
    return content


def _wrapped(content: Any) -> dict[str, Any] | None:
    """The state dict among what else a training program saved."""
    found = (content.get(key) for key in _WRAPPED_IN) if isinstance(content, dict) else ()
    return next((inner for inner in found if isinstance(inner, dict)), None)


def _objects(path: Path) -> str:
    """The kinds of objects in a file, in brackets, where they can be told without loading it."""
    try:
        names = sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of a broken pickle, and of one in the older format
        return ""
    return f" ({shorten(names)})" if names else ""
