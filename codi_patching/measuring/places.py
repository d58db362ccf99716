"""Where places outside the thoughts are in a run: which tokens of its prompt and its readout.

    prompt   … the changed number … question end, bot | z_0 .. z_{K-1} | eot, readout 1, …   answer
    token        -9 -8                       -2   -1                     K    K + 1

The number's tokens are found by its characters: a tokenizer may split it, or join it with a space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from codi_patching.data.pairs import Question
from codi_patching.measuring.prompts import PromptRequest
from codi_patching.models.answers import PairError
from codi_patching.models.codi import CodiModel
from codi_patching.patching.interventions import (
    BOT,
    EOT,
    NUMBER,
    QUESTION_END,
    Activations,
    PatchSet,
    PlaceError,
    PlaceTokens,
    on_tokens,
)

_WORD = re.compile(r"\d+(?:,\d+)*(?:\.\d+)?|\w+")
"""A number with its commas and decimals, or a word."""

BEFORE = (NUMBER, QUESTION_END, BOT)
"""Places of the prompt, in order."""


def readout_ids(model: CodiModel) -> list[int]:
    """Token ids of the readout before any answer: eot, and the answer prefix."""
    settings = model.settings
    prefix = model.tokenizer(settings.answer_prefix, add_special_tokens=False)
    return [*settings.eot_ids, *prefix["input_ids"]]


def after_names(model: CodiModel) -> tuple[str, ...]:
    """Names of the readout's places: `eot`, `readout 1`, …; the last stands before the answer."""
    return (EOT, *(f"readout {place}" for place in range(1, len(readout_ids(model)))))


def typical_places(model: CodiModel) -> PlaceTokens:
    """All places of a run whose number is one token, right before the question's last."""
    first = model.num_latents
    after = {name: (first + place,) for place, name in enumerate(after_names(model))}
    return {name: (place - len(BEFORE),) for place, name in enumerate(BEFORE)} | after


@dataclass(frozen=True)
class PlaceFinder:
    """Finds the places of runs.

    Attributes:
        model: The model that reads them.
    """

    model: CodiModel

    def of(self, request: PromptRequest, question: Question, other: Question | None) -> PlaceTokens:
        """The tokens of each place of a run, counted from its first thought.

        Args:
            request: Its prompt, and what is read after the thoughts.
            question: Its question.
            other: That differs from it in the changed number; without one no number is found.

        Raises:
            PairError: The readout is shorter than the model's.
        """
        (ids, readout), names = request, after_names(self.model)
        first, read = self.model.num_latents, len(readout.prefix)
        if read < len(names):
            raise PairError(f"expected a readout of at least {len(names)} tokens, got {read}")
        tokens = [*range(len(names) - 1), read - 1 if len(names) > 1 else 0]
        places = {name: [first + token] for name, token in zip(names, tokens, strict=True)}
        places |= {QUESTION_END: [-1 - len(self.model.settings.bot_ids)], BOT: [-1]}
        number = [] if other is None else self._number(question, other)
        if number:
            places[NUMBER] = [token - len(ids) for token in number]
        return {name: tuple(tokens) for name, tokens in places.items()}

    def _number(self, question: Question, other: Question) -> list[int]:
        """The tokens of a question's changed number, from the prompt's start."""
        text, twin = (self.model.question_text(each.text) for each in (question, other))
        start, end = changed_words(text, twin)
        encoding = self.model.tokenizer(text, return_offsets_mapping=True)
        spans = enumerate(encoding["offset_mapping"])
        return [token for token, (first, last) in spans if first < end and last > start]


def changed_words(text: str, other: str) -> tuple[int, int]:
    """The characters of the words, or numbers, in which a text differs from another.

    Example:
        >>> text, other = "He has 1,250 pears.", "He has 1,350 pears."
        >>> text[slice(*changed_words(text, other))]
        '1,250'
    """
    shorter = min(len(text), len(other))
    start = next((i for i in range(shorter) if text[i] != other[i]), shorter)
    left = shorter - start
    same = next((i for i in range(left) if text[-1 - i] != other[-1 - i]), left)
    end = len(text) - same
    touched = [w.span() for w in _WORD.finditer(text) if w.start() <= end and w.end() >= start]
    return (touched[0][0], touched[-1][1]) if touched else (start, start)


def at_places(
    patch_sets: Sequence[PatchSet], places: PlaceTokens
) -> tuple[list[PatchSet], dict[int, str]]:
    """Patches on the tokens of a run; those that it has no tokens for are left out.

    Args:
        patch_sets: Of many runs.
        places: Of the run that is patched.

    Returns:
        The patches, none for a run that is left out, and by its number why.
    """
    rows, left_out = list[PatchSet](), dict[int, str]()
    for run, patch_set in enumerate(patch_sets):
        try:
            rows.append(on_tokens(patch_set, places))
        except PlaceError as error:
            rows.append([])
            left_out[run] = str(error)
    return rows, left_out


def spread(activations: Activations, places: PlaceTokens) -> Activations:
    """The mean over a place's tokens at each of those that it has in another run.

    For zeros and for means over many runs, whose numbers have no tokens of their own.
    """
    own = {}
    for name, sites in activations.places.items():
        count = len(places.get(name, ()))
        own[name] = {
            site: values.mean(1, keepdim=True).repeat_interleave(count, 1)
            for site, values in sites.items()
        }
    recorded = activations.recorded
    return Activations(activations.thoughts, activations.resid, recorded, own)
