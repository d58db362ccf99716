"""Question pairs, and the questions of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Question:
    """A question with its numeric answer.

    Attributes:
        text: As it is asked.
        answer: A number; NaN for what the model says.
        reasoning_steps: The calculation, such as `("<<16-3=13>>", "<<13*2=26>>")`, if known.
    """

    text: str
    answer: float
    reasoning_steps: tuple[str, ...] = ()


@dataclass
class Pair:
    """A clean and a corrupted question that differ in one number.

    Attributes:
        pair_id: Names the pair in results.
        clean: One question.
        corrupted: Its twin.
        sibling: The same text with yet another number in that place and another answer, if there
            is one; a control.
        group: Pairs of one group share a question; the pair's own id if not given.
    """

    pair_id: str
    clean: Question
    corrupted: Question
    sibling: Question | None = None
    group: str = ""

    def __post_init__(self) -> None:
        """A pair is its own group by default."""
        self.group = self.group or self.pair_id

    @classmethod
    def of(
        cls,
        clean: str,
        corrupted: str,
        clean_answer: float = math.nan,
        corrupted_answer: float = math.nan,
    ) -> Pair:
        """A pair of two typed questions; without answers, those that the model gives are taken.

        Example:
            >>> Pair.of("Tom has 5 pears.", "Tom has 7 pears.", 5, 7).corrupted.answer
            7
        """
        questions = Question(clean, clean_answer), Question(corrupted, corrupted_answer)
        return cls("typed", *questions)

    @property
    def changed_step(self) -> int | None:
        """The first reasoning step that differs between the two questions, from 1, if known."""
        steps = zip(self.clean.reasoning_steps, self.corrupted.reasoning_steps)
        return next((i for i, (one, other) in enumerate(steps, 1) if one != other), None)


def split_equal(pairs: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    """The pairs whose two answers differ, and the ids of the others."""
    kept = [pair for pair in pairs if pair.clean.answer != pair.corrupted.answer]
    dropped = [pair.pair_id for pair in pairs if pair.clean.answer == pair.corrupted.answer]
    return kept, dropped
