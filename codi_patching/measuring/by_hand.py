"""What patching by hand needs beside the experiments: values by name, and an answer in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi_patching.data.pairs import Pair, Question, as_question
from codi_patching.errors import InputError, brief
from codi_patching.measuring.places import spread
from codi_patching.measuring.sources import mean_activations
from codi_patching.models.codi import CodiModel
from codi_patching.models.number_text import first_number
from codi_patching.patching.interventions import (
    Activations,
    Computed,
    PlaceTokens,
    Site,
    SiteName,
)

Value = str | Question | Activations | Tensor | np.ndarray[Any, Any] | Callable[[Tensor], Tensor]
"""What is patched in: a name of `NAMES`; what another question's run has there; numbers; or a
function of what the patched run has there."""

NAMES = ("source", "base", "clean", "corrupted", "zero", "mean", "random_pair")
"""Activations of the source and the base run, of the pair's two questions, zeros, the mean over
other questions, those of the first of them."""


@dataclass(frozen=True)
class NamedValues:
    """The activations that a name or a question stands for.

    Attributes:
        run: Activations of questions, one after the other.
        own: Those of the pair's runs: `source`, `base`, `clean`, `corrupted`; of a question `base`
            alone; of another pair, if there is one, `random_pair`.
        questions: What `"mean"` is taken over, and `"random_pair"` is the first of otherwise.
        made: What was run so far, by question or name: each once for all sites and pairs.
        places: Tokens of the places of the run that is patched; none if it is at thoughts alone.
    """

    run: Callable[[Sequence[Question]], Iterator[Activations]]
    own: Mapping[str, Activations]
    questions: Sequence[Question] = ()
    made: dict[str, Activations] = field(default_factory=dict)
    places: PlaceTokens = field(default_factory=dict)

    def of(self, value: Any) -> Activations:
        """The activations.

        Raises:
            InputError: No such name, a mean of no questions, a question that cannot be run, or
                activations of another model.
        """
        if isinstance(value, Activations):
            own = self.own["base"]
            if value.resid.shape != own.resid.shape:
                raise InputError(
                    "expected a run of this model, with layers, thoughts and hidden size "
                    f"{tuple(own.resid.shape)}, got {tuple(value.resid.shape)}"
                )
            return value.map(lambda values: values.to(own.resid))
        if isinstance(value, Question):
            return self._once(f"question {value.text}", lambda: next(self.run([value])))
        if not isinstance(value, str):
            raise InputError(
                f"expected a name ({', '.join(NAMES)}), a question or a run, got {brief(value)}"
            )
        return self._of_name(value)

    def _of_name(self, value: str) -> Activations:
        """What one of `NAMES` stands for."""
        if value in self.own:
            return self.own[value]
        if value == "zero":
            return spread(Activations.zeros_like(self.own["base"]), self.places)
        if value in ("source", "clean", "corrupted"):
            raise InputError(
                f"expected a pair to take {value!r} activations from, got a question alone: "
                "set [[value]] to numbers, a function, a run or another question"
            )
        if value not in NAMES:
            raise InputError(
                f"expected a value of {', '.join(NAMES)}, got {brief(value)}: {_meant(value)}"
                "another question is given as Question(text)"
            )
        if not self.questions:
            what = "questions to take the mean over" if value == "mean" else "another question"
            raise InputError(f"expected {what}: set [[questions]]")
        if value == "random_pair":
            return self.of(self.questions[0])
        return spread(self._once(value, self._mean), self.places)

    def _mean(self) -> Activations:
        """Over the questions; of a place's tokens it is their mean, as of one token.

        Raises:
            InputError: None has all the places.
        """
        one = dict.fromkeys(self.places, (0,))
        runs = (run for run in self.run(self.questions) if run.places.keys() == one.keys())
        first = next(runs, None)
        if first is None:
            raise InputError(
                "expected questions that differ from the patched one in its number, got none to "
                "take the mean over: set [[questions]]"
            )
        return mean_activations(spread(run, one) for run in chain([first], runs))

    def _once(self, key: str, make: Callable[[], Activations]) -> Activations:
        """What was made of it before, else it is made."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def _meant(name: str) -> str:
    """What was probably meant by a name that is none."""
    close = get_close_matches(name.lower(), NAMES, 1)
    return f"did you mean {close[0]!r}? Else " if close else ""


