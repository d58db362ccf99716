"""What an engine is asked to run for a pair: its questions as tokens, its answers as a readout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from codi_patching.data.pairs import Pair, Question
from codi_patching.models.answers import PairError, build_readout, format_answer
from codi_patching.models.codi import CodiModel
from codi_patching.models.families import attention_window
from codi_patching.models.vocabulary import unknown_words
from codi_patching.patching.engine import Engine, Readout
from codi_patching.patching.sweep.run import SweepEngine

Direction = Literal["denoising", "noising"]

PromptRequest = tuple[list[int], Readout]
"""A prompt and what is read after the thoughts."""

NOTHING = Readout((), ())
"""The readout of a run of which only the activations are wanted."""


def roles(pair: Pair, direction: Direction) -> tuple[Question, Question]:
    """The question of the base run, which is patched, and that of the source run."""
    if direction == "denoising":
        return pair.corrupted, pair.clean
    return pair.clean, pair.corrupted


@dataclass(frozen=True)
class Prompts:
    """Makes requests for a model.

    Args:
        model: The model.
        direction: Which question is patched.
        limit: Most tokens of a run, of an engine that cannot follow a limited attention window.
    """

    model: CodiModel
    direction: Direction
    limit: int | None = None

    @classmethod
    def of(cls, model: CodiModel, direction: Direction, engine: Engine) -> Prompts:
        """Requests that an engine can run: the sweep takes no limited attention window."""
        swept = isinstance(engine, SweepEngine)
        return cls(model, direction, attention_window(model.backbone) if swept else None)

    def of_pair(self, pair: Pair) -> tuple[PromptRequest, PromptRequest]:
        """The base run and the source run, each read at both answers.

        Raises:
            PairError: One does not fit the model, an answer has a word that the tokenizer does not
                know, or the answers cannot be read at the same place.
        """
        base, source = roles(pair, self.direction)
        settings = self.model.settings
        for question in (base, source):
            answer = format_answer(question.answer)
            unknown = unknown_words(self.model.tokenizer, f"{settings.answer_prefix} {answer}")
            if unknown:
                raise PairError(
                    f"the answer {answer} has {', '.join(unknown)}, which the tokenizer does not "
                    "know"
                )
        readout = build_readout(
            self.model.tokenizer,
            settings.eot_ids,
            settings.answer_prefix,
            (base.answer, source.answer),
        )
        requests = self.of_question(base, readout), self.of_question(source, readout)
        if requests[0][0] == requests[1][0]:
            raise PairError("expected two different questions, got the same tokens for both")
        return requests

    def of_question(self, question: Question, readout: Readout = NOTHING) -> PromptRequest:
        """One question.

        Raises:
            PairError: It is longer than the model's context or attention window.
        """
        ids = self.model.prompt_ids(question.text)
        length = len(ids) + self.model.num_latents + len(readout.prefix)
        length += max((len(a) - 1 for a in readout.answers), default=0)
        self.model.check_length(length)
        if self.limit is not None and length > self.limit:
            raise PairError(
                f"expected at most {self.limit} tokens from prompt to answer, got {length}: the "
                "model's attention window, which the reference engine alone can pass"
            )
        return ids, readout

    def sources(self, pairs: Iterable[Pair]) -> list[Question]:
        """The source questions of pairs, those that can be run."""
        questions = (roles(pair, self.direction)[1] for pair in pairs)
        return [question for question in questions if self.fits(question)]

    def fits(self, question: Question) -> bool:
        """Whether a question can be run."""
        try:
            self.of_question(question)
        except PairError:
            return False
        return True
