"""What a checkpoint's file does not say, set by the user or by the table of known models."""

from __future__ import annotations

from dataclasses import dataclass

from codi_patching.models.loading.known import KnownModel


@dataclass(frozen=True)
class LoadOptions:
    """Choices for a checkpoint in a layout of others.

    Attributes:
        num_latents: K; None for the layout's own default, if it has one.
        lora_alpha: LoRA's alpha; None for the checkpoint's record, else `known_alpha`.
        known_alpha: The known model's; None for the layout's default.
        answer_prefix: Text before the answer; None for the layout's default, "" for none.
        prompt_eos: Whether the prompt ends with eos and bot, not bot alone.
        readout_eos: Whether eos follows eot.
        question_suffix: Text after every question.
    """

    num_latents: int | None = None
    lora_alpha: float | None = None
    answer_prefix: str | None = None
    prompt_eos: bool = False
    readout_eos: bool = False
    question_suffix: str = ""
    known_alpha: float | None = None


def choose_options(
    known: KnownModel | None,
    num_latents: int | None,
    lora_alpha: float | None,
    answer_prefix: str | None,
    prompt_eos: bool | None,
) -> LoadOptions:
    """What was set, and for the rest what the table says."""
    if known is None:
        eos = bool(prompt_eos)
        return LoadOptions(num_latents, lora_alpha, answer_prefix, eos, eos)
    return LoadOptions(
        known.num_latents if num_latents is None else num_latents,
        lora_alpha,
        known.answer_prefix if answer_prefix is None else answer_prefix,
        known.prompt_eos if prompt_eos is None else prompt_eos,
        known.readout_eos if prompt_eos is None else prompt_eos,
        known.question_suffix,
        known.lora_alpha,
    )
