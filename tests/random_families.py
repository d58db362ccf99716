"""Random models of every family, large enough that every activation matters, in float64."""

from functools import lru_cache

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from codi_patching.models.codi import CodiModel
from codi_patching.models.projections import build_projection
from codi_patching.models.settings import CodiSettings

VOCABULARY, HIDDEN = 40, 32

_SHAPE = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_GPT2 = {"n_embd": HIDDEN, "n_head": 4, "n_positions": 128}
CLASSES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {**_SHAPE, "tie_word_embeddings": True}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, _SHAPE),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**_SHAPE, "head_dim": 8}),
    "mistral": (MistralForCausalLM, MistralConfig, {**_SHAPE, "head_dim": 8}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, _GPT2),
}


@lru_cache
def family_model(family, num_layers, num_latents, window=None):
    """A model of a family with that many layers and thoughts, and perhaps a limited attention."""
    model_class, config_class, shape = CLASSES[family]
    shape = {**shape, "sliding_window": window} if window else shape
    layers = {"n_layer": num_layers} if family == "gpt2" else {"num_hidden_layers": num_layers}
    torch.manual_seed(num_layers)
    config = config_class(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, **shape, **layers)
    model = CodiModel(
        model_class(config),
        build_projection(HIDDEN, 24),
        None,
        CodiSettings(num_latents, bot_ids=(1,), eot_ids=(2,), eos_id=3),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.25)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
            else:  # norms
                parameter.uniform_(0.5, 1.5)
    return model.double().eval().requires_grad_(False)


def usual(families):
    """Families as parameters; where time counts Llama stands for those that are built like it."""
    like_llama = ("mistral", "qwen2")
    return [
        pytest.param(name, marks=pytest.mark.thorough if name in like_llama else ())
        for name in families
    ]
