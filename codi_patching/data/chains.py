"""Calculation chains: `<<16-3-4=9>> <<9*2=18>>`, read exactly and computed again.

An expression has numbers, `+ - * /` and parentheses. All arithmetic is in fractions: a result that
is not exactly what its expression gives is refused, a rounded one unless rounding is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from codi_patching.models.number_text import WHOLE, parse_number

_TOKEN = re.compile(rf"\s*(?:({WHOLE}(?:\.[0-9]*)?|\.[0-9]+)|([-+*/()]))")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_MOST_TOKENS = 200
"""Of an expression: far more than a calculation has, far fewer than can be read into each other."""

MOST_STEPS = 100
"""Of a chain: far more than a question takes."""


class ChainError(ValueError):
    """A chain that cannot be read or computed; its text is the reason."""


@dataclass(frozen=True)
class Operand:
    """A number as it stands in an expression; `index` counts from its left."""

    index: int
    text: str
    value: Fraction


@dataclass(frozen=True)
class Operation:
    """Two expressions and what is done with them."""

    operator: str
    left: Expression
    right: Expression


Expression = Operand | Operation


@dataclass(frozen=True)
class Step:
    """One calculation of a chain.

    Attributes:
        expression: What is calculated.
        operands: Its numbers, from the left.
        result: What it gives.
        template: The expression's text with `{i}` in place of its i-th number.
        result_text: The result as it was written.
    """

    expression: Expression
    operands: tuple[Operand, ...]
    result: Fraction
    template: str
    result_text: str

    def values(self, numbers: Sequence[Fraction]) -> list[Fraction]:
        """Values of all operations, the whole expression last, with other numbers in place.

        Raises:
            ChainError: A division by zero.
        """
        found: list[Fraction] = []
        whole = _evaluate(self.expression, numbers, found)
        return found or [whole]

    def text(self, numbers: Sequence[Fraction], result: Fraction) -> str:
        """The step with other numbers formatted like its own: `<<15-3-4=8>>`."""
        texts = [
            operand.text if number == operand.value else format_like(number, operand.text)
            for operand, number in zip(self.operands, numbers, strict=True)
        ]
        end = self.result_text
        return f"<<{self.template.format(*texts)}={format_like(result, end)}>>"


def parse_chain(steps: Sequence[str], rounded: bool = False) -> list[Step]:
    """Read the steps of a chain, each `<<expression=result>>` or without the brackets.

    Args:
        steps: Of the chain.
        rounded: Whether a result may be rounded, up or down, to the digits that it is written with.

    Raises:
        ChainError: A step cannot be read, its result is not what it gives, or there are too many.
    """
    if len(steps) > MOST_STEPS:
        raise ChainError(f"a calculation of more than {MOST_STEPS} steps")
    return [_parse_step(step, rounded) for step in steps]


def stated_result(step: str) -> Fraction | str:
    """What a step says that it gives, right or not; its text where that is no number.

    >>> stated_result("<<2*500=1,000>>"), stated_result("so it is 3 = x")
    (Fraction(1000, 1), 'x')
    """
    text = step.strip().removesuffix(">>").rpartition("=")[2].strip()
    number = parse_number(text)
    return text if number is None else number


def _parse_step(text: str, rounded: bool) -> Step:
    body = text.strip().removeprefix("<<").removesuffix(">>").replace("\u2212", "-")
    left, equals, right = body.partition("=")
    if not equals or "=" in right:
        raise ChainError("a step is not of the form expression=result")
    result = parse_number(right)
    if result is None:
        raise ChainError("a step's result is not a number")
    operands: list[Operand] = []
    tokens: list[Operand | str] = []
    template = ""
    for number, operator in _tokens(left):
        if len(tokens) == _MOST_TOKENS:
            raise ChainError(f"an expression of more than {_MOST_TOKENS} numbers and signs")
        if number:
            value = parse_number(number)
            if value is None:
                raise ChainError("a number of too many digits")
            operand = Operand(len(operands), number, value)
            operands.append(operand)
            tokens.append(operand)
            template += f"{{{operand.index}}}"
        else:
            tokens.append(operator)
            template += operator
    expression = _Parser(tokens).parse()
    step = Step(expression, tuple(operands), result, template, right.strip())
    value = step.values([operand.value for operand in operands])[-1]
    off = Fraction(1, 10 ** len(step.result_text.partition(".")[2])) if rounded else 0
    if value != result and not abs(value - result) < off:
        raise ChainError("a step's result is not what it gives: rounded, or wrong")
    return step


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Numbers and operators of an expression, one of each pair empty."""
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ChainError("an expression has something besides numbers and + - * / ( )")
        yield match.group(1) or "", match.group(2) or ""
        position = match.end()


