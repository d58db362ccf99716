"""From weights to a model: every parameter filled, every weight used, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights

from codi_patching.models.codi import CodiModel, CodiSettings, build_projection
from codi_patching.models.families import family_of
from codi_patching.models.loading.files import CheckpointError, first_line, shorten


def assemble(
    config: PreTrainedConfig,
    weights: dict[str, Tensor],
    projection: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    settings: CodiSettings,
    path: Path,
) -> CodiModel:
    """Build the model and put every weight where it belongs.

    Args:
        config: Of the backbone, its vocabulary as large as the weights'.
        weights: Of the backbone under their Hugging Face names; used up.
        projection: Of `prj`, without that prefix; empty where a checkpoint has none. Used up.
        tokenizer: Of questions and answers.
        settings: Number of latents, special tokens, prompt, answer prefix.
        path: Of the file, for errors.

    Raises:
        CheckpointError: A weight is missing, unexpected, misshapen or not finite.
    """
    backbone = _empty_backbone(config, path)
    family_of(backbone)
    prj = _projection_for(projection, config.hidden_size)
    fill(backbone, weights, tied_weights(backbone), path)
    backbone.tie_weights()
    if prj is not None:
        fill(prj, projection, {}, path, "prj.")
    _check_tokens(len(backbone.get_input_embeddings().weight), tokenizer, settings, path)
    return CodiModel(backbone, prj, tokenizer, settings)


def _check_tokens(
    rows: int, tokenizer: PreTrainedTokenizerFast, settings: CodiSettings, path: Path
) -> None:
    """Refuse tokens that have no embedding.

    Raises:
        CheckpointError: There are some.
    """
    own = {"bot_ids": settings.bot_ids, "eot_ids": settings.eot_ids, "eos_id": (settings.eos_id,)}
    problems = [
        f"{name} {token}" for name, ids in own.items() for token in ids if not 0 <= token < rows
    ]
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        problems.append(f"the tokenizer's {highest}")
    if problems:
        raise CheckpointError(
            f"{path}: expected tokens from 0 to {rows - 1}, for which there are embeddings, got "
            f"{shorten(problems)}: the tokenizer or settings are another model's"
        )


def read_config(folder: Path) -> PreTrainedConfig:
    """Config of a model in a folder.

    Raises:
        CheckpointError: It is not one.
    """
    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises what it happens to stumble over
        raise CheckpointError(
            f"expected {folder / 'config.json'} to be a model's config, {first_line(error)}: "
            "set [[model.checkpoint]]"
        ) from error


def _empty_backbone(config: PreTrainedConfig, path: Path) -> PreTrainedModel:
    """A model whose parameters are to be filled; `CodiModel` sets its attention, not the config."""
    try:
        with no_init_weights():  # drawing parameters first costs minutes
            return AutoModelForCausalLM.from_config(
                config, dtype=torch.get_default_dtype(), attn_implementation="eager"
            )
    except Exception as error:  # transformers raises what it happens to stumble over
        raise CheckpointError(
            f"{path}: its config, of the family {config.model_type!r}, makes no language model: "
            f"{first_line(error)}"
        ) from error


def tied_weights(backbone: PreTrainedModel) -> dict[str, str]:
    """Parameters that are the same tensor as another, by name; they need not be in the file."""
    keys = backbone._tied_weights_keys
    return dict(keys or {}) if backbone.config.tie_word_embeddings else {}


def fill(
    module: nn.Module,
    weights: dict[str, Tensor],
    tied: Mapping[str, str],
    path: Path,
    prefix: str = "",
) -> None:
    """Put `weights` into `module`, all of them into all of it; `weights` is emptied.

    Raises:
        CheckpointError: A weight is missing, unexpected, misshapen or not finite.
    """
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


def dtypes_of(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """The dtypes of each part's tensors."""
    found = {}
    for part, weights in parts.items():
        names = sorted({str(w.dtype).removeprefix("torch.") for w in weights.values()})
        if names:
            found[part] = ", ".join(names)
    return found


def _projection_for(weights: Mapping[str, Tensor], hidden_size: int) -> nn.Sequential | None:
    """The projection whose weights these are; None if there are none."""
    if not weights:
        return None
    if "1.weight" not in weights:
        raise CheckpointError(f"prj.1.weight is missing among {shorten(sorted(weights))}")
    return build_projection(hidden_size, weights["1.weight"].shape[0], "ln.weight" in weights)


def _is_finite(weight: Tensor) -> bool:
    """Whether all numbers are finite, without a copy of them."""
    return all(bound.isfinite().item() for bound in weight.aminmax())
