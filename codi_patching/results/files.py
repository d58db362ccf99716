"""Files that appear whole or not at all, and the sums that tell whether they changed."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors import SafetensorError

from codi_patching.results.description import ResultsError
from codi_patching.results.layout import CHECKSUMS, measured_files, process_file

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_SUM = re.compile(r"([0-9a-f]{64})  ([^/\0]+)")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path to write to; what is written appears under `path` whole or not at all.

    It is a new file with a name of its own beside `path`: no link that stands there is followed,
    and of several writers at once the last one's file stays, whole.

    Raises:
        ResultsError: It cannot be written.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.partial")
    try:
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        os.close(os.open(partial, new, 0o666))
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):
            advice = "make room" if getattr(error, "errno", None) in _FULL else "see to that"
            raise ResultsError(
                f"{path} cannot be written ({getattr(error, 'strerror', None) or error}); what is "
                f"done already is kept: {advice}, and run the same command again"
            ) from error
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Delete what writers that were killed left in a results folder; nobody may be writing."""
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    left = [path for place in (folder, *inside) for path in place.glob(".*.partial")]
    for path in (*left, *folder.glob(process_file("*"))):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)


def remove_file(path: Path) -> None:
    """Delete a file of ours, if it is there.

    Raises:
        ResultsError: It cannot be deleted, as a folder in its place.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror or error
        raise ResultsError(f"{path} cannot be replaced ({reason}): delete it") from error


def make_folder(path: Path) -> None:
    """Make a folder inside a results folder.

    Raises:
        ResultsError: A link, which would lead elsewhere, or a file has its place.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ResultsError(f"expected {path} to be a folder, got a link or a file: delete it")
    path.mkdir(parents=True, exist_ok=True)


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """Write a text file that appears whole or not at all."""
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people, NaN as null."""
    with text_file(path) as file:
        file.write(as_json(content, indent=2) + "\n")


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SIGNED = re.compile(r"[-+][0-9.]+(e[-+]?[0-9]+)?")
"""What a spreadsheet takes for a formula, and what it may: a number with its sign."""


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV, one at a time; None and NaN are left empty, numbers have all digits.

    Text that a spreadsheet would run as a formula gets an apostrophe before it.
    """
    with text_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row[column]) for column in columns] for row in rows)


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and value[:1] in _FORMULA and not _SIGNED.fullmatch(value):
        return f"'{value}"
    return repr(float(value)) if isinstance(value, float) else value


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON of numbers, NaN as null."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """Numbers of numpy as Python's, arrays and tuples as lists, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
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


def write_checksums(folder: Path) -> None:
    """Write the sums of a folder's measured files, as `sha256sum --check SHA256SUMS` reads them."""
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in measured_files(folder)]
    with text_file(folder / CHECKSUMS) as file:
        file.writelines(lines)


def changed_files(folder: Path) -> list[str]:
    """Names of a folder's measured files that are not as the run wrote them.

    Missing ones and ones that were never listed are among them, and so are the sums themselves
    where they are missing, empty or anything but a list of sums.
    """
    sums = _read_checksums(folder / CHECKSUMS)
    there = {path.name for path in measured_files(folder)}
    if not sums:
        return [CHECKSUMS] if there or (folder / CHECKSUMS).exists() else []
    listed = {name for name, digest in sums.items() if _is_whole(folder / name, digest)}
    return sorted((there | sums.keys()) - listed)


def _read_checksums(path: Path) -> dict[str, str]:
    """Sums by name; empty if there are none, or one of them is not a sum."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n") if path.is_file() else []
    except (OSError, UnicodeDecodeError):
        return {}
    found = [_SUM.fullmatch(line) for line in lines[:-1]]
    if not lines or lines[-1] or not all(found):
        return {}
    return {line[2]: line[1] for line in found if line is not None}


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return path.is_file() and sha256_of(path) == digest
    except OSError:
        return False
