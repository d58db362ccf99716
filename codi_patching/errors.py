"""What counts as bad input: shown in one line, where anything else is a fault of the program."""


class InputError(ValueError):
    """Something that a user gave is not what it should be; says what was expected and found."""


INVALID = 3
"""Exit status where results fail a check of validity."""

INPUT_ERRORS = (InputError, OSError)
