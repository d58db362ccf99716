"""What the calls of a notebook have in common: runs without patches, and what is kept of them.

`Model` in `api` says what each call is; here is how questions become runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch

from codi_patching.data.pairs import Question
from codi_patching.errors import plain_text
from codi_patching.hand_runs import QuestionRun
from codi_patching.measuring.by_hand import NamedValues, shaped
from codi_patching.measuring.hand_input import check_choice
from codi_patching.measuring.hand_patches import (
    HandPatched,
    HandPatching,
    HandRequest,
    HandStart,
    words_of,
)
from codi_patching.measuring.kept_runs import KeptRuns
from codi_patching.measuring.own_cache import as_text
from codi_patching.measuring.preparation import Preparation
from codi_patching.measuring.prompts import Direction, Prompts
from codi_patching.models.accuracy import latent_answer_ids
from codi_patching.models.codi import CodiModel
from codi_patching.models.vocabulary import unknown_words
from codi_patching.patching.engine import Engine
from codi_patching.patching.interventions import (
    EXTRA_SITES,
    Activations,
    Latents,
    PlaceTokens,
    SiteName,
)

TOKENS = 8
"""Most tokens of an answer, where nothing else is said."""

_TOGETHER = 16
"""Pairs or questions that go through the model side by side."""

Item = TypeVar("Item")


class Calls:
    """Runs questions, and keeps what the next call may need again.

    Args:
        codi: The model.
        engine: That runs it.
    """

    def __init__(self, codi: CodiModel, engine: Engine) -> None:
        self.codi, self.engine = codi, engine
        self.kept, self.differentiable = KeptRuns(codi, engine), False

    @torch.no_grad()
    def run(self, questions: Sequence[Question]) -> list[QuestionRun]:
        """Questions without patches, some side by side."""
        hand = self.hand("recomputed", "denoising", EXTRA_SITES)
        found = []
        for group in groups(questions):
            starts = self.starts(hand, [hand.of_question(question, ()) for question in group])
            runs = [HandPatched(s, [], "recomputed", s.runs[0].run.answer_logits) for s in starts]
            for question, run, words in zip(group, runs, words_of(self.codi, runs, TOKENS)):
                say_unknown(self.codi, question.text)
                own = run.start.runs[0].run.activations()
                sites: tuple[SiteName, ...] = ("resid_post", *EXTRA_SITES)
                activations = {s: shaped(self.codi, own.of_site(s), s) for s in sites}
                found.append(
                    QuestionRun(question.text, words, own.thoughts, activations, self.codi)
                )
        return found

    def said(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens that the model says to some questions."""
        if len(texts) > 2:
            asked = [latent_answer_ids(self.codi, group, TOKENS) for group in groups(texts)]
            return [said for group in asked for said in group]
        ask = partial(latent_answer_ids, self.codi, max_tokens=TOKENS)
        return [self.once(("said", text), partial(ask, [text]))[0] for text in texts]

    def texts(self, texts: Sequence[str]) -> list[str]:
        """What the model says to some questions, in words."""
        return [as_text(self.codi, tokens) for tokens in self.said(texts)]

    def hand(
        self,
        latents: Latents,
        direction: Direction,
        record: Sequence[SiteName],
        outside: bool = False,
    ) -> HandPatching:
        """Runs patches by hand."""
        check_choice("latents", latents, Latents)
        check_choice("direction", direction, Direction)
        return HandPatching(
            model=self.codi,
            engine=self.engine,
            prompts=Prompts.of(self.codi, direction, self.engine),
            latents=latents,
            record=record,
            outside=outside,
        )

    def starts(self, hand: HandPatching, requests: Sequence[HandRequest]) -> list[HandStart]:
        """Unpatched runs; those of one question or pair are kept."""
        make = partial(hand.start, requests)
        if len(requests) > 1:
            return make()
        return self.once((tuple(requests), tuple(hand.record)), make)

    def once(self, key: Hashable, make: Callable[[], Item]) -> Item:
        """What was made under a key before, of the model as it is, else it is made."""
        return self.kept.of(key, make)

    def named(
        self,
        runs: Sequence[Activations],
        direction: Direction,
        record: Sequence[SiteName],
        questions: Sequence[Question],
        places: PlaceTokens | None = None,
        twin: Callable[[Question], Question | None] | None = None,
    ) -> NamedValues:
        """What names stand for beside a pair's base and source run, or a question's alone.

        Args:
            runs: The base run, then the source run.
            direction: Which of them is the clean question's.
            record: Sites beside `resid_post`.
            questions: What `"mean"` is taken over.
            places: Tokens of the places of the base run.
            twin: See `activations`.
        """
        own: dict[str, Activations] = {"base": runs[0]}
        if len(runs) > 1:
            clean, corrupted = (1, 0) if direction == "denoising" else (0, 1)
            own |= {"source": runs[1], "clean": runs[clean], "corrupted": runs[corrupted]}
        run = partial(self.activations, record=record, twin=twin)
        return NamedValues(run, own, questions, places=places or {})

    @torch.no_grad()
    def activations(
        self,
        questions: Sequence[Question],
        record: Sequence[SiteName],
        twin: Callable[[Question], Question | None] | None = None,
    ) -> Iterator[Activations]:
        """What the runs of questions have.

        Args:
            questions: The questions.
            record: Sites beside `resid_post`.
            twin: The question from which one differs in its number; without it places outside the
                thoughts are not recorded.

        Raises:
            PairError: One cannot be run.
        """
        prompts = Prompts.of(self.codi, "denoising", self.engine)
        if twin is not None:
            alone = Preparation(engine=self.engine, prompts=prompts, record=record, places=True)
            yield from (alone.activations_of(question, twin(question)) for question in questions)
            return
        for group in groups(questions):
            asked = [prompts.of_question(question) for question in group]
            for start in self.engine.unpatched(asked, record):
                yield start.run.activations()


def groups(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """So many as go through a model together."""
    for first in range(0, len(items), _TOGETHER):
        yield items[first : first + _TOGETHER]


def say_unknown(codi: CodiModel, *questions: str) -> None:
    """Warn of words that a model reads but never learned."""
    read = (*questions, codi.settings.answer_prefix)
    words = [word for text in read for word in unknown_words(codi.tokenizer, text)]
    if words:
        said = plain_text(", ".join(dict.fromkeys(words)))
        warnings.warn(
            f"the tokenizer does not know {said}: the model never learned what stands there",
            stacklevel=5,
        )
