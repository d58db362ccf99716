"""Lines along a chain: effects after each iteration, layers that run alike joined into one line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codi_patching.analysis.report import Report
from codi_patching.reporting.canvas import (
    MARKERS,
    SERIES,
    SOFT,
    WIDTHS,
    Width,
    new_figure,
    put_note,
    put_title,
    style,
)
from codi_patching.reporting.content import effect_name, mean_of
from codi_patching.reporting.maps import LEAST
from codi_patching.reporting.names import counted, title
from codi_patching.results.dataset import run_of
from codi_patching.results.description import Array

ALIKE = 0.04
"""Neighbouring layers whose lines differ by less, of the panel's height, are one line."""

UNPATCHED = "none"
"""The point before the first iteration."""

COSINES = ("cosine_to_clean", "cosine_to_corrupted")


def draw_trajectories(report: Report, label: str, width: Width = "page") -> Figure:
    """Content effect and KL along a chain, from the unpatched run on."""
    summary = report.summaries[label]
    panels = [
        (effect_name(summary), mean_of(summary, "content_effect"), LEAST["probability"]),
        ("Disruption: KL (nats)", mean_of(summary, "kl_divergence"), LEAST["nats"]),
    ]
    return _draw(report, label, panels, width, start=True)


def draw_cosines(report: Report, label: str, width: Width = "page") -> Figure:
    """What each iteration generated at the next position, against both unpatched runs."""
    summary = report.summaries[label]
    panels = [
        (f"Cosine to the {name.removeprefix('cosine_to_')} run", mean_of(summary, name), 0.0)
        for name in COSINES
    ]
    return _draw(report, label, panels, width, start=False)


def _draw(
    report: Report,
    label: str,
    panels: Sequence[tuple[str, Array, float]],
    width: Width,
    start: bool,
) -> Figure:
    run = run_of(report.summaries[label].data)
    with style():
        if width == "page":
            figure = new_figure(WIDTHS[width], 2.9)
            places = figure.subplots(1, len(panels))
        else:
            figure = new_figure(WIDTHS[width], 4.6)
            places = figure.subplots(len(panels), 1)
        for axes, letter, (head, values, least) in zip(places, "ab", panels):
            shown = np.insert(values, 0, 0.0, axis=1) if start else values[:, :-1]
            names = [UNPATCHED, *run.grid.columns] if start else list(run.grid.columns[:-1])
            draw_lines(axes, shown, run.grid.layers, least)
            axes.set_xticks(range(len(names)), names)
            axes.set_xlabel("iteration")
            axes.set_title(f"{letter}  {head}")
        put_title(figure, f"Along the chain. {title(run)}, {counted(run.num_pairs, 'pair')}")
        note = "Neighbouring layers whose lines agree are drawn as one, their mean."
        put_note(figure, note)
    return figure


def bundles(values: Array, apart: float) -> list[tuple[int, int]]:
    """First and last layer of the runs of neighbours whose lines all lie within `apart`.

    Example:
        >>> bundles(np.array([[0.0, 1.0], [0.0, 1.01], [0.0, 0.2]]), 0.05)
        [(0, 1), (2, 2)]
    """
    found, start = [], 0
    for row in range(1, len(values) + 1):
        own = values[start : row + 1]
        with np.errstate(invalid="ignore"):
            spread = np.nan_to_num(np.fmax.reduce(own) - np.fmin.reduce(own)).max()
        if row == len(values) or spread > apart:
            found.append((start, row - 1))
            start = row
    return found


def draw_lines(axes: Axes, values: Array, layers: Sequence[str], least: float) -> None:
    """Draw the bundles of layers, each with a colour, a marker, and its name in the legend.

    Args:
        axes: To draw on.
        values: `(layers, points)`.
        layers: Their names.
        least: What is too small to matter; the axis goes up to it at least.
    """
    low, high = float(np.nanmin(values, initial=0.0)), float(np.nanmax(values, initial=least))
    groups = bundles(values, ALIKE * (high - low))
    for place, (first, last) in enumerate(groups):
        own = values[first : last + 1]
        known = ~np.isnan(own).all(0)
        mean = np.full(own.shape[1], np.nan)
        mean[known] = np.nanmean(own[:, known], axis=0)
        name = layers[first] if first == last else f"{layers[first]} to {layers[last]}"
        shift = 0.12 * (place / max(len(groups) - 1, 1) - 0.5) * (len(groups) > 1)
        axes.plot(
            np.arange(own.shape[1]) + shift, mean, marker=MARKERS[place % len(MARKERS)],
            color=SERIES[place % len(SERIES)], ls=("-", "--", ":")[place // len(SERIES) % 3],
            label=name, mec="white", mew=0.3,
        )  # fmt: skip
    axes.axhline(0, color=SOFT, lw=0.6, zorder=0)
    spare = 0.06 * (high - low)
    axes.set_ylim(low - spare, high + spare)
    axes.legend(
        title="layers", frameon=False, loc="upper left", bbox_to_anchor=(1, 1),
        borderaxespad=0.2, handlelength=1.6, title_fontsize=6.5,
    )  # fmt: skip
