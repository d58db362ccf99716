"""From weights to a model: every parameter filled, every weight used, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights

from codi_patching.models.codi import CodiModel, CodiSettings, build_projection
from codi_patching.models.families import family_of
from codi_patching.models.loading.files import CheckpointError, shorten


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
    with no_init_weights():  # every parameter is filled below: drawing them first costs minutes
        backbone = AutoModelForCausalLM.from_config(config, dtype=torch.get_default_dtype())
    family_of(backbone)
    prj = _projection_for(projection, config.hidden_size)
    fill(backbone, weights, tied_weights(backbone), path)
    backbone.tie_weights()
    if prj is not None:
        fill(prj, projection, {}, path, "prj.")
    return CodiModel(backbone, prj, tokenizer, settings)


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
