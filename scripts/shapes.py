"""Models of known shapes, with random weights, and prompts for them: neither changes the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig
from transformers.initialization import no_init_weights

from codi_patching.data.pairs import Pair, Question
from codi_patching.measuring.preparation import PairRequests, Preparation
from codi_patching.measuring.prompts import NOTHING
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.models.projections import build_projection
from codi_patching.models.settings import CodiSettings
from codi_patching.patching.engine import Readout

SHAPES: dict[str, dict[str, Any]] = {
    "codi-tiny": {},
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "head_dim": 128,
        "tie_word_embeddings": False,
    },
}
"""What differs between shapes; `codi-tiny` is the shipped model."""

READOUT = Readout((2, 5, 6, 7, 8), ((9,), (10,)))


def build_model(
    shape: str, num_latents: int, dtype: torch.dtype, device: torch.device
) -> CodiModel:
    """The shipped model, or one of a Llama's shape with random weights."""
    tiny = load_checkpoint("codi-tiny", num_latents)[0]
    if shape == "codi-tiny":
        return tiny.to(device=device, dtype=dtype)
    config = LlamaConfig(vocab_size=128259, num_key_value_heads=8, **SHAPES[shape])
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), device:
            backbone = LlamaForCausalLM(config)
            projection = build_projection(config.hidden_size, config.hidden_size)
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator(device).manual_seed(0)
    settings = CodiSettings(num_latents, bot_ids=(1,), eot_ids=(2,), eos_id=3)
    model = CodiModel(backbone, projection, tiny.tokenizer, settings)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0, 0.02, generator=generator) if value.ndim > 1 else value.fill_(1)
    return model.eval().requires_grad_(False)


def draw_prompts(pairs: int, length: int, shared: int, seed: int) -> list[tuple[list[int], ...]]:
    """For each pair two prompts of random tokens that differ in one, after `shared` tokens."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[tuple[list[int], ...]] = []
    for _ in range(pairs):
        first = torch.randint(20, 400, (length,), generator=generator).tolist()
        second = list(first)
        second[shared] = 11
        drawn.append((first, second))
    return drawn


def draw_pairs(count: int) -> list[Pair]:
    """Pairs in name alone: what `DrawnPrompts` asks for them is drawn."""
    return [Pair(str(index), Question("", 0.0), Question("", 1.0)) for index in range(count)]


@dataclass(kw_only=True)
class DrawnPrompts(Preparation):
    """Prepares pairs of `draw_pairs`.

    Attributes:
        drawn: Two prompts for each.
        has_control: Whether each has a third, which is like the others but for its last token.
    """

    drawn: Sequence[tuple[list[int], ...]]
    has_control: bool

    def requests(self, pair: Pair) -> PairRequests:
        """The two or three prompts of a pair."""
        base, source = self.drawn[int(pair.pair_id)]
        third = ([*base[:-1], 12], NOTHING) if self.has_control else None
        return PairRequests(base=(base, READOUT), source=(source, READOUT), control=third)


def flop_per_token_layer(config: PreTrainedConfig) -> float:
    """Of the linear layers of a block."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = config.head_dim or hidden // heads
    attention = 2 * hidden * size * (heads + config.num_key_value_heads)
    return 2 * (attention + 3 * hidden * config.intermediate_size)