class _Parser:
    """Precedence climbing over a list of operands and operators."""

    def __init__(self, tokens: list[Operand | str]) -> None:
        self.tokens = tokens
        self.position = 0

    def parse(self) -> Expression:
        expression = self.climb(1)
        if self.peek() is not None:
            raise ChainError("an expression is not well formed")
        return expression

    def peek(self) -> Operand | str | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def climb(self, least: int) -> Expression:
        left = self.atom()
        while isinstance(operator := self.peek(), str) and _PRECEDENCE.get(operator, 0) >= least:
            self.position += 1
            left = Operation(operator, left, self.climb(_PRECEDENCE[operator] + 1))
        return left

    def atom(self) -> Expression:
        token = self.peek()
        self.position += 1
        if isinstance(token, Operand):
            return token
        if token == "(":
            inner = self.climb(1)
            if self.peek() == ")":
                self.position += 1
                return inner
        raise ChainError("an expression is not well formed")


def _evaluate(
    expression: Expression, numbers: Sequence[Fraction], found: list[Fraction]
) -> Fraction:
    """The value of an expression; values of operations are appended to `found`."""
    if isinstance(expression, Operand):
        return numbers[expression.index]
    left = _evaluate(expression.left, numbers, found)
    right = _evaluate(expression.right, numbers, found)
    if expression.operator == "/" and right == 0:
        raise ChainError("a division by zero")
    value = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right,
    }[expression.operator]()
    found.append(value)
    return value


def terms_of(expression: Expression) -> list[Expression]:
    """The terms of a sum; an expression that is none is its only term."""
    if isinstance(expression, Operation) and expression.operator == "+":
        return [*terms_of(expression.left), *terms_of(expression.right)]
    return [expression]


def decimals(value: Fraction) -> int | None:
    """Digits after the point of a number; None if they do not end."""
    rest, digits = value.denominator, 0
    while rest % 10 == 0:
        rest, digits = rest // 10, digits + 1
    twos = fives = 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    return digits + max(twos, fives) if rest == 1 else None


def format_like(value: Fraction, like: str) -> str:
    """A number formatted like another: its commas, its digits after the point, its zero before.

    >>> format_like(Fraction(5, 2), ".5"), format_like(Fraction(81000), "80,000")
    ('2.5', '81,000')
    >>> format_like(Fraction(2, 5), ".5"), format_like(Fraction(3), "2.50")
    ('.4', '3.00')

    Raises:
        ChainError: Its digits do not end.
    """
    digits = decimals(value)
    if digits is None:
        raise ChainError("a number without an end of its digits")
    places = len(like.partition(".")[2])
    digits = max(digits, places if places > 1 else 0)
    text = f"{abs(value.numerator) * 10**digits // value.denominator:0{digits + 1}d}"
    whole, rest = (text[:-digits], text[-digits:]) if digits else (text, "")
    if "," in like:
        whole = f"{int(whole):,}"
    if whole == "0" and rest and like.startswith("."):
        whole = ""
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{rest}" if rest else f"{sign}{whole}"
