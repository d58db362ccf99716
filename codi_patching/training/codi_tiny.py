"""The architecture and tokenizer of `codi-tiny`, the model that the package ships, from nothing."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from codi_patching.models.codi import CodiModel
from codi_patching.models.projections import build_projection
from codi_patching.models.settings import CodiSettings

IDLE = "<idle>"
"""What a thought says that carries no result."""

_SPECIAL = ("<pad>", "<bos>", "<eos>", "<bot>", "<eot>", IDLE)


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that never fails: unknown words fall back to characters and bytes.

    Each of `words` is one token; so is every printable ASCII character and every byte. Prompts
    start with `<bos>`.
    """
    characters = [chr(code) for code in range(33, 127)]
    tokens = dict.fromkeys([*_SPECIAL, *words, *characters, *(f"<0x{b:02X}>" for b in range(256))])
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[],
            byte_fallback=True,
            ignore_merges=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\w+|[^\w\s]+"), behavior="removed", invert=True
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", _SPECIAL.index("<bos>"))]
    )
    tokenizer.add_special_tokens(list(_SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def build_codi_tiny(
    words: Sequence[str],
    num_latents: int = 5,
    num_layers: int = 16,
    hidden_size: int = 128,
    intermediate_size: int = 256,
    num_heads: int = 4,
    num_key_value_heads: int = 2,
    prj_dim: int = 256,
) -> CodiModel:
    """An untrained model of Llama's architecture with tied embeddings, for the given words."""
    tokenizer = build_tokenizer(words)
    backbone = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            num_key_value_heads=num_key_value_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=0.05,
            pad_token_id=tokenizer.convert_tokens_to_ids("<pad>"),
            bos_token_id=tokenizer.convert_tokens_to_ids("<bos>"),
            eos_token_id=tokenizer.convert_tokens_to_ids("<eos>"),
        )
    )
    projection = build_projection(hidden_size, prj_dim)
    # A thought should look like a token to the first layer: same scale as the embeddings.
    embeddings = backbone.get_input_embeddings().weight
    nn.init.constant_(projection.get_parameter("ln.weight"), embeddings.std().item())
    settings = CodiSettings(
        num_latents=num_latents,
        bot_ids=(tokenizer.convert_tokens_to_ids("<bot>"),),
        eot_ids=(tokenizer.convert_tokens_to_ids("<eot>"),),
        eos_id=tokenizer.convert_tokens_to_ids("<eos>"),
    )
    return CodiModel(backbone, projection, tokenizer, settings)
