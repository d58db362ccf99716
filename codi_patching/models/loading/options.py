"""What a checkpoint's file does not say, set by the user or by the table of known models."""

from __future__ import annotations

from dataclasses import dataclass

from codi_patching.errors import InputError, brief, path_text, whole_number
from codi_patching.models.loading.adapter import check_alpha
from codi_patching.models.loading.known import KnownModel


@dataclass(frozen=True)
class Asked:
    """What a user asks for; None for what the checkpoint or the table says.

    Attributes:
        checkpoint: Name, id, folder or file.
        num_latents: K.
        base_model: Id or folder that gives config and tokenizer.
        lora_alpha: LoRA's alpha.
        prompt_eos: Whether eos stands before bot and after eot.
        answer_prefix: Text before the answer, "" for none.
    """

    checkpoint: str
    num_latents: int | None = None
    base_model: str | None = None
    lora_alpha: float | None = None
    prompt_eos: bool | None = None
    answer_prefix: str | None = None

    def __post_init__(self) -> None:
        """Check every value that was given."""
        if self.base_model is not None:
            object.__setattr__(self, "base_model", path_text(self.base_model, "model.base_model"))
        if self.num_latents is not None:
            number = whole_number(self.num_latents, "model.num_latents")
            object.__setattr__(self, "num_latents", number)
        if self.lora_alpha is not None:
            check_alpha(self.lora_alpha, "lora_alpha", ": set [[model.lora_alpha]]")
        for name, kind, what in (
            ("answer_prefix", str, "text"),
            ("prompt_eos", bool, "true or false"),
        ):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise InputError(
                    f"expected {name} to be {what}, got {brief(value)}: set [[model.{name}]]"
                )


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


def choose_options(known: KnownModel | None, asked: Asked) -> LoadOptions:
    """What was set, and for the rest what the table says."""
    if known is None:
        both = bool(asked.prompt_eos)
        return LoadOptions(asked.num_latents, asked.lora_alpha, asked.answer_prefix, both, both)
    eos, prefix = asked.prompt_eos, asked.answer_prefix
    return LoadOptions(
        num_latents=known.num_latents if asked.num_latents is None else asked.num_latents,
        lora_alpha=asked.lora_alpha,
        answer_prefix=known.answer_prefix if prefix is None else prefix,
        prompt_eos=known.prompt_eos if eos is None else eos,
        readout_eos=known.readout_eos if eos is None else eos,
        question_suffix=known.question_suffix,
        known_alpha=known.lora_alpha,
    )
