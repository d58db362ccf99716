"""The numbers of a question's text: what they are worth, and which of them may be changed.

A number is found in digits (`80,000`, `$2.50`, `30%`), as a word (two to ninety-nine) or inside
other words (half, twice, dozen, third). It has *forms*: the values by which a calculation may use
it. 30% can be 30, 0.3, 0.7 or 1.3; a half can be 1/2 or 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from codi_patching.data.chains import ChainError, format_like
from codi_patching.models.number_text import WHOLE, parse_number

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS: dict[str, int] = {word: value for value, word in enumerate(_UNITS)} | {
    ten + (f"-{_UNITS[unit]}" if unit else ""): 20 + 10 * index + unit
    for index, ten in enumerate(_TENS)
    for unit in range(10)
}
"""Number words up to ninety-nine."""

_NAMES = {value: word for word, value in WORDS.items()}
_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "fifteenth": 15,
    "twentieth": 20,
}  # fmt: skip
_LARGE = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
}
_HALF = Fraction(1, 2)
_FIXED: dict[str, tuple[Fraction | int, ...]] = {
    "half": (_HALF, 2, 1 + _HALF),
    "halves": (_HALF, 2),
    "halved": (_HALF, 2),
    "twice": (2,),
    "double": (2,),
    "doubled": (2,),
    "doubles": (2,),
    "both": (2,),
    "pair": (2,),
    "pairs": (2,),
    "couple": (2,),
    "twins": (2,),
    "triple": (3,),
    "tripled": (3,),
    "triples": (3,),
    "thrice": (3,),
    "triplets": (3,),
    "quadruple": (4,),
    "quadrupled": (4,),
    "dozen": (12,),
    "dozens": (12,),
    "quarter": (Fraction(1, 4), 4, Fraction(3, 4), 25),
    "quarters": (Fraction(1, 4), 4, Fraction(3, 4), 25),
}
"""Words that are counted among a question's numbers but never changed."""

_DIGITS = rf"{WHOLE}(?:\.[0-9]+)?|(?<!\d)\.[0-9]+"
_WORD = "|".join(sorted(WORDS, key=len, reverse=True)).replace("-", "[- ]")
_NUMBER = re.compile(
    rf"(?P<fraction>[0-9]+\s*/\s*[0-9]+)|(?P<digits>{_DIGITS})|(?P<word>\b(?:{_WORD})\b)"
    rf"|(?P<other>\b(?:{'|'.join([*_ORDINALS, *_FIXED, *_LARGE])})s?\b)|(?P<sign>[½⅓¼¾⅔])",
    re.IGNORECASE,
)
FRACTIONS = {
    "½": _HALF,
    "⅓": Fraction(1, 3),
    "¼": Fraction(1, 4),
    "¾": Fraction(3, 4),
    "⅔": Fraction(2, 3),
}
"""Signs that are a fraction each."""

_Form = Callable[[Fraction], Fraction]
_PLAIN: dict[str, _Form] = {"p": lambda p: p}
_PERCENT: dict[str, _Form] = {
    "p": lambda p: p,
    "p/100": lambda p: p / 100,
    "1-p/100": lambda p: 1 - p / 100,
    "1+p/100": lambda p: 1 + p / 100,
}
_CENTS: dict[str, _Form] = {"p": lambda p: p, "p/100": lambda p: p / 100}


@dataclass(frozen=True)
class Mention:
    """A number in a text.

    Attributes:
        start: Of its characters in the text.
        end: After them.
        text: The characters.
        value: What it is worth.
        kind: `digits`, `word`, `percent`, `cents` or `fixed`; a fixed one is never changed.
        forms: Values by which a calculation may use it, by name.
    """

    start: int
    end: int
    text: str
    value: Fraction
    kind: str
    forms: dict[str, Fraction]

    def changed_forms(self, value: Fraction) -> dict[str, Fraction]:
        """The forms of another value in this number's place."""
        return {name: form(value) for name, form in _forms_of(self.kind).items()}

    def dress(self, value: Fraction) -> str:
        """Another value as this one is written: in words, with commas, with its decimals.

        Raises:
            ChainError: It cannot be written so.
        """
        if self.text[0].isalpha():
            word = _NAMES.get(int(value)) if value.denominator == 1 else None
            if word is None:
                raise ChainError("no word for the new number")
            return word.capitalize() if self.text[0].isupper() else word
        return format_like(value, self.text)


def find_mentions(text: str) -> list[Mention]:
    """All numbers of a text, in its order.

    Raises:
        ChainError: One has more digits than can be read.
    """
    return list(_mentions(text))


def _mentions(text: str) -> Iterator[Mention]:
    for match in _NUMBER.finditer(text):
        start, end = match.span()
        found = match.group()
        after = text[end : end + 12].lower()
        if match.group("fraction"):
            upper, lower = (_worth(part) for part in found.split("/"))
            values = _fraction_forms(upper, lower) if lower else (upper,)
            yield _fixed(match, values)
        elif match.group("sign"):
            value = FRACTIONS[found]
            yield _fixed(match, (value, 1 - value, 1 + value, 1 / value))
        elif found.lower() == "seconds":  # of time
            continue
        elif match.group("other"):
            yield _fixed(match, _fixed_values(found.lower()))
        else:
            word = match.group("word")
            value = Fraction(WORDS[word.lower().replace(" ", "-")]) if word else _worth(found)
            kind = "word" if word else "digits"
            if re.match(r"\s?%|[\s-]?percent", after):
                kind = "percent"
            elif re.match(r"\s?(?:¢|cents?\b)", after):
                kind = "cents"
            forms = {name: form(value) for name, form in _forms_of(kind).items()}
            yield Mention(start, end, found, value, kind, forms)


def _forms_of(kind: str) -> dict[str, _Form]:
    return {"percent": _PERCENT, "cents": _CENTS}.get(kind, _PLAIN)


def _fixed(match: re.Match[str], values: tuple[Fraction | int, ...]) -> Mention:
    forms = {str(index): Fraction(value) for index, value in enumerate(values)}
    return Mention(*match.span(), match.group(), forms["0"], "fixed", forms)


def _fixed_values(word: str) -> tuple[Fraction | int, ...]:
    """What a word such as half, third or hundred may be worth in a calculation."""
    if word in _FIXED:
        return _FIXED[word]
    singular = word.removesuffix("s")
    if singular in _LARGE:
        return (_LARGE[singular],)
    nth = _ORDINALS.get(word, _ORDINALS.get(singular, 1))
    return (nth, Fraction(1, nth), 1 - Fraction(1, nth), 1 + Fraction(1, nth))


def _fraction_forms(upper: Fraction, lower: Fraction) -> tuple[Fraction, ...]:
    part = upper / lower
    return (part, 1 - part, 1 + part, upper, lower)


def _worth(digits: str) -> Fraction:
    value = parse_number(digits)
    if value is None:
        raise ChainError("a number of too many digits")
    return value
