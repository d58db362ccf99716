"""What patching by hand needs beside the experiments: values by name, and an answer in words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from codi_patching.data.pairs import Pair, Question
from codi_patching.errors import InputError
from codi_patching.measuring.sources import mean_activations
from codi_patching.models.accuracy import latent_answers
from codi_patching.models.codi import CodiModel
from codi_patching.models.number_text import first_number
from codi_patching.patching.engine import Engine, Readout
from codi_patching.patching.interventions import (
    Activations,
    Computed,
    Latents,
    Patch,
    Site,
    SiteName,
)

Value = str | Question | Activations | Tensor | Callable[[Tensor], Tensor]
"""What is patched in: a name of `NAMES`; what another question's run has there; a tensor; or a
function of what the patched run has there."""

NAMES = ("source", "clean", "corrupted", "zero", "mean")
"""The source run's activations, those of the pair's two questions, zeros, a mean over questions."""

_MAX_TOKENS = 8


@dataclass(frozen=True)
class NamedValues:
    """The activations that a name or a question stands for.

    Attributes:
        run: Activations of a question.
        own: Those of the pair's runs: `source`, `clean`, `corrupted`.
        questions: What `"mean"` is taken over.
    """

    run: Callable[[Question], Activations]
    own: Mapping[str, Activations]
    questions: Sequence[str] = ()

    def of(self, value: str | Question | Activations) -> Activations:
        """The activations.

        Raises:
            InputError: No such name, a mean without questions, or a question that cannot be run.
        """
        if isinstance(value, Activations):
            return value
        if isinstance(value, Question):
            return self.run(value)
        if value in self.own:
            return self.own[value]
        if value == "zero":
            return Activations.zeros_like(self.own["source"])
        if value != "mean":
            near = difflib.get_close_matches(value, NAMES, 1, 0.0)[0]
            raise InputError(
                f"expected a value of {', '.join(NAMES)}, got {value!r}: did you mean {near!r}? "
                "Another question is given as Question(text)"
            )
        if not self.questions:
            raise InputError("expected questions to take the mean over: set [[questions]]")
        return mean_activations(self.run(Question(text)) for text in self.questions)


def with_answers(model: CodiModel, pair: Pair) -> Pair:
    """A pair with the model's answers where there are none.

    Raises:
        InputError: It says no number, or the same for both.
    """
    questions = {name: getattr(pair, name) for name in ("clean", "corrupted")}
    for name, question in questions.items():
        if math.isnan(question.answer):
            said = latent_answers(model, [question.text])[0]
            number = first_number(said)
            if number is None:
                raise InputError(
                    f"expected a number as the answer to {question.text!r}, got "
                    f"{said!r}: give the answers to Pair.of"
                )
            questions[name] = replace(question, answer=float(number))
    if questions["clean"].answer == questions["corrupted"].answer:
        raise InputError(
            f"expected two different answers, got {questions['clean'].answer:g} "
            "for both: give the answers to Pair.of, or change the questions"
        )
    return replace(pair, **questions)


def shaped(model: CodiModel, values: Tensor, site: SiteName) -> Tensor:
    """Keys and values `(…, 2, heads, size)`; everything else as it is."""
    if site != "kv":
        return values
    config = model.backbone.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return values.unflatten(-1, (2, heads, -1))


def as_values(model: CodiModel, site: Site, value: Any, named: NamedValues) -> Tensor | Computed:
    """What an engine patches a site with.

    Raises:
        InputError: A tensor is not of the site's size, or the value is of no known kind.
    """
    there = named.own["source"].at(*site.cell, site.name)
    if isinstance(value, str | Question | Activations):
        return named.of(value).at(*site.cell, site.name)
    if isinstance(value, Tensor):
        if value.numel() != there.numel():
            raise InputError(
                f"expected {there.numel()} numbers for {site}, got {tuple(value.shape)}"
            )
        return value.to(there).flatten()
    if not callable(value):
        raise InputError(
            f"expected a name, a question, a tensor or a function as a value, got {value!r}"
        )

    def of_present(present: Tensor) -> Tensor:
        changed = value(shaped(model, present.clone(), site.name))
        if not isinstance(changed, Tensor) or changed.numel() != there.numel():
            raise InputError(
                f"expected a function that gives {there.numel()} numbers for {site}, got "
                f"{tuple(changed.shape) if isinstance(changed, Tensor) else changed!r}"
            )
        return changed.to(present).reshape(-1)

    return Computed(of_present)


def say(
    engine: Engine,
    model: CodiModel,
    prompt: Sequence[int],
    row: Sequence[Patch],
    latents: Latents,
    record: Sequence[SiteName],
) -> str:
    """What a patched run answers, its most probable token at a time."""
    settings = model.settings
    prefix = model.tokenizer(settings.answer_prefix, add_special_tokens=False)["input_ids"]
    said: list[int] = []
    read = len(prompt) + model.num_latents + len(settings.eot_ids) + len(prefix)
    while len(said) < min(_MAX_TOKENS, model.context_length - read + 1):
        readout = Readout((*settings.eot_ids, *prefix), ((*said, settings.eos_id),))
        start = engine.unpatched([(prompt, readout)], record)[0]
        logits = engine.patched(start, [row], latents).answer_logits[0]
        token = int(logits[0, -1].argmax())
        if token == settings.eos_id:
            break
        said.append(token)
    return model.tokenizer.decode(said, skip_special_tokens=True).strip()
