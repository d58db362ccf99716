"""One value a layer: effects of whole layers, and their parts, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from codi_patching.analysis.intervals import mean_and_deviation, mean_intervals
from codi_patching.analysis.summary import content_effect, groups_of, mean_kl
from codi_patching.reporting.maps import LEAST_KL, LEAST_PROBABILITY, PASSING, RANKED, leading
from codi_patching.results.read import Results
from codi_patching.results.schema import Array

UNPATCHED, CONTROL = "tab:blue", "tab:purple"


def kl_bars(axes: Axes, results: Results, top: int) -> None:
    """Mean KL of each layer of a grid with one column; the largest by rank.

    Args:
        axes: To draw on.
        results: Of layer patching.
        top: How many to mark.
    """
    mean = mean_kl(results)[:, 0]
    best = {row: rank for rank, (row, _) in enumerate(leading(mean[:, None], top), 1)}
    at = np.arange(len(mean), dtype=np.float64)
    axes.bar(at, np.nan_to_num(mean), color="tab:blue", width=0.7, label="mean over pairs")
    if best:
        axes.bar(
            list(best), mean[list(best)], color=RANKED, width=0.7, label=f"largest {len(best)}"
        )
    low, high = mean_intervals(
        results.values["kl_divergence"][:, :, 0], groups_of(results), results.run.seed
    )
    draw_intervals(axes, at, mean, low, high, "0.2", label="95 % interval")
    for row, rank in best.items():
        height = high[row] if np.isfinite(high[row]) else mean[row]
        axes.annotate(
            f"#{rank}", (row, height), (0, 3), textcoords="offset points", ha="center",
            fontsize=7, color=RANKED,
        )  # fmt: skip
    top_end = max(float(np.nanmax(np.fmax(high, mean), initial=0.0)), LEAST_KL)
    axes.set_ylim(0, 1.22 * top_end)
    axes.set_ylabel("KL (nats)")
    finish(axes, results)
    axes.legend(fontsize=7.5, loc="upper left", ncols=3, frameon=False)


def content_points(axes: Axes, results: Results, passing: Sequence[tuple[int, int]] | None) -> None:
    """The two comparisons of the content effect at each layer, with the layers that have it.

    Args:
        axes: To draw on.
        results: Of layer patching.
        passing: Cells beyond the threshold; None if that was not tested.
    """
    restored, specific = content_effect(results)
    parts = [("over the unpatched run", restored, UNPATCHED)]
    if specific is not None:
        parts.append(("over the control", specific, CONTROL))
    shift = 0.12 if len(parts) > 1 else 0.0
    extreme, lowest = LEAST_PROBABILITY, 0.0
    for index, (label, values, colour) in enumerate(parts):
        mean = mean_and_deviation(values[:, :, 0])[0]
        low, high = np.clip(
            mean_intervals(values[:, :, 0], groups_of(results), results.run.seed), -1.0, 1.0
        )
        at = np.arange(len(mean), dtype=np.float64) + shift * (2 * index - 1)
        axes.plot(at, mean, "o", ms=4.5, color=colour, label=label)
        draw_intervals(axes, at, mean, low, high, colour)
        extreme = max(extreme, float(np.nanmax([mean, high], initial=0.0)))
        lowest = min(lowest, float(np.nanmin([mean, low], initial=0.0)))
    for number, (row, _) in enumerate(passing or ()):
        label = "" if number else "content effect beyond the threshold"
        axes.axvspan(row - 0.42, row + 0.42, color=PASSING, alpha=0.25, lw=0, label=label or None)
    axes.set_ylim(min(-0.12 * extreme, 1.15 * lowest), 1.35 * extreme)
    axes.set_ylabel("rise of P(source answer)")
    finish(axes, results)
    axes.legend(fontsize=7.5, loc="upper left", ncols=3, frameon=False)


def draw_intervals(
    axes: Axes,
    at: Array,
    mean: Array,
    low: Array,
    high: Array,
    colour: str,
    label: str | None = None,
) -> None:
    """Draw the intervals that there are."""
    known = np.isfinite(mean) & np.isfinite(low)
    if known.any():
        spread = np.abs(np.stack([mean - low, high - mean]))[:, known]
        axes.errorbar(
            at[known], mean[known], yerr=spread, fmt="none", ecolor=colour, capsize=2.2, lw=1.2,
            label=label,
        )  # fmt: skip


def finish(axes: Axes, results: Results) -> None:
    """Axis, names of layers, hatched structural zeros."""
    layer_axis(axes, results.run.grid.layers)
    for row in np.flatnonzero(results.structural.all(1)):
        axes.axvspan(row - 0.5, row + 0.5, fill=False, hatch="////", ec="0.6", lw=0)


def layer_axis(axes: Axes, layers: Sequence[str]) -> None:
    """A horizontal axis of layers, with a line at 0."""
    axes.axhline(0, color="0.6", lw=0.8, zorder=0)
    step = max(1, -(-len(layers) // 32))
    rotated = "thought" in layers or len(layers) > 20
    axes.set_xticks(range(0, len(layers), step), layers[::step], rotation=45 if rotated else 0)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_xlabel("layer")
