"""Which numbers of a question may not be changed, because the text around them would break.

A number is refused rather than guessed about: a clock time, one end of a range, the size of a unit,
a count that other words repeat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from codi_patching.data.constants import unit_size
from codi_patching.data.mentions import FRACTIONS, Mention
from codi_patching.models.number_text import parse_number

_AFTER_FIXING = re.compile(
    r"\b(the|all|these|those|other|others|remaining|first|last|final|previous|same|only)\s+\$?$",
    re.IGNORECASE,
)
_LABELS = re.compile(
    r"\b(day|page|pages|chapter|number|no\.|grade|level|room|step|route|highway|apartment|section"
    r"|question|lane|platform|floor|line|unit|class|year|since)\s+$",
    re.IGNORECASE,
)
_LARGE = re.compile(r"[\s-]*(hundred|thousand|million|billion|trillion)s?\b", re.IGNORECASE)
_CLOCK = re.compile(
    r"(:\d|\s*[ap]\.?\s?m\b|\s*o['’]?\s?clock|\s+in the (morning|afternoon|evening)|\s+at night)",
    re.IGNORECASE,
)
_BODY = re.compile(
    r"[\s-]+(?:\w+\s+)?(legs?|eyes?|arms?|ears?|fingers?|toes?|wings?|hands?|heads?|tails?|paws?"
    r"|tentacles?|wheels?|tires?|tyres?|hooves|antennae?|sides?|corners?|suits?|faces?|strings?"
    r"|bills?|notes?)\b",
    re.IGNORECASE,
)
_ROUNDING = re.compile(
    r"\bround(?:ed|ing|s)?\b(?!\s*-?\s*trip)|\bnearest\b|\bestimat|\bapproximat", re.IGNORECASE
)
_NEAR = 1000
"""Characters before and after a number that may say what it is."""

_POINTS = re.compile(r"(?<![0-9])[0-9]++(?:[.,'’][0-9]+)+")
_RATIO = re.compile(r"\bratio\b|\bproportion", re.IGNORECASE)


def why_not_asked(text: str) -> str | None:
    """Why no number of a question may be changed."""
    if _ROUNDING.search(text):
        return "the question rounds or estimates"
    if any(c.isnumeric() and not c.isascii() and c not in FRACTIONS for c in text):
        return "digits other than 0 to 9"
    if any(parse_number(found) is None for found in _POINTS.findall(text)):
        return "a number with points or commas out of place"
    return None


def why_fixed(text: str, mention: Mention, mentions: Sequence[Mention]) -> str | None:
    """Why a number may not be changed; None if its surroundings allow it."""
    if mention.kind == "fixed" or mention.value < 1 or mention.value == 1:
        return "a fraction, an ordinal, or a word such as half, twice, one"
    before = text[max(0, mention.start - _NEAR) : mention.start]
    after = text[mention.end : mention.end + _NEAR]
    checks = (
        (_CLOCK.match(after) or re.search(r"\d:$", before), "a time"),
        (_glued(before, after), "part of a longer word or a signed number"),
        (_is_year(mention, before), "a year or a number that names something"),
        (_LABELS.search(before), "a year or a number that names something"),
        (_LARGE.match(after) or re.search(r"(hundred|thousand|million)\s+(and\s+)?$", before),
         "beside hundred, thousand or million"),
        (_in_range(before, after) or _RATIO.search(_sentence(text, mention)),
         "an end of a range, a ratio or a size such as 5 by 4"),
        (_AFTER_FIXING.search(before), "after the, all, these, other, remaining, first, last"),
        (_BODY.match(after), "a number of limbs, wheels or sides, or a bank note"),
        (unit_size(mention.value, text), "the size of a unit"),
        (_counts_a_list(after, mention.value), "the count of a list"),
        (_percents_make_a_whole(mention, mentions), "percentages that add up to 100"),
    )  # fmt: skip
    return next((reason for found, reason in checks if found), None)


def largest_allowed(text: str, mention: Mention) -> Fraction | None:
    """The most that a number's meaning allows: 99 %, 7 days of a week, 24 hours of a day."""
    after = text[mention.end : mention.end + 40].lower()
    each = r"(?:a|per|each|every|in a|of the|this|that)"
    if mention.kind == "percent":
        return Fraction(99)
    if re.match(rf"\s+(?:\w+\s+)?(?:days?|times|nights?)\s+{each}\s+week", after):
        return Fraction(7)
    if re.match(rf"\s+(?:\w+\s+)?hours?\s+(?:\w+\s+)?{each}\s+(?:day|night)", after):
        return Fraction(24)
    if re.match(rf"\s+(?:\w+\s+)?(?:months?)\s+{each}\s+year", after):
        return Fraction(12)
    weeks = re.match(rf"\s+(?:\w+\s+)?(?:weeks?)\s+{each}\s+(year|month)", after)
    if weeks:
        return Fraction(52 if weeks[1] == "year" else 4)
    return None


