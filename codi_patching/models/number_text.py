"""Numbers in digits: the one place that says what is one, in files and in what models answer.

Digits are 0 to 9; commas stand before every third of them or not at all; a minus may be the sign of
typesetters (U+2212). Whatever else looks like a number ("3,5", "1.430,50", "1/2") is none, rather
than another one.
"""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)")
_RUN = re.compile(r"-?(?:[0-9]|(?<!\w)\.[0-9])[0-9.,/'’\u00a0\u2009\u202f]*")
"""A number and what would make it another one: `12,15`, `1/2`, `1'000`."""

_LONGEST = 60
"""Characters of a number; no float, and no sound calculation, holds as many digits."""


def parse_number(text: str) -> Fraction | None:
    """The number that a text is, spaces around it aside; None if it is none.

    >>> parse_number("1,430.50"), parse_number("\u22125"), parse_number("3,5")
    (Fraction(2861, 2), Fraction(-5, 1), None)
    """
    plain = text.strip().replace("\u2212", "-")
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

    >>> first_number(" 18 apples, not 20"), first_number(" 12,15"), first_number(" 1/2")
    (Fraction(18, 1), None, None)
    """
    run = _RUN.search(text.replace("\u2212", "-"))
    return None if run is None else parse_number(run.group().rstrip(".,/'’\u00a0\u2009\u202f"))
