"""Question pairs, and the questions of one."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

from codi_patching.data.chains import stated_result
from codi_patching.errors import InputError, brief
from codi_patching.models.number_text import parse_amount

_EXACT = 2**53
"""Whole numbers up to here are exact as floats."""


@dataclass
class Question:
    """A question with its numeric answer.

    Attributes:
        text: As it is asked.
        answer: A number; NaN, if it is not given, for what the model says.
        reasoning_steps: The calculation, such as `("<<16-3=13>>", "<<13*2=26>>")`, if known.
        num_steps: How many steps it takes, if known; those that are given, if any are.

    Raises:
        InputError: The text is none or has control characters, or the answer is no number.

    Example:
        >>> Question("Tom has 16 pears. He eats 3.", "$13", ("<<16-3=13>>",)).answer
        13.0
    """

    text: str
    answer: float = math.nan
    reasoning_steps: tuple[str, ...] = ()
    num_steps: int | None = None

    def __post_init__(self) -> None:
        """What is given is made plain, or refused; steps that are given are counted."""
        if not isinstance(self.text, str):
            raise InputError(f"expected a question as text, got {brief(self.text)}")
        categories = {c: unicodedata.category(c) for c in set(self.text) - set("\t\n\r")}
        odd = next((c for c in self.text if categories.get(c) in ("Cc", "Cs")), None)
        if odd is not None:
            raise InputError(f"expected text, got a control character {odd!r} in question")
        given = self.answer
        if not (given is None or (isinstance(given, float) and math.isnan(given))):
            self.answer = as_answer(given)
        else:
            self.answer = math.nan
        if isinstance(self.reasoning_steps, str):
            raise InputError(
                f"expected reasoning_steps to be a list of steps, got {brief(self.reasoning_steps)}"
            )
        self.reasoning_steps = tuple(self.reasoning_steps)
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
        """A typed question is one; a pair is its own group by default."""
        self.clean, self.corrupted = as_question(self.clean), as_question(self.corrupted)
        if self.sibling is not None:
            self.sibling = as_question(self.sibling)
        self.pair_id = str(self.pair_id)
        self.group = self.group or self.pair_id

    @classmethod
    def of(
        cls,
        clean: str | Question,
        corrupted: str | Question,
        clean_answer: float | str = math.nan,
        corrupted_answer: float | str = math.nan,
    ) -> Pair:
        """A pair of two typed questions; without answers, those that the model gives are taken.

        Raises:
            InputError: A question is no text, or an answer no number.

        Example:
            >>> Pair.of("Tom has 5 pears.", "Tom has 7 pears.", 5, "7").corrupted.answer
            7.0
        """
        questions = as_question(clean, clean_answer), as_question(corrupted, corrupted_answer)
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


def as_question(given: Any, answer: Any = math.nan) -> Question:
    """A question, of text where it is none yet; one that has an answer keeps it.

    Raises:
        InputError: It is neither.
    """
    if not isinstance(given, Question):
        return Question(given, answer)
    typed = Question(given.text, answer).answer
    return given if math.isnan(typed) else replace(given, answer=typed)


def as_answer(given: Any) -> float:
    """A number, or the text of one: `18`, `"18.0"`, `"1,430"`, `"$18"`, `"… #### 18"`.

    Raises:
        InputError: It is none, or too large to be exact.
    """
    number = given
    if isinstance(given, str):
        number = parse_amount(given.rpartition("####")[2])
    elif getattr(given, "shape", None) == ():  # of numpy or torch
        number = given.item()
    value = math.nan
    if isinstance(number, Real) and not isinstance(number, bool):
        with suppress(OverflowError):
            value = float(number)
    if not math.isfinite(value):
        raise InputError(f"expected answer to be a finite number, got {brief(given)}")
    if abs(value) > _EXACT:
        raise InputError(f"expected answer to be at most 2^53 in size, got {brief(given)}")
    return value


def _plain(question: Question) -> list[str]:
    """A question's steps without spaces, or commas in numbers."""
    return [re.sub(r"[\s,]", "", step) for step in question.reasoning_steps]


def split_equal(pairs: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    """The pairs whose two answers differ, and the ids of the others."""
    kept = [pair for pair in pairs if pair.clean.answer != pair.corrupted.answer]
    dropped = [pair.pair_id for pair in pairs if pair.clean.answer == pair.corrupted.answer]
    return kept, dropped
