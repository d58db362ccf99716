"""Questions with calculation chains, in the forms in which GSM8K is passed around.

{"question": "…", "answer": "… <<16-3=13>>13 … #### 13"}                 as published, JSONL
{"question": "…", "cot": "<<16-3=13>> …", "answer": "13"}                GSM8k-Aug
{"question": "…", "steps": ["<<16-3=13>>", …], "answer": "13"}           Coconut's JSON
question||<<16-3=13>> <<13*2=26>> #### 26                                a line each
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from codi_patching.data.json_lines import DataFileError, parse_records, read_text
from codi_patching.models.number_text import parse_amount

STEP = re.compile(r"<<[^<>]*>>")
"""A step of a chain inside a text."""


def steps_of(given: Any) -> tuple[str, ...]:
    """The steps of a list, with or without their brackets, or those inside a text; else none.

    >>> steps_of("He has <<16-3=13>>13 left."), steps_of(["16-3=13"]), steps_of(2)
    (('<<16-3=13>>',), ('<<16-3=13>>',), ())
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return ()
    found = STEP.findall(" ".join(texts))
    if not found and isinstance(given, list) and all("=" in text for text in texts):
        found = [f"<<{text.strip()}>>" for text in texts]
    return tuple(found)


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


def read_chained_questions(path: Path, argument: str) -> list[ChainedQuestion]:
    """All questions of a file, in its order.

    Args:
        path: Of the file.
        argument: That chose it, for errors.

    Raises:
        DataFileError: It cannot be read, a record is in none of the forms or has no number for an
            answer, or no record has a calculation chain.
    """
    content = read_text(path, argument)
    lines = content.lstrip()[:1] not in ("[", "{")
    try:
        records = list(
            _from_lines(content) if lines else _from_json(parse_records(content, path, argument))
        )
        if not records:
            raise ValueError("expected at least one question, got none")
        if not any(STEP.search(chain) for _, chain, _ in records):
            raise ValueError(
                "expected calculation chains such as <<16-3=13>>, got none in "
                f"{len(records):,} questions; they must be calculated (GSM8K), not of logic such "
                "as ProsQA or ProntoQA"
            )
        return [
            _question(f"{path.stem}-{number}", *record, f"record {number}")
            for number, record in enumerate(records, 1)
        ]
    except DataFileError:
        raise
    except ValueError as error:
        raise DataFileError(f"{path}: {error}: set [[{argument}]]") from error


def _from_lines(content: str) -> Iterator[tuple[str, str, str]]:
    """Question, chain and answer of each record."""
    lines = (line for line in content.split("\n") if line.strip())
    for number, line in enumerate(lines, 1):
        text, bars, rest = line.partition("||")
        chain, hashes, answer = rest.partition("####")
        if not bars or not hashes:
            raise ValueError(
                f"line {number}: expected question||<<…>> #### answer, or JSON, got {line[:60]!r}"
            )
        yield text, chain, answer


def _from_json(records: list[Any]) -> Iterator[tuple[Any, str, str]]:
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or not {"question", "answer"} <= record.keys():
            raise ValueError(
                f"record {number}: expected an object with question and answer, got "
                f"{str(record)[:60]}"
            )
        answer = record["answer"]
        forms = (record.get(key) for key in ("steps", "reasoning_steps", "cot", "answer"))
        steps = next(filter(None, map(steps_of, forms)), ())
        yield record["question"], " ".join(steps), str(answer).rpartition("####")[2]


def _question(question_id: str, text: Any, chain: str, answer: str, where: str) -> ChainedQuestion:
    number = parse_amount(answer)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: expected question to be text, got {str(text)[:60]!r}")
    steps = tuple(STEP.findall(chain))
    if number is None:
        raise ValueError(f"{where}: expected answer to be a number, got {answer[:60]!r}")
    return ChainedQuestion(question_id, text.strip(), steps, number)
