"""The templates in `assets/templates`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2

from codi_patching.analysis.overview import cell_label


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
    made.filters["label"] = cell_label
    return made


def with_interval(cell: Mapping[str, Any]) -> str:
    """A mean with its interval, where it has one."""
    numbers = [
        math.nan if n is None else n for n in (cell["mean"], cell["ci_low"], cell["ci_high"])
    ]
    mean, low, high = (f"{number:.4g}" for number in numbers)
    if math.isnan(numbers[0]):
        return "undefined"
    return mean if math.isnan(numbers[1]) else f"{mean} [{low}, {high}]"
