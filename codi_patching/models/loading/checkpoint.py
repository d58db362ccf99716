"""Saving and loading models: strictly, or not at all.

A folder in the package's own layout holds

    config.json         of the backbone, as transformers writes it
    tokenizer.json      of the tokenizers library
    model.safetensors   the backbone's weights under their Hugging Face names, and `prj.*`
    codi.json           `CodiSettings`

A file in the layout of the published CODI code needs a base model for its config and tokenizer; see
`published`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights

from codi_patching.models.codi import CodiModel, CodiSettings, build_projection
from codi_patching.models.families import FAMILIES, family_of
from codi_patching.models.loading import published
from codi_patching.models.loading.published import CheckpointError, file_sha256, shorten

SHIPPED = {"codi-tiny": Path(__file__).parents[2] / "assets" / "codi_tiny"}
"""Models that come with the package."""

_FILES = ("config.json", "tokenizer.json", "model.safetensors", "codi.json")


@dataclass
class LoadReport:
    """What was loaded.

    Attributes:
        source: The name, folder or file that was asked for.
        sha256: Of the weights file.
        tensors: Number of tensors in the file.
        dtypes: For each part of the file, the dtypes of its tensors.
        merged: Number of weights that LoRA was merged into.
        lora_alpha: That it was merged with.
        dropped: Keys that were not loaded, by name.
    """

    source: str
    sha256: str
    tensors: int
    dtypes: dict[str, str]
    merged: int = 0
    lora_alpha: float | None = None
    dropped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """For the console."""
        parts = [f"{self.tensors - len(self.dropped)} of {self.tensors} tensors used"]
        parts += [f"{part} {dtypes}" for part, dtypes in self.dtypes.items()]
        if self.merged:
            parts.append(f"LoRA merged into {self.merged} weights with alpha {self.lora_alpha:g}")
        if self.dropped:
            parts.append(f"dropped {shorten(self.dropped)}")
        return (
            f"loaded {self.source}: {'; '.join(parts)}; every parameter filled; "
            f"SHA-256 {self.sha256[:12]}…"
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
    checkpoint: str | Path,
    num_latents: int | None = None,
    base_model: str | None = None,
    lora_alpha: float | None = None,
    prompt_eos: bool = False,
) -> tuple[CodiModel, LoadReport]:
    """Load a model in torch's default dtype, in evaluation mode.

    Args:
        checkpoint: The name of a shipped model, a folder in the package's own layout, or a file
            (or folder of one) in the published layout.
        num_latents: K, if other than the checkpoint's own; 5 for the published layout.
        base_model: Hugging Face id or folder with config and tokenizer, for the published layout.
        lora_alpha: For the published layout; by the checkpoint's own record, else 32.
        prompt_eos: Whether the prompt ends with eos and bot, not bot alone; published layout.

    Raises:
        CheckpointError: A file is missing or unreadable, or any weight is missing, unexpected or
            misshapen.
    """
    path = Path(checkpoint)
    if base_model is not None and str(checkpoint) not in SHIPPED:
        model, report = _load_published(path, base_model, num_latents or 5, lora_alpha, prompt_eos)
    elif base_model is not None or lora_alpha is not None or prompt_eos:
        raise CheckpointError(
            "expected --model.base_model, --model.lora_alpha and --model.prompt_eos only with a "
            f"checkpoint in the published layout and a base model, got them with {checkpoint}"
        )
    else:
        model, report = _load_folder(SHIPPED.get(str(checkpoint), path), num_latents)
        report.source = str(checkpoint)
    if num_latents is not None:
        model.settings = replace(model.settings, num_latents=num_latents)
    limit = model.backbone.config.max_position_embeddings
    if model.num_latents >= limit:
        raise CheckpointError(
            f"expected fewer latent thoughts than the model's context of {limit}, got "
            f"{model.num_latents}: set --model.num_latents"
        )
    return model.eval().requires_grad_(False), report


def _load_folder(folder: Path, num_latents: int | None) -> tuple[CodiModel, LoadReport]:
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        hint = "set --model.base_model, or" if folder.is_file() else ""
        raise CheckpointError(
            f"expected a folder with {', '.join(_FILES)} or one of {sorted(SHIPPED)}, but "
            f"{folder} has no {', '.join(missing)}: {hint} set --model.checkpoint"
        )
    settings = _read_settings(folder / "codi.json")
    path = folder / "model.safetensors"
    weights = published.read_weights([path])
    tensors = len(weights)
    projection = {k[4:]: weights.pop(k) for k in list(weights) if k.startswith("prj.")}
    dtypes = _dtypes({"model": weights, "prj": projection})
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing more precise
        raise CheckpointError(
            f"expected {folder / 'tokenizer.json'} to be a tokenizer, {error}: "
            "set --model.checkpoint"
        ) from error
    model = _assemble(
        AutoConfig.from_pretrained(folder), weights, projection, tokenizer, settings, path
    )
    return model, LoadReport(str(folder), file_sha256(path), tensors, dtypes)


def _load_published(
    path: Path,
    base_model: str,
    num_latents: int,
    lora_alpha: float | None,
    prompt_eos: bool,
) -> tuple[CodiModel, LoadReport]:
    files = published.weight_files(path)
    config, tokenizer = _read_base_model(base_model)
    weights = published.read_weights(files)
    alpha = published.choose_alpha(lora_alpha, published.recorded_alpha(files), path)
    tensors = len(weights)
    parts = published.split_weights(weights, path)
    lora = {f"{name}.{i}": half for name, ab in parts.lora.items() for i, half in enumerate(ab)}
    dtypes = _dtypes({"base": parts.base, "LoRA": lora, "prj": parts.projection})
    del lora
    if config.model_type not in FAMILIES:
        raise CheckpointError(
            f"{base_model} is of the family {config.model_type!r}; expected one of "
            f"{', '.join(FAMILIES)}: set --model.base_model"
        )
    family = FAMILIES[config.model_type]
    first = _extend_vocabulary(config, tokenizer, parts.base.get(f"{family.embeddings}.weight"))
    merged = published.merge_lora(parts, alpha, family.transposed, torch.get_default_dtype(), path)
    settings = CodiSettings(
        num_latents=num_latents,
        bot_ids=(tokenizer.eos_token_id, first + 1) if prompt_eos else (first + 1,),
        eot_id=first + 2,
        eos_id=tokenizer.eos_token_id,
    )
    model = _assemble(config, parts.base, parts.projection, tokenizer, settings, path)
    report = LoadReport(
        str(path), file_sha256(*files), tensors, dtypes, merged, alpha, parts.dropped
    )
    return model, report


def _read_base_model(base_model: str) -> tuple[PreTrainedConfig, PreTrainedTokenizerFast]:
    try:
        config = AutoConfig.from_pretrained(base_model)
        tokenizer = AutoTokenizer.from_pretrained(base_model)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"expected {base_model} to be a Hugging Face id or a folder with config and "
            f"tokenizer ({_first_line(error)}): set --model.base_model"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"expected {base_model} to have a fast tokenizer with an eos token, got "
            f"{type(tokenizer).__name__}: set --model.base_model"
        )
    return config, tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _extend_vocabulary(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, embeddings: Tensor | None
) -> int:
    """Make room for pad, bot and eot after the base vocabulary; returns the first one's id."""
    if embeddings is None:
        raise CheckpointError(
            f"the checkpoint has no embeddings under the names of the family {config.model_type!r}:"
            " set --model.base_model to the model it was trained from"
        )
    rows, size = embeddings.shape[0], config.vocab_size
    if rows != size + 3:
        raise CheckpointError(
            f"expected the checkpoint's vocabulary to have 3 rows (pad, bot, eot) more than the "
            f"base model's {size}, got {rows}: set --model.base_model to the model it was "
            "trained from"
        )
    highest = max(tokenizer.get_vocab().values())
    if highest >= size:
        raise CheckpointError(
            f"the tokenizer's ids reach {highest} and collide with pad, bot and eot at "
            f"{size}..{size + 2}: set --model.base_model"
        )
    config.vocab_size = rows
    return size


