"""From weights to a model: every parameter filled, every weight used, or an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.initialization import no_init_weights

from codi_patching.models.codi import CodiModel
from codi_patching.models.families import FAMILIES
from codi_patching.models.loading.files import CheckpointError, in_one_line, shorten
from codi_patching.models.projections import PauseVectors, build_projection
from codi_patching.models.settings import CodiSettings

M = TypeVar("M", bound=nn.Module)


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
    _check_layers(config, weights, path)
    backbone = _fitting(partial(_empty_backbone, config, path), weights, path)
    prj = _projection_for(projection, config.hidden_size, path)
    fill(backbone, weights, path)
    backbone.tie_weights()
    if prj is not None:
        fill(prj, projection, path, "prj.")
    _check_buffers(backbone, path)
    _check_tokens(len(backbone.get_input_embeddings().weight), tokenizer, settings, path)
    return CodiModel(backbone, prj, tokenizer, settings)


def _check_layers(config: PreTrainedConfig, weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a config of other layers than there are weights of, before they are made.

    Raises:
        CheckpointError: It is one.
    """
    start = f"{FAMILIES[config.model_type].blocks}."
    found = {k.removeprefix(start).partition(".")[0] for k in weights if k.startswith(start)}
    if len(found) != config.num_hidden_layers:
        among = "" if found else f", but {shorten(sorted(weights), most=3) or 'nothing'}"
        raise CheckpointError(
            f"{path} does not fit the model: expected weights of {config.num_hidden_layers} layers "
            f"({start}…), by the config, got those of {len(found)}{among}"
        )


def _check_buffers(backbone: PreTrainedModel, path: Path) -> None:
    """Refuse a config whose constants, such as rotary frequencies, are no numbers.

    Raises:
        CheckpointError: It is one.
    """
    odd = [k for k, v in backbone.named_buffers() if v.is_floating_point() and not _is_finite(v)]
    if odd:
        raise CheckpointError(f"{path}: its config makes {shorten(odd)} of what is not finite")


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
    highest = max([*tokenizer.get_vocab().values(), *tokenizer("")["input_ids"]], default=0)
    if highest >= rows:
        problems.append(f"the tokenizer's {highest}")
    if problems:
        raise CheckpointError(
            f"{path}: expected tokens from 0 to {rows - 1}, for which there are embeddings, got "
            f"{shorten(problems)}: the tokenizer or settings are another model's"
        )


def _empty_backbone(config: PreTrainedConfig, path: Path) -> PreTrainedModel:
    """A model whose parameters are to be filled; `CodiModel` sets its attention, not the config."""
    try:
        with no_init_weights():  # drawing parameters first costs minutes
            return AutoModelForCausalLM.from_config(
                config,
                dtype=torch.get_default_dtype(),
                attn_implementation="eager",
                trust_remote_code=False,
            )
    except Exception as error:  # transformers raises what it happens to stumble over
        raise CheckpointError(
            f"{path}: its config, of the family {config.model_type!r}, makes no language model: "
            f"{in_one_line(error)}"
        ) from error


def tied_weights(module: nn.Module) -> dict[str, str]:
    """Parameters that are the same tensor as another, by name; they need not be in the file."""
    if not isinstance(module, PreTrainedModel) or not module.config.tie_word_embeddings:
        return {}
    return dict(module._tied_weights_keys or {})


def _fitting(build: Callable[[], M], weights: Mapping[str, Tensor], path: Path, pre: str = "") -> M:
    """A module that weights fit: one without memory is made and compared first.

    Raises:
        CheckpointError: A weight is missing, unexpected or misshapen.
    """
    with torch.device("meta"):
        plan = build()
    own, tied = plan.state_dict(), tied_weights(plan)
    problems = [f"{pre}{k} is missing" for k in own if k not in weights and k not in tied]
    problems += [f"{pre}{k} is unexpected" for k in weights if k not in own]
    problems += [
        f"{pre}{k} has shape {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    problems += [
        f"{k} differs from {source}, which the config ties it to"
        for k, source in tied.items()
        if k in weights and source in weights and not torch.equal(weights[k], weights[source])
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit the model: {shorten(problems)}")
    return build()


def fill(module: nn.Module, weights: dict[str, Tensor], path: Path, prefix: str = "") -> None:
    """Put `weights`, which fit, into `module`; `weights` is emptied.

    Raises:
        CheckpointError: A weight is not finite in the module's dtype.
    """
    tied, dtype = tied_weights(module), next(module.parameters()).dtype
    problems = []
    for name in list(weights):
        value = weights.pop(name).to(dtype)
        if not _is_finite(value):
            problems.append(f"{prefix}{name} is not finite")
        elif name not in tied:
            owner, _, own_name = name.rpartition(".")
            part = module.get_submodule(owner)  # not the whole, which looks at all of its parts
            part.load_state_dict({own_name: value}, strict=False, assign=True)
    if problems:
        raise CheckpointError(f"{path} does not fit the model: {shorten(problems)}")


def dtypes_of(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """The dtypes of each part's tensors."""
    found = {}
    for part, weights in parts.items():
        names = sorted({str(w.dtype).removeprefix("torch.") for w in weights.values()})
        if names:
            found[part] = ", ".join(names)
    return found


def _projection_for(
    weights: Mapping[str, Tensor], hidden_size: int, path: Path
) -> nn.Module | None:
    """The projection whose weights these are; None if there are none."""
    if not weights:
        return None
    if weights.keys() == {"pause"} and weights["pause"].ndim == 2:
        vectors = partial(PauseVectors, len(weights["pause"]), hidden_size)
        return _fitting(vectors, weights, path, "prj.")
    first = weights.get("1.weight")
    if first is None or first.ndim != 2 or not len(first):
        shape = "is missing" if first is None else f"has shape {tuple(first.shape)}"
        raise CheckpointError(f"{path}: prj.1.weight {shape} among {shorten(sorted(weights))}")
    build = partial(build_projection, hidden_size, len(first), "ln.weight" in weights)
    return _fitting(build, weights, path, "prj.")


def _is_finite(weight: Tensor) -> bool:
    """Whether all numbers are finite, without a copy of them."""
    return all(bound.isfinite().item() for bound in weight.aminmax())
