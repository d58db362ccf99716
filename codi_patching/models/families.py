"""Where the parts of a decoder are, family by family: the one place to change for a new one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from codi_patching.errors import InputError
from codi_patching.patching.hooks import Outlet
from codi_patching.patching.interventions import SiteName


@dataclass(frozen=True)
class Family:
    """Attribute paths inside a `…ForCausalLM` module.

    Its blocks must be pre-norm and sequential: `x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Attributes:
        decoder: The stack without the head; returns the hidden states after the final norm.
        blocks: The decoder blocks, whose outputs are the residual stream.
        embeddings: The token embeddings.
        final_norm: The norm after the last block.
        rotary: What makes rotary positions; empty if there are none.
        position_embeddings: Embeddings added to the input; empty if there are none.
        transposed: Whether linear weights are kept as `(in, out)`.
        attention_norm: Inside a block: the norm before attention.
        attention: Inside a block: attention, from normed input to what it adds to the stream.
        mlp_norm: Inside a block: the norm before the MLP.
        mlp: Inside a block: the MLP, from normed input to what it adds to the stream.
        keys: Inside a block: what makes keys before rotation; its norm where there is one.
        values: Inside a block: what makes values.
        output: Inside a block: the projection that attention ends with, of what its heads give.
        windowed: Whether attention may be limited to so many tokens before each.
        fused: Whether `keys` and `values` are one module, of queries, keys, values in this order.
    """

    decoder: str = "model"
    blocks: str = "model.layers"
    embeddings: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    rotary: str = "model.rotary_emb"
    position_embeddings: str = ""
    transposed: bool = False
    attention_norm: str = "input_layernorm"
    attention: str = "self_attn"
    mlp_norm: str = "post_attention_layernorm"
    mlp: str = "mlp"
    keys: str = "self_attn.k_proj"
    values: str = "self_attn.v_proj"
    output: str = "self_attn.o_proj"
    fused: bool = False
    windowed: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "qwen2": Family(windowed=True),
    "qwen3": Family(keys="self_attn.k_norm", windowed=True),
    "mistral": Family(windowed=True),
    "gpt2": Family(
        decoder="transformer",
        blocks="transformer.h",
        embeddings="transformer.wte",
        final_norm="transformer.ln_f",
        rotary="",
        position_embeddings="transformer.wpe",
        transposed=True,
        attention_norm="ln_1",
        attention="attn",
        mlp_norm="ln_2",
        keys="attn.c_attn",
        values="attn.c_attn",
        output="attn.c_proj",
        fused=True,
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


def attention_window(backbone: PreTrainedModel) -> int | None:
    """How many tokens before it a token attends to; None for all."""
    if not family_of(backbone).windowed:
        return None
    return getattr(backbone.config, "sliding_window", None)


def part_of(backbone: nn.Module, path: str) -> Any:
    """The module at one of a family's paths."""
    return attrgetter(path)(backbone)


def cache_argument(decoder: type[nn.Module]) -> str:
    """What a decoder's `forward` calls keys and values: `cache`, in older transformers otherwise.

    An argument of another name would be taken and not read.
    """
    names = inspect.signature(decoder.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def head_shape(backbone: PreTrainedModel) -> tuple[int, int]:
    """Number of attention heads, and the size of one."""
    config = backbone.config
    heads = int(config.num_attention_heads)
    return heads, int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def outlets_of(backbone: PreTrainedModel, site: SiteName) -> list[list[Outlet]]:
    """Where a site leaves a model: its parts (of `kv`: keys, values), each with one a layer.

    Of `head` each attention head is a part, where it enters the output projection.

    Raises:
        ValueError: Thoughts leave no block.
    """
    family = family_of(backbone)
    blocks = part_of(backbone, family.blocks)
    if site == "resid_post":
        return [[Outlet(block) for block in blocks]]
    if site in ("attn_out", "mlp_out"):
        path = family.attention if site == "attn_out" else family.mlp
        return [[Outlet(part_of(block, path)) for block in blocks]]
    if site == "head":
        heads, size = head_shape(backbone)
        return [
            [Outlet(part_of(b, family.output), h * size, (h + 1) * size, True) for b in blocks]
            for h in range(heads)
        ]
    if site != "kv":
        raise ValueError(f"expected a site inside a block or after it, got {site!r}")
    if family.fused:
        size = backbone.config.hidden_size
        return [
            [Outlet(part_of(block, family.keys), start, start + size) for block in blocks]
            for start in (size, 2 * size)
        ]
    paths = family.keys, family.values
    return [[Outlet(part_of(block, path)) for block in blocks] for path in paths]


def sweep_unsupported_reason(backbone: PreTrainedModel) -> str | None:
    """Why a model cannot be run block by block, if it cannot."""
    rope = getattr(backbone.config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        return f"its rotary positions ({rope['rope_type']}) depend on the length of the sequence"
    if getattr(backbone.config, "reorder_and_upcast_attn", False):
        return "its attention is of a kind of its own (reorder_and_upcast_attn)"
    return None
