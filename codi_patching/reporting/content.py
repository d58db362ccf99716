"""The first figure of a run: where patches carry the pair's content, and what each thought carries.

    a  the content effect of every cell, up to what all thoughts at once can do (the ceiling)
    b  how many pairs are restored, by the step that changed, at the layer of the largest effect
    c  the same at layers whose thoughts carry other steps, if there are any

Where a layer is one cell, a is a profile over layers and b has a column for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codi_patching.analysis.findings import Claim, StrataFinding, StrataTable
from codi_patching.analysis.report import Report, Summary
from codi_patching.reporting.canvas import (
    INK,
    SMALL,
    SOFT,
    WIDTHS,
    Width,
    new_figure,
    put_note,
    put_title,
    style,
)
from codi_patching.reporting.carried import (
    draw_over_layers,
    draw_table,
    layers_of,
    rows_of,
    two_tables,
)
from codi_patching.reporting.maps import (
    LEAST,
    add_bar,
    cell_mask,
    column_kind,
    column_names,
    draw_cells,
    notes_on,
    outline,
    put_dots,
    scale_of,
    write_values,
)
from codi_patching.reporting.profiles import draw_comparisons, shade_claimed
from codi_patching.results.dataset import run_of, structural_of
from codi_patching.results.description import Array


def effect_name(summary: Summary) -> str:
    """The content effect in words: the answer that rises is the source run's."""
    answer = "clean" if run_of(summary.data).clean_is_source else "corrupted"
    return f"Rise of P({answer} answer)"


def mean_of(summary: Summary, measure: str) -> Array:
    """A measure's mean over pairs, `(layers, columns)`; structural zeros are NaN."""
    table = summary.table[measure]
    values = table.sel(statistic="mean") if "statistic" in table.dims else table
    return np.where(structural_of(summary.data), np.nan, np.asarray(values.values, np.float64))


def ceiling_of(report: Report, label: str) -> float | None:
    """What all thoughts at once do to the probability of the source answer, if it was run.

    Args:
        report: In which it is a claim.
        label: Of a run; that of another direction, site or model has another ceiling.
    """
    finding = report.finding("ceiling", label)
    lead = finding.lead if finding else None
    return lead.lead.mean if lead and np.isfinite(lead.lead.mean) else None


def strata_of(report: Report, label: str) -> StrataFinding | None:
    """What each thought carries in a run, if its pairs have strata."""
    found = [f for f in report.findings if f.key == "strata" and f.strata and label in f.runs]
    own = next((f.strata for f in found if f.strata and f.strata.main.run == label), None)
    return own if own and own.main.entries else None


def claims_of(report: Report, label: str) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    """The claims about the content effect of a run's cells.

    Returns:
        The claims, and the names of the claimed ones that are not shown to be below the largest;
        none if the largest stands alone.
    """
    finding = report.finding("cells", label)
    if finding is None:
        finding = report.finding("chain", label)
    if finding is None:
        return (), ()
    claims = [*finding.claims, *(e for course in finding.courses for e in course.effects)]
    own = {(c.layer, c.column): c for c in claims if c.kind == "content"}
    claimed = {claim.name for claim in own.values() if claim.claimed}
    tied = tuple(name for name in finding.tied if name in claimed)
    largest = finding.lead is not None and finding.lead.claimed and len(tied) > 1
    return tuple(own.values()), tied if largest else ()


def main_run(report: Report) -> str:
    """Label of the run that the first figure is of: that of the first primary finding of cells."""
    for key in ("strata", "cells", "chain"):
        finding = report.finding(key)
        for label in finding.runs if finding else ():
            if label in report.summaries:
                return label
    return next(iter(report.summaries))


def draw_content(
    report: Report,
    label: str,
    title: str = "",
    note: str = "",
    width: Width = "page",
    *,
    end: float | None = None,
) -> Figure:
    """The first figure of a run.

    Args:
        report: What is drawn.
        label: Of the run.
        title: The sentence that it shows.
        note: What was run, the control and what it restored.
        width: Of one or two columns.
        end: Where the map's scale ends at least, to have one for several models.
    """
    summary = report.summaries[label]
    with style():
        if run_of(summary.data).grid.whole_layers:
            figure = _whole_layers(report, label, width)
        else:
            figure = _grid(report, label, width, end)
        reading = _reading(report, label)
        if title:
            put_title(figure, title)
        put_note(figure, " ".join(part for part in (note, reading) if part))
    return figure


def _grid(report: Report, label: str, width: Width, end: float | None) -> Figure:
    summary, strata = report.summaries[label], strata_of(report, label)
    run = run_of(summary.data)
    groups = two_tables(strata) if strata else []
    rows, columns = run.grid.shape
    height = min(max(1.5, 0.15 * rows), 5.0)
    if groups:
        height = max(height, 0.19 * -rows_of(groups[0][0].strata)[-1] + 0.4)
    inches = WIDTHS[width]
    beside = width == "page" and columns <= 8
    if beside and groups:
        figure = new_figure(inches, height + 1.15)
        ratios = [1.0, 1.1, 1.1][: 1 + len(groups)]
        panels = list(figure.subplots(1, 1 + len(groups), width_ratios=ratios))
    else:
        across = inches if groups else min(inches, 1.9 + 0.42 * columns)
        figure = new_figure(across, (height + 0.35) * (1 + len(groups)) + 0.75)
        panels = list(np.atleast_1d(figure.subplots(1 + len(groups), 1)))
    draw_effect_map(panels[0], report, label, 72 * height / (rows + 1), end)
    panels[0].set_title(f"a  {effect_name(summary)}", y=1.12, pad=0)
    for place, (axes, group) in enumerate(zip(panels[1:], groups)):
        table = group[0]
        names = place == 0 or not beside
        draw_table(axes, table.strata, table.entries, column_names(run), names)
        kind = column_kind(run)
        axes.set_xlabel("thought patched" if kind == "thought" else kind)
        head = f"{'bc'[place]}  Restored at {layers_of(group)}"
        axes.set_title(head, y=1.12 if beside else 1.04, pad=0)
        if beside and place == 0:
            axes.text(
                0, 1.02, "pairs with the source answer, by the step that changed",
                transform=axes.transAxes, fontsize=SMALL, color=SOFT, va="bottom",
            ).set_in_layout(False)  # fmt: skip
    return figure


