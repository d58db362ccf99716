"""The templates in `assets/templates`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2


def environment() -> jinja2.Environment:
    """Templates of reports and of the page; a name that is not given is an error."""
    loader = jinja2.FileSystemLoader(str(files("codi_patching") / "assets" / "templates"))
    made = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    )
    made.filters["interval"] = with_interval
    return made


def with_interval(cell: Mapping[str, Any]) -> str:
    """A mean with its interval."""
    numbers = [cell["mean"], cell["ci_low"], cell["ci_high"]]
    if any(number is None or math.isnan(number) for number in numbers):
        return "undefined"
    mean, low, high = (f"{number:.4g}" for number in numbers)
    return f"{mean} [{low}, {high}]"
