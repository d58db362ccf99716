"""Figures of the results, as pure functions from arrays to matplotlib figures.

Layers run upwards, as in the model, and positions to the right, as in the thoughts. Effects from 0
up use a sequential map, values with a sign or a reference (recovery) a diverging one centred on 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from codi_patching.analysis.statistics import Array, bootstrap_interval, mean_and_deviation

_HATCH = "////"


def cell_map(
    values: Array,
    layers: Sequence[str],
    positions: Sequence[str],
    structural: NDArray[np.bool_],
    title: str,
    label: str,
    *,
    xlabel: str = "latent position",
    diverging: bool = False,
    top: int = 0,
) -> Figure:
    """A map of layers × positions, every cell with its number.

    Args:
        values: `(layers, positions)`; NaN cells are left blank.
        layers: Names of the rows, the lowest first.
        positions: Names of the columns.
        structural: Cells that cannot have an effect: hatched, without a number.
        title: Above the map.
        label: Of the colour bar, with its unit.
        xlabel: What the columns are.
        diverging: Whether the colours are centred on 0.
        top: Mark so many cells with the largest values, by rank.
    """
    rows, columns = values.shape
    figure = Figure(figsize=(2.6 + 0.85 * columns, 1.6 + 0.34 * rows), layout="constrained")
    axes = figure.subplots()
    shown = np.where(structural, np.nan, values)
    norm, colours = _colours(shown, diverging)
    image = axes.imshow(shown, origin="lower", aspect="auto", norm=norm, cmap=colours)
    figure.colorbar(image, ax=axes, label=label, fraction=0.08)
    for (row, column), value in np.ndenumerate(shown):
        if structural[row, column]:
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch=_HATCH, ec="0.6", lw=0)
            )
        elif np.isfinite(value):
            dark = _is_dark(colours(norm(value)))
            axes.text(
                column, row, _short(value), ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    for rank, (row, column) in enumerate(_largest(shown, top), 1):
        axes.add_patch(
            Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, ec="tab:red", lw=1.8)
        )
        axes.text(
            column - 0.42, row + 0.38, f"#{rank}", ha="left", va="top", fontsize=6.5,
            color="white", bbox={"boxstyle": "round,pad=0.12", "fc": "tab:red", "ec": "none"},
        )  # fmt: skip
    axes.set_xticks(range(columns), positions)
    axes.set_yticks(range(rows), layers)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("layer")
    axes.set_title(title, fontsize=10)
    if structural.any():
        figure.supxlabel("hatched: zero by construction, nothing reads this state", fontsize=7)
    return figure


def layer_profile(
    mean: Array,
    low: Array,
    high: Array,
    layers: Sequence[str],
    structural: NDArray[np.bool_],
    title: str,
    label: str,
    top: int = 0,
) -> Figure:
    """One value a layer with its interval.

    Args:
        mean: `(layers,)`.
        low: Lower bounds, `(layers,)`.
        high: Upper bounds, `(layers,)`.
        layers: Names.
        structural: Layers that cannot have an effect: hatched.
        title: Above the figure.
        label: Of the value, with its unit.
        top: Colour so many layers with the largest values.
    """
    figure = Figure(figsize=(2 + 0.42 * len(layers), 3.6), layout="constrained")
    axes = figure.subplots()
    shown = np.where(structural, np.nan, mean)
    at = np.arange(len(layers))
    best = {index for (index,) in _largest(shown, top)}
    colours = ["tab:red" if index in best else "tab:blue" for index in at]
    axes.bar(at, np.nan_to_num(shown), color=colours, width=0.7)
    spread = np.nan_to_num(np.stack([shown - low, high - shown]))
    axes.errorbar(at, np.nan_to_num(shown), yerr=spread, fmt="none", ecolor="0.2", capsize=2.5)
    for index in np.flatnonzero(structural):
        axes.axvspan(index - 0.5, index + 0.5, fill=False, hatch=_HATCH, ec="0.6", lw=0)
    axes.axhline(0, color="0.4", lw=0.8)
    axes.set_xticks(at, layers, rotation=45 if "thought" in layers else 0)
    axes.set_xlabel("layer")
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=10)
    if structural.any():
        figure.supxlabel("hatched: zero by construction, nothing reads this state", fontsize=7)
    return figure


def trajectories(
    values: Array,
    layers: Sequence[str],
    points: Sequence[str],
    highlighted: Sequence[str],
    seed: int,
    title: str,
    label: str,
) -> Figure:
    """A line for each layer along the chain, mean over pairs.

    All layers are thin lines coloured by depth, with a colour bar for a legend; the highlighted
    ones are thick, with their bootstrap band, and labelled at their end.

    Args:
        values: `(pairs, layers, points)`; NaN points are left out.
        layers: Names.
        points: Names of the points along the chain.
        highlighted: Names of the layers to highlight.
        seed: Of the bootstrap.
        title: Above the figure.
        label: Of the value, with its unit.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    norm = Normalize(0, max(len(layers) - 1, 1))
    colours = ListedColormap(colormaps["viridis"](np.linspace(0, 0.88, 256)))  # no light yellow
    mean, _, _ = mean_and_deviation(values)
    at = np.arange(len(points))
    ends = []
    for index, layer in enumerate(layers):
        known = np.isfinite(mean[index])
        colour = colours(norm(index))
        thick = layer in highlighted
        style: dict[str, Any] = (
            {"lw": 2.6, "ms": 4.5, "zorder": 3} if thick else {"lw": 0.9, "ms": 2, "alpha": 0.75}
        )
        axes.plot(at[known], mean[index][known], color=colour, marker="o", **style)
        if thick and known.any():
            if len(values) > 1:
                low, high = bootstrap_interval(values[:, index], seed)
                axes.fill_between(
                    at[known], low[known], high[known], color=colour, alpha=0.15, lw=0
                )
            ends.append((float(mean[index][known][-1]), layer, colour, at[known][-1]))
    if np.nanmin(mean) <= 0:
        axes.axhline(0, color="0.6", lw=0.8, zorder=1)
    axes.set_xticks(at, points)
    axes.set_xlim(-0.2, len(points) - 0.2)
    axes.margins(y=0.08)
    axes.set_xlabel("position patched last, before the answer is read")
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=10)
    for (_, layer, colour, x), y in zip(sorted(ends), _spread(sorted(e[0] for e in ends), axes)):
        axes.annotate(
            f"layer {layer}" if layer.isdigit() else layer, (x, y), (8, 0),
            textcoords="offset points", va="center", fontsize=8, color=colour, fontweight="bold",
        )  # fmt: skip
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, label="layer", fraction=0.05)
    step = max(1, len(layers) // 8)
    bar.set_ticks(range(0, len(layers), step), labels=list(layers)[::step])
    return figure


def _spread(heights: Sequence[float], axes: Axes) -> list[float]:
    """Heights moved apart so that labels do not overlap; ascending."""
    low, high = axes.get_ylim()
    gap = 0.045 * (high - low)
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    beyond = max(0.0, placed[-1] + gap / 2 - high) if placed else 0.0
    return [height - beyond for height in placed]


def _colours(values: Array, diverging: bool) -> tuple[Normalize, Colormap]:
    finite = values[np.isfinite(values)]
    if diverging:
        bound = max(float(np.abs(finite).max(initial=0.0)), 1e-12)
        return TwoSlopeNorm(0.0, -bound, bound), colormaps["RdBu_r"]
    return Normalize(0.0, max(float(finite.max(initial=0.0)), 1e-12)), colormaps["viridis"]


def _is_dark(colour: Sequence[float]) -> bool:
    """Whether white text reads better on a colour (its relative luminance)."""
    red, green, blue = colour[:3]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5


def _short(value: float) -> str:
    """A number in at most five characters."""
    if abs(value) < 0.005:
        return "0"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _largest(values: Array, count: int) -> list[tuple[int, ...]]:
    """Indices of the largest finite values, the largest first; none under 1 % of the scale."""
    scale = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=None, kind="stable")
    cells = [tuple(int(i) for i in np.unravel_index(k, values.shape)) for k in order[:count]]
    return [c for c in cells if np.isfinite(values[c]) and values[c] > 0.01 * scale]
