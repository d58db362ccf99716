"""A map of a grid's cells: layers upwards, as in the model, positions to the right.

What is too small to matter looks like nothing: a scale never ends below that. Neighbours of a
position that agree are labelled once; no cell is ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from codi_patching.analysis.findings import Claim
from codi_patching.reporting.canvas import SMALL, SOFT
from codi_patching.results.description import THOUGHT, THOUGHTS, Array, Mask, RunDescription

LEAST = {"probability": 0.10, "nats": 0.05, "rate": 0.10}
"""What is too small to matter: scales go up to this at least."""

AGREE = 0.015
"""Neighbours of a position whose values differ by less are labelled once."""


@dataclass(frozen=True)
class Scale:
    """From values to colours.

    Attributes:
        norm: From values to 0..1.
        colours: From 0..1 to colours.
    """

    norm: Normalize
    colours: Colormap

    def text_on(self, value: float) -> str:
        """Black or white, whichever contrasts more with a value's colour, as WCAG 2.2 has it."""
        rgb = np.array(self.colours(self.norm(value))[:3])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        light = float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05
        return "white" if 1.05 / light > light / 0.05 else "black"


def scale_of(values: Array, least: float, end: float | None = None) -> Scale:
    """The scale of values: white at 0, blue above; orange below where any is clearly below.

    Args:
        values: To be drawn.
        least: The scale ends there at least.
        end: Where it should end; it goes further if a value does.
    """
    finite = values[np.isfinite(values)]
    top = max(least, float(finite.max(initial=0.0)), end or 0.0)
    low = float(finite.min(initial=0.0))
    blues = colormaps["Blues"]
    if low > -0.2 * least:
        return Scale(Normalize(0.0, top, clip=True), blues)
    bound = max(top, -low)
    stops = ["#7f2704", "#f16913", "#ffffff", "#6baed6", "#08306b"]
    return Scale(Normalize(-bound, bound), LinearSegmentedColormap.from_list("signed", stops))


def draw_cells(axes: Axes, values: Array, run: RunDescription, scale: Scale) -> None:
    """Draw a map with its ticks; structural zeros hatched, undefined cells dotted.

    Args:
        axes: To draw on.
        values: `(layers, columns)`.
        run: Names and structural zeros.
        scale: Of the colours.
    """
    structural = run.grid.structural
    shown = np.where(structural, np.nan, values)
    axes.imshow(
        shown, origin="lower", aspect="auto", norm=scale.norm, cmap=scale.colours,
        interpolation="nearest",
    )  # fmt: skip
    for mask, hatch in ((structural, "//////"), (np.isnan(shown) & ~structural, "....")):
        for row, column in np.argwhere(mask):
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch=hatch, ec=SOFT, lw=0))
    label_axes(axes, run)


