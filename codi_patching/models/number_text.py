"""Numbers in digits: the one place that says what is one, in files and in what models answer.

Digits are 0 to 9; commas stand before every third of them or not at all; a minus may be the sign of
typesetters (U+2212). Whatever else looks like a number ("3,5", "0,500", "1.430,50", "1/2") is none,
rather than another one.
"""

from __future__ import annotations

import re
from fractions import Fraction

WHOLE = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"
"""Pattern of a number before its decimal point."""

_NUMBER = re.compile(rf"[-+]?(?:{WHOLE}(?:\.[0-9]*)?|\.[0-9]+)")
_MINUS = str.maketrans("\u2212", "-")

_RUN = re.compile(r"(?:(?<!\w)\.)?[0-9][0-9.,/'’\u00a0\u2009\u202f]*(?<![.,/'’\u00a0\u2009\u202f])")
"""A number and what would make it another one: `12,15`, `1/2`, `1'000`."""

_SIGN = re.compile(r"(?:^|[\s(\[{\"'=:>*~≈$€£])([-+])(?:[$€£]\s?)?$")
_OTHER_BEFORE = re.compile(
    r"(?:[-+±–—‐‑‒―－﹣]\s*(?:[$€£]\s?)?|\b(?:minus|negative)\s+|,)$", re.IGNORECASE
)
_OTHER_AFTER = re.compile(
    r"\s?[-+*/^=×÷–—]\s?[$.]?[0-9]|:[0-9]|[^\W\d]+[-+]?[0-9]|k\b|\s[0-9]+\s?/\s?[0-9]|\s[0-9]{3}\b"
    r"|[\s-]?(?:hundred|thousand|million|billion|trillion|dozen)|\s?and a half",
    re.IGNORECASE,
)
"""What makes a number part of another: `– 5`; `5 - 3`, `12:30`, `1e5`, `5 1/2`, `3 thousand`."""

_LONGEST = 60
"""Characters of a number; no float, and no sound calculation, holds as many digits."""


def parse_number(text: str) -> Fraction | None:
    """The number that a text is, spaces around it aside; None if it is none.

    >>> parse_number("1,430.50"), parse_number("\u22125"), parse_number("3,5")
    (Fraction(2861, 2), Fraction(-5, 1), None)
    """
    plain = text.strip().translate(_MINUS)
    if len(plain) > _LONGEST or _NUMBER.fullmatch(plain) is None:
        return None
    return Fraction(plain.replace(",", "").removesuffix("."))


def parse_amount(text: str) -> Fraction | None:
    """A number that may be of dollars: `$18`.

    >>> parse_amount("$18"), parse_amount("18 $")
    (Fraction(18, 1), None)
    """
    return parse_number(text.strip().removeprefix("$"))


def first_number(text: str) -> Fraction | None:
    """The first number of a text; None if there is none, or it is not clear which it is.

    >>> first_number(" 18 apples, not 20"), first_number(" -$5"), first_number(" 12,15")
    (Fraction(18, 1), Fraction(-5, 1), None)
    """
    text = text.translate(_MINUS)
    run = _RUN.search(text)
    if run is None:
        return None
    before, after = text[: run.start()], text[run.end() :]
    sign = _SIGN.search(before)
    if any(c.isnumeric() for c in (*before, *after.removeprefix(" ")[:1]) if not c.isascii()):
        return None
    if _OTHER_AFTER.match(after) or (sign is None and _OTHER_BEFORE.search(before)):
        return None
    return parse_number((sign[1] if sign else "") + run.group())
