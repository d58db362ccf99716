"""How a measured accuracy compares with the published one, and what usually lies behind a gap."""

from __future__ import annotations

import math

from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import LoadReport
from codi_patching.models.loading.known import KNOWN_MODELS, KnownModel

TOLERANCE = 0.03
"""A gap of more than this is spoken of."""

GSM8K_TEST = 1319


def compare_with_published(
    model: CodiModel, report: LoadReport, accuracy: float, questions: int
) -> list[str]:
    """What to say about a measured accuracy; nothing about a model that the table does not know.

    Args:
        model: That was evaluated.
        report: Of its loading.
        accuracy: Fraction of right answers with its own thoughts.
        questions: How many were asked.
    """
    known = KNOWN_MODELS.get(report.known_as or "")
    if known is None:
        return []
    if known.accuracy is None:
        return [f"no published accuracy of {report.known_as} is known here ({known.source})"]
    gap = accuracy - known.accuracy
    lines = [
        f"published for {report.known_as}: {known.accuracy:.1%} on GSM8K's {GSM8K_TEST:,} test "
        f"questions ({known.source}); measured {abs(gap) * 100:.1f} points "
        f"{'higher' if gap > 0 else 'lower'}"
    ]
    if abs(gap) <= TOLERANCE:
        return lines
    lines.append(f"more than {TOLERANCE * 100:.0f} points: what usually lies behind it")
    return lines + [f"  - {cause}" for cause in causes(model, report, known, questions)]


def causes(model: CodiModel, report: LoadReport, known: KnownModel, questions: int) -> list[str]:
    """Possible reasons for a gap, those that are certain to be there first."""
    found = _deviations(model, report, known)
    if questions != GSM8K_TEST:
        accuracy = known.accuracy or 0.5
        chance = 1.96 * math.sqrt(accuracy * (1 - accuracy) / max(questions, 1))
        found.append(
            f"{questions:,} questions, not the {GSM8K_TEST:,} of GSM8K's test set: up to "
            f"{chance * 100:.0f} points by chance alone, more if they are of another kind"
        )
    if known.layout == "codi":
        found.append(
            f"LoRA's alpha: trained with {known.lora_alpha:g}, which the published code's default "
            "(16) is not: --lora_alpha"
        )
    found += [
        f"config or tokenizer of another model than {known.base_model} (a Llama prompt begins "
        "with one <|begin_of_text|>): --base_model",
        "evaluations that batch without the mask after the question, or keep the last number of "
        "a text, differ by a point or two; bfloat16 by about one",
    ]
    return found


def _deviations(model: CodiModel, report: LoadReport, known: KnownModel) -> list[str]:
    """What is set otherwise than the published evaluation sets it."""
    settings = model.settings
    found = []
    if known.num_latents is not None and settings.num_latents != known.num_latents:
        found.append(
            f"{settings.num_latents} thoughts, where the published evaluation has "
            f"{known.num_latents}: leave out --num_latents"
        )
    if None not in (known.lora_alpha, report.lora_alpha) and report.lora_alpha != known.lora_alpha:
        found.append(
            f"LoRA's alpha {report.lora_alpha:g}, where training had {known.lora_alpha:g}: leave "
            "out --lora_alpha"
        )
    if settings.answer_prefix != known.answer_prefix:
        found.append(
            f"the answer prefix {settings.answer_prefix!r}, where training had "
            f"{known.answer_prefix!r}: leave out --answer_prefix"
        )
    if (len(settings.bot_ids) > 1) != known.prompt_eos:
        found.append("another ending of the prompt than in training: leave out --prompt_eos")
    return found
