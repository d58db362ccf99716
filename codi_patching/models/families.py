"""Where the parts of a decoder are, family by family: the one place to change for a new one."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from transformers import PreTrainedModel

from codi_patching.errors import InputError


@dataclass(frozen=True)
class Family:
    """Attribute paths inside a `…ForCausalLM` module.

    Attributes:
        decoder: The stack without the head; returns the hidden states after the final norm.
        blocks: The decoder blocks, whose outputs are the residual stream.
        embeddings: The token embeddings.
        final_norm: The norm after the last block.
        rotary: What makes rotary positions; empty if there are none.
        position_embeddings: Embeddings added to the input; empty if there are none.
        transposed: Whether linear weights are kept as `(in, out)`.
    """

    decoder: str = "model"
    blocks: str = "model.layers"
    embeddings: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    rotary: str = "model.rotary_emb"
    position_embeddings: str = ""
    transposed: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "mistral": Family(),
    "gpt2": Family(
        decoder="transformer",
        blocks="transformer.h",
        embeddings="transformer.wte",
        final_norm="transformer.ln_f",
        rotary="",
        position_embeddings="transformer.wpe",
        transposed=True,
    ),
}
"""By `model_type`. The head is found by transformers' own accessor."""


def family_of(backbone: PreTrainedModel) -> Family:
    """The family of a model, by its config's `model_type`.

    Raises:
        InputError: The family is not in `FAMILIES`.
    """
    model_type = backbone.config.model_type
    if model_type not in FAMILIES:
        raise InputError(
            f"model family {model_type!r} is not supported; expected one of {sorted(FAMILIES)}"
        )
    return FAMILIES[model_type]


def part_of(backbone: PreTrainedModel, path: str) -> Any:
    """The module at one of a family's paths."""
    return attrgetter(path)(backbone)


def sweep_unsupported_reason(backbone: PreTrainedModel) -> str | None:
    """Why a model cannot be run block by block, if it cannot."""
    rope = getattr(backbone.config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        return f"its rotary positions ({rope['rope_type']}) depend on the length of the sequence"
    if getattr(backbone.config, "reorder_and_upcast_attn", False):
        return "its attention is of a kind of its own (reorder_and_upcast_attn)"
    return None
