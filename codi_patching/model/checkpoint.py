"""Saving and loading models: strictly, or not at all.

A folder in the package's own layout holds

    config.json         of the backbone, as transformers writes it
    tokenizer.json      of the tokenizers library
    model.safetensors   the backbone's weights under their Hugging Face names, and `prj.*`
    codi.json           `CodiSettings`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from codi_patching.model.codi import CodiModel, CodiSettings, build_projection

SHIPPED = {"codi-tiny": Path(__file__).parent.parent / "assets" / "codi_tiny"}
"""Models that come with the package."""

_FILES = ("config.json", "tokenizer.json", "model.safetensors", "codi.json")


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded completely."""


@dataclass(frozen=True)
class LoadReport:
    """What was loaded.

    Attributes:
        source: The name or folder that was asked for.
        sha256: Of the weights file.
        tensors: Number of tensors in the file, all of them used.
        dtypes: Number of tensors of each dtype in the file.
    """

    source: str
    sha256: str
    tensors: int
    dtypes: dict[str, int]

    def __str__(self) -> str:
        """One line for the console."""
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
        return (
            f"loaded {self.source}: {self.tensors} tensors ({dtypes}), every one used and every "
            f"parameter filled, SHA-256 {self.sha256[:12]}…"
        )


def save_checkpoint(model: CodiModel, folder: Path) -> None:
    """Write a model in the package's own layout."""
    folder.mkdir(parents=True, exist_ok=True)
    model.backbone.config.save_pretrained(folder)
    tied = _tied(model.backbone)
    weights = {k: v for k, v in model.backbone.state_dict().items() if k not in tied}
    weights |= {f"prj.{k}": v for k, v in model.prj.state_dict().items()}
    weights = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "codi.json").write_text(json.dumps(asdict(model.settings), indent=2) + "\n")


def load_checkpoint(
    checkpoint: str | Path, num_latents: int | None = None
) -> tuple[CodiModel, LoadReport]:
    """Load a model in float32, in evaluation mode.

    Args:
        checkpoint: The name of a shipped model, or a folder in the package's own layout.
        num_latents: K, if other than the checkpoint's own.

    Raises:
        CheckpointError: A file is missing or unreadable, or any weight is missing, unexpected or
            misshapen.
    """
    folder = SHIPPED.get(str(checkpoint), Path(checkpoint))
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"expected a folder with {', '.join(_FILES)} or one of {sorted(SHIPPED)}, but "
            f"{folder} has no {', '.join(missing)}: set --model.checkpoint"
        )
    settings = _read_settings(folder / "codi.json", num_latents)
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    report = LoadReport(str(checkpoint), file_sha256(path), len(weights), _count_dtypes(weights))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    backbone = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(folder), dtype=torch.float32
    )
    projection = {k[4:]: weights.pop(k) for k in list(weights) if k.startswith("prj.")}
    prj = _projection_for(projection, backbone.config.hidden_size)
    _fill(backbone, weights, _tied(backbone), path)
    if prj is not None:
        _fill(prj, projection, set(), path, "prj.")
    model = CodiModel(backbone, prj, tokenizer, settings).eval()
    return model.requires_grad_(False), report


def _read_settings(path: Path, num_latents: int | None) -> CodiSettings:
    try:
        fields = json.loads(path.read_text())
        settings = CodiSettings(**{**fields, "bot_ids": tuple(fields["bot_ids"])})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not hold CODI's settings: {error}") from error
    return settings if num_latents is None else replace(settings, num_latents=num_latents)


def _tied(backbone: PreTrainedModel) -> set[str]:
    """Names of parameters that are the same tensor as another, so not in the file."""
    return set(backbone._tied_weights_keys or ()) if backbone.config.tie_word_embeddings else set()


def _projection_for(weights: Mapping[str, Tensor], hidden_size: int) -> nn.Sequential | None:
    """The projection whose weights these are; None if there are none."""
    if not weights:
        return None
    if "1.weight" not in weights:
        raise CheckpointError(f"expected prj.1.weight among {sorted(weights)}")
    return build_projection(hidden_size, weights["1.weight"].shape[0], "ln.weight" in weights)


def _fill(
    module: nn.Module, weights: Mapping[str, Tensor], tied: set[str], path: Path, prefix: str = ""
) -> None:
    """Put `weights` into `module`, all of them into all of it."""
    own = module.state_dict()
    problems = [f"{prefix}{k} is missing" for k in own if k not in weights and k not in tied]
    problems += [f"{prefix}{k} is unexpected" for k in weights if k not in own]
    problems += [
        f"{prefix}{k} has shape {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    problems += [f"{prefix}{k} is not finite" for k, v in weights.items() if not v.isfinite().all()]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(problems[:5])}{more}")
    module.load_state_dict(dict(weights), strict=False)


def _count_dtypes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    names = [str(w.dtype).removeprefix("torch.") for w in weights.values()]
    return {name: names.count(name) for name in sorted(set(names))}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
