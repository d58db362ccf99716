"""Constants that a calculation may use because of the words of its question.

52 weeks to a year may enter a calculation whose question speaks of weeks and of years; nothing else
explains a 52 that is neither in the text nor a result.
"""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS: dict[str, str] = {
    "second": r"seconds?|secs?",
    "minute": r"minutes?|mins?",
    "hour": r"hours?|hrs?|hourly|midnight|noon|[ap]\.?m\.?",
    "day": r"days?|daily|every ?day|tonight|today|night(?:s|ly)?|mornings?|evenings?|afternoons?"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)days?",
    "week": r"weeks?|weekly|weekdays?|weekends?|(?:mon|tues|wednes|thurs|fri|satur|sun)days?",
    "month": r"months?|monthly|january|february|march|april|june|july|august|september|october"
    r"|november|december",
    "year": r"years?|yearly|annual(?:ly)?|year-old|birthdays?|age|old",
    "decade": r"decades?",
    "century": r"century|centuries",
    "inch": r"inch(?:es)?",
    "foot": r"foot|feet|ft",
    "yard": r"yards?",
    "mile": r"miles?",
    "cm": r"centimet(?:er|re)s?|cm",
    "mm": r"millimet(?:er|re)s?|mm",
    "m": r"met(?:er|re)s?|m",
    "km": r"kilomet(?:er|re)s?|km",
    "ounce": r"ounces?|oz",
    "pound": r"pounds?|lbs?",
    "ton": r"tons?",
    "g": r"grams?|g",
    "kg": r"kilograms?|kilos?|kgs?",
    "mg": r"milligrams?|mg",
    "ml": r"millilit(?:er|re)s?|ml",
    "l": r"lit(?:er|re)s?|l",
    "cup": r"cups?",
    "pint": r"pints?",
    "quart": r"quarts?",
    "gallon": r"gallons?",
    "cent": r"cents?|¢|penn(?:y|ies)|nickels?|dimes?|quarters?",
    "dollar": r"dollars?|\$",
    "percent": r"percent(?:age)?|%",
    "dozen": r"dozens?",
}
_PAIRS: tuple[tuple[str, str, int], ...] = (
    ("second", "minute", 60),
    ("minute", "hour", 60),
    ("second", "hour", 3600),
    ("hour", "day", 24),
    ("day", "week", 7),
    ("day", "month", 30),
    ("day", "year", 365),
    ("week", "month", 4),
    ("week", "year", 52),
    ("month", "year", 12),
    ("year", "decade", 10),
    ("year", "century", 100),
    ("inch", "foot", 12),
    ("inch", "yard", 36),
    ("foot", "yard", 3),
    ("foot", "mile", 5280),
    ("mm", "cm", 10),
    ("cm", "m", 100),
    ("mm", "m", 1000),
    ("m", "km", 1000),
    ("ounce", "pound", 16),
    ("pound", "ton", 2000),
    ("g", "kg", 1000),
    ("mg", "g", 1000),
    ("ml", "l", 1000),
    ("cup", "pint", 2),
    ("cup", "quart", 4),
    ("cup", "gallon", 16),
    ("pint", "quart", 2),
    ("pint", "gallon", 8),
    ("quart", "gallon", 4),
    ("cent", "dollar", 100),
)
"""The smaller unit, the larger, and how many make it."""

_BY_WORD: tuple[tuple[str, tuple[int | Fraction, ...]], ...] = (
    (r"percent(?:age)?|%", (100, Fraction(1, 100))),
    (r"half|halfway|halves", (Fraction(1, 2), 2)),
    (r"average|mean", ()),
    (r"perimeter|round ?trip|back and forth|each way|both ways|couple|spouse|parents", (2,)),
    (r"weekdays?|work ?days?|school days?", (5,)),
    (r"weekends?", (2,)),
    (r"nickels?", (5, Fraction(1, 20))),
    (r"dimes?", (10, Fraction(1, 10))),
    (r"quarters?", (25, Fraction(1, 4), 4)),
    (r"penn(?:y|ies)", (1, Fraction(1, 100))),
    (r"squares?", (4,)),
    (r"triangles?", (3,)),
    (r"decades?", (10,)),
    (r"dozens?", (12,)),
    (r"score", (20,)),
    (r"quarterly", (4,)),
    (r"leap year", (366,)),
    (r"february", (28,)),
    (r"(?:april|june|september|november)", (30,)),
    (r"(?:january|march|may|july|august|october|december)", (31,)),
)


def units_in(text: str) -> set[str]:
    """The units that a text speaks of."""
    return {unit for unit, words in _UNITS.items() if _speaks_of(text, words)}


def licensed_constants(text: str) -> set[Fraction]:
    """Constants that a calculation may use because of the words of a text; 1 always."""
    units = units_in(text)
    found = {Fraction(1)}
    for small, large, size in _PAIRS:
        if small in units and large in units:
            found.add(Fraction(size))
    for words, values in _BY_WORD:
        if _speaks_of(text, words):
            found.update(Fraction(value) for value in values)
    return found


def unit_size(value: Fraction, text: str) -> bool:
    """Whether a number is how many of one unit make another, both of which the text speaks of."""
    units = units_in(text)
    return any(value == size and {a, b} <= units for a, b, size in _PAIRS)


def _speaks_of(text: str, words: str) -> bool:
    return re.search(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])", text, re.IGNORECASE) is not None
