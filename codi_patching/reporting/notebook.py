"""What runs, effects, grids and results look like in a notebook: small pictures, as text.

Every picture is an inline SVG of coloured cells or bars, and whatever a user wrote is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from codi_patching.reporting.formats import short
from codi_patching.results.description import Array

INK, SOFT = "#16202c", "#5a6673"
_LOW, _HIGH, _BELOW = (232, 240, 248), (8, 74, 145), (180, 70, 10)
_FONT = "font-family='sans-serif' font-size='10'"
_MOST_ROWS = 24


def colour(share: float) -> str:
    """From pale (0) to dark blue (1), or to orange (-1); grey for what is undefined.

    Example:
        >>> colour(0.0), colour(1.0), colour(-1.0), colour(float("nan"))
        ('#e8f0f8', '#084a91', '#b4460a', '#cccccc')
    """
    if math.isnan(share):
        return "#cccccc"
    size, end = min(1.0, abs(share)), _HIGH if share >= 0 else _BELOW
    return "#" + "".join(f"{round(a + (b - a) * size):02x}" for a, b in zip(_LOW, end))


def cells_svg(
    values: Array,
    rows: Sequence[Any],
    columns: Sequence[Any],
    *,
    title: str,
    texts: Sequence[Sequence[str]] | None = None,
    zeros: np.ndarray[Any, Any] | None = None,
) -> str:
    """A map as a picture, layers × positions, the first layer at the bottom.

    Args:
        values: `(rows, columns)`; the largest size has the darkest colour.
        rows: Names of the layers.
        columns: Names of the positions.
        title: Above it; the end of the scale follows.
        texts: In the cells.
        zeros: True where nothing can come of a cell, `(rows, columns)`: drawn as a dash.
    """
    known = np.abs(values[np.isfinite(values)])
    most = max(1e-6, float(known.max(initial=0.0)))
    title = f"{title}, to {short(most)}"
    kept = range(0, len(rows), -(-len(rows) // _MOST_ROWS))
    width, height, left = (44 if texts else 22), (15 if texts or len(kept) < 8 else 11), 46
    drawn = []
    for line, row in enumerate(reversed(kept)):
        y = 18 + line * height
        drawn.append(_text(left - 4, y + height - 3, str(rows[row]), "end"))
        for column in range(len(columns)):
            value, x = float(values[row, column]), left + column * width
            name = f"{rows[row]}, {columns[column]}: {short(value)}"
            drawn.append(
                f"<rect x='{x}' y='{y}' width='{width - 1}' height='{height - 1}' "
                f"fill='{colour(value / most)}'><title>{escape(name)}</title></rect>"
            )
            said = "–" if zeros is not None and zeros[row, column] else ""
            said = texts[row][column][:7] if texts else said
            ink = "#ffffff" if abs(value) > 0.5 * most else INK
            drawn.append(_text(x + width / 2, y + height - 4, said, "middle", ink))
    bottom = 18 + len(kept) * height
    for column, name in enumerate(columns):
        drawn.append(_text(left + (column + 0.5) * width, bottom + 11, str(name), "middle"))
    drawn += [_text(left - 4, bottom + 11, "position", "end"), _text(2, 11, title)]
    wide = max(left + len(columns) * width + 4, 6 * len(title) + 8)
    return _svg(wide, bottom + 16, drawn)


def bars_svg(values: Mapping[str, Mapping[str, float]]) -> str:
    """Shares of 1 as bars: by what they are of, then by run.

    Args:
        values: Probabilities by name, then by run.
    """
    drawn, y = list[str](), 0
    for name, runs in values.items():
        drawn.append(_text(2, y + 11, name))
        for run, value in runs.items():
            y += 15
            length = 120 * min(1.0, max(0.0, 0.0 if math.isnan(value) else value))
            drawn.append(_text(62, y + 10, run, "end"))
            drawn.append(
                f"<rect x='66' y='{y + 2}' width='120' height='10' fill='{colour(0)}'/>"
                f"<rect x='66' y='{y + 2}' width='{length:.1f}' height='10' fill='{colour(1)}'/>"
            )
            drawn.append(_text(192, y + 11, short(value)))
        y += 18
    return _svg(236, y, drawn)


def framed(title: str, facts: Mapping[str, str], pictures: Sequence[str]) -> str:
    """A title, facts by name, and pictures side by side."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(said)}</td></tr>"
        for name, said in facts.items()
    )
    drawn = "".join(f"<span style='margin-right:12px'>{picture}</span>" for picture in pictures)
    table = f"<table>{rows}</table>" if rows else ""
    return f"<div><b>{escape(title)}</b>{table}<div>{drawn}</div></div>"


def _text(x: float, y: float, text: str, anchor: str = "start", ink: str = SOFT) -> str:
    if not text:
        return ""
    place = f"x='{x:g}' y='{y:g}' text-anchor='{anchor}' fill='{ink}'"
    return f"<text {place} {_FONT}>{escape(text)}</text>"


def _svg(width: float, height: float, drawn: Sequence[str]) -> str:
    size = f"width='{width:g}' height='{height:g}'"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size}>{''.join(drawn)}</svg>"
