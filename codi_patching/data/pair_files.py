"""Files of question pairs: reading and checking.

Two forms are read, as JSON (a list) or JSONL (an object a line):

    prepared   {"pair_id": "3", "clean": {"question": "…", "answer": 18}, "corrupted": {…}}
    raw        {"pair_id": "3", "variant": "clean", "question": "…", "answer": "18"}, and another
               line with the variant "corrupted"

A pair may have a third question (`sibling`, in the raw form a line with that variant) and a
`group`, and a question `reasoning_steps`: a list of steps, a text with all of them, or how many
there are. Steps that do not lead from the question to its answer are refused, and the pair runs
without. Other numbers and texts of a pair are kept as its fields.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codi_patching.data.chained_questions import steps_of
from codi_patching.data.chains import MOST_STEPS, ChainError
from codi_patching.data.explained import check_chain
from codi_patching.data.json_lines import (
    DataFileError,
    in_short,
    parse_records,
    read_text,
)
from codi_patching.data.pairs import Pair, Question, as_answer
from codi_patching.errors import InputError, brief
from codi_patching.models.number_text import parse_number

_VARIANTS = ("clean", "corrupted")
_SIBLING = "sibling"
_KNOWN_KEYS = ("pair_id", "group", "variant", "question", "answer", "reasoning_steps", _SIBLING)
_ID_LENGTH = 200
_FIELD_LENGTH = 200
_QUESTION_LENGTH = 100_000
_warn = logging.getLogger(__name__).warning


def read_pairs(path: Path, say: Callable[[str], None] = _warn) -> list[Pair]:
    """All pairs of a file, in its order.

    Args:
        path: Of the file.
        say: Told, in a line each, what of it is left alone.

    Raises:
        DataFileError: The file is not JSON or JSONL, or any record is not as it should be.
    """
    records = parse_records(read_text(path, "data.pairs"), path, "data.pairs")
    if not records:
        raise DataFileError(f"{path}: expected at least one pair, got an empty list")
    raw = any(isinstance(r, dict) and "variant" in r for r in records)
    unread: list[str] = []
    pairs = (_from_raw if raw else _from_prepared)(records, path, unread)
    ids = [pair.pair_id for pair in pairs]
    doubled = [pair_id for pair_id, count in Counter(ids).items() if count > 1]
    if doubled:
        raise DataFileError(f"{path}: expected each pair_id once, got {doubled[:5]} again")
    _say_unread(path, unread, say)
    refused = [reason for pair in pairs if (reason := _refuse_chains(pair))]
    if refused:
        say(f"{path.name}: {len(refused)} pairs run without their steps: {in_short(refused)}")
    return pairs


def read_questions(path: Path, argument: str) -> list[Question]:
    """Single questions: JSON or JSONL records with `question` and `answer`.

    Args:
        path: Of the file.
        argument: That chose it, for errors.

    Raises:
        DataFileError: The file cannot be read, or a record is not as it should be.
    """
    unread: list[str] = []
    records = parse_records(read_text(path, argument), path, argument)
    found = [_question(record, f"{path}: record {i}", unread) for i, record in enumerate(records)]
    _say_unread(path, unread, _warn)
    return found


def _say_unread(path: Path, unread: Sequence[str], say: Callable[[str], None]) -> None:
    if unread:
        say(
            f"{path.name}: expected reasoning_steps to be a list of steps, a text with <<…>> or a "
            f"number of steps; left alone in {len(unread)} records: {in_short(unread)}"
        )


def _refuse_chains(pair: Pair) -> str | None:
    """Leave out a pair's steps if they do not lead to its answers; says why."""
    for name in (*_VARIANTS, _SIBLING):
        question = getattr(pair, name)
        try:
            if question is not None and question.reasoning_steps:
                check_chain(question.text, question.reasoning_steps, question.answer)
        except ChainError as error:
            for each in filter(None, (pair.clean, pair.corrupted, pair.sibling)):
                each.reasoning_steps, each.num_steps = (), None
            return f"{pair.pair_id} ({name}: {error})"
    return None


def _from_prepared(records: Sequence[Any], path: Path, unread: list[str]) -> list[Pair]:
    pairs = []
    for index, record in enumerate(records):
        where = f"{path}: pair {index}"
        pair_id = _pair_id(record, where)
        here = f"{where} ({pair_id!r})"
        sides = [v for v in (*_VARIANTS, _SIBLING) if v != _SIBLING or record.get(v) is not None]
        questions = {v: _question(record.get(v), f"{here}, {v}", unread) for v in sides}
        pairs.append(_pair(pair_id, questions, record, here))
    return pairs


