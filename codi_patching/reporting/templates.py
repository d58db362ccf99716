"""The templates in `assets/templates`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from codi_patching.reporting.evidence import answer, beside, evidence, short_number, verdict_word

FOLDER = Path(str(files("codi_patching") / "assets" / "templates"))


def environment() -> jinja2.Environment:
    """Templates of reports and of the page; a name that is not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    )
    made.filters["interval"] = with_interval
    made.filters["median"] = median
    made.filters["answer"] = answer
    made.filters["beside"] = beside
    made.filters["evidence"] = evidence
    made.filters["verdict_word"] = verdict_word
    made.filters["code"] = with_code
    made.filters["short"] = lambda value: "–" if value is None else short_number(value)
    return made


def with_code(text: str) -> Markup:
    """Text for HTML, what stands in backticks as code.

    Example:
        >>> with_code("`a<b` holds")
        Markup('<code>a&lt;b</code> holds')
    """
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def median(cell: Mapping[str, Any]) -> str:
    """A median with its interval, where it has one.

    Example:
        >>> median({"median": 1.0, "median_low": 0.5, "median_high": 2.04})
        '1 [0.5, 2.04]'
    """
    keys = {"mean": "median", "ci_low": "median_low", "ci_high": "median_high"}
    return with_interval({name: cell[key] for name, key in keys.items()})


def with_interval(cell: Mapping[str, Any], decimals: int | None = None) -> str:
    """A mean with its interval, where it has one; three digits, or a number of decimals.

    Example:
        >>> with_interval({"mean": 1.0, "ci_low": 0.5, "ci_high": 2.04})
        '1 [0.5, 2.04]'
    """
    style = ".3g" if decimals is None else f".{decimals}f"
    numbers = [
        math.nan if n is None else n for n in (cell["mean"], cell["ci_low"], cell["ci_high"])
    ]
    mean, low, high = (f"{number:{style}}" for number in numbers)
    if math.isnan(numbers[0]):
        return "undefined"
    return mean if math.isnan(numbers[1]) else f"{mean} [{low}, {high}]"
