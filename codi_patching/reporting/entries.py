"""Entries of Markdown files that are replaced in place."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path

from filelock import FileLock

from codi_patching.results.description import ResultsError
from codi_patching.results.files import text_file


def replace_entry(path: Path, name: str, text: str, heading: str) -> None:
    """Put an entry into a file in place of the one of that name, or at its end.

    Args:
        path: A Markdown file; made with `heading` if it is not there.
        name: Of the entry.
        text: Its content.
        heading: Start of a new file.
    """
    with _alone(path):
        content = text_of(path) if path.exists() else heading
        with text_file(path) as file:
            file.write(_with_entry(content, name, text))


def text_of(path: Path) -> str:
    """What a file says that is to be changed; nothing if it is not there.

    Raises:
        ResultsError: It is no file, or not of UTF-8 text.
    """
    if not path.exists():
        return ""
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
        reason = "it is no file"
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error)
    raise ResultsError(
        f"{path} cannot be read ({reason}): remove it, or set [[report.docs]] to another folder"
    )


def _with_entry(content: str, name: str, text: str) -> str:
    start, end = f"<!-- entry {name} -->\n", f"<!-- end of {name} -->\n"
    entry = f"{start}{text}{end}"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(content):
        return pattern.sub(lambda _: entry, content, count=1)
    return f"{content}\n{entry}"


def _alone(path: Path) -> FileLock:
    """A lock for those on this machine who change the same file; it leaves nothing beside it."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"codi_patching_{name}.lock")
