"""What counts as bad input: shown in one line, where anything else is a fault of the program."""

from __future__ import annotations

import re
from collections.abc import Callable

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
        """The message, with each argument named by a function of `group.name`."""
        return _ARGUMENT.sub(lambda found: name(found[1]), super().__str__())

    def __str__(self) -> str:
        """The message as Python's users read it."""
        return self.naming(lambda argument: argument.rpartition(".")[2])


INVALID = 3
"""Exit status where results fail a check of validity."""

INPUT_ERRORS = (InputError, OSError)
