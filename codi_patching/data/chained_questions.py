"""Questions with calculation chains, in the forms in which GSM8K is passed around.

{"question": "…", "answer": "… <<16-3=13>>13 … #### 13"}                 as published, JSONL
{"question": "…", "cot": "<<16-3=13>> …", "answer": "13"}                GSM8k-Aug
{"question": "…", "steps": ["<<16-3=13>>", …], "answer": "13"}           Coconut's JSON
question||<<16-3=13>> <<13*2=26>> #### 26                                a line each
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from codi_patching.data.chains import read_number
from codi_patching.errors import InputError

_STEP = re.compile(r"<<[^<>]*>>")


class QuestionsFileError(InputError):
    """A file of questions cannot be read as one; nothing of it is used."""


@dataclass(frozen=True)
class ChainedQuestion:
    """A question, its calculation and its answer.

    Attributes:
        question_id: Names it: the file's name and the number of its record.
        text: As it is asked.
        steps: `<<16-3=13>>` each; empty if there are none.
        answer: A number.
    """

    question_id: str
    text: str
    steps: tuple[str, ...]
    answer: Fraction


def read_chained_questions(path: Path, option: str = "--questions") -> list[ChainedQuestion]:
    """All questions of a file, in its order.

    Args:
        path: Of the file.
        option: That chose it, for errors.

    Raises:
        QuestionsFileError: It cannot be read, a record is in none of the forms or has no number
            for an answer, or no record has a calculation chain.
    """
    try:
        return _read(path)
    except QuestionsFileError as error:
        raise QuestionsFileError(f"{path}: {error}: set {option}") from error


def _read(path: Path) -> list[ChainedQuestion]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionsFileError(f"cannot be read ({error})") from error
    records = list(_records(content))
    if not records:
        raise QuestionsFileError("expected at least one question, got none")
    if not any(_STEP.search(str(chain)) for _, chain, _ in records):
        raise QuestionsFileError(
            f"expected calculation chains such as <<16-3=13>>, got none in {len(records):,} "
            "questions; they must be calculated (GSM8K), not of logic such as ProsQA or ProntoQA"
        )
    return [
        _question(f"{path.stem}-{number}", *record, f"record {number}")
        for number, record in enumerate(records, 1)
    ]


def _records(content: str) -> Iterator[tuple[Any, Any, str]]:
    """Question, chain and answer of each record."""
    lines = [line for line in content.split("\n") if line.strip()]
    start = content.lstrip()[:1]
    if start not in ("[", "{"):
        return _from_lines(lines)
    try:
        records = json.loads(content) if start == "[" else [json.loads(line) for line in lines]
    except ValueError as error:
        raise QuestionsFileError(
            f"expected a JSON list or one JSON object a line, {error}"
        ) from error
    return _from_json(records)


def _from_lines(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(lines, 1):
        text, bars, rest = line.partition("||")
        chain, hashes, answer = rest.partition("####")
        if not bars or not hashes:
            raise QuestionsFileError(
                f"line {number}: expected question||<<…>> #### answer, or JSON, got {line[:60]!r}"
            )
        yield text, chain, answer


def _from_json(records: list[Any]) -> Iterator[tuple[Any, Any, str]]:
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or not {"question", "answer"} <= record.keys():
            raise QuestionsFileError(
                f"record {number}: expected an object with question and answer, got "
                f"{str(record)[:60]}"
            )
        answer = record["answer"]
        steps = record.get("steps", record.get("reasoning_steps"))
        chain = record.get("cot", answer) if steps is None else " ".join(map(str, steps))
        yield record["question"], chain, str(answer).rpartition("####")[2]


def _question(question_id: str, text: Any, chain: Any, answer: str, where: str) -> ChainedQuestion:
    number = read_number(answer.strip().removeprefix("$"))
    if not isinstance(text, str) or not text.strip():
        raise QuestionsFileError(f"{where}: expected question to be text, got {str(text)[:60]!r}")
    steps = tuple(match.group() for match in _STEP.finditer(str(chain)))
    if number is None:
        raise QuestionsFileError(f"{where}: expected answer to be a number, got {answer[:60]!r}")
    return ChainedQuestion(question_id, text.strip(), steps, number)
