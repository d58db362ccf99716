"""Question pairs, and the questions of one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from codi_patching.data.chains import stated_result


@dataclass
class Question:
    """A question with its numeric answer.

    Attributes:
        text: As it is asked.
        answer: A number; NaN, if it is not given, for what the model says.
        reasoning_steps: The calculation, such as `("<<16-3=13>>", "<<13*2=26>>")`, if known.
        num_steps: How many steps it takes, if known; those that are given, if any are.
    """

    text: str
    answer: float = math.nan
    reasoning_steps: tuple[str, ...] = ()
    num_steps: int | None = None

    def __post_init__(self) -> None:
        """Steps that are given are counted."""
        if self.reasoning_steps:
            self.num_steps = len(self.reasoning_steps)


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
        fields: What else the file says of the pair, as text: `{"template": "shop"}`.
    """

    pair_id: str
    clean: Question
    corrupted: Question
    sibling: Question | None = None
    group: str = ""
    fields: dict[str, str] = field(default_factory=dict)

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
    def num_steps(self) -> int | None:
        """How many reasoning steps the clean question takes, if known."""
        return self.clean.num_steps

    @property
    def changed_step(self) -> int | None:
        """The first step that uses the changed number, from 1, if known.

        It is the first one that differs between the two questions.
        """
        steps = zip(_plain(self.clean), _plain(self.corrupted), strict=False)
        return next((i for i, (one, other) in enumerate(steps, 1) if one != other), None)

    @property
    def changed_path(self) -> tuple[int, ...]:
        """The steps whose results differ between the two questions, from 1: where the change goes.

        Of a chain that branches, those of the branches that it does not enter are left out.

        Example:
            >>> clean = Question("…", 20, ("<<5*2=10>>", "<<4*3=12>>", "<<10+12-2=20>>"))
            >>> corrupted = Question("…", 22, ("<<6*2=12>>", "<<4*3=12>>", "<<12+12-2=22>>"))
            >>> Pair("a", clean, corrupted).changed_path
            (1, 3)
        """
        results = (
            [stated_result(step) for step in question.reasoning_steps]
            for question in (self.clean, self.corrupted)
        )
        both = zip(*results, strict=False)
        return tuple(i for i, (one, other) in enumerate(both, 1) if one != other)


def _plain(question: Question) -> list[str]:
    """A question's steps without spaces, or commas in numbers."""
    return [re.sub(r"[\s,]", "", step) for step in question.reasoning_steps]


def split_equal(pairs: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    """The pairs whose two answers differ, and the ids of the others."""
    kept = [pair for pair in pairs if pair.clean.answer != pair.corrupted.answer]
    dropped = [pair.pair_id for pair in pairs if pair.clean.answer == pair.corrupted.answer]
    return kept, dropped
