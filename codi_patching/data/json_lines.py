"""Files of JSON records: a list, or an object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codi_patching.errors import InputError
from codi_patching.models.strict_json import parse_json


class DataFileError(InputError):
    """A file of pairs or questions cannot be read as one; nothing of it is used."""


def read_text(path: Path, argument: str) -> str:
    """A file's text, without a byte order mark.

    Raises:
        DataFileError: It cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataFileError(
            f"{path}: cannot be read ({error.strerror}): set [[{argument}]]"
        ) from error
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path}: expected UTF-8 text, {error}: set [[{argument}]]") from error


def parse_records(text: str, path: Path, argument: str) -> list[Any]:
    """The records of a JSON list or of JSON lines.

    Args:
        text: Of the file.
        path: Of the file, for errors.
        argument: That chose it, for errors: `data.pairs`.

    Raises:
        DataFileError: It is not JSON, or an object has a key twice.
    """
    try:
        if text.lstrip().startswith("["):
            return list(parse_json(text))
        return list(_from_lines(text))
    except ValueError as error:
        raise DataFileError(
            f"{path}: expected a JSON list or one JSON object a line, {error}: set [[{argument}]]"
        ) from error


def _from_lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line.strip():
                yield parse_json(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error


def in_short(parts: Sequence[str], most: int = 5, between: str = "; ") -> str:
    """The first few of many, and how many more there are."""
    more = f"{between}and {len(parts) - most:,} more" if len(parts) > most else ""
    return between.join(parts[:most]) + more
