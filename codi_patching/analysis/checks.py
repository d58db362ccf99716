"""A check of validity, and how checks are counted.

A check that does not apply, or that there is nothing to tell by, is *not applicable*: it neither
holds nor fails. What has no right answer is *described*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "not applicable", "described"]


@dataclass(frozen=True)
class Check:
    """A check of validity.

    Attributes:
        name: What is checked.
        expected: What must be seen.
        seen: What was.
        status: `pass`, `fail`, `not applicable` or `described`.
    """

    name: str
    expected: str
    seen: str
    status: Status


def judged(name: str, expected: str, seen: str, holds: bool | None) -> Check:
    """A check that holds, fails, or (None) does not apply."""
    status: Status = "not applicable" if holds is None else "pass" if holds else "fail"
    return Check(name, expected, seen, status)


def count_checks(checks: Sequence[Check]) -> str:
    """How many hold, of those that can.

    Example:
        >>> count_checks([Check("a", "", "", "pass"), Check("b", "", "", "not applicable")])
        '1 of 1 check that applies holds; 1 does not apply'
    """
    count = {s: sum(c.status == s for c in checks) for s in ("pass", "fail", "not applicable")}
    apply = count["pass"] + count["fail"]
    said = f"{count['pass']} of {apply} checks that apply hold"
    if apply == 1:
        said = f"{count['pass']} of 1 check that applies holds"
    if absent := count["not applicable"]:
        said += f"; {absent} {'does' if absent == 1 else 'do'} not apply"
    if described := sum(check.status == "described" for check in checks):
        said += f"; {described} {'is' if described == 1 else 'are'} described"
    return said
