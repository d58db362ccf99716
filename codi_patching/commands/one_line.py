"""A parser of plain options whose errors are one line; needs nothing but the standard library."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from codi_patching.errors import plain_text


class OneLineArgumentParser(argparse.ArgumentParser):
    """argparse's, with errors in one line and options written in full."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """The options; one that does not exist is named before one that is missing."""
        unknown = [a.partition("=")[0] for a in args or [] if re.match(r"--\w", a)]
        for option in unknown:
            if option not in self._option_string_actions:
                self.error(f"unrecognized arguments: {option}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and what was probably meant."""
        command = self.prog.rpartition(" ")[2]
        if message.startswith("unrecognized arguments: "):
            word = message.partition(": ")[2].split()[0]
            known = list(self._option_string_actions)
            message = f"unknown option {word}{nearest(word, known, command)}"
        refuse(message, self.prog)


def refuse(message: str, program: str = "codi-patching") -> NoReturn:
    """End the program because of its command line: a line, and exit status 2."""
    print(plain_text(f"{program}: {message}"), file=sys.stderr)
    sys.exit(2)


def path(text: str) -> Path:
    """The type of options that are paths: `~` is the home folder, and "" is none.

    Raises:
        ArgumentTypeError: It is empty.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return Path(text).expanduser()


def nearest(word: str, known: list[str], command: str = "") -> str:
    """What was probably meant, as the end of a sentence.

    Args:
        word: What does not exist.
        known: What does.
        command: Whose help lists what there is.
    """
    close = [name for name in known if name.startswith(f"{word}_")]  # --seed, --seed_everything
    if close := close or difflib.get_close_matches(word, known, n=1, cutoff=0.6):
        return f": did you mean {close[0]}?"
    return f"; codi-patching {f'{command} ' if command else ''}--help lists them"
