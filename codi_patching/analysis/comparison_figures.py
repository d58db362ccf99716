"""Figures of the comparison, as pure functions from its numbers to matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from codi_patching.analysis.comparison import Arm
from codi_patching.analysis.findings import LEVEL
from codi_patching.analysis.statistics import Array, bootstrap_interval, mean_and_deviation

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple")
_NAMES = {
    "kl_divergence": "KL (nats)",
    "recovery": "recovery",
    "answer_logit_difference": "answer logit difference (logits)",
}


def effects_by_layer(arms: Mapping[str, Arm], metric: str, seed: int) -> Figure:
    """Mean and 95 % interval of each arm at each layer.

    Args:
        arms: By label; one cell a layer each.
        metric: What to draw.
        seed: Of the bootstrap.
    """
    layers = next(iter(arms.values())).layers
    figure = Figure(figsize=(2.6 + 0.5 * len(layers), 4), layout="constrained")
    axes = figure.subplots()
    for index, (label, arm) in enumerate(arms.items()):
        values = arm.known(metric)
        mean = mean_and_deviation(values)[0]
        low, high = bootstrap_interval(values, seed)
        at = np.arange(len(layers)) + 0.14 * (index - (len(arms) - 1) / 2)
        spread = np.nan_to_num(np.stack([mean - low, high - mean]))
        axes.errorbar(
            at, mean, yerr=spread, fmt="o-", ms=4, lw=1.2, capsize=2, label=label,
            color=_COLOURS[index % len(_COLOURS)],
        )  # fmt: skip
    _finish(axes, layers, f"mean {_NAMES[metric]}", "Effect on the answer, 95 % intervals")
    axes.legend(fontsize=8)
    return figure


def differences_by_layer(
    comparisons: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]
) -> Figure:
    """Iterative minus parallel at each layer; filled where the corrected test shows a difference.

    Args:
        comparisons: Of each chain, by metric; see `comparison.compare_with_parallel`.
        metrics: A panel each.
    """
    layers = [row["layer"] for row in next(iter(comparisons.values()))[metrics[0]]["layers"]]
    size = (2 + 0.5 * len(layers), 2.6 * len(metrics) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(metrics), sharex=True))
    for axes, metric in zip(panels, metrics):
        for index, (name, compared) in enumerate(comparisons.items()):
            colour = _COLOURS[1 + index]
            for at, row in enumerate(compared[metric]["layers"]):
                if row["difference"] is None:
                    continue
                x = at + 0.2 * (index - (len(comparisons) - 1) / 2)
                p = row["p_wilcoxon_holm"]
                shown = p is not None and p < LEVEL
                if row["ci_low"] is not None:
                    axes.plot([x, x], [row["ci_low"], row["ci_high"]], color=colour, lw=1.4)
                face = colour if shown else "white"
                axes.plot(x, row["difference"], "o", ms=5, color=colour, mfc=face)
            axes.plot([], [], "o-", color=colour, label=f"{name} − parallel")
        _finish(axes, layers, f"Δ {_NAMES[metric]}", "")
    panels[0].set_title(
        f"Iterative minus parallel patching; filled: corrected p < {LEVEL}", fontsize=10
    )
    panels[0].legend(fontsize=8)
    for axes in panels[:-1]:
        axes.set_xlabel("")
    return figure


def additivity(
    panels: Sequence[tuple[str, Array, Array, Mapping[str, Any]]], layers: Sequence[str]
) -> Figure:
    """Sum of single-position effects against all positions at once, a point a pair and layer.

    Args:
        panels: For each its title, sums and wholes `(pairs, layers)`, and the fitted line.
        layers: Names.
    """
    figure = Figure(figsize=(4.4 * len(panels) + 0.8, 4.2), layout="constrained")
    colours, norm = colormaps["viridis"], Normalize(0, max(len(layers) - 1, 1))
    every = np.atleast_1d(figure.subplots(1, len(panels)))
    for axes, (title, total, whole, line) in zip(every, panels):
        depth = np.broadcast_to(np.arange(len(layers)), total.shape)
        axes.scatter(total, whole, c=colours(norm(depth.ravel())), s=9, alpha=0.7, lw=0)
        ends = np.array([np.nanmin(total), np.nanmax(total)])
        axes.plot(ends, ends, color="0.5", lw=1, ls="--", label="sum = whole")
        if line["slope"] is not None:
            fitted = line["intercept"] + line["slope"] * ends
            label = f"fit: slope {line['slope']:.2f}, R² {line['r_squared']:.2f}"
            axes.plot(ends, fitted, color="tab:red", lw=1.4, label=label)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("sum of single positions")
        axes.legend(fontsize=7)
    every[0].set_ylabel("all positions at once")
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=every[-1], label="layer")
    step = max(1, len(layers) // 8)
    bar.set_ticks(range(0, len(layers), step), labels=list(layers)[::step])
    return figure


def _finish(axes: Axes, layers: Sequence[str], label: str, title: str) -> None:
    axes.axhline(0, color="0.6", lw=0.8, zorder=0)
    axes.set_xticks(range(len(layers)), layers, rotation=45 if "thought" in layers else 0)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_xlabel("layer")
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=10)