def _from_raw(records: Sequence[Any], path: Path, unread: list[str]) -> list[Pair]:
    found: dict[str, dict[str, Question]] = {}
    clean: dict[str, dict[str, Any]] = {}
    for index, record in enumerate(records):
        where = f"{path}: record {index}"
        pair_id = _pair_id(record, where)
        here = f"{where} ({pair_id!r})"
        variant = record.get("variant")
        if variant not in (*_VARIANTS, _SIBLING):
            raise DataFileError(
                f"{here}: expected variant clean, corrupted or sibling, got {brief(variant)}"
            )
        variants = found.setdefault(pair_id, {})
        if variant in variants:
            raise DataFileError(f"{here}: the {variant} variant is there twice")
        variants[variant] = _question(record, here, unread)
        if variant == "clean":
            clean[pair_id] = record
    for pair_id, variants in found.items():
        lacking = [v for v in _VARIANTS if v not in variants]
        if lacking:
            raise DataFileError(f"{path}: pair {pair_id!r} has no {lacking[0]} variant")
    return [_pair(k, v, clean[k], f"{path}: pair {k!r}") for k, v in found.items()]


def _pair(pair_id: str, questions: dict[str, Question], record: dict[str, Any], where: str) -> Pair:
    return Pair(pair_id, **questions, group=_group(record, where), fields=_fields(record))


def _fields(record: dict[str, Any]) -> dict[str, str]:
    """What a record says besides its questions, in numbers and short texts."""
    return {
        str(key): value if isinstance(value, str) else json.dumps(value)
        for key, value in record.items()
        if key not in _KNOWN_KEYS
        and isinstance(value, str | int | float)
        and len(str(value)) <= _FIELD_LENGTH
    }


def _group(record: dict[str, Any], where: str) -> str:
    group = record.get("group", "")
    if isinstance(group, bool) or not isinstance(group, str | int):
        raise DataFileError(f"{where}: expected group to be text, got {brief(group)}")
    return str(group)


def _pair_id(record: Any, where: str) -> str:
    if not isinstance(record, dict):
        raise DataFileError(f"{where}: expected an object, got {type(record).__name__}")
    pair_id = record.get("pair_id")
    if isinstance(pair_id, bool) or not isinstance(pair_id, str | int) or pair_id == "":
        raise DataFileError(
            f"{where}: expected pair_id to be text or a number, got {brief(pair_id)}"
        )
    pair_id = str(pair_id)
    if len(pair_id) > _ID_LENGTH or not pair_id.isprintable() or pair_id == "__metadata__":
        raise DataFileError(
            f"{where}: expected pair_id of at most {_ID_LENGTH} printable characters (not "
            f"__metadata__), got {brief(pair_id)}"
        )
    return pair_id


def _question(record: Any, where: str, unread: list[str]) -> Question:
    if not isinstance(record, dict):
        raise DataFileError(
            f"{where}: expected an object with question and answer, got {brief(record)}"
        )
    text = record.get("question")
    if not isinstance(text, str) or not text.strip():
        raise DataFileError(f"{where}: expected question to be text, got {brief(text)}")
    if len(text) > _QUESTION_LENGTH:
        raise DataFileError(
            f"{where}: expected a question of at most {_QUESTION_LENGTH:,} characters, got "
            f"{len(text):,}"
        )
    steps, count = _steps(record.get("reasoning_steps"), where, unread)
    try:
        return Question(text, as_answer(record.get("answer")), steps, count)
    except InputError as error:
        raise DataFileError(f"{where}: {error}") from None


def _steps(given: Any, where: str, unread: list[str]) -> tuple[tuple[str, ...], int | None]:
    """The steps, and how many there are; a form that is not known is noted as unread."""
    if given is None or given == [] or given == "":
        return (), None
    count = parse_number(str(given)) if isinstance(given, str | int | float) else None
    if count is not None and count.denominator == 1 and 0 < count <= MOST_STEPS:
        return (), int(count)
    steps = steps_of(given)
    if not steps:
        unread.append(f"{where}: {brief(given)}")
    return steps, None
