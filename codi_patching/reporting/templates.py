"""The templates in `assets/templates`, and how text and numbers enter them."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import jinja2

from codi_patching.errors import plain_text
from codi_patching.reporting.claims_in_words import claim_details, claim_words, verdict_words
from codi_patching.reporting.formats import p_value, short

FOLDER = Path(str(files("codi_patching") / "assets" / "templates"))

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")


@cache
def environment() -> jinja2.Environment:
    """Templates of documents and of the page; a name that is not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    )
    made.filters["text"] = markdown_text
    made.filters["code"] = markdown_code
    made.filters["link"] = quote
    made.filters["claim"] = claim_words
    made.filters["verdict"] = verdict_words
    made.filters["details"] = claim_details
    made.filters["p"] = p_value
    made.filters["short"] = short
    return made


def _seen(value: object) -> object:
    """What a template shows, without what cannot be seen; scripts and styles stay as they are."""
    if type(value) is not str:
        return value
    return "\n".join(plain_text(line) for line in value.split("\n"))


def markdown_text(text: str) -> str:
    r"""Text that is not ours, as Markdown shows it and never reads it.

    Example:
        >>> markdown_text("a|b <script> [x](y)")
        'a\\|b \\<script\\> \\[x\\](y)'
    """
    return _MARKDOWN.sub(r"\\\1", plain_text(text))


def markdown_code(text: str) -> str:
    """Text that is not ours, for between two backticks, in a table too."""
    return plain_text(text).replace("`", "'").replace("|", "\\|")
