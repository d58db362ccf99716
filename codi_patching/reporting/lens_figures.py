"""Maps of what the lens reads: how often each step's result stands at each cell, beside chance.

Alone, and with the content effect of position patching to the right of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from codi_patching.analysis.summary import content_size
from codi_patching.reporting.maps import (
    LEAST_PROBABILITY,
    Scale,
    draw_cells,
    heading,
    label_axes,
    mark_passing,
    scale_of,
    write_notes,
)
from codi_patching.results.lens import HitRates
from codi_patching.results.read import Results
from codi_patching.results.schema import Array

_SCALE = Scale(Normalize(0.0, 1.0), colormaps["viridis"])
_LEAST_NUMBER = 0.1

Cells = Sequence[tuple[int, int]]


def draw_hit_rates(rates: HitRates, head: str = "", passing: Sequence[Cells] = ()) -> Figure:
    """A column for each step: its own results above, another pair's below, on one scale of 0..1.

    Args:
        rates: What is drawn.
        head: What was read, over the figure.
        passing: For each step the cells to frame.
    """
    width, height = _size(rates)
    figure = Figure(figsize=(width, height), layout="constrained")
    _draw_steps(figure, rates, passing)
    heading(figure, *([head] if head else []), "what each thought says, read by the head")
    write_notes(figure, [_note(rates, passing)])
    return figure


def draw_beside_patching(
    rates: HitRates,
    arms: Mapping[str, Results],
    head: str,
    passing: Sequence[Cells] = (),
    effects: Mapping[str, Cells] | None = None,
) -> Figure:
    """The maps of hit rates, and to their right the content effect of position patching.

    Args:
        rates: What the lens read.
        arms: Position patching by label, one below the other.
        head: What they have in common.
        passing: For each step the cells to frame.
        effects: By label the cells whose content effect is beyond the threshold.
    """
    width, height = _size(rates)
    beside = 2.4 + 0.62 * rates.own.shape[2]
    figure = Figure(figsize=(width + beside, height), layout="constrained")
    panels = figure.subfigures(1, 2, squeeze=False, width_ratios=[width, beside])
    left, right = panels[0]
    _draw_steps(left, rates, passing)
    rows = np.atleast_1d(right.subplots(max(2, len(arms)), 1))
    for axes in rows[len(arms) :]:
        axes.set_axis_off()
    for axes, (label, results) in zip(rows, arms.items()):
        _draw_content(axes, label, results, (effects or {}).get(label, ()))
    left.suptitle("What the lens reads", fontsize=10)
    right.suptitle("Content effect of a patch there", fontsize=10)
    heading(figure, head, "what each thought says, and what patching it does")
    framed = "Orange on the right: beyond the threshold, tested over all cells."
    notes = [_note(rates, passing), *([framed] if any((effects or {}).values()) else [])]
    write_notes(figure, notes)
    return figure


def _size(rates: HitRates) -> tuple[float, float]:
    steps, layers, positions = rates.own.shape
    return max(1.6 + 0.42 * positions, 2.4) * steps + 1.4, max(0.46 * layers, 3.0) + 2.8


def _note(rates: HitRates, passing: Sequence[Cells]) -> str:
    note = (
        f"Numbers: percent of pairs in which the step's result is among the {rates.k} most "
        "probable tokens, where they are 10 or more. Below: the result of the same step of another "
        "pair, which is chance."
    )
    if any(passing):
        note += " Orange: more often than chance by more than the threshold, tested over all cells."
    return note


def _draw_steps(figure: Figure | SubFigure, rates: HitRates, passing: Sequence[Cells]) -> None:
    steps = rates.own.shape[0]
    axes = figure.subplots(2, steps, squeeze=False, sharex=True, sharey=True)
    for step in range(steps):
        count = f"n = {rates.pairs[step]}"
        _draw(axes[0, step], rates.own[step], f"result of step {step + 1} ({count})")
        _draw(axes[1, step], rates.chance[step], f"chance: another pair's step {step + 1}")
        if step < len(passing):
            mark_passing(axes[0, step], passing[step])
        axes[1, step].set_xlabel("latent position")
    for row in axes:
        row[0].set_ylabel("layer")
    bar = figure.colorbar(ScalarMappable(_SCALE.norm, _SCALE.colours), ax=axes, shrink=0.6)
    bar.set_label(f"share of pairs, among the {rates.k} most probable tokens")


def _draw(axes: Axes, values: Array, title: str) -> None:
    """One map, layers upwards; cells of at least a tenth carry their percentage."""
    axes.imshow(
        values, origin="lower", aspect="auto", norm=_SCALE.norm, cmap=_SCALE.colours,
        interpolation="nearest",
    )  # fmt: skip
    axes.set_title(title, fontsize=8.5)
    rows, columns = values.shape
    axes.set_xticks(range(0, columns, max(1, -(-columns // 24))))
    axes.set_yticks(range(0, rows, max(1, -(-rows // 48))))
    if np.isnan(values).all():
        axes.text(
            0.5, 0.5, "no other pair\nhas this step", ha="center", va="center", fontsize=8,
            color="dimgray", transform=axes.transAxes,
        )  # fmt: skip
    for layer, position in np.argwhere(values >= _LEAST_NUMBER):
        value = values[layer, position]
        axes.text(
            position, layer, f"{100 * value:.0f}", ha="center", va="center", fontsize=7,
            color="white" if _SCALE.is_dark(value) else "black",
        )  # fmt: skip


def _draw_content(axes: Axes, label: str, results: Results, passing: Cells) -> None:
    values = content_size(results)
    scale = scale_of(values, True, LEAST_PROBABILITY)
    draw_cells(axes, values, results.run.grid, scale)
    label_axes(axes, results.run)
    mark_passing(axes, passing)
    axes.set_title(label, fontsize=8.5)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(
        ScalarMappable(scale.norm, scale.colours), ax=axes, label="rise of P(source answer)"
    )
