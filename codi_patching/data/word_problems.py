"""Arithmetic word problems with their reasoning, and twins that differ in one number.

A problem is a *plot* (a fixed sequence of sentences with slots) and the numbers for its slots.
Keeping the two apart makes the twin of a problem trivial and exact: the same plot with one number
changed, so that clean and corrupted questions agree in every other character.

Every quantity that occurs, given or intermediate, is a whole number from 0 to `MAX_VALUE`, so that
a word-level tokenizer can give each its own token.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

MAX_VALUE = 60

NUM_STEPS = (2, 3, 4)
"""Lengths of problems, in operations."""

_NAMES = {
    "he": ("Tom", "Ben", "Sam", "Max", "Leo", "Omar", "Paul", "Ivan", "Jack", "Raj"),
    "she": ("Anna", "Mia", "Lily", "Sara", "Nora", "Emma", "Zoe", "Ines", "Kate", "Mei"),
}
_PEOPLE = [(name, pronoun) for pronoun, names in _NAMES.items() for name in names]
_ITEMS = (
    "apples", "pears", "plums", "eggs", "books", "pens", "coins", "cards", "shells", "stamps",
    "marbles", "cookies", "muffins", "roses", "tickets", "candles", "beads", "lemons", "stones",
    "stickers",
)  # fmt: skip
_OBJECT = {"he": "him", "she": "her"}

_OPENINGS = (
    "{name} has {n} {items}.",
    "{name} starts with {n} {items}.",
    "{name} buys {n} {items}.",
    "{name} collects {n} {items}.",
)
_PRODUCT_OPENINGS = (
    "{name} has {n} boxes of {m} {items}.",
    "{name} buys {n} bags with {m} {items} each.",
)
_SENTENCES = {
    "+": (
        "{pronoun} buys {n} more.",
        "{pronoun} finds {n} more.",
        "{other} gives {object} {n} more.",
        "{pronoun} gets {n} {items} from {other}.",
    ),
    "-": (
        "{pronoun} loses {n}.",
        "{pronoun} sells {n} of them.",
        "{pronoun} gives {n} to {other}.",
        "{pronoun} gives away {n} {items}.",
    ),
    "*": (
        "{other} has {n} times as many.",
        "{other} has {n} times that number.",
    ),
}
_QUESTIONS = {
    "-": "How many {items} are left?",
    "+": "How many {items} does {pronoun} have now?",
    "*": "How many {items} does {pronoun} have?",
}
_LAST_SENTENCES = {
    "*": (
        "Each one costs {n} dollars. How many dollars do they cost?",
        "Each one weighs {n} grams. How many grams do they weigh?",
    ),
    "/": (
        "{pronoun} packs them in bags of {n}. How many full bags are there?",
        "{pronoun} puts {n} in each box. How many full boxes are there?",
        "{n} friends share them. How many whole {items} does each get?",
    ),
}


@dataclass(frozen=True)
class Step:
    """One operation of a plot: the running value and the slot's number make the next value."""

    operator: str
    sentence: str


@dataclass(frozen=True)
class Plot:
    """The sentences of a problem, with numbered slots `{0}`, `{1}`, … for its numbers."""

    opening: str
    steps: tuple[Step, ...]
    question: str


@dataclass(frozen=True)
class Problem:
    """A word problem.

    Attributes:
        plot: The sentences.
        numbers: The number in each slot; one more than there are steps.
    """

    plot: Plot
    numbers: tuple[int, ...]

    @property
    def question(self) -> str:
        """The text, without the reasoning."""
        sentences = [self.plot.opening, *(step.sentence for step in self.plot.steps)]
        text = " ".join(s for s in [*sentences, self.plot.question] if s)
        return text.format(*self.numbers)

    @property
    def values(self) -> tuple[int, ...]:
        """The result of each step; the last one is the answer."""
        results = [self.numbers[0]]
        for step, number in zip(self.plot.steps, self.numbers[1:], strict=True):
            results.append(apply_operator(step.operator, results[-1], number))
        return tuple(results[1:])

    @property
    def answer(self) -> int:
        """The result of the last step."""
        return self.values[-1]

    @property
    def reasoning_steps(self) -> tuple[str, ...]:
        """The calculation, one annotation a step: `("<<16-3=13>>", "<<13*2=26>>")`."""
        left = (self.numbers[0], *self.values)
        return tuple(
            f"<<{a}{step.operator}{n}={result}>>"
            for a, step, n, result in zip(
                left, self.plot.steps, self.numbers[1:], self.values, strict=False
            )
        )

    def continue_from(self, step: int, value: int) -> tuple[int, ...] | None:
        """Results of the steps after `step` (from 1), had its result been `value`.

        None if one of them would be out of range.

        >>> steps = Step("-", ""), Step("*", ""), Step("+", "")
        >>> problem = Problem(Plot("", steps, ""), (9, 4, 2, 1))
        >>> problem.values, problem.continue_from(1, 7)
        ((5, 10, 11), (14, 15))
        """
        results = []
        following = zip(self.plot.steps[step:], self.numbers[step + 1 :], strict=True)
        for operation, number in following:
            value = apply_operator(operation.operator, value, number)
            if not 0 <= value <= MAX_VALUE:
                return None
            results.append(value)
        return tuple(results)

    def is_valid(self) -> bool:
        """Whether quantities are in 0..MAX_VALUE, factors in 2..9, the answer over 0."""
        small = all(
            2 <= n <= 9
            for step, n in zip(self.plot.steps, self.numbers[1:], strict=True)
            if step.operator in "*/"
        )
        if not small or not all(1 <= n <= MAX_VALUE for n in self.numbers):
            return False
        return all(0 <= v <= MAX_VALUE for v in self.values) and self.answer > 0


