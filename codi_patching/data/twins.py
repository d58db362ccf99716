"""Twins of real questions: one number changed, the calculation done again.

Putting another number into a question is wrong more often than one would think: `7+7` may be two
weeks of 7 days each, `*3` a rounded 2.74, `11` the result 121/11. So a twin is made only where
every number of the calculation is explained, and only from a number that enters it once:

    Tom has 16 eggs, eats three and sells the rest for $2 each.   <<16-3=13>> <<13*2=26>>
             |           |                            |              |  |       |  |
             text        text                         text           16 3   result  2

Anything else is refused, with a reason. The rules are in `change_rules` (what may be changed),
`explained` (where each number of a calculation comes from) and here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from codi_patching.data.chains import ChainError, Expression, Step, decimals, terms_of
from codi_patching.data.change_rules import largest_allowed, why_fixed
from codi_patching.data.explained import RESULT, TEXT, Reading, Source
from codi_patching.data.mentions import Mention


@dataclass(frozen=True)
class Variant:
    """A question with one number changed.

    Attributes:
        text: The question.
        steps: Its calculation, as `<<16-3=13>>`.
        answer: Its last result.
        number: The new number.
    """

    text: str
    steps: tuple[str, ...]
    answer: Fraction
    number: Fraction


def changeable_numbers(reading: Reading) -> tuple[list[int], list[str]]:
    """Indices of the mentions that may be changed, and why each of the others may not."""
    verdicts = [why_not_changed(reading, index) for index in range(len(reading.mentions))]
    found = [index for index, reason in enumerate(verdicts) if reason is None]
    return found, [reason for reason in verdicts if reason is not None]


def why_not_changed(reading: Reading, index: int) -> str | None:
    """Why a mention may not be changed; None if it may."""
    mention = reading.mentions[index]
    return why_fixed(reading.question.text, mention, reading.mentions) or _not_once(reading, index)


def _not_once(reading: Reading, index: int) -> str | None:
    """Why a number does not stand once in the question and once in the calculation."""
    forms = set(reading.mentions[index].forms.values())
    for other, mention in enumerate(reading.mentions):
        if other != index and forms & set(mention.forms.values()):
            return "stands more than once in the question"
    numbers = [operand.value for step in reading.chain for operand in step.operands]
    numbers += [step.result for step in reading.chain[:-1]]
    count = sum(number in forms for number in numbers)
    if count != 1:
        return "stands not once in the calculation" if count else "is not in the calculation"
    if reading.mentions[index].value in _numbers_of_terms(reading.chain):
        return "is the count of the terms of a sum"
    return None


def _numbers_of_terms(chain: Sequence[Step]) -> set[int]:
    """How many terms each sum of three or more has, sums within sums counted through."""
    counts: set[int] = set()
    terms_by_result: dict[Fraction, int] = {}

    def count(expression: Expression) -> int:
        terms = terms_of(expression)
        if len(terms) == 1:
            value = getattr(expression, "value", None)
            return terms_by_result.get(value, 1) if value is not None else 1
        return sum(count(term) for term in terms)

    for step in chain:
        for expression in _expressions(step.expression):
            terms = count(expression)
            counts |= {terms, len(terms_of(expression))}
            if expression is step.expression and len(terms_of(expression)) > 1:
                terms_by_result[step.result] = terms
    return {terms for terms in counts if terms >= 3}


def _expressions(expression: Expression) -> Iterator[Expression]:
    yield expression
    for side in ("left", "right"):
        inner = getattr(expression, side, None)
        if inner is not None:
            yield from _expressions(inner)


def variants(reading: Reading, index: int, rng: Random) -> Iterator[Variant]:
    """The question with other numbers in place of one mention, nearest first; only sound ones."""
    for number in new_numbers(reading, index, rng):
        try:
            yield change(reading, index, number)
        except ChainError:
            continue


def change(reading: Reading, index: int, number: Fraction) -> Variant:
    """Put a number in place of a mention and calculate again.

    Raises:
        ChainError: The result would not be a question of the same kind.
    """
    mention, question = reading.mentions[index], reading.question
    changed = {**mention.changed_forms(number)}
    results: list[Fraction] = []
    steps = []
    for step, sources in zip(reading.chain, reading.sources, strict=True):
        numbers = [
            _new_value(operand.value, found, results, index, changed)
            for operand, found in zip(step.operands, sources, strict=True)
        ]
        old = step.values([operand.value for operand in step.operands])
        new = step.values(numbers)
        _check_kept(old, new)
        results.append(new[-1])
        steps.append(step.text(numbers, new[-1]))
    if results[-1] == question.answer:
        raise ChainError("the answer stays the same")
    text = question.text[: mention.start] + mention.dress(number) + question.text[mention.end :]
    return Variant(text, tuple(steps), results[-1], number)


def _new_value(
    value: Fraction,
    sources: Sequence[Source],
    results: Sequence[Fraction],
    index: int,
    changed: dict[str, Fraction],
) -> Fraction:
    """An operand's new value, which all its sources must agree on."""
    values = set()
    for source in sources:
        if source.kind == RESULT:
            values.add(results[source.index])
        elif source.kind == TEXT and source.index == index:
            values.add(changed[source.form])
        else:
            values.add(value)
    if len(values) > 1:
        raise ChainError("a number of the calculation could come from two places")
    return values.pop()


