"""Trajectories of iterative patching: a line for each layer, from the unpatched run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from codi_patching.analysis.intervals import mean_and_deviation, mean_intervals
from codi_patching.analysis.summary import content_effect, groups_of
from codi_patching.reporting.maps import LEAST_KL, LEAST_PROBABILITY, heading, write_notes
from codi_patching.results.read import Results
from codi_patching.results.schema import Array

DEPTHS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.88, 256)))
"""Colours of layers, the lowest first; without the light yellow."""


@dataclass(frozen=True)
class Highlight:
    """Layers to draw thick.

    Attributes:
        layers: Their names.
        reason: Why these, or why none; stands under the figure.
    """

    layers: tuple[str, ...] = ()
    reason: str = "No layer is highlighted."


@dataclass(frozen=True)
class Course:
    """A measure along the chain.

    Attributes:
        mean: `(layers, points)`.
        low: Lower ends of 95 % intervals, the same shape.
        high: Upper ends.
        points: Names of the points.
        least: What is too small to matter; the axis goes that far at least.
    """

    mean: Array
    low: Array
    high: Array
    points: tuple[str, ...]
    least: float


def kl_course(results: Results) -> Course:
    """Mean KL along the chain, from the unpatched run, which has none."""
    kl = np.where(results.structural, np.nan, results.values["kl_divergence"])
    points = ("none", *results.run.grid.columns)
    return _course(results, [_from_zero(kl)], points, LEAST_KL, most=np.inf)


def content_course(results: Results) -> Course:
    """The content effect along the chain: of its two comparisons the smaller mean.

    Its interval goes from the smaller lower end to the smaller upper end.
    """
    parts = [_from_zero(part) for part in content_effect(results) if part is not None]
    return _course(results, parts, ("none", *results.run.grid.columns), LEAST_PROBABILITY)


def cosine_course(results: Results, run: str) -> Course:
    """Mean cosine of what each iteration generated at the next position; `clean`, `corrupted`."""
    columns = results.run.grid.columns
    points = tuple(f"{n}→{int(n) + 1}" for n in columns[:-1])
    return _course(results, [results.values[f"cosine_to_{run}"][..., :-1]], points, 0.1)


def _from_zero(values: Array) -> Array:
    return np.concatenate([np.zeros_like(values[..., :1]), values], axis=-1)


def _course(
    results: Results,
    parts: Sequence[Array],
    points: tuple[str, ...],
    least: float,
    most: float = 1.0,
) -> Course:
    """Means and intervals of values of at most `most` in size; before a chain both are 0."""
    groups, seed = groups_of(results), results.run.seed
    means = [mean_and_deviation(part)[0] for part in parts]
    ends = [np.clip(mean_intervals(part, groups, seed), -most, most) for part in parts]
    if points[0] == "none":
        for end in ends:
            end[..., 0] = 0.0
    low, high = (np.minimum.reduce([end[side] for end in ends]) for side in (0, 1))
    return Course(np.minimum.reduce(means), low, high, points, least)


def trajectories(
    courses: Sequence[tuple[str, str, Course]],
    layers: Sequence[str],
    title: str,
    highlight: Highlight,
    notes: Sequence[str] = (),
) -> Figure:
    """Courses side by side, all layers thin and coloured by depth, the highlighted ones thick.

    Args:
        courses: For each panel its title, the label of its values with their unit, the course.
        layers: Names.
        title: Over the figure.
        highlight: Layers to draw thick, with their interval and their name.
        notes: Under the figure, after the reason for the highlights.
    """
    size = (1.2 + 5.6 * len(courses), 4.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(courses)))
    for axes, (name, label, course) in zip(panels, courses):
        _draw(axes, course, layers, highlight.layers)
        axes.set_title(name, fontsize=9.5)
        axes.set_ylabel(label)
    norm = Normalize(0, max(len(layers) - 1, 1))
    bar = figure.colorbar(
        ScalarMappable(norm, DEPTHS), ax=list(panels), label="layer", fraction=0.04
    )
    step = max(1, len(layers) // 8)
    bar.set_ticks(range(0, len(layers), step), labels=list(layers)[::step])
    heading(figure, title)
    write_notes(figure, [highlight.reason, *notes])
    return figure


def _draw(axes: Axes, course: Course, layers: Sequence[str], thick: Sequence[str]) -> None:
    at = np.arange(len(course.points))
    ends = []
    for row, layer in enumerate(layers):
        known = np.isfinite(course.mean[row])
        colour = DEPTHS(row / max(len(layers) - 1, 1))
        style: dict[str, Any] = {"lw": 0.9, "ms": 2, "alpha": 0.8}
        if layer in thick:
            style = {"lw": 2.6, "ms": 4.5, "zorder": 3}
        axes.plot(at[known], course.mean[row][known], color=colour, marker="o", **style)
        if layer in thick and known.any():
            inside = known & np.isfinite(course.low[row])
            axes.fill_between(
                at[inside], course.low[row][inside], course.high[row][inside], color=colour,
                alpha=0.15, lw=0,
            )  # fmt: skip
            ends.append((float(course.mean[row][known][-1]), layer, colour, at[known][-1]))
    _set_axes(axes, course)
    for (_, layer, colour, x), y in zip(sorted(ends), _apart(sorted(e[0] for e in ends), axes)):
        axes.annotate(
            f"layer {layer}" if layer.isdigit() else layer, (x, y), (8, 0), annotation_clip=False,
            textcoords="offset points", va="center", fontsize=8, color=colour, fontweight="bold",
        )  # fmt: skip


def _set_axes(axes: Axes, course: Course) -> None:
    """Ticks, and an axis that does not blow up what is too small to matter."""
    axes.set_xticks(range(len(course.points)), course.points)
    axes.set_xlim(-0.2, len(course.points) - 0.2)
    generated = course.points[0] != "none"
    axes.set_xlabel(
        "iteration → position generated next" if generated else "last iteration (none: unpatched)"
    )
    low, high = axes.get_ylim()
    if generated:
        spare = max(0.0, course.least - (high - low)) / 2
        axes.set_ylim(low - spare, high + spare)
    else:
        axes.set_ylim(min(low, -0.1 * course.least), max(high, course.least))
        axes.axhline(0, color="0.6", lw=0.8, zorder=1)


def _apart(heights: Sequence[float], axes: Axes) -> list[float]:
    """Heights moved apart so that labels do not overlap; ascending."""
    low, high = axes.get_ylim()
    gap = 0.045 * (high - low)
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    beyond = max(0.0, placed[-1] + gap / 2 - high) if placed else 0.0
    return [height - beyond for height in placed]
