"""Maps of what the lens reads: how often each step's result stands at each cell, beside chance."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from codi_patching.results.lens import HitRates
from codi_patching.results.schema import Array

_COLOURS, _NORM = colormaps["viridis"], Normalize(0.0, 1.0)


def draw_hit_rates(rates: HitRates) -> Figure:
    """A column for each step: its own results above, another pair's below, on one scale of 0..1."""
    steps, layers, positions = rates.own.shape
    width = max(1.6 + 0.42 * positions, 2.6)
    figure = Figure(figsize=(width * steps + 1.0, 0.46 * layers + 2.4), layout="constrained")
    axes = figure.subplots(2, steps, squeeze=False, sharex=True, sharey=True)
    for step in range(steps):
        _draw(axes[0, step], rates.own[step], f"step {step + 1} (n = {rates.pairs[step]})")
        _draw(axes[1, step], rates.chance[step], "another pair's")
        axes[1, step].set_xlabel("position")
    for row in axes:
        row[0].set_ylabel("layer")
    bar = figure.colorbar(ScalarMappable(_NORM, _COLOURS), ax=axes, shrink=0.6)
    bar.set_label(f"result among the {rates.k} most probable tokens")
    figure.suptitle(
        "What each thought says: results of reasoning steps, read by the head", fontsize="medium"
    )
    return figure


def _draw(axes: Axes, values: Array, title: str) -> None:
    """One map, layers upwards; cells of at least a tenth carry their percentage."""
    axes.imshow(values, origin="lower", aspect="auto", norm=_NORM, cmap=_COLOURS)
    axes.set_title(title, fontsize="small")
    axes.set_xticks(range(values.shape[1]))
    axes.set_yticks(range(0, values.shape[0], max(1, values.shape[0] // 8)))
    for layer, position in np.argwhere(values >= 0.1):
        value = values[layer, position]
        axes.text(
            position,
            layer,
            f"{100 * value:.0f}",
            ha="center",
            va="center",
            fontsize=6,
            color="black" if value > 0.6 else "white",
        )
