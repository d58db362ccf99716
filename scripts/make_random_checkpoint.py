"""Write a checkpoint of random weights in the layout of the published CODI code.

    python scripts/make_random_checkpoint.py --family llama --size tiny OUT

OUT/pytorch_model.bin has unmerged LoRA, `prj` and three more vocabulary rows than the base model;
OUT/base holds the base model's config and a byte-level BPE tokenizer trained on word problems.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from transformers.initialization import no_init_weights

from codi_patching.data.word_problems import sample_problem

_LLAMA_SPLIT = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s"
_GPT2_SPLIT = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"
_TARGETS = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    "c_attn", "c_proj", "c_fc",
)  # fmt: skip


def train_tokenizer(family: str, problems: int = 3000) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on word problems, splitting numbers as its family does."""
    split = _GPT2_SPLIT if family == "gpt2" else _LLAMA_SPLIT
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = Random(0)
    texts = []
    for _ in range(problems):
        problem = sample_problem(rng, held_out=False)
        texts.append(f"{problem.question} The answer is: {problem.answer}")
    tokenizer.train_from_iterator(texts, trainer)
    if family == "llama":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special[0]} $A", special_tokens=[(special[0], 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1]
    )


def build_config(family: str, size: str, vocab_size: int) -> PreTrainedConfig:
    """A small config, or one of LLaMA-3.2-1B's shape, GPT-2's, or Qwen3-0.6B's."""
    tiny = size == "tiny"
    if family == "gpt2":
        shape = {"n_embd": 64, "n_layer": 3, "n_head": 4} if tiny else {"vocab_size": 50257}
        ids = {"bos_token_id": 0, "eos_token_id": 1}
        return GPT2Config(**{"vocab_size": vocab_size, **shape, **ids})
    if tiny:
        shape = {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
        }
    elif family == "llama":
        shape = {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
        }
    else:
        shape = {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
        }
    config = LlamaConfig if family == "llama" else Qwen3Config
    common = {"tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1}
    return config(**{"vocab_size": vocab_size, **shape, **common})


def random_weights(
    config: PreTrainedConfig, rank: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """A state dict as the published training code saves it: base in bf16, LoRA and prj in fp32."""
    width, base_size = config.hidden_size, config.vocab_size
    config.vocab_size = base_size + 3
    with no_init_weights():
        backbone = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    config.vocab_size = base_size

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    weights: dict[str, Tensor] = {}
    for name, value in backbone.state_dict().items():
        key = f"codi.base_model.model.{name}"
        module, _, kind = name.rpartition(".")
        if value.ndim == 2:
            drawn = normal(*value.shape, scale=value.shape[-1] ** -0.5)
        else:
            drawn = normal(*value.shape, scale=0.02) + (kind == "weight")
        if module.rpartition(".")[2] in _TARGETS:
            key = f"codi.base_model.model.{module}.base_layer.{kind}"
            if kind == "weight":
                rows, columns = (
                    reversed(value.shape) if config.model_type == "gpt2" else value.shape
                )
                adapter = f"codi.base_model.model.{module}.lora"
                weights[f"{adapter}_A.default.weight"] = normal(rank, columns, scale=columns**-0.5)
                weights[f"{adapter}_B.default.weight"] = normal(rows, rank, scale=0.02)
        weights[key] = drawn.to(torch.bfloat16)
    weights["codi.base_model.model.lm_head.weight"] = next(
        weights[k] for k in weights if k.endswith(("embed_tokens.weight", "wte.weight"))
    )
    for index in (1, 3):
        weights[f"prj.{index}.weight"] = normal(width, width, scale=width**-0.5)
        weights[f"prj.{index}.bias"] = normal(width, scale=0.02)
    weights["prj.ln.weight"] = torch.ones(width)
    weights["prj.ln.bias"] = torch.zeros(width)
    return weights


def main() -> None:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=("llama", "gpt2", "qwen3"), required=True)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("out", type=Path, metavar="OUT")
    args = parser.parse_args()
    tokenizer = train_tokenizer(args.family)
    config = build_config(args.family, args.size, len(tokenizer))
    weights = random_weights(
        config,
        rank=8 if args.size == "tiny" else 128,
        generator=torch.Generator().manual_seed(args.seed),
    )
    base = args.out / "base"
    base.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(base)
    tokenizer.save_pretrained(base)
    torch.save(weights, args.out / "pytorch_model.bin")
    size = sum(w.numel() * w.element_size() for w in weights.values())
    print(f"{args.out}/pytorch_model.bin: {len(weights)} tensors, {size / 1e9:.2f} GB; {base}")


if __name__ == "__main__":
    main()