def as_questions(given: Any) -> list[Question]:
    """Questions, of texts where they are none yet; one alone too.

    Raises:
        InputError: One is neither.
    """
    one = isinstance(given, str | Question) or not isinstance(given, Iterable)
    return [as_question(each) for each in ([given] if one else given)]


def as_tensor(value: Any) -> Any:
    """Numbers of numpy, or a list of numbers, as a tensor; anything else as it is.

    Raises:
        InputError: An array holds something else than real numbers.
    """
    listed = isinstance(value, list | tuple) and len(value) > 0
    if listed and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        return torch.tensor(value, dtype=torch.float64)
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "iuf":
            raise InputError(f"expected an array of real numbers, got one of {value.dtype}")
        return torch.from_numpy(np.array(value))
    return value


def with_answers(pair: Pair, said: Callable[[Sequence[str]], Sequence[str]]) -> Pair:
    """A pair with the model's answers where there are none.

    Args:
        pair: The pair.
        said: What the model says to some questions.

    Raises:
        InputError: It says no number, or the same for both.
    """
    both = {name: getattr(pair, name) for name in ("clean", "corrupted")}
    missing = [name for name, question in both.items() if math.isnan(question.answer)]
    texts = said([both[name].text for name in missing]) if missing else []
    for name, text in zip(missing, texts, strict=True):
        number = first_number(text)
        if number is None:
            raise InputError(
                f"expected a number as the answer to {both[name].text!r}, got "
                f"{text!r}: give the answers to Pair.of"
            )
        both[name] = replace(both[name], answer=float(number))
    if both["clean"].answer == both["corrupted"].answer:
        raise InputError(
            f"expected two different answers, got {both['clean'].answer:g} "
            "for both: give the answers to Pair.of, or change the questions"
        )
    return replace(pair, **both)


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
    there = _recorded(named.own["base"], site)
    if isinstance(site.position, str) and callable(value):
        there = there[0]  # a function is of each token alone
    shapes = [tuple(each.shape) for each in (shaped(model, there, site.name), there)]
    shape = shapes[0]

    def fitted(numbers: Any, what: str) -> Tensor:
        numbers = as_tensor(numbers)
        if not isinstance(numbers, Tensor) or numbers.is_complex():
            raise InputError(f"expected {what} of {shape} for {site}, got {brief(numbers)}")
        given = tuple(numbers.shape)
        while len(given) > 1 and given[0] == 1:
            given = given[1:]
        known = [own[1:] if own[0] == 1 and len(own) > 1 else own for own in shapes]
        if given not in known:
            raise InputError(f"expected {what} of {shape} for {site}, got {tuple(numbers.shape)}")
        fitting = numbers.to(there).reshape(there.shape)
        # An engine takes values at one address for one value, with one history of gradients.
        return fitting.clone() if torch.is_grad_enabled() else fitting

    value = as_tensor(value)
    if isinstance(value, str | Question | Activations):
        return _recorded(named.of(value), site)
    if isinstance(value, Tensor):
        return fitted(value, "numbers")
    if not callable(value) or isinstance(value, type):
        raise InputError(
            "expected a name, a question, a tensor or a function as a value, got " + brief(value)
        )
    return Computed(
        lambda present: fitted(
            value(shaped(model, present.clone(), site.name)), "a function that gives numbers"
        )
    )


def _recorded(activations: Activations, site: Site) -> Tensor:
    """The activation of a site.

    Raises:
        InputError: A run does not have it, as one of a single question has no changed number.
    """
    try:
        return activations.of(site)
    except ValueError as error:
        raise InputError(f"{error}: give the question itself, of the pair's wording") from None
