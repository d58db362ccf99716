"""Others' training modules, rebuilt from what their state dicts and forward passes are.

Nothing here uses the package: thoughts and logits come from peft's unmerged adapters, or from
whole sequences without a cache.
"""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
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

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {**SHAPE, "tie_word_embeddings": True}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, SHAPE),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {**SHAPE, "head_dim": 8, "tie_word_embeddings": True}),
    "mistral": (MistralForCausalLM, MistralConfig, {**SHAPE, "head_dim": 8}),
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config,
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
    ),
}
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build_backbone(family, vocab_size, rows):
    """A random language model whose vocabulary grew to `rows`, and its config from before."""
    model_class, config_class, shape = MODELS[family]
    config = config_class(vocab_size=vocab_size, bos_token_id=0, eos_token_id=1, **shape)
    before = config.to_dict()
    backbone = model_class(config)
    backbone.resize_token_embeddings(rows)
    return backbone, before


def draw(module):
    """Weights large enough that every activation matters."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "lora_" in name or value.ndim == 2:
                value.normal_(0, 0.1)
    return module.eval()


class PublishedCodi(nn.Module):
    """CODI's training module, as far as its state dict and inference go.

    `decoder`: with SIM-CoT's auxiliary decoder, of another width and vocabulary.
    """

    def __init__(
        self,
        family,
        vocab_size,
        layer_norm=True,
        alpha=32,
        projection=True,
        rows=None,
        decoder=False,
    ):
        super().__init__()
        torch.manual_seed(3)
        backbone, self.base_config = build_backbone(family, vocab_size, rows or vocab_size + 3)
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=4,
            lora_alpha=alpha,
            lora_dropout=0.1,
            target_modules=["c_attn", "c_proj", "c_fc"] if family == "gpt2" else LLAMA_TARGETS,
            fan_in_fan_out=family == "gpt2",
        )
        self.codi = get_peft_model(backbone, lora)
        self.bot_id, self.eot_id = vocab_size + 1, vocab_size + 2
        if projection:
            self.prj = nn.Sequential(
                nn.Dropout(0.1), nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 32)
            )
            if layer_norm:
                self.prj.add_module("ln", nn.LayerNorm(32))
        if decoder:
            self.decoder = build_backbone(family, vocab_size - 7, vocab_size - 7)[0]
            self.pj_in = nn.Linear(32, 16)
            self.pj_out = nn.ParameterDict({"U": torch.ones(8, 2), "V": torch.ones(2, 9)})
        draw(self)

    @torch.no_grad()
    def infer(self, ids, num_latents, readout):
        """Thoughts, and the logits after every readout token."""
        prj = getattr(self, "prj", nn.Identity())
        out = self.codi(input_ids=torch.tensor([ids]), use_cache=True, output_hidden_states=True)
        thoughts = []
        for _ in range(num_latents):
            thought = prj(out.hidden_states[-1][:, -1:])
            thoughts.append(thought[0, 0])
            out = self.codi(
                inputs_embeds=thought,
                use_cache=True,
                output_hidden_states=True,
                past_key_values=out.past_key_values,
            )
        embeddings = self.codi.get_base_model().get_input_embeddings()(torch.tensor([readout]))
        out = self.codi(inputs_embeds=embeddings, past_key_values=out.past_key_values)
        return torch.stack(thoughts), out.logits[0]


class Coconut(nn.Module):
    """Coconut's module; `decoder`: SIM-CoT's, with the decoder that it spells so."""

    def __init__(self, family, vocab_size, decoder=False):
        super().__init__()
        torch.manual_seed(4)
        self.base_causallm, self.base_config = build_backbone(family, vocab_size, vocab_size + 3)
        if decoder:
            self.expainable_llm = build_backbone(family, vocab_size, vocab_size)[0]
        self.embedding = self.base_causallm.get_input_embeddings()
        self.start_id, self.end_id = vocab_size, vocab_size + 1
        draw(self)

    @torch.no_grad()
    def infer(self, ids, num_latents, readout):
        """Thoughts, and the logits after every readout token; whole sequences, no cache."""
        sequence = self.embedding(torch.tensor([ids]))
        for _ in range(num_latents):
            out = self.base_causallm(inputs_embeds=sequence, output_hidden_states=True)
            sequence = torch.cat([sequence, out.hidden_states[-1][:, -1:]], dim=1)
        thoughts = sequence[0, len(ids) :]
        whole = torch.cat([sequence, self.embedding(torch.tensor([readout]))], dim=1)
        return thoughts, self.base_causallm(inputs_embeds=whole).logits[0, -len(readout) :]
