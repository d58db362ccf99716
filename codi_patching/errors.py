"""What counts as bad input: shown in one line, where anything else is a fault of the program."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable
from typing import Any, SupportsIndex, cast

_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, and those that turn the direction of text or end a line."""

_ARGUMENT = re.compile(r"\[\[([\w.]+)\]\]")


class InputError(ValueError):
    """Something that a user gave is not what it should be; says what was expected and found.

    An argument to change stands in the message as `[[group.name]]`. In Python it reads `name`; a
    command line names its option instead, by `naming`.

    Example:
        >>> error = InputError("expected a file of pairs: set [[data.pairs]]")
        >>> str(error), error.naming(lambda argument: f"--{argument}")
        ('expected a file of pairs: set pairs', 'expected a file of pairs: set --data.pairs')
    """

    def naming(self, name: Callable[[str], str]) -> str:
        """The message in one line, with each argument named by a function of `group.name`."""
        return _ARGUMENT.sub(lambda found: name(found[1]), plain_text(super().__str__()))

    def __str__(self) -> str:
        """The message as Python's users read it."""
        return self.naming(lambda argument: argument.rpartition(".")[2])


def plain_text(text: str) -> str:
    """Text in one line, without what would steer a terminal or turn the direction of reading."""
    return _UNSEEN.sub(" ", str(text))


def brief(value: Any) -> str:
    r"""A value as an error shows it: in one short line of plain characters, an array by its shape.

    Example:
        >>> brief("a\tb"), brief([1] * 100)
        ("'a\\tb'", '[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,…')
    """
    if getattr(value, "shape", None):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = ascii(value) if isinstance(value, str) else " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def whole_number(value: Any, name: str, least: int | None = None) -> int:
    """A whole number, numpy's and torch's too, as Python has it.

    Args:
        value: What was given.
        name: Of the argument, `group.name` or `name`.
        least: The smallest that will do.

    Raises:
        InputError: It is none, or too small.

    Example:
        >>> whole_number(True, "max")
        Traceback (most recent call last):
        codi_patching.errors.InputError: expected max to be a whole number, got True: set max
    """
    what = name.rpartition(".")[2]
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(cast(SupportsIndex, value))
    except TypeError:
        raise InputError(
            f"expected {what} to be a whole number, got {brief(value)}: set [[{name}]]"
        ) from None
    if least is not None and number < least:
        raise InputError(f"expected {what} of at least {least}, got {number}: set [[{name}]]")
    return number


def path_text(value: Any, name: str) -> str:
    """A path as text, `~` at its beginning being the home folder.

    Args:
        value: What was given.
        name: Of the argument, `group.name` or `name`.

    Raises:
        InputError: It is neither text nor a path, or empty.
    """
    if not isinstance(value, str | os.PathLike) or not (text := os.fspath(value)):
        what = name.rpartition(".")[2]
        raise InputError(f"expected {what} to be a path, got {brief(value)}: set [[{name}]]")
    return os.path.expanduser(text)


INVALID = 3
"""Exit status where results fail a check of validity."""

INPUT_ERRORS = (InputError, OSError)