def apply_operator(operator: str, a: int, b: int) -> int:
    """One step: `a + b`, `a - b`, `a * b`, or `a // b`."""
    if operator == "+":
        return a + b
    if operator == "-":
        return a - b
    if operator == "*":
        return a * b
    return a // b


def sample_plot(rng: Random, num_steps: int) -> Plot:
    """Draw the sentences of a problem of `num_steps` operations."""
    items = rng.choice(_ITEMS)
    owner, pronoun = rng.choice(_PEOPLE)
    steps: list[Step] = []
    if rng.random() < 0.2:
        opening = rng.choice(_PRODUCT_OPENINGS).format(name=owner, items=items, n="{0}", m="{1}")
        steps.append(Step("*", ""))
    else:
        opening = rng.choice(_OPENINGS).format(name=owner, items=items, n="{0}")
    question, other = "", owner
    while len(steps) < num_steps:
        last = len(steps) == num_steps - 1
        operator = rng.choices("+-*/", (6, 6, 3, 4 if last else 0))[0]
        closing = operator == "/" or (operator == "*" and last and rng.random() < 0.5)
        other, other_pronoun = rng.choice([p for p in _PEOPLE if p[0] not in (owner, other)])
        sentence = rng.choice((_LAST_SENTENCES if closing else _SENTENCES)[operator]).format(
            n=f"{{{len(steps) + 1}}}",
            items=items,
            pronoun=pronoun.capitalize(),
            object=_OBJECT[pronoun],
            other=other,
        )
        steps.append(Step(operator, sentence))
        if operator == "*" and not closing:  # the story goes on with the one who has more
            owner, pronoun = other, other_pronoun
        if last and not closing:
            question = _QUESTIONS[operator].format(items=items, pronoun=pronoun)
    return Plot(opening, tuple(steps), question)


def sample_numbers(rng: Random, plot: Plot) -> tuple[int, ...]:
    """Draw numbers that keep every quantity of `plot` in range and the answer above 0.

    One slot at a time, each among the numbers that keep its step's result in range; from the start
    again where there is none.
    """
    first = (2, 15) if plot.steps[0].operator == "*" else (1, MAX_VALUE)
    while True:
        numbers = [rng.randint(*first)]
        value = numbers[0]
        for step in plot.steps:
            bounds = range(2, 10) if step.operator in "*/" else range(1, 41)
            results = {n: apply_operator(step.operator, value, n) for n in bounds}
            fitting = [n for n, result in results.items() if 0 <= result <= MAX_VALUE]
            if not fitting:
                break
            numbers.append(rng.choice(fitting))
            value = results[numbers[-1]]
        problem = Problem(plot, tuple(numbers))
        if len(numbers) == len(plot.steps) + 1 and problem.is_valid():
            return problem.numbers


def is_held_out(problem: Problem) -> bool:
    """Whether a problem belongs to the twentieth that training never sees; a fact of its text."""
    return zlib.crc32(problem.question.encode()) % 20 == 0


def sample_problem(rng: Random, held_out: bool, num_steps: Sequence[int] = NUM_STEPS) -> Problem:
    """Draw a problem, from the held-out part or from the rest.

    Args:
        rng: Source of randomness.
        held_out: Which part.
        num_steps: Numbers of steps, one of which is drawn.
    """
    while True:
        plot = sample_plot(rng, rng.choice(num_steps))
        problem = Problem(plot, sample_numbers(rng, plot))
        if is_held_out(problem) == held_out:
            return problem


def twins(problem: Problem, max_change: int = 3) -> list[Problem]:
    """All valid problems that differ from `problem` in one number, by 1 to `max_change`."""
    changed = []
    for slot, number in enumerate(problem.numbers):
        for delta in (d for d in range(-max_change, max_change + 1) if d):
            numbers = (*problem.numbers[:slot], number + delta, *problem.numbers[slot + 1 :])
            twin = Problem(problem.plot, numbers)
            if twin.is_valid():
                changed.append(twin)
    return changed


@cache
def vocabulary(samples: int = 5000) -> tuple[str, ...]:
    """Every word and sign that problems and their reasoning are made of, sorted; numbers last."""
    rng = Random(0)
    texts = ["The answer is:"]
    for _ in range(samples):
        problem = sample_problem(rng, held_out=False)
        texts += [problem.question, *problem.reasoning_steps]
    words = {word for word in split_words(texts) if not word.isdigit()}
    return (*sorted(words), *(str(n) for n in range(MAX_VALUE + 1)))


def split_words(texts: Sequence[str]) -> list[str]:
    """Words and runs of punctuation, the way the word-level tokenizer splits them."""
    return [word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text)]
