"""Small multiples: the effects of single pairs, twenty a sheet, all on one scale.

One scale for all sheets of a run, and never one that ends below what is too small to matter, so
that a pair with a weak effect looks like one. A sheet is one set of axes on which the panels are
placed, since matplotlib spends most of its time on the ticks of axes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from codi_patching.reporting.chains import DEPTHS
from codi_patching.reporting.maps import LEAST_KL, Scale, scale_of
from codi_patching.reporting.names import title
from codi_patching.results.read import Results
from codi_patching.results.schema import Array, Grid

COLUMNS, ROWS = 5, 4

_ACROSS, _WIDTH = 1.22, 2.0
"""A panel with its gap, in panels; a panel in inches."""


def pair_sheets(results: Results) -> Iterator[tuple[str, Figure]]:
    """The KL of every pair, `COLUMNS` × `ROWS` a figure.

    Maps of a grid; lines along the chain for iterative patching; bars where a layer is one cell.

    Args:
        results: Of a run.

    Yields:
        The name of each sheet, and the sheet.
    """
    kl = np.where(results.structural, np.nan, results.values["kl_divergence"])
    scale = _shared_scale(kl)
    each = COLUMNS * ROWS
    sheets = -(-len(kl) // each)
    for sheet in range(sheets):
        pairs = range(sheet * each, min(len(kl), (sheet + 1) * each))
        figure = _sheet(results, pairs, scale, kl)
        name = f"{title(results.run)}: KL of single pairs, sheet {sheet + 1} of {sheets}"
        width, height = figure.get_size_inches()
        figure.text(0.6 / width, 1 - 0.1 / height, name, fontsize=11, va="top")
        yield f"sheet_{sheet + 1:02d}", figure


def _shared_scale(kl: Array) -> Scale:
    """A scale for all pairs: up to the largest KL of all but one in twenty of them."""
    largest = np.nan_to_num(np.nanmax(kl, axis=(1, 2), initial=0.0))
    return scale_of(np.percentile(largest, [95.0], method="higher"), False, LEAST_KL)


def _sheet(results: Results, pairs: range, scale: Scale, kl: Array) -> Figure:
    """A sheet without its heading; panels are unit squares, `_ACROSS` apart."""
    grid = results.run.grid
    used = -(-len(pairs) // COLUMNS)
    tall = max(1.5, 0.1 * len(grid.layers)) if _is_map(grid) else 1.5
    down = 1 + 0.62 / tall
    height = used * down * tall + 0.85
    width = COLUMNS * _ACROSS * _WIDTH + 1.6
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.6 / width, 0.6 / height, 1 - 1.6 / width, 1 - 0.85 / height))
    axes.set_axis_off()
    axes.set_xlim(-0.01, COLUMNS * _ACROSS - 0.01)
    axes.set_ylim(-(used - 1) * down - 0.01, down - 0.01)
    for place, index in enumerate(pairs):
        row, column = divmod(place, COLUMNS)
        x, y = column * _ACROSS, -row * down
        _draw_pair(axes, grid, kl[index], scale, x, y)
        axes.text(x, y + 1.03, _name(results, index, kl), fontsize=7, va="bottom")
        if column == 0:
            _label_left(axes, grid, scale, y)
        if place + COLUMNS >= len(pairs):
            _label_below(axes, grid, x, y, tall)
    cut = int((np.nanmax(kl, axis=(1, 2), initial=0.0) > float(scale.norm.vmax or 0.0)).sum())
    _legend(figure, grid, scale, cut)
    return figure


def _name(results: Results, index: int, kl: Array) -> str:
    pair, largest = results.pairs[index], float(np.nanmax(kl[index], initial=0.0))
    name = textwrap.shorten(results.pair_ids[index], 24, placeholder="…")
    return f"{name}\n{pair.source_answer} into {pair.base_answer}, max {largest:.2g}"


def _is_map(grid: Grid) -> bool:
    return grid.column == "position" and not grid.whole_layers


def _draw_pair(axes: Axes, grid: Grid, kl: Array, scale: Scale, x: float, y: float) -> None:
    """One panel whose lower left corner is at `(x, y)`."""
    rows, columns = grid.shape
    if _is_map(grid):
        image = scale.colours(scale.norm(kl))
        image[np.isnan(kl)] = (0.8, 0.8, 0.8, 1.0)
        axes.imshow(
            image, origin="lower", extent=(x, x + 1, y, y + 1), interpolation="nearest",
            aspect="auto",
        )  # fmt: skip
        return
    frame = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1), (x, y)]]
    axes.add_collection(LineCollection(frame, colors="0.7", lw=0.6), autolim=False)
    heights = y + np.minimum(np.nan_to_num(kl) / float(scale.norm.vmax or 1.0), 1.0)
    if grid.whole_layers:
        at = x + (np.arange(rows) + 0.5) / rows
        bars = [[(a, y), (a, top)] for a, top in zip(at, heights[:, 0])]
        thick = 0.7 * 72 * _WIDTH / rows
        lines = LineCollection(bars, colors="tab:blue", lw=thick, capstyle="butt")
    else:
        steps = np.zeros((rows, columns + 1, 2))
        steps[:, :, 0] = x + np.arange(columns + 1) / columns
        steps[:, 0, 1], steps[:, 1:, 1] = y, heights
        ends = columns + 1 - np.isnan(kl).sum(1)
        colours = DEPTHS(np.arange(rows) / max(rows - 1, 1))
        lines = LineCollection([s[:end] for s, end in zip(steps, ends)], colors=colours, lw=0.9)
    axes.add_collection(lines, autolim=False)


def _label_left(axes: Axes, grid: Grid, scale: Scale, y: float) -> None:
    if _is_map(grid):
        step = max(1, -(-len(grid.layers) // 8))
        places = [(row + 0.5) / len(grid.layers) for row in range(0, len(grid.layers), step)]
        labels: Sequence[str] = grid.layers[::step]
    else:
        places, labels = [0.0, 1.0], ["0", f"{scale.norm.vmax:.2g}"]
    for place, label in zip(places, labels):
        axes.text(-0.03, y + place, label, fontsize=6, ha="right", va="center")
    what = "layer" if _is_map(grid) else "KL (nats)"
    axes.text(-0.2, y + 0.5, what, fontsize=7, rotation=90, ha="center", va="center")


def _label_below(axes: Axes, grid: Grid, x: float, y: float, tall: float) -> None:
    if grid.column == "iteration":
        names: Sequence[str] = ("none", *grid.columns)
        places = [place / len(grid.columns) for place in range(len(names))]
    else:
        names = grid.layers if grid.whole_layers else grid.columns
        places = [(place + 0.5) / len(names) for place in range(len(names))]
    step = max(1, -(-len(names) // 8))
    for place, label in list(zip(places, names))[::step]:
        axes.text(x + place, y - 0.06 / tall, label, fontsize=6, ha="center", va="top")
    what = "layer" if grid.whole_layers else grid.column
    axes.text(x + 0.5, y - 0.2 / tall, what, fontsize=7, ha="center", va="top")


def _legend(figure: Figure, grid: Grid, scale: Scale, cut: int) -> None:
    """What colours mean; bars need none."""
    width, height = figure.get_size_inches()
    note = "One scale for all pairs."
    if cut:
        note = f"One scale for all pairs; {cut} of them have larger values, cut off at its end."
    if grid.structural_zeros and _is_map(grid):
        note += " Grey: zero by construction."
    figure.text(0.6 / width, 0.1 / height, note, fontsize=7.5, color="0.25")
    if grid.whole_layers:
        return
    place = figure.add_axes((1 - 0.95 / width, 0.6 / height, 0.16 / width, 1 - 1.45 / height))
    if _is_map(grid):
        bar = figure.colorbar(
            ScalarMappable(scale.norm, scale.colours), cax=place, extend="max" if cut else "neither"
        )
        bar.set_label("KL (nats)", fontsize=8)
    else:
        norm = Normalize(0, max(len(grid.layers) - 1, 1))
        bar = figure.colorbar(ScalarMappable(norm, DEPTHS), cax=place)
        step = max(1, len(grid.layers) // 8)
        bar.set_ticks(range(0, len(grid.layers), step), labels=grid.layers[::step])
        bar.set_label("layer", fontsize=8)
    bar.ax.tick_params(labelsize=7)
