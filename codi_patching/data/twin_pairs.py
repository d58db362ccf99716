"""Pairs of a question and its twin, with a sibling for the control where one can be made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from random import Random
from typing import Any

from codi_patching.data.chained_questions import ChainedQuestion
from codi_patching.data.chains import ChainError
from codi_patching.data.explained import Reading, changed_step, read_question
from codi_patching.data.twins import Variant, changeable_numbers, variants

_TRIED = 400
"""New numbers tried for one place: far more than a whole number of a question ever needs."""


@dataclass(frozen=True)
class Side:
    """One question of a pair.

    Attributes:
        text: As it is asked.
        steps: Its calculation, as `<<16-3=13>>`.
        answer: A number.
    """

    text: str
    steps: tuple[str, ...]
    answer: Fraction

    def as_record(self) -> dict[str, Any]:
        """As a file of pairs has it."""
        whole = self.answer.denominator == 1
        return {
            "question": self.text,
            "answer": int(self.answer) if whole else float(self.answer),
            "reasoning_steps": list(self.steps),
        }


@dataclass(frozen=True)
class TwinPair:
    """A question, its twin, and a third one with yet another number in the same place.

    Attributes:
        pair_id: Names it.
        group: The question that it was made of, which other pairs may share.
        clean: The question as published.
        corrupted: With another number.
        sibling: With a third number and a third answer; None where there is none.
        changed_step: The step, from 1, that the number enters.
    """

    pair_id: str
    group: str
    clean: Side
    corrupted: Side
    sibling: Side | None
    changed_step: int

    def without_sibling(self) -> TwinPair:
        """The same pair, its sibling left out."""
        return replace(self, sibling=None)

    def as_record(self) -> dict[str, Any]:
        """As a file of pairs has it."""
        record = {
            "pair_id": self.pair_id,
            "group": self.group,
            "changed_step": self.changed_step,
            "clean": self.clean.as_record(),
            "corrupted": self.corrupted.as_record(),
        }
        if self.sibling is not None:
            record["sibling"] = self.sibling.as_record()
        return record


def make_twin_pairs(
    questions: Iterable[ChainedQuestion], seed: int = 0, per_question: int = 1
) -> tuple[list[TwinPair], Counter[str]]:
    """Make twins of questions, refusing rather than guessing.

    Args:
        questions: With calculation chains.
        seed: Decides between numbers that may be changed, and between up and down.
        per_question: At most so many pairs of one question, each changing another number.

    Returns:
        The pairs, in the order of the questions, and how many questions have none, by reason.
    """
    pairs: list[TwinPair] = []
    reasons: Counter[str] = Counter()
    seen: set[str] = set()
    for question in questions:
        if question.text in seen:
            reasons["the same text as an earlier question"] += 1
            continue
        seen.add(question.text)
        try:
            pairs += _pairs_of(question, seed, per_question)
        except ChainError as error:
            reasons[str(error)] += 1
    return pairs, reasons


def _pairs_of(question: ChainedQuestion, seed: int, per_question: int) -> list[TwinPair]:
    """Pairs of one question, those with siblings first.

    Raises:
        ChainError: There is none, and why.
    """
    reading = read_question(question)
    rng = Random(f"{seed} {question.question_id}")
    places, reasons = changeable_numbers(reading)
    if not places:
        counted = Counter(reason for reason in reasons if "such as half" not in reason)
        common = counted.most_common(1)[0][0] if counted else "it has no number but fixed ones"
        raise ChainError(f"no number may be changed, mostly: {common}")
    rng.shuffle(places)
    found = [(place, _twin_and_sibling(reading, place, rng)) for place in places]
    fitting = sorted((f for f in found if f[1]), key=lambda f: -len(f[1]))[:per_question]
    if not fitting:
        raise ChainError("no other number gives a sound calculation")
    clean = Side(question.text, question.steps, question.answer)
    name = question.question_id
    return [
        TwinPair(
            name if number == 1 else f"{name}.{number}",
            name,
            clean,
            _side(twins[0]),
            _side(twins[1]) if len(twins) > 1 else None,
            changed_step(reading, place),
        )
        for number, (place, twins) in enumerate(fitting, 1)
    ]


def _twin_and_sibling(reading: Reading, place: int, rng: Random) -> list[Variant]:
    """Up to two variants whose answers differ from the question's and from each other."""
    found: list[Variant] = []
    for variant in islice(variants(reading, place, rng), _TRIED):
        if all(variant.answer != other.answer for other in found):
            found.append(variant)
        if len(found) == 2:
            break
    return found


def _side(variant: Variant) -> Side:
    return Side(variant.text, variant.steps, variant.answer)


def yield_report(questions: int, pairs: Sequence[TwinPair], reasons: Counter[str]) -> list[str]:
    """How many questions gave pairs, and why the others did not."""
    groups = len({pair.group for pair in pairs})
    siblings = len({pair.group for pair in pairs if pair.sibling is not None})
    lines = [
        f"{questions:,} questions: {groups:,} have a twin ({groups / max(questions, 1):.0%}), "
        f"{siblings:,} of them a sibling too; {len(pairs):,} pairs"
    ]
    return lines + [f"{count:>7,}  {reason}" for reason, count in reasons.most_common()]