def draw_effect_map(
    axes: Axes, report: Report, label: str, row_height: float = 12.0, end: float | None = None
) -> None:
    """The content effect of every cell: what is claimed is outlined, what ties for the most dotted.

    Args:
        axes: To draw on.
        report: What is drawn.
        label: Of the run.
        row_height: Of a cell, in points; labels that do not fit are left out.
        end: Where the scale ends at least.
    """
    summary = report.summaries[label]
    run = run_of(summary.data)
    values, ceiling = mean_of(summary, "content_effect"), ceiling_of(report, label)
    scale = scale_of(values, LEAST["probability"], max(ceiling or 0.0, end or 0.0))
    draw_cells(axes, values, run, scale)
    claims, tied = claims_of(report, label)
    claimed = cell_mask(run, claims, lambda c: c.claimed)
    outline(axes, claimed, colors=INK, linewidths=0.6)
    put_dots(axes, cell_mask(run, claims, lambda c: c.name in tied), values, scale)
    for region in (claimed, ~claimed):  # no label across an outline
        write_values(axes, np.where(region, values, np.nan), scale, row_height)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    _margins(axes, values, scale.norm.vmax or 1.0)
    bar = add_bar(figure, axes, scale, "", aspect=24, fraction=0.06)
    if ceiling is not None and ceiling > 0:
        bar.ax.axhline(ceiling, color=INK, lw=1.2, clip_on=False)
        bar.ax.set_title(f"ceiling\n{ceiling:.2f}", size=SMALL, weight="normal", loc="left")


def _margins(axes: Axes, values: Array, end: float) -> None:
    """Means over layers above the map, over positions right of it, on the map's scale."""
    rows, columns = values.shape
    with np.errstate(invalid="ignore"):
        by_column = np.nanmean(np.where(np.isnan(values).all(0), 0.0, values), axis=0)
        by_layer = np.nanmean(np.where(np.isnan(values).all(1, keepdims=True), 0.0, values), axis=1)
    top = axes.inset_axes((0, 1.015, 1, 0.09), sharex=axes)
    top.bar(range(columns), by_column, width=0.94, color="#9fb6cd")
    right = axes.inset_axes((1.02, 0, 0.16, 1), sharey=axes)
    right.barh(range(rows), by_layer, height=0.9, color="#9fb6cd")
    low = min(0.0, float(by_column.min()), float(by_layer.min()))
    top.set_ylim(low, end)
    right.set_xlim(low, end)
    for margin in (top, right):
        margin.set_axis_off()


def _whole_layers(report: Report, label: str, width: Width) -> Figure:
    """A profile over layers, and below it the strata with a column for each layer."""
    summary, strata = report.summaries[label], strata_of(report, label)
    run = run_of(summary.data)
    tables = _by_layer(strata.others, run.grid.layers) if strata else []
    height = 1.6 + (0.6 + 0.17 * -rows_of(tables[0].strata)[-1] if tables else 0)
    figure = new_figure(WIDTHS[width], height + 1.0)
    ratios = [1.4, height - 1.4] if tables else [1]
    panels = np.atleast_1d(figure.subplots(len(ratios), 1, height_ratios=ratios, sharex=True))
    draw_comparisons(panels[0], report, label, width == "column")
    shade_claimed(panels[0], claims_of(report, label)[0], run.grid.layers)
    panels[0].set_title(f"a  {effect_name(summary)}")
    if tables:
        draw_over_layers(panels[1], tables, 72 * (WIDTHS[width] - 1.3) / len(tables))
        panels[1].set_title("b  Pairs restored, by changed step")
        panels[1].set_xlabel("layer")
        panels[0].set_xlabel("")
    return figure


def _by_layer(tables: tuple[StrataTable, ...], layers: tuple[str, ...]) -> list[StrataTable]:
    by_name = {table.layer: table for table in tables}
    return [by_name[layer] for layer in layers if layer in by_name]


def marks_of(claims: Sequence[Claim], tied: Sequence[str]) -> list[str]:
    """How to read the outline and the dots of a map, from the claims about its cells."""
    said = ["Outlined: claimed."] if any(claim.claimed for claim in claims) else []
    return said + [f"Dots: {len(tied)} cells not shown to be below the largest."] * bool(tied)


def _reading(report: Report, label: str) -> str:
    """How to read the marks."""
    run, said = run_of(report.summaries[label].data), []
    claims, tied = claims_of(report, label)
    if not run.grid.whole_layers:
        across = "heads" if run.grid.column == "head" else "positions"
        said += [*marks_of(claims, tied), f"Bars: means over layers and {across}."]
    elif any(claim.claimed for claim in claims):
        said.append("Shaded: claimed.")
    if strata_of(report, label):
        said.append("Restored: pairs with the source answer; dark: more than chance allows.")
    return " ".join([*said, *notes_on(run)])
