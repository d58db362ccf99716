"""JSON that comes from outside, in which no key may stand twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any


def parse_json(text: str) -> Any:
    """The content of JSON.

    Raises:
        ValueError: It is none, or an object has a key twice, of which one would win in silence.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds an object; its values are the caller's to check.

    Raises:
        ValueError: It is no such JSON.
    """
    content = parse_json(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {type(content).__name__}")
    return content


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        doubled = [key for key, count in Counter(key for key, _ in items).items() if count > 1]
        raise ValueError(f"but an object has the key {doubled[0]!r} twice")
    return found