def _check_kept(old: Sequence[Fraction], new: Sequence[Fraction]) -> None:
    """Every value of the calculation keeps its sign, is not zero, and is whole where it was."""
    for before, after in zip(old, new, strict=True):
        if after == 0 or (before > 0) != (after > 0):
            raise ChainError("a value changes its sign or becomes zero")
        if before.denominator == 1 and after.denominator != 1:
            raise ChainError("a value is no longer whole")
        digits = decimals(after)
        if digits is None or digits > max(2, decimals(before) or 0):
            raise ChainError("a value gets more digits")


def new_numbers(reading: Reading, index: int, rng: Random) -> Iterator[Fraction]:
    """Other numbers for a mention, nearest first: as round as it is, then less so.

    They keep the order to every other number of the text, equal none of their forms, are at least
    2 and change by at most half, or 5.
    """
    mention = reading.mentions[index]
    others = [m for i, m in enumerate(reading.mentions) if i != index]
    taken = {form for other in others for form in other.forms.values()}
    most = largest_allowed(reading.question.text, mention)
    reach = max(mention.value / 2, Fraction(5))
    tried = set()
    for unit in _units(mention):
        for distance in range(1, int(reach / unit) + 1):
            signs = [1, -1] if rng.random() < 0.5 else [-1, 1]
            for sign in signs:
                number = mention.value + sign * distance * unit
                if number in tried or number < 2 or (most is not None and number > most):
                    continue
                tried.add(number)
                if _fits(mention, number, others, taken, reading.question.text):
                    yield number


def _fits(
    mention: Mention, number: Fraction, others: Sequence[Mention], taken: set[Fraction], text: str
) -> bool:
    """Whether a number stands to the text's other numbers as the old one did."""
    if taken & set(mention.changed_forms(number).values()):
        return False
    if (number.denominator == 1) != (mention.value.denominator == 1):
        return False
    if any((mention.value > o.value) != (number > o.value) for o in others):
        return False
    return _article(text, mention, number)


def _article(text: str, mention: Mention, number: Fraction) -> bool:
    """Whether an `a` or `an` before the number still reads right."""
    before = text[: mention.start].lower().removesuffix("$").rstrip().split(" ")[-1]
    return before not in ("a", "an") or _vowel(number) == _vowel(mention.value)


def _vowel(number: Fraction) -> bool:
    digits = str(int(number))
    return digits.startswith("8") or (digits[:2] in ("11", "18") and len(digits) % 3 == 2)


def _units(mention: Mention) -> list[Fraction]:
    """Sizes of change, from as round as the number is (in two digits) down to its last digit."""
    places = len(mention.text.partition(".")[2]) if mention.kind != "word" else 0
    last = Fraction(1, 10**places)
    unit = last
    while unit * 10 <= mention.value / 10 and (mention.value / (unit * 10)).denominator == 1:
        unit *= 10
    units = []
    while unit >= last:
        units.append(unit)
        unit /= 10
    return units
