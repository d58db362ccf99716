"""Sheets of single pairs: a small map of the content effect for each, sorted by stratum.

All pairs of a run are on one scale, −1 to 1 in probability, so that a weak effect looks like one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from codi_patching.analysis.effects import content
from codi_patching.analysis.report import Summary
from codi_patching.analysis.strata import strata_of
from codi_patching.reporting.canvas import (
    INK,
    SMALL,
    SOFT,
    WIDTHS,
    new_figure,
    put_note,
    put_title,
    style,
)
from codi_patching.reporting.carried import row_name
from codi_patching.reporting.content import effect_name
from codi_patching.reporting.maps import Scale, add_bar, scale_of
from codi_patching.reporting.names import title
from codi_patching.results.dataset import run_of, structural_of
from codi_patching.results.description import Array, RunDescription

ACROSS, ROWS = 9, 6
"""Pairs in a row, rows in a sheet; a stratum begins a new row."""

GAP, HEAD = 0.25, 0.75
"""Between panels, and above them for names, in panels."""

Row = tuple[str, list[int]]
"""Name of the stratum, empty where it goes on from the row above; the pairs."""


def pair_sheets(summary: Summary) -> Iterator[tuple[str, Figure]]:
    """The content effect of every pair, `sheet_01`, `sheet_02`, …."""
    parts = content(summary.data)
    effect = np.where(structural_of(summary.data), np.nan, np.minimum.reduce(list(parts.values())))
    scale = scale_of(np.array([1.0, -1.0 if np.nanmin(effect, initial=0) < -0.1 else 0.0]), 1.0)
    rows = rows_of(summary)
    for place in range(0, len(rows), ROWS):
        with style():
            yield (
                f"sheet_{place // ROWS + 1:02d}",
                _sheet(summary, rows[place : place + ROWS], effect, scale),
            )


def rows_of(summary: Summary) -> list[Row]:
    """The pairs in rows, by stratum, in the order of the strata."""
    strata, labels = strata_of(summary.data)
    rows: list[Row] = []
    for place, stratum in enumerate(strata):
        members = [int(row) for row in np.flatnonzero(labels[0] == place)]
        steps = f"{stratum.num_steps}-step problems, " if stratum.num_steps else ""
        step = f"{row_name(stratum)} changed" if stratum.changed_step else row_name(stratum)
        name = f"{steps}{step} ({len(members)})"
        starts = range(0, len(members), ACROSS)
        rows += [("" if start else name, members[start : start + ACROSS]) for start in starts]
    return rows


def _sheet(summary: Summary, rows: list[Row], effect: Array, scale: Scale) -> Figure:
    run = run_of(summary.data)
    figure = new_figure(WIDTHS["page"], 0.95 * len(rows) + 1.0)
    axes = figure.subplots()
    names = [str(name) for name in summary.data["pair"].values]
    for line, (stratum, members) in enumerate(rows):
        low = -line * (1 + HEAD)
        axes.text(0, low + 1.36, stratum, fontsize=SMALL + 0.5, fontweight="bold", va="bottom")
        for place, pair in enumerate(members):
            _panel(axes, effect[pair], run, scale, place * (1 + GAP), low)
            name = names[pair] if len(names[pair]) <= 14 else names[pair][:13] + "…"
            left = place * (1 + GAP)
            axes.text(left, low + 1.06, name, fontsize=SMALL, color=SOFT, va="bottom")
    axes.set_xlim(-0.05, ACROSS * (1 + GAP) - GAP + 0.05)
    axes.set_ylim(-(len(rows) - 1) * (1 + HEAD) - 0.1, 1 + HEAD)
    axes.set_axis_off()
    bar = add_bar(figure, axes, scale, effect_name(summary), aspect=30, fraction=0.025)
    bar.set_ticks([t for t in (-1, -0.5, 0, 0.5, 1) if t >= (scale.norm.vmin or 0)])
    put_title(figure, f"Single pairs, by the step that changed. {title(run)}")
    note = (
        f"Each map: layers {run.grid.layers[0]} to {run.grid.layers[-1]} upwards, "
        f"{run.grid.column}s {run.grid.columns[0]} to {run.grid.columns[-1]} to the right; "
        "relative to the unpatched run or the control's patch, whichever gain is smaller."
    )
    if (scale.norm.vmin or 0) < 0:
        note += (
            " Orange to brown: the source answer is less probable with the own patch than unpatched"
            " or than with the control's."
        )
    put_note(figure, note)
    return figure


def _panel(
    axes: Axes, values: Array, run: RunDescription, scale: Scale, left: float, low: float
) -> None:
    """One pair's map, in the unit square at a place."""
    axes.imshow(
        values, origin="lower", aspect="auto", norm=scale.norm, cmap=scale.colours,
        interpolation="nearest", extent=(left, left + 1, low, low + 1),
    )  # fmt: skip
    axes.add_patch(Rectangle((left, low), 1, 1, fill=False, ec=INK, lw=0.4))
    rows, columns = run.grid.shape
    for row, column in np.argwhere(run.grid.structural):
        corner = (left + column / columns, low + row / rows)
        box = Rectangle(corner, 1 / columns, 1 / rows, fill=False, hatch="////////", ec=SOFT, lw=0)
        axes.add_patch(box)
