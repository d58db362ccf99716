"""What the answer loses where edges of attention are cut: a graph of influence, and its layers.

A column for each number of steps. Above the graph, information flowing upwards: from the question
to the thoughts, between thoughts, and to the readout; each edge as wide as the answer falls where
it is cut in all layers. Below the falls by layer, of what the readout reads.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from codi_patching.analysis.attended import by_length
from codi_patching.analysis.findings import Finding
from codi_patching.analysis.knocked_out import DIRECT, mean_fall
from codi_patching.analysis.report import Report
from codi_patching.reporting.canvas import (
    INK,
    NORMAL,
    PALE,
    SMALL,
    SOFT,
    WIDTHS,
    Width,
    new_figure,
    put_note,
    put_title,
    style,
)
from codi_patching.reporting.claims_in_words import needed_words
from codi_patching.reporting.formats import short
from codi_patching.reporting.maps import (
    LEAST,
    Scale,
    add_bar,
    draw_cells,
    scale_of,
    write_values,
)
from codi_patching.reporting.names import counted, data_name, model_name
from codi_patching.results.dataset import run_of
from codi_patching.results.description import ALL, Array, Grid, RunDescription

_HIDDEN = 0.02
"""Falls under this are drawn as nothing but a hairline."""

_Point = tuple[float, float]


def draw_knockout(report: Report, width: Width = "page") -> Figure:
    """The graph of influence, and the falls by layer of what the readout reads.

    Raises:
        ValueError: The report has no cut edges.
    """
    if report.knockout is None:
        raise ValueError("expected a report with cut edges of attention, got one without")
    data = report.knockout
    run, lengths = run_of(data), by_length(data)
    means = [mean_fall(data.isel(pair=mask)) for _, mask in lengths]
    scale = scale_of(np.stack(means), LEAST["probability"], 1.0)
    rows = len(run.grid.layers) - 1
    with style():
        below = min(max(1.0, 0.11 * rows), 2.6) if rows else 0.0
        figure, axes = _panels(width, len(lengths), below)
        for place, (length, mask) in enumerate(lengths):
            of = counted(length, "step") if length else "all pairs"
            axes[0, place].set_title(f"{of}, n = {int(mask.sum())}")
            draw_graph(axes[0, place], means[place], run, scale)
            if rows:
                _draw_layers(axes[1, place], means[place], run, scale, 72 * below / rows)
                axes[1, place].set_ylabel("layers cut" if width == "column" or not place else "")
        look = {"aspect": 40, "fraction": 0.03} if width == "page" else {"aspect": 60}
        add_bar(figure, axes, scale, "fall of the answer's probability", **look)
        put_title(figure, _title(report.finding("edges") if width == "page" else None))
        put_note(figure, _note(data, bool(rows)))
    return figure


def _panels(width: Width, lengths: int, below: float) -> tuple[Figure, NDArray[np.object_]]:
    """A figure and its axes, graphs above their layers, `(1 or 2, lengths)`.

    In one column of a paper they stand beside each other, one number of steps under the other.
    """
    graph = 2.0
    if width == "page":
        figure = new_figure(WIDTHS[width], graph + below + 1.1)
        ratios = [graph, below] if below else [graph]
        return figure, figure.subplots(len(ratios), lengths, squeeze=False, height_ratios=ratios)
    figure = new_figure(WIDTHS[width], lengths * max(graph, below) + 1.4)
    ratios = [1.35, 1.0] if below else [1.0]
    return figure, figure.subplots(lengths, len(ratios), squeeze=False, width_ratios=ratios).T


def draw_graph(axes: Axes, falls: Array, run: RunDescription, scale: Scale) -> None:
    """Draw the graph of what is cut in all layers.

    Args:
        axes: To draw on.
        falls: `(layers, edges)`.
        run: Names of layers and edges.
        scale: Of the colours.
    """
    grid, latents = run.grid, run.num_latents
    at = {str(place): (float(place), 0.0) for place in range(latents)}
    middle = (latents - 1) / 2
    at |= {"question": (middle, -1.0), "readout": (middle, 1.0)}
    values = {
        edge: float(fall)
        for edge, fall in zip(grid.columns, falls[grid.layers.index(ALL)], strict=True)
        if all(end in at for end in edge.split("->"))
    }
    for place in range(latents - 1):  # the state that makes the next thought
        ends = [place + 0.2, place + 0.8]
        axes.plot(ends, [0, 0], color=SOFT, linewidth=0.7, linestyle=":", zorder=1)
    for edge, fall in sorted(values.items(), key=lambda item: item[1]):
        read, reader = edge.split("->")
        start, end = at[read], at[reader]
        control = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        if edge == DIRECT:  # round the last thought
            control = (2 * (latents - 0.2) - middle, 0.0)
        elif start[1] == end[1]:  # over the thoughts between
            control = (control[0], 0.25 + 0.2 * (end[0] - start[0]))
        _draw_edge(axes, (start, control, end), fall, scale, edge == DIRECT)
    for name, (x, y) in at.items():
        box = {"boxstyle": "round,pad=0.25", "fc": PALE, "ec": INK, "lw": 0.6}
        label = f"z{name}" if name.isdigit() else name
        axes.text(x, y, label, ha="center", va="center", fontsize=NORMAL, bbox=box, zorder=5)
    axes.set(xlim=(-0.6, latents + 0.1), ylim=(-1.25, 1.25))
    axes.axis("off")


def _draw_edge(
    axes: Axes, curve: tuple[_Point, _Point, _Point], fall: float, scale: Scale, around: bool
) -> None:
    """An arrow as wide as the fall, with its number where it is not too small to matter.

    Args:
        axes: To draw on.
        curve: Start, control point and end of a quadratic Bézier curve.
        fall: Of the answer's probability.
        scale: Of the colours.
        around: Whether it goes round the thoughts.
    """
    shown = np.isfinite(fall) and abs(fall) >= _HIDDEN
    first, last, label_at = (0.06, 0.93, 0.5) if around else (0.12, 0.86, 0.68)
    if curve[0][1] >= 0.0:  # away from the readout, where edges meet
        label_at = 0.4 if curve[2][1] > 0.0 else 0.25
    elif not around:  # every other one lower
        label_at -= 0.14 * (round(curve[2][0]) % 2)
    colour, size = (scale.colours(scale.norm(fall)), abs(fall)) if shown else (PALE, 0.0)
    points = [_on(curve, share) for share in np.linspace(first, last, 40)]
    arrow = FancyArrowPatch(path=Path(points), arrowstyle="-|>" if shown else "-", color=colour)
    arrow.set(mutation_scale=6, linewidth=0.4 + 2.2 * size, zorder=3 if shown else 0)
    axes.add_patch(arrow)
    if shown and abs(fall) >= LEAST["probability"]:
        back = {"boxstyle": "round,pad=0.08", "fc": "white", "ec": "none"}
        x, y = _on(curve, label_at)
        axes.text(
            x, y, short(fall), ha="center", va="center", fontsize=SMALL, bbox=back, zorder=4
        )  # fmt: skip


def _on(curve: tuple[_Point, _Point, _Point], share: float) -> _Point:
    """A point of a quadratic Bézier curve."""
    weights = ((1 - share) ** 2, 2 * share * (1 - share), share**2)
    x, y = (sum(w * point[axis] for w, point in zip(weights, curve)) for axis in (0, 1))
    return float(x), float(y)


def _draw_layers(
    axes: Axes, falls: Array, run: RunDescription, scale: Scale, row_height: float
) -> None:
    """The falls by layer of what the readout reads."""
    rows = [row for row, layer in enumerate(run.grid.layers) if layer != ALL]
    read = ["question", *map(str, range(run.num_latents))]
    columns = [run.grid.columns.index(f"{name}->readout") for name in read]
    layers = tuple(run.grid.layers[row] for row in rows)
    names = tuple(f"z{name}" if name.isdigit() else "q" for name in read)
    part = replace(run, grid=Grid(layers, run.grid.column, names))
    values = falls[np.ix_(rows, columns)]
    draw_cells(axes, values, part, scale)
    write_values(axes, values, scale, row_height)
    axes.set_xlabel("hidden from readout")


def _title(finding: Finding | None) -> str:
    """Which thought the answer needs to see."""
    said = needed_words(finding) if finding is not None else ""
    if not said:
        return "What the answer loses where an edge of attention is cut"
    return f"Of single thoughts the answer loses most without {said}"


def _note(data: xr.Dataset, windows: bool) -> str:
    run = run_of(data)
    said = (
        f"{model_name(run)} on {data_name(run)}: mean fall of the probability of the run's own "
        "answer where attention along an edge is cut in all layers; of what is read of a thought "
        "relative to the uncut run and to a cut of as many words without a number, whichever is "
        "smaller. Pale: nothing is lost. Dotted: the state that makes the next thought, which is "
        "no attention and is never cut."
    )
    if windows:
        said += " The maps: cut in one layer or window alone; q is the question."
    return said
