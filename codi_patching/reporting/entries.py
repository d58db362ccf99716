"""Entries of Markdown files that are replaced in place."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path

from filelock import FileLock

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
        content = path.read_text(encoding="utf-8") if path.exists() else heading
        with text_file(path) as file:
            file.write(_with_entry(content, name, text))


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
