"""Entries of Markdown files that are replaced in place."""

from __future__ import annotations

import re
from pathlib import Path

from codi_patching.results.files import text_file


def replace_entry(path: Path, name: str, text: str, heading: str) -> None:
    """Put an entry into a file in place of the one of that name, or at its end.

    Args:
        path: A Markdown file; made with `heading` if it is not there.
        name: Of the entry.
        text: Its content.
        heading: Start of a new file.
    """
    content = path.read_text(encoding="utf-8") if path.exists() else heading
    start, end = f"<!-- entry {name} -->\n", f"<!-- end of {name} -->\n"
    entry = f"{start}{text}{end}"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(content):
        content = pattern.sub(lambda _: entry, content, count=1)
    else:
        content = f"{content}\n{entry}"
    with text_file(path) as file:
        file.write(content)
