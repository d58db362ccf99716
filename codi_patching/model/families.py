"""Where the parts of a decoder are, family by family: the one place to change for a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Family:
    """Attribute paths inside a `…ForCausalLM` module.

    Attributes:
        decoder: The stack without the head; returns the hidden states after the final norm.
        blocks: The decoder blocks, whose outputs are the residual stream.
        embeddings: The token embeddings.
        transposed: Whether linear weights are kept as `(in, out)`.
    """

    decoder: str = "model"
    blocks: str = "model.layers"
    embeddings: str = "model.embed_tokens"
    transposed: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "mistral": Family(),
    "gpt2": Family("transformer", "transformer.h", "transformer.wte", transposed=True),
}
"""By `model_type`. Final norm and head are found by transformers' own accessors."""


def family_of(backbone: PreTrainedModel) -> Family:
    """The family of a model, by its config's `model_type`.

    Raises:
        ValueError: The family is not in `FAMILIES`.
    """
    model_type = backbone.config.model_type
    if model_type not in FAMILIES:
        raise ValueError(
            f"model family {model_type!r} is not supported; expected one of {sorted(FAMILIES)}"
        )
    return FAMILIES[model_type]


def decoder_of(backbone: PreTrainedModel) -> nn.Module:
    """The decoder stack of `backbone`, without the language-model head."""
    return attrgetter(family_of(backbone).decoder)(backbone)


def blocks_of(backbone: PreTrainedModel) -> Sequence[nn.Module]:
    """The decoder blocks of `backbone`, in order."""
    return attrgetter(family_of(backbone).blocks)(backbone)
