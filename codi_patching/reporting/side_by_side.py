"""Figures of several runs together: effects by layer, and the parts of the total effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from codi_patching.analysis.intervals import mean_and_deviation, mean_intervals
from codi_patching.analysis.summary import content_effect, groups_of
from codi_patching.reporting.maps import LEAST_KL, LEAST_PROBABILITY, heading
from codi_patching.reporting.names import counted
from codi_patching.reporting.profiles import draw_intervals, layer_axis
from codi_patching.results.read import Results
from codi_patching.results.schema import Array

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:pink")
MARKERS = "osD^vP"

_USUAL = ("resid_post", "denoising", "clean")


@dataclass(frozen=True)
class LayerEffect:
    """An effect of whole layers.

    Attributes:
        mean: `(layers,)`.
        low: Lower ends of 95 % intervals.
        high: Upper ends.
    """

    mean: Array
    low: Array
    high: Array


def of_whole_layers(arms: Mapping[str, Results]) -> dict[str, Results]:
    """The arms that have one value a layer: layer patching, and chains at their end."""
    return {
        label: results
        for label, results in arms.items()
        if results.run.grid.whole_layers or results.run.grid.column == "iteration"
    }


def at_end(results: Results, values: Array) -> Array:
    """Of values `(pairs, layers, columns)` each layer's last column that can have an effect.

    Returns:
        `(pairs, layers)`; 0 for layers that cannot have any.
    """
    free = ~results.structural
    last = np.where(free.any(1), free.shape[1] - 1 - free[:, ::-1].argmax(1), 0)
    chosen = np.take_along_axis(values, last[None, :, None], axis=2)[:, :, 0]
    return np.where(free.any(1), chosen, 0.0)


def layer_effect(
    parts: Sequence[Array], groups: Sequence[str], seed: int, most: float = np.inf
) -> LayerEffect:
    """An effect by layer: of its comparisons `(pairs, layers)` the smaller mean and ends.

    No value is larger in size than `most`, and no end of an interval is.
    """
    ends = [np.clip(mean_intervals(part, groups, seed), -most, most) for part in parts]
    return LayerEffect(
        np.minimum.reduce([mean_and_deviation(part)[0] for part in parts]),
        np.minimum.reduce([low for low, _ in ends]),
        np.minimum.reduce([high for _, high in ends]),
    )


def content_by_layer(results: Results) -> LayerEffect:
    """The content effect of whole layers."""
    parts = [at_end(results, part) for part in content_effect(results) if part is not None]
    return layer_effect(parts, groups_of(results), results.run.seed, most=1.0)


def kl_by_layer(results: Results) -> LayerEffect:
    """Mean KL of whole layers."""
    kl = at_end(results, results.values["kl_divergence"])
    return layer_effect([kl], groups_of(results), results.run.seed)


def draw_by_layer(arms: Mapping[str, Results], head: str) -> Figure:
    """Mean KL and content effect of whole layers, an arm each, with 95 % intervals.

    Args:
        arms: Layer patching and chains by label; chains at their last iteration.
        head: Title over the figure.
    """
    grids = [results.run.grid.layers for results in arms.values()]
    layers = sorted({name for grid in grids for name in grid}, key=_depth)
    size = (max(11.0, 3.4 + 0.62 * len(layers)), 4.6)
    figure = Figure(figsize=size, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, effect in ((left, kl_by_layer), (right, content_by_layer)):
        series = {
            label: (effect(results), rows_in(layers, results.run.grid.layers))
            for label, results in arms.items()
        }
        _draw_series(axes, series)
        layer_axis(axes, layers)
    _finish(left, "Disruption: mean KL(patched ‖ unpatched)", "KL (nats)", LEAST_KL)
    _finish(right, "Content effect", "rise of P(source answer)", LEAST_PROBABILITY)
    _legend(figure, left, 4)
    heading(figure, head, "means over pairs with 95 % intervals")
    return figure


def _depth(layer: str) -> int:
    return -1 if layer == "thought" else int(layer)


def rows_in(layers: Sequence[str], own: Sequence[str]) -> NDArray[np.intp]:
    """Where a run's layers are among others, by name.

    Example:
        >>> rows_in(("thought", "0", "1"), ("0", "1")).tolist()
        [1, 2]
    """
    return np.array([layers.index(name) for name in own], dtype=np.intp)


def _draw_series(axes: Axes, series: Mapping[str, tuple[LayerEffect, NDArray[np.intp]]]) -> None:
    """Points with intervals, side by side within each layer; effects with the rows they are at."""
    for place, (label, (effect, rows)) in enumerate(series.items()):
        shift = 0.76 / max(len(series), 3) * (place - (len(series) - 1) / 2)
        at = rows.astype(np.float64) + shift
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        axes.plot(at, effect.mean, marker, ms=4.2, color=colour, label=label)
        draw_intervals(axes, at, effect.mean, effect.low, effect.high, colour)


def _finish(axes: Axes, title: str, label: str, least: float) -> None:
    """Title, label, and an axis that goes as far as what is too small to matter at least."""
    axes.autoscale(axis="y")  # anew: panels that were drawn before share the axis
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.1 * least), max(high, least))
    axes.set_title(title, fontsize=9.5)
    axes.set_ylabel(label)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    where = "outside lower right"
    figure.legend(handles, labels, loc=where, ncols=columns, fontsize=8, frameon=False)


def decompositions(arms: Mapping[str, Results], head: str) -> Iterator[tuple[str, Figure]]:
    """A decomposition for each setting that has a frozen and a recomputed arm of whole layers.

    Args:
        arms: Results by label.
        head: What the arms have in common.

    Yields:
        The name of each figure, and the figure.
    """
    direct: dict[tuple[str, str, str], Results] = {}
    total: dict[tuple[str, str, str], Results] = {}
    for results in arms.values():
        run = results.run
        setting = (run.site, run.direction, run.source)
        if run.arm == "layer" and run.latents == "frozen":
            direct.setdefault(setting, results)
        elif run.arm == "layer" or (run.arm == "cumulative" and setting not in total):
            total[setting] = results
    for setting, frozen in direct.items():
        if setting in total and set(frozen.pair_ids) & set(total[setting].pair_ids):
            odd = [part for part in setting if part not in _USUAL]
            figure = draw_decomposition(frozen, total[setting], " ".join([head, *odd]))
            yield "_".join(["decomposition", *odd]), figure


def draw_decomposition(direct: Results, total: Results, head: str) -> Figure:
    """Direct, mediated and total effect on the source answer's probability, by layer.

    Direct: later thoughts are frozen. Total: they are recomputed. Mediated: total minus direct,
    pair by pair; what the recomputed thoughts add. Over the unpatched run, and over the control.

    Args:
        direct: Layer patching with frozen latents.
        total: Layer patching with recomputed latents, or the cumulative chain, which ends in it.
        head: Title over the figure.

    Raises:
        ValueError: The two share no pair.
    """
    layers = [name for name in direct.run.grid.layers if name in total.run.grid.layers]
    rows, shown = _shared_content(direct, total, layers)
    seed, places = direct.run.seed, rows_in(layers, layers)
    groups = [groups_of(direct)[row] for row in rows]
    size = (max(8.0, 3.4 + 0.31 * len(layers) * len(shown)), 4.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, (name, (frozen, recomputed)) in zip(panels, shown.items()):
        parts = {
            "direct (thoughts frozen)": frozen,
            "mediated (what recomputed thoughts add)": recomputed - frozen,
            "total (thoughts recomputed)": recomputed,
        }
        _draw_series(axes, {k: (layer_effect([v], groups, seed), places) for k, v in parts.items()})
        layer_axis(axes, layers)
        label = "rise of P(source answer)" if axes is panels[0] else ""
        _finish(axes, name, label, LEAST_PROBABILITY)
    _legend(figure, panels[0], 3)
    heading(
        figure, head, f"direct, mediated and total effect by layer, {counted(len(rows), 'pair')}"
    )
    return figure


def _shared_content(
    direct: Results, total: Results, layers: Sequence[str]
) -> tuple[list[int], dict[str, tuple[Array, Array]]]:
    """Content effects of some whole layers in the pairs that two runs share.

    Returns:
        The pairs' rows in the first, and for each comparison the two, `(pairs, layers)` each.
    """
    places = {pair: row for row, pair in enumerate(total.pair_ids)}
    rows = [row for row, pair in enumerate(direct.pair_ids) if pair in places]
    others = [places[direct.pair_ids[row]] for row in rows]
    if not rows:
        raise ValueError("expected two runs on the same pairs")
    here, there = (rows_in(run.grid.layers, layers) for run in (direct.run, total.run))
    names = ("over the unpatched run", "over the control")
    return rows, {
        name: (
            at_end(direct, frozen)[np.ix_(np.array(rows), here)],
            at_end(total, recomputed)[np.ix_(np.array(others), there)],
        )
        for name, frozen, recomputed in zip(names, content_effect(direct), content_effect(total))
        if frozen is not None and recomputed is not None
    }
