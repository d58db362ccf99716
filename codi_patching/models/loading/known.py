"""Models that others published: what their files do not say about themselves.

Every row holds what a published checkpoint needs beyond its weights. Layout, base model, alpha,
number of thoughts and prompt come from the training and evaluation code named in `source`; an
accuracy of None means that no figure could be traced to its source.

Accuracies are fractions of GSM8K's 1,319 test questions answered right, greedily.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LayoutName = Literal["codi", "coconut"]

GPT2 = "openai-community/gpt2"
LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"


@dataclass(frozen=True)
class KnownModel:
    """What a published checkpoint needs beyond its files.

    Attributes:
        layout: Of its weights file.
        base_model: Hugging Face id that gives config and tokenizer.
        num_latents: K in training and in the published evaluation; None if not traced.
        source: Where the row comes from.
        lora_alpha: That LoRA was trained with; None where there is no LoRA.
        prompt_eos: Whether the prompt ends with eos and bot, not bot alone.
        readout_eos: Whether eos follows eot.
        answer_prefix: Text before the answer.
        question_suffix: Text that training put after every question.
        accuracy: Published accuracy on GSM8K's test questions, 0..1.
    """

    layout: LayoutName
    base_model: str
    num_latents: int | None
    source: str
    lora_alpha: float | None = 32.0
    prompt_eos: bool = False
    readout_eos: bool = False
    answer_prefix: str = "The answer is:"
    question_suffix: str = ""
    accuracy: float | None = None


_SIM_COT = "github.com/InternLM/SIM-CoT, CODI/scripts/test_*.sh"

KNOWN_MODELS: dict[str, KnownModel] = {
    "zen-E/CODI-gpt2": KnownModel(
        "codi",
        GPT2,
        6,
        "arXiv 2502.21074; github.com/zhenyi4/codi, scripts/test_gpt2.sh",
        accuracy=0.437,
    ),
    "zen-E/CODI-llama3.2-1b-Instruct": KnownModel(
        "codi",
        LLAMA_1B,
        6,
        "arXiv 2502.21074; github.com/zhenyi4/codi, scripts/train_llama1b_gsm8k-aug.sh",
        accuracy=0.556,
    ),
    "internlm/SIM_COT-GPT2-CODI": KnownModel("codi", GPT2, 6, _SIM_COT),
    "internlm/SIM_COT-LLaMA3-CODI-1B": KnownModel("codi", LLAMA_1B, 6, _SIM_COT),
    "internlm/SIM_COT-LLaMA3-CODI-3B": KnownModel(
        "codi", "meta-llama/Llama-3.2-3B-Instruct", 6, _SIM_COT
    ),
    "internlm/SIM_COT-LLaMA3-CODI-8B": KnownModel(
        "codi", "meta-llama/Llama-3.1-8B-Instruct", 6, _SIM_COT
    ),
    "internlm/SIM_COT-GPT2-Coconut": KnownModel(
        "coconut",
        GPT2,
        10,
        "arXiv 2509.20317; github.com/InternLM/SIM-CoT, Coconut/args/gsm_simcot.yaml: two thoughts "
        "in each of five stages (gsm_simcot_eval.yaml says resume: 3, which gives two thoughts)",
        lora_alpha=None,
        answer_prefix="###",
        accuracy=0.448,
    ),
    "bcywinski/codi_llama1b-answer_only": KnownModel(
        "codi",
        LLAMA_1B,
        6,
        "github.com/cywinski/codi, configs/llama1b_gsm8k-aug-nl.yaml and src/datasets.py: trained "
        "on bare numbers",
        prompt_eos=True,
        answer_prefix="",
        question_suffix=" Output only the answer and nothing else.",
    ),
    "connordilgren/gpt2-gsm8k-coconut": KnownModel(
        "coconut",
        GPT2,
        None,
        "arXiv 2604.04902; the model's page; facebookresearch/coconut's args/gsm_coconut.yaml "
        "ends with 6 thoughts",
        lora_alpha=None,
        answer_prefix="###",
    ),
}
"""By Hub id."""


def known_id(checkpoint: str | Path) -> str | None:
    """The id of a known model that a checkpoint is, if it is one.

    It is one if it is the id itself, a file of that repository (`id/file`), or a folder named like
    the id (`…/zen-E/CODI-gpt2`), as `hf download ID --local-dir ID` makes it, or a file in one.
    """
    parts = Path(checkpoint).parts
    for end in (len(parts), len(parts) - 1):
        name = "/".join(parts[max(0, end - 2) : end])
        if name in KNOWN_MODELS:
            return name
    return None