def _glued(before: str, after: str) -> bool:
    if re.search(r"(?:[A-Za-z\d#/.:°€£]|(?<!\s)[-–]|[-–+])$", before):
        return True
    return re.match(r"(?:[A-Za-z\d/°]|[-–]\s?\w|['’]s|:\d|\.\d)", after) is not None


def _is_year(mention: Mention, before: str) -> bool:
    plain = mention.kind == "digits" and re.fullmatch(r"\d{4}", mention.text) is not None
    if not plain or before.endswith("$") or not 1500 <= mention.value <= 2200:
        return False
    return re.search(r"\b(in|since|year|of|by|until|from)\s+$", before, re.IGNORECASE) is not None


_NEXT = (
    r"(?:\$?\d|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty"
    r"|fifty)"
)


def _in_range(before: str, after: str) -> bool:
    unit = r"(?:\s+(?:%|percent|\w+))?"
    if re.match(rf"{unit}\s*(?:-|–|to|by|x|out of)\s*{_NEXT}", after, re.IGNORECASE):
        return True
    if re.match(rf"\s*%?\s*(?:to|or)\s+\$?{_NEXT}", after, re.IGNORECASE):
        return True
    if re.match(r"\s*(?:out of|in every|of every)\b", after, re.IGNORECASE):
        return True
    number = r"(?:\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten))\S*"
    ends = rf"{number}{unit}\s*(?:-|–|\bto|\bby|\bx|\bor|out of|in every)\s+\$?$"
    if re.search(ends, before, re.IGNORECASE):
        return True
    return re.search(r"\b(?:between|out of)\s+\$?$", before, re.IGNORECASE) is not None or bool(
        re.search(r"\bbetween\s+\S+(?:\s+\w+)?\s+and\s+\$?$", before, re.IGNORECASE)
    )


def _sentence(text: str, mention: Mention) -> str:
    """The sentence of a text that a number stands in."""
    start = max(text.rfind(mark, 0, mention.start) for mark in (". ", "? ", "! ", "\n")) + 1
    ends = [text.find(mark, mention.end) for mark in (". ", "? ", "! ", "\n")]
    return text[start : min((end for end in ends if end >= 0), default=len(text))]


def _counts_a_list(after: str, value: Fraction) -> bool:
    """Whether what follows a number lists what it counts: `3 friends: Ann, Bob and Cy`."""
    sentence = re.split(r"(?<!\d)[.?!](?:\s|$)", after, maxsplit=1)[0]
    if re.match(r"[^,.;]*?(?::|\s[-–—]+\s|\(|;|\bnamed\b|\bcalled\b)", sentence):
        return True
    start = re.match(r"(?:\s+[\w'’-]+){1,4},\s+", sentence)
    if start is None:
        return False
    rest = sentence[start.end() :]
    items = [item for item in re.split(r",\s*and\s+|,\s*|\s+and\s+", rest) if item.strip()]
    return len(items) >= 2 and (len(items) == value or all(len(i.split()) <= 3 for i in items))


def _percents_make_a_whole(mention: Mention, mentions: Sequence[Mention]) -> bool:
    """Whether a percentage adds up to 100 with others of the text."""
    if mention.kind != "percent":
        return False
    others = [m.value for m in mentions if m.kind == "percent" and m is not mention]
    sums = {Fraction(0)}
    for other in others[:8]:
        sums |= {total + other for total in sums}
    return any(mention.value + total == 100 for total in sums)