def _assemble(
    config: PreTrainedConfig,
    weights: dict[str, Tensor],
    projection: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    settings: CodiSettings,
    path: Path,
) -> CodiModel:
    """Build the model and put every weight where it belongs."""
    with no_init_weights():  # every parameter is filled below: drawing them first costs minutes
        backbone = AutoModelForCausalLM.from_config(config, dtype=torch.get_default_dtype())
    family_of(backbone)
    prj = _projection_for(projection, config.hidden_size)
    _fill(backbone, weights, _tied(backbone), path)
    backbone.tie_weights()
    if prj is not None:
        _fill(prj, projection, {}, path, "prj.")
    return CodiModel(backbone, prj, tokenizer, settings)


def _read_settings(path: Path) -> CodiSettings:
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
        return CodiSettings(**{**fields, "bot_ids": tuple(fields["bot_ids"])})
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not hold CODI's settings: {error}") from error


def _tied(backbone: PreTrainedModel) -> dict[str, str]:
    """Parameters that are the same tensor as another, by name; they need not be in the file."""
    keys = backbone._tied_weights_keys
    return dict(keys or {}) if backbone.config.tie_word_embeddings else {}


def _projection_for(weights: Mapping[str, Tensor], hidden_size: int) -> nn.Sequential | None:
    """The projection whose weights these are; None if there are none."""
    if not weights:
        return None
    if "1.weight" not in weights:
        raise CheckpointError(f"prj.1.weight is missing among {shorten(sorted(weights))}")
    return build_projection(hidden_size, weights["1.weight"].shape[0], "ln.weight" in weights)


def _fill(
    module: nn.Module,
    weights: dict[str, Tensor],
    tied: Mapping[str, str],
    path: Path,
    prefix: str = "",
) -> None:
    """Put `weights` into `module`, all of them into all of it; `weights` is emptied."""
    own = module.state_dict()
    problems = [f"{prefix}{k} is missing" for k in own if k not in weights and k not in tied]
    problems += [f"{prefix}{k} is unexpected" for k in weights if k not in own]
    problems += [
        f"{prefix}{k} has shape {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    problems += [f"{prefix}{k} is not finite" for k, v in weights.items() if not _is_finite(v)]
    problems += [
        f"{k} differs from {source}, which the config ties it to"
        for k, source in tied.items()
        if k in weights and source in weights and not torch.equal(weights[k], weights[source])
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the model: {shorten(problems)}")
    dtype = next(module.parameters()).dtype
    for name in list(weights):
        value = weights.pop(name)
        if name not in tied:
            module.load_state_dict({name: value.to(dtype)}, strict=False, assign=True)


def _is_finite(weight: Tensor) -> bool:
    """Whether all numbers are finite, without a copy of them."""
    return all(bound.isfinite().item() for bound in weight.aminmax())


def _dtypes(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """The dtypes of each part's tensors."""
    found = {}
    for part, weights in parts.items():
        names = sorted({str(w.dtype).removeprefix("torch.") for w in weights.values()})
        if names:
            found[part] = ", ".join(names)
    return found
