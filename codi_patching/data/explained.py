"""Questions whose calculation is explained: where each of its numbers comes from.

A number of a calculation is an earlier result, a number of the text in one of its forms, or a
constant that the question's words license. A question with any other is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from codi_patching.data.chained_questions import ChainedQuestion
from codi_patching.data.chains import ChainError, Step, parse_chain
from codi_patching.data.change_rules import why_not_asked
from codi_patching.data.constants import licensed_constants
from codi_patching.data.mentions import Mention, find_mentions

_SMALL = 3
"""A number of the text up to here may stay out of the calculation."""

RESULT, TEXT, CONSTANT = "result", "text", "constant"


@dataclass(frozen=True)
class Source:
    """Where an operand can come from: a result, a number of the text in one form, a constant."""

    kind: str
    index: int = 0
    form: str = ""


@dataclass(frozen=True)
class Reading:
    """A question whose calculation is explained.

    Attributes:
        question: As published.
        chain: Its steps.
        mentions: The numbers of its text.
        sources: For each step and operand, all the places it can come from.
    """

    question: ChainedQuestion
    chain: list[Step]
    mentions: list[Mention]
    sources: list[list[list[Source]]]


def read_question(question: ChainedQuestion) -> Reading:
    """Explain every number of a question's calculation.

    Raises:
        ChainError: One cannot be explained, or the question does not lend itself to a twin.
    """
    reason = why_not_asked(question.text)
    if reason:
        raise ChainError(reason)
    if not question.steps:
        raise ChainError("no calculation chain")
    chain = parse_chain(question.steps)
    if chain[-1].result != question.answer:
        raise ChainError("the last result is not the answer")
    sources = _all_sources(question.text, chain)
    reading = Reading(question, chain, find_mentions(question.text), sources)
    _check_explained(reading)
    return reading


def check_chain(text: str, steps: Sequence[str], answer: float) -> None:
    """Refuse a chain that does not lead from a question to its answer; results may be rounded.

    Raises:
        ChainError: A step does not give its result, a number comes from nowhere, a result is not
            used, or the last one is not the answer.
    """
    chain = parse_chain(steps, rounded=True)
    if not chain or float(chain[-1].result) != answer:
        raise ChainError("the last result is not the answer")
    _used(_all_sources(text, chain))


def _all_sources(text: str, chain: Sequence[Step]) -> list[list[list[Source]]]:
    """For each step and operand, all the places it can come from."""
    mentions, constants = find_mentions(text), licensed_constants(text)
    return [
        [_sources(operand.value, chain[:step], mentions, constants) for operand in each.operands]
        for step, each in enumerate(chain)
    ]


def _sources(
    value: Fraction, earlier: Sequence[Step], mentions: Sequence[Mention], constants: set[Fraction]
) -> list[Source]:
    found = [Source(RESULT, i) for i, step in enumerate(earlier) if step.result == value]
    found += [
        Source(TEXT, i, name)
        for i, mention in enumerate(mentions)
        for name, form in mention.forms.items()
        if form == value
    ]
    if not found and value in constants:
        found.append(Source(CONSTANT))
    return found


def _used(steps: Sequence[Sequence[Sequence[Source]]]) -> set[tuple[str, int]]:
    """The results, numbers of the text and constants that a calculation uses.

    Raises:
        ChainError: A number of it has no source, or a result before the last is not used.
    """
    operands = [sources for step in steps for sources in step]
    if not all(operands):
        raise ChainError("a number of the calculation comes from nowhere")
    used = {(source.kind, source.index) for sources in operands for source in sources}
    if any((RESULT, step) not in used for step in range(len(steps) - 1)):
        raise ChainError("a result is not used")
    return used


def _check_explained(reading: Reading) -> None:
    used = _used(reading.sources)
    for index, mention in enumerate(reading.mentions):
        if mention.kind != "fixed" and mention.value > _SMALL and (TEXT, index) not in used:
            raise ChainError("a number of the question is not used")


def changed_step(reading: Reading, index: int) -> int:
    """The step, from 1, that a number of the text enters."""
    return next(
        step
        for step, operands in enumerate(reading.sources, 1)
        if any(s.kind == TEXT and s.index == index for sources in operands for s in sources)
    )
