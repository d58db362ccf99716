"""Files of question pairs: reading and checking.

Two forms are read, as JSON (a list) or JSONL (an object a line):

    prepared   {"pair_id": "3", "clean": {"question": "…", "answer": 18}, "corrupted": {…}}
    raw        {"pair_id": "3", "variant": "clean", "question": "…", "answer": "18"}, and another
               line with the variant "corrupted"

A question may have "reasoning_steps"; a prepared pair a third question "sibling" and a "group", a
raw one a line with the variant "sibling". Other fields are left alone.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codi_patching.data.pairs import Pair, Question
from codi_patching.errors import InputError

SHIPPED_PAIRS = Path(__file__).parent / "pairs.json"
"""The pairs that come with the package, made for codi-tiny."""

_VARIANTS = ("clean", "corrupted")
_SIBLING = "sibling"
_ID_LENGTH = 200
_QUESTION_LENGTH = 100_000
_EXACT = 2**53
"""Whole numbers up to here are exact as floats."""


class PairsFileError(InputError):
    """A file of pairs cannot be read as one; nothing of it is used."""


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a file, in its order.

    Raises:
        PairsFileError: The file is not JSON or JSONL, or any record is not as it should be.
    """
    records = _read_records(path)
    if not records:
        raise PairsFileError(f"{path}: expected at least one pair, got an empty list")
    raw = any(isinstance(r, dict) and "variant" in r for r in records)
    pairs = _from_raw(records, path) if raw else _from_prepared(records, path)
    ids = [pair.pair_id for pair in pairs]
    doubled = [pair_id for pair_id, count in Counter(ids).items() if count > 1]
    if doubled:
        raise PairsFileError(f"{path}: expected each pair_id once, got {doubled[:5]} again")
    return pairs


def read_questions(path: Path, option: str = "--data.pairs") -> list[Question]:
    """Single questions: JSON or JSONL records with `question` and `answer`.

    Args:
        path: Of the file.
        option: That chose it, for errors.

    Raises:
        PairsFileError: The file cannot be read, or a record is not as it should be.
    """
    records = _read_records(path, option)
    return [_question(record, f"{path}: record {i}") for i, record in enumerate(records)]


def _read_records(path: Path, option: str = "--data.pairs") -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PairsFileError(f"{path}: cannot be read ({error.strerror}): set {option}") from error
    except UnicodeDecodeError as error:
        raise PairsFileError(f"{path}: expected UTF-8 text, {error}") from error
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text, object_pairs_hook=_object)
        else:
            records = list(_from_lines(text))
    except (ValueError, RecursionError) as error:  # a number of too many digits, nested too deeply
        raise PairsFileError(
            f"{path}: expected a JSON list or one JSON object a line, {error}"
        ) from error
    return list(records)


def _from_lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line.strip():
                yield json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two equal keys one would win in silence."""
    found = dict(items)
    if len(found) < len(items):
        doubled = [key for key, count in Counter(key for key, _ in items).items() if count > 1]
        raise ValueError(f"but an object has the key {doubled[0]!r} twice")
    return found


def _from_prepared(records: Sequence[Any], path: Path) -> list[Pair]:
    pairs = []
    for index, record in enumerate(records):
        where = f"{path}: pair {index}"
        pair_id = _pair_id(record, where)
        here = f"{where} ({pair_id!r})"
        clean, corrupted = (_question(record.get(v), f"{here}, {v}") for v in _VARIANTS)
        sibling = None
        if record.get(_SIBLING) is not None:
            sibling = _question(record[_SIBLING], f"{here}, {_SIBLING}")
        pair = Pair(pair_id, clean, corrupted, sibling, _group(record, here))
        pairs.append(_checked(pair, here))
    return pairs


def _from_raw(records: Sequence[Any], path: Path) -> list[Pair]:
    found: dict[str, dict[str, Question]] = {}
    for index, record in enumerate(records):
        where = f"{path}: record {index}"
        pair_id = _pair_id(record, where)
        variant = record.get("variant")
        if variant not in (*_VARIANTS, _SIBLING):
            raise PairsFileError(
                f"{where} ({pair_id!r}): expected variant clean, corrupted or sibling, got "
                f"{variant!r}"
            )
        variants = found.setdefault(pair_id, {})
        if variant in variants:
            raise PairsFileError(f"{where} ({pair_id!r}): the {variant} variant is there twice")
        variants[variant] = _question(record, f"{where} ({pair_id!r})")
    for pair_id, variants in found.items():
        lacking = [v for v in _VARIANTS if v not in variants]
        if lacking:
            raise PairsFileError(f"{path}: pair {pair_id!r} has no {lacking[0]} variant")
    return [
        _checked(
            Pair(pair_id, v["clean"], v["corrupted"], v.get(_SIBLING)), f"{path}: pair {pair_id!r}"
        )
        for pair_id, v in found.items()
    ]


def _checked(pair: Pair, where: str) -> Pair:
    """Refuse a sibling whose answer is one of the pair's: it would control nothing."""
    if pair.sibling is not None and pair.sibling.answer in (
        pair.clean.answer,
        pair.corrupted.answer,
    ):
        raise PairsFileError(
            f"{where}: expected the sibling's answer to be unlike both others, got "
            f"{shorten(pair.sibling.answer)}"
        )
    return pair


