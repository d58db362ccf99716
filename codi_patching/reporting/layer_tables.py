"""What each thought carries at every layer, as small multiples; equal neighbours are one panel."""

from __future__ import annotations

from matplotlib.figure import Figure

from codi_patching.analysis.report import Report
from codi_patching.reporting.canvas import WIDTHS, Width, new_figure, put_note, put_title, style
from codi_patching.reporting.carried import draw_table, joined, layers_of, rows_of
from codi_patching.reporting.content import strata_of
from codi_patching.reporting.maps import column_names
from codi_patching.results.dataset import run_of

ACROSS: dict[Width, int] = {"page": 3, "column": 1}


def draw_carried(report: Report, label: str, width: Width = "page") -> Figure:
    """The strata table of every layer, lowest layers first.

    Args:
        report: What is drawn.
        label: Of a run with strata.
        width: Of one or two columns.

    Raises:
        ValueError: The run has none.
    """
    strata = strata_of(report, label)
    if strata is None:
        raise ValueError(f"expected a run whose pairs have strata, got {label!r}")
    groups = joined(strata.others)
    across = min(ACROSS[width], len(groups))
    down = -(-len(groups) // across)
    height = 0.17 * -rows_of(strata.main.strata)[-1] + 0.6
    names = column_names(run_of(report.summaries[label].data))
    with style():
        figure = new_figure(WIDTHS[width], down * height + 0.7)
        panels = figure.subplots(down, across, squeeze=False)
        for place, axes in enumerate(panels.flat):
            if place >= len(groups):
                axes.set_axis_off()
                continue
            table = groups[place][0]
            draw_table(axes, table.strata, table.entries, names, names=place % across == 0)
            axes.set_title(layers_of(groups[place]).capitalize())
        put_title(figure, "What each thought carries at every layer, by the step that changed")
        put_note(
            figure,
            "Pairs that a patch restores, of those of the stratum. Dark: more than chance allows. "
            "Layers with the same counts are one table.",
        )
    return figure