def label_axes(axes: Axes, run: RunDescription) -> None:
    """Ticks with the names of layers and columns, thinned where there are many."""
    layer_ticks(axes, run)
    columns = run.grid.shape[1]
    step = max(1, -(-columns // 16))
    shown = [name.replace(" ", "\n") for name in column_names(run)[::step]]
    axes.set_xticks(range(0, columns, step), shown)
    axes.set_xlabel(column_kind(run))
    axes.set_ylabel("layer")


def layer_ticks(axes: Axes, run: RunDescription) -> None:
    """Ticks with the names of layers, thinned where there are many."""
    rows = run.grid.shape[0]
    step = 1 if rows <= 8 else 3 if rows <= 24 else 6
    places = list(range(0, rows, step))
    if places[-1] != rows - 1 and rows - 1 - places[-1] >= step - 1:
        places.append(rows - 1)
    names = ["z" if name == THOUGHT else name for name in run.grid.layers]
    axes.set_yticks(places, [names[place] for place in places])


def column_kind(run: RunDescription) -> str:
    """What a column is, in a figure: a thought, or with places outside them a position."""
    thoughts = run.grid.column == "position" and run.positions == THOUGHTS
    return "thought" if thoughts else run.grid.column


def column_names(run: RunDescription) -> list[str]:
    """What figures call the columns: `z0`, `z1`, … for positions, else their names."""
    thoughts = run.grid.column == "position"
    return [f"z{name}" if thoughts and name.isdigit() else name for name in run.grid.columns]


def segments(column: Array) -> Iterator[tuple[int, int]]:
    """First and last row of the runs of a column whose values agree; NaN ends a run.

    Example:
        >>> list(segments(np.array([0.5, 0.5, 0.51, np.nan, 0.1, 0.2])))
        [(0, 2), (4, 4), (5, 5)]
    """
    start = None
    for row, value in enumerate(column):
        if start is not None:
            own = column[start : row + 1]
            if np.isfinite(value) and own.max() - own.min() <= AGREE:
                continue
            yield start, row - 1
        start = row if np.isfinite(value) else None
    if start is not None:
        yield start, len(column) - 1


def write_values(
    axes: Axes, values: Array, scale: Scale, row_height: float, percent: bool = False
) -> None:
    """Label every run of agreeing cells once, by its median, where there is room for it.

    Args:
        axes: Of the map.
        values: As drawn, NaN where there is nothing to say.
        scale: Of the colours.
        row_height: Of a cell, in points.
        percent: Whether values are shares, written in percent from 10 on.
    """
    least = 0.1 if percent else 0.005
    for column in range(values.shape[1]):
        for first, last in segments(values[:, column]):
            own = values[first : last + 1, column]
            middle = float(np.median(own))
            if abs(middle) < least or (last - first + 1) * row_height < SMALL:
                continue
            axes.text(
                column, (first + last) / 2, f"{100 * middle:.0f}" if percent else number(middle),
                ha="center", va="center", fontsize=SMALL,
                color=scale.text_on(middle),
            )  # fmt: skip


def number(value: float) -> str:
    """A cell's value.

    Example:
        >>> number(0.451), number(-0.004), number(12.34)
        ('0.45', '-0.00', '12.3')
    """
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}"


def outline(axes: Axes, mask: Mask, **look: Any) -> None:
    """A line round each region of cells, none between neighbours of one region.

    Args:
        axes: Of the map.
        mask: The cells, `(layers, columns)`.
        look: Of the line, as matplotlib names it.
    """
    padded = np.pad(mask, 1)
    lines = []
    for row, column in np.argwhere(padded[1:, :-1] != padded[:-1, :-1]):
        lines.append([(column - 1.5, row - 0.5), (column - 0.5, row - 0.5)])
    for row, column in np.argwhere(padded[:-1, 1:] != padded[:-1, :-1]):
        lines.append([(column - 0.5, row - 1.5), (column - 0.5, row - 0.5)])
    axes.add_collection(LineCollection(lines, capstyle="projecting", clip_on=False, **look))


def put_dots(axes: Axes, mask: Mask, values: Array, scale: Scale) -> None:
    """A small dot in the corner of each cell of a mask."""
    places = np.argwhere(mask)
    colours = [scale.text_on(float(values[row, column])) for row, column in places]
    axes.scatter(places[:, 1] + 0.43, places[:, 0] + 0.36, s=1.4, c=colours, lw=0)


def cell_mask(
    run: RunDescription, claims: Iterable[Claim], chosen: Callable[[Claim], bool]
) -> Mask:
    """The cells of those claims that are chosen, as a mask in the grid's shape."""
    mask = np.zeros(run.grid.shape, dtype=bool)
    places = {(layer, column): cell for cell, layer, column in run.grid.cells()}
    for claim in claims:
        cell = places.get((claim.layer or "", claim.column or ""))
        if cell is not None and chosen(claim):
            mask[cell] = True
    return mask


def add_bar(figure: Figure, axes: Any, scale: Scale, label: str, **where: Any) -> Colorbar:
    """The colours of a map, or of several, beside the axes."""
    bar = figure.colorbar(ScalarMappable(scale.norm, scale.colours), ax=axes, pad=0.02, **where)
    bar.outline.set_visible(False)
    bar.set_label(label)
    return bar


def last_reader(run: RunDescription) -> str:
    """What reads the last layer's output; the head, if that is before the answer."""
    if run.positions == THOUGHTS:
        return "the next thought"
    return "the next thought, or before the answer the head,"


def notes_on(run: RunDescription) -> list[str]:
    """What a reader of a map must know of its cells."""
    notes = []
    if run.grid.structural_zeros:
        notes.append("Hatched: zero by construction, nothing reads this state.")
    last = len(run.grid.layers) - 1
    if run.makes_thoughts(last):
        notes.append(
            f"Layer {run.grid.layers[last]} is the last: only {last_reader(run)} reads its output."
        )
    return notes