def _group(record: dict[str, Any], where: str) -> str:
    group = record.get("group", "")
    if isinstance(group, bool) or not isinstance(group, str | int):
        raise PairsFileError(f"{where}: expected group to be text, got {shorten(group)}")
    return str(group)


def shorten(value: Any) -> str:
    """A value as an error message shows it."""
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _pair_id(record: Any, where: str) -> str:
    if not isinstance(record, dict):
        raise PairsFileError(f"{where}: expected an object, got {type(record).__name__}")
    pair_id = record.get("pair_id")
    if isinstance(pair_id, bool) or not isinstance(pair_id, str | int) or pair_id == "":
        raise PairsFileError(
            f"{where}: expected pair_id to be text or a number, got {shorten(pair_id)}"
        )
    pair_id = str(pair_id)
    if len(pair_id) > _ID_LENGTH or not pair_id.isprintable() or pair_id == "__metadata__":
        raise PairsFileError(
            f"{where}: expected pair_id of at most {_ID_LENGTH} printable characters (not "
            f"__metadata__), got {shorten(pair_id)}"
        )
    return pair_id


def _question(record: Any, where: str) -> Question:
    if not isinstance(record, dict):
        raise PairsFileError(
            f"{where}: expected an object with question and answer, got {shorten(record)}"
        )
    text = record.get("question")
    if not isinstance(text, str) or not text.strip():
        raise PairsFileError(f"{where}: expected question to be text, got {shorten(text)}")
    if len(text) > _QUESTION_LENGTH:
        raise PairsFileError(
            f"{where}: expected a question of at most {_QUESTION_LENGTH:,} characters, got "
            f"{len(text):,}"
        )
    odd = next(
        (c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r"), None
    )
    if odd is not None:
        raise PairsFileError(f"{where}: expected text, got a control character {odd!r} in question")
    return Question(text, _number(record.get("answer"), where), _steps(record, where))


def _steps(record: dict[str, Any], where: str) -> tuple[str, ...]:
    steps = record.get("reasoning_steps") or []
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise PairsFileError(
            f"{where}: expected reasoning_steps to be a list of text, got {shorten(steps)}"
        )
    return tuple(steps)


def _number(answer: Any, where: str) -> float:
    """A number, or the text of one: `18`, `"18.0"`, `"1,430"`, `"$18"`, `"… #### 18"`."""
    value = math.nan
    if isinstance(answer, str):
        text = answer.rpartition("####")[2].strip().removeprefix("$").replace(",", "")
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", text):
            value = float(text)
    elif isinstance(answer, int | float) and not isinstance(answer, bool):
        value = float(answer) if abs(answer) < 1e300 else math.inf
    if not math.isfinite(value):
        raise PairsFileError(
            f"{where}: expected answer to be a finite number, got {shorten(answer)}"
        )
    if abs(value) > _EXACT:
        raise PairsFileError(
            f"{where}: expected answer to be at most 2^53 in size, got {shorten(answer)}"
        )
    return value
