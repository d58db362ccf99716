"""The layout of the published CODI code: a state dict of the training module, LoRA unmerged.

    codi.base_model.model.<HF name>                        weights that have no adapter
    codi.base_model.model.<HF module>.base_layer.weight    weights that have one, and
    codi.base_model.model.<HF module>.lora_A.default.weight  (rank, in)
    codi.base_model.model.<HF module>.lora_B.default.weight  (out, rank)
    prj.1.*, prj.3.*, prj.ln.*                             the projection, all or nothing but ln

Older files say `coconut.` for `codi.`; files of a model trained without LoRA have no
`base_model.model.`. The vocabulary has three more rows than the base model's: pad, bot, eot.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from codi_patching.errors import InputError

DEFAULT_ALPHA = 32.0
"""LoRA's alpha in the published training code."""

_PREFIXES = ("codi.base_model.model.", "coconut.base_model.model.", "codi.", "coconut.")
_DROPPED = ("dynamic_cls.", "decoder.")
_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


class CheckpointError(InputError):
    """A checkpoint cannot be loaded completely."""


@dataclass
class PublishedWeights:
    """The parts of a published file.

    Attributes:
        base: Weights of the language model under their Hugging Face names, unmerged.
        lora: For each adapted module its `(lora_A, lora_B)`.
        projection: Weights of `prj`, without that prefix.
        dropped: Keys of extra modules, which are not loaded.
    """

    base: dict[str, Tensor]
    lora: dict[str, tuple[Tensor, Tensor]]
    projection: dict[str, Tensor]
    dropped: list[str] = field(default_factory=list)


def file_sha256(*paths: Path) -> str:
    """SHA-256 of a file's bytes, or of several files' digests, as hexadecimal digits."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights: the file itself, or the index of a sharded one and shards.

    Raises:
        CheckpointError: One is missing, or the index cannot be read.
    """
    if path.is_dir():
        names = ("pytorch_model.bin", "model.safetensors", "model.safetensors.index.json")
        found = [path / name for name in names if (path / name).is_file()]
        if len(found) != 1:
            raise CheckpointError(
                f"expected one of {', '.join(names)} in {path}, got {len(found)}: name the file "
                "with --model.checkpoint"
            )
        path = found[0]
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: set --model.checkpoint")
    if path.suffix != ".json":
        return [path]
    try:
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is not the index of a sharded checkpoint") from error
    missing = [name for name in shards if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{path} names {', '.join(missing)}, not in {path.parent}")
    return [path, *(path.parent / name for name in shards)]


def read_weights(files: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of the files.

    Raises:
        CheckpointError: A file is truncated, holds anything but tensors, or would run code.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        if path.suffix == ".json":
            continue
        read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
        weights.update(read(path))
    return weights


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


def split_weights(weights: dict[str, Tensor], path: Path) -> PublishedWeights:
    """Sort the keys of a published file into its parts; `weights` is emptied.

    Raises:
        CheckpointError: A key belongs to no part, or an adapter is incomplete.
    """
    parts = PublishedWeights({}, {}, {})
    halves: dict[str, dict[str, Tensor]] = {}
    unexpected = []
    for key in list(weights):
        value = weights.pop(key)
        prefix = next((p for p in _PREFIXES if key.startswith(p)), None)
        name = key.removeprefix(prefix or "")
        if key.startswith(_DROPPED):
            parts.dropped.append(key)
        elif key.startswith("prj."):
            parts.projection[key.removeprefix("prj.")] = value
        elif prefix is None or (".lora_" in name and not name.endswith((_DOWN, _UP))):
            unexpected.append(key)
        elif name.endswith((_DOWN, _UP)):
            suffix = _DOWN if name.endswith(_DOWN) else _UP
            halves.setdefault(name.removesuffix(suffix), {})[suffix] = value
        else:
            parts.base[name.replace(_BASE, ".")] = value
    lacking = [f"{m}{s}" for m, found in halves.items() for s in (_DOWN, _UP) if s not in found]
    problems = [f"{k} is unexpected" for k in unexpected] + [f"{k} is missing" for k in lacking]
    if problems:
        raise CheckpointError(f"{path} is not a CODI checkpoint: {shorten(problems)}")
    parts.lora = {module: (found[_DOWN], found[_UP]) for module, found in halves.items()}
    return parts


def recorded_alpha(files: list[Path]) -> float | None:
    """LoRA's alpha by the checkpoint's own record, if it has one.

    The record is `adapter_config.json` beside the file, or `lora_alpha` in safetensors metadata.
    """
    config = files[0].parent / "adapter_config.json"
    if config.is_file():
        alpha = json.loads(config.read_text()).get("lora_alpha")
        return None if alpha is None else float(alpha)
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                alpha = (file.metadata() or {}).get("lora_alpha")
            if alpha is not None:
                return float(alpha)
    return None


def choose_alpha(given: float | None, recorded: float | None, path: Path) -> float:
    """The alpha to merge with: the recorded one, which a given one may not contradict.

    Raises:
        CheckpointError: It does.
    """
    if given is not None and recorded is not None and given != recorded:
        raise CheckpointError(
            f"expected LoRA alpha {recorded:g}, by {path}'s own record, got {given:g}: "
            "change or leave out --model.lora_alpha"
        )
    return next(a for a in (given, recorded, DEFAULT_ALPHA) if a is not None)


def merge_lora(
    parts: PublishedWeights, alpha: float, transposed: bool, dtype: torch.dtype, path: Path
) -> int:
    """Add `alpha / rank * B @ A` to each adapted weight, in float32, then cast to `dtype`.

    LoRA: arXiv 2106.09685. The adapters are used up.

    Args:
        parts: Of the file.
        alpha: LoRA's alpha.
        transposed: Whether the family keeps linear weights as `(in, out)`, as GPT-2 does.
        dtype: Of the merged weights.
        path: Of the file, for errors.

    Returns:
        The number of merged weights.

    Raises:
        CheckpointError: Ranks or shapes do not fit.
    """
    ranks = {down.shape[0] for down, _ in parts.lora.values()}
    problems = [f"LoRA ranks differ: {sorted(ranks)}"] if len(ranks) > 1 else []
    for module, (down, up) in parts.lora.items():
        base = parts.base.get(f"{module}.weight")
        if base is None:
            problems.append(f"{module}.base_layer.weight is missing")
            continue
        shape = tuple(reversed(base.shape)) if transposed else tuple(base.shape)
        if (up.shape[0], down.shape[1]) != shape or up.shape[1] != down.shape[0]:
            problems.append(
                f"{module}: lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)} do not fit "
                f"a weight of (out, in) {shape}"
            )
    if problems:
        raise CheckpointError(f"{path}: LoRA does not fit: {shorten(problems)}")
    merged = len(parts.lora)
    for module in list(parts.lora):
        down, up = parts.lora.pop(module)
        change = alpha / down.shape[0] * (up.float() @ down.float())
        name = f"{module}.weight"
        parts.base[name] = (parts.base[name].float() + (change.T if transposed else change)).to(
            dtype
        )
    return merged


def shorten(problems: list[str], most: int = 5) -> str:
    """The first few problems, and how many more there are."""
    more = f" and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
