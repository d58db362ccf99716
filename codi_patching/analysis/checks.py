"""A check of validity, and how checks are counted.

A check that does not apply, or that there is nothing to tell by, is *not applicable*: it neither
holds nor fails. One that could have been made and was not is *not made*. What has no right answer
is *described*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "not applicable", "not made", "described"]
Kind = Literal["measured", "file"]
"""`measured`: by runs that were made to check others. `file`: that files agree with themselves."""


@dataclass(frozen=True)
class Check:
    """A check of validity.

    Attributes:
        name: What is checked.
        expected: What must be seen.
        seen: What was.
        status: See `Status`.
        kind: What it rests on.
    """

    name: str
    expected: str
    seen: str
    status: Status
    kind: Kind = "measured"


def judged(
    name: str, expected: str, seen: str, holds: bool | None, kind: Kind = "measured"
) -> Check:
    """A check that holds, fails, or (None) does not apply."""
    status: Status = "not applicable" if holds is None else "pass" if holds else "fail"
    return Check(name, expected, seen, status, kind)


def count_checks(checks: Sequence[Check]) -> str:
    """How many hold, of those that can; file checks by themselves.

    Example:
        >>> count_checks([Check("a", "", "", "pass"), Check("b", "", "", "not applicable")])
        '1 of 1 check that applies holds; 1 does not apply'
        >>> count_checks([Check("a", "", "", "fail"), Check("b", "", "", "pass", "file")])
        '0 of 1 check that applies holds; 1 of 1 file check holds'
    """
    counts = {}
    for kind in ("measured", "file"):
        statuses = [check.status for check in checks if check.kind == kind]
        counts[kind] = statuses.count("pass"), statuses.count("pass") + statuses.count("fail")
    said = "{} of {} checks that apply hold".format(*counts["measured"])
    if counts["measured"][1] == 1:
        said = f"{counts['measured'][0]} of 1 check that applies holds"
    if counts["measured"][1] == 0:
        said = "no check of what was measured applies"
    passed, files = counts["file"]
    if files:
        said += f"; {passed} of {files} file check{'s hold' if files > 1 else ' holds'}"
    if absent := sum(check.status == "not applicable" for check in checks):
        said += f"; {absent} {'does' if absent == 1 else 'do'} not apply"
    if not_made := sum(check.status == "not made" for check in checks):
        said += f"; {not_made} {'was' if not_made == 1 else 'were'} not made"
    if described := sum(check.status == "described" for check in checks):
        said += f"; {described} {'is' if described == 1 else 'are'} described"
    return said
