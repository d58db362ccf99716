"""What the head reads in each thought, a map for each step, and beside it where patching acts."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from codi_patching.analysis.asking import says_yes
from codi_patching.analysis.report import Report
from codi_patching.reporting.canvas import (
    INK,
    WIDTHS,
    Width,
    new_figure,
    put_note,
    put_title,
    style,
)
from codi_patching.reporting.content import claims_of, draw_effect_map, effect_name, marks_of
from codi_patching.reporting.maps import (
    Scale,
    add_bar,
    cell_mask,
    draw_cells,
    outline,
    write_values,
)
from codi_patching.reporting.names import data_name, model_name
from codi_patching.results.dataset import run_of
from codi_patching.results.description import Mask, RunDescription

_SCALE = Scale(Normalize(0.0, 1.0), colormaps["Greens"])


def draw_hit_rates(report: Report, width: Width = "page") -> Figure:
    """A column for each step: its own results above, another pair's below, on one scale."""
    rates, run = _lens(report)
    steps = list(rates["step"].values)
    rows = run.grid.shape[0]
    with style():
        height = min(max(1.2, 0.11 * rows), 3.0)
        figure = new_figure(WIDTHS[width], 2 * height + 1.2)
        axes = figure.subplots(2, len(steps), squeeze=False, sharex=True, sharey=True)
        for place, step in enumerate(steps):
            for row, arm in enumerate(("own", "chance")):
                values = rates[arm].sel(step=step).values
                draw_cells(axes[row, place], values, run, _SCALE)
                write_values(axes[row, place], values, _SCALE, 72 * height / rows, percent=True)
                axes[row, place].set_xlabel("thought" if row else "")
                axes[row, place].set_ylabel("layer" if not place else "")
            axes[0, place].set_title(f"step {step}, n = {int(rates['pairs'].sel(step=step))}")
            axes[1, place].set_title("chance")
            outline(axes[0, place], read_cells(report, run, int(step)), colors=INK, linewidths=0.9)
        add_bar(figure, axes, _SCALE, "share of pairs", aspect=40, fraction=0.03)
        put_title(
            figure, f"What the head reads in each thought: {model_name(run)} on {data_name(run)}"
        )
        put_note(figure, _note(report, run))
    return figure


def draw_beside_patching(report: Report, label: str) -> Figure:
    """The maps of what is read, and to their right the content effect of a run on the same cells.

    Args:
        report: What is drawn.
        label: Of the run of position patching.
    """
    rates, run = _lens(report)
    steps = list(rates["step"].values)
    rows = run.grid.shape[0]
    with style():
        height = min(max(1.5, 0.15 * rows), 4.0)
        figure = new_figure(WIDTHS["page"], height + 1.2)
        ratios = [1.0] * len(steps) + [1.25]
        axes = figure.subplots(1, len(steps) + 1, width_ratios=ratios, squeeze=False)[0]
        for place, step in enumerate(steps):
            values = rates["own"].sel(step=step).values
            draw_cells(axes[place], values, run, _SCALE)
            write_values(axes[place], values, _SCALE, 72 * height / rows, percent=True)
            outline(axes[place], read_cells(report, run, int(step)), colors=INK, linewidths=0.9)
            axes[place].set_title(f"read: step {step}", y=1.12, pad=0)
            axes[place].set_ylabel("layer" if not place else "")
        draw_effect_map(axes[-1], report, label, 72 * height / rows)
        axes[-1].set_ylabel("")
        axes[-1].set_title(effect_name(report.summaries[label]), y=1.12, pad=0)
        put_title(figure, "What the head reads in each thought, beside where a patch acts")
        marks = " ".join(marks_of(*claims_of(report, label)))
        note = f"{_note(report, run)} What can be read need not be used."
        right = f" On the right, {marks[0].lower()}{marks[1:]}" if marks else ""
        put_note(figure, note + right)
    return figure


def _lens(report: Report) -> tuple[xr.Dataset, RunDescription]:
    """Hit rates, and the run of the lens.

    Raises:
        ValueError: The report has none.
    """
    if report.hit_rates is None or report.lens is None:
        raise ValueError("expected a report with the lens, got one without")
    return report.hit_rates, run_of(report.lens)


def read_cells(report: Report, run: RunDescription, step: int) -> Mask:
    """The cells in which a step's result is claimed to be read more often than chance."""
    claims = [c for f in report.findings if f.key == "read" for c in f.claims]
    return cell_mask(run, claims, lambda c: says_yes(c) and c.kind == "read" and c.step == step)


def _note(report: Report, run: RunDescription) -> str:
    said = (
        f"Share of pairs in which the step's result is among the {run.top} most probable tokens; "
        "chance is the result of that step of another pair. Numbers: percent, from 10 on."
    )
    steps = range(1, report.hit_rates.sizes["step"] + 1) if report.hit_rates is not None else []
    if any(np.any(read_cells(report, run, step)) for step in steps):
        said += " Outlined: more often than chance, claimed."
    return said
