"""The templates in `assets/templates`, and how text and numbers enter them."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2

from codi_patching.reporting.claims_in_words import claim_details, claim_words
from codi_patching.reporting.formats import p_value, short

FOLDER = Path(str(files("codi_patching") / "assets" / "templates"))

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of text."""


@cache
def environment() -> jinja2.Environment:
    """Templates of documents and of the page; a name that is not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    )
    made.filters["text"] = markdown_text
    made.filters["claim"] = claim_words
    made.filters["details"] = claim_details
    made.filters["p"] = p_value
    made.filters["short"] = short
    return made


def markdown_text(text: str) -> str:
    r"""Text that is not ours, as Markdown shows it and never reads it.

    Example:
        >>> markdown_text("a|b <script> [x](y)")
        'a\\|b \\<script\\> \\[x\\](y)'
    """
    return _MARKDOWN.sub(r"\\\1", plain_text(text))


def plain_text(text: str) -> str:
    """Text in one line, without what would steer a terminal or turn the direction of reading."""
    return _UNSEEN.sub(" ", str(text))
