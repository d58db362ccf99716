"""Files that appear whole or not at all, and the sums that tell whether they changed."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors import SafetensorError

from codi_patching.results.schema import ResultsError

CHECKSUMS = "SHA256SUMS"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to; what is written appears under `path` whole or not at all.

    Raises:
        ResultsError: It cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):
            raise ResultsError(
                f"{path} cannot be written ({getattr(error, 'strerror', None) or error}); what is "
                "done already is kept: make room, and run the same command again"
            ) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """Write a text file that appears whole or not at all."""
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people, NaN as null."""
    with text_file(path) as file:
        file.write(as_json(content, indent=2) + "\n")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV; None and NaN are left empty, numbers have all their digits."""
    with text_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row[column]) for column in columns])


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else value


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON of numbers, NaN as null."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """Numbers of numpy as Python's, tuples as lists, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def file_name(pair_id: str) -> str:
    """A pair's id as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", pair_id)[:60]


def sha256_of(path: Path) -> str:
    """Of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path, files: Sequence[Path]) -> None:
    """Write the sums of files in a folder, as `sha256sum --check SHA256SUMS` reads them."""
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(files)]
    with text_file(folder / CHECKSUMS) as file:
        file.writelines(lines)


def changed_files(folder: Path) -> list[str]:
    """Names of files that are missing or not as they were when the sums were written."""
    path = folder / CHECKSUMS
    if not path.exists():
        return []
    expected = [line.partition("  ") for line in path.read_text("utf-8").splitlines()]
    return [
        name
        for digest, _, name in expected
        if not (folder / name).is_file() or sha256_of(folder / name) != digest
    ]
