"""Where the token before the answer looks, by layer and thought, beside where a patch acts.

A column for each number of steps: above the mean over heads, below the most attentive head. With a
run of position patching a further column: above its content effect, below how far the thought is
seen in the blocks above the cell, by any reader after it.
"""

from __future__ import annotations

from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from codi_patching.analysis.attended import looks, mean_seen_above
from codi_patching.analysis.findings import Finding
from codi_patching.analysis.report import Report
from codi_patching.reporting.canvas import WIDTHS, Width, new_figure, put_note, put_title, style
from codi_patching.reporting.claims_in_words import attention_words
from codi_patching.reporting.content import draw_effect_map, effect_name
from codi_patching.reporting.maps import Scale, add_bar, draw_cells, write_values
from codi_patching.reporting.names import HEADS, counted, data_name, model_name
from codi_patching.results.dataset import run_of

_SCALE = Scale(Normalize(0.0, 1.0), colormaps["Purples"])


def draw_attention(report: Report, width: Width = "page") -> Figure:
    """The maps of attention, and beside them that of a run of position patching.

    Raises:
        ValueError: The report has no attention.
    """
    if report.attention is None:
        raise ValueError("expected a report with attention, got one without")
    data, finding = report.attention, report.finding("attention")
    run, found = run_of(data), [looks(data, measure) for measure in HEADS]
    label = next((n for n in (finding.runs if finding else ()) if n in report.summaries), "")
    maps = [[look.shares for look in own] for own in found]
    if label:
        maps[1].append(mean_seen_above(data))
    rows = run.grid.shape[0]
    with style():
        height = min(max(1.2, 0.11 * rows), 3.0)
        figure = new_figure(WIDTHS[width], 2 * height + 1.2)
        axes = figure.subplots(2, len(maps[1]), squeeze=False)
        for row, name in enumerate(HEADS.values()):
            for place, values in enumerate(maps[row]):
                draw_cells(axes[row, place], values, run, _SCALE)
                write_values(axes[row, place], values, _SCALE, 72 * height / rows, percent=True)
                axes[row, place].set(xlabel="" if label and not row else "thought", ylabel="")
            axes[row, 0].set_ylabel(f"{name}\nlayer")
        for place, look in enumerate(found[0]):
            of = counted(look.length, "step") if look.length else "all pairs"
            axes[0, place].set_title(f"{of}, n = {look.pairs}")
        if label:
            draw_effect_map(axes[0, -1], report, label, 72 * height / rows)
            axes[0, -1].set(title=effect_name(report.summaries[label]), xlabel="", ylabel="")
            axes[1, -1].set_title("seen above, by any reader")
        add_bar(figure, axes[1], _SCALE, "share of attention", aspect=20)
        put_title(figure, _title(finding))
        put_note(figure, _note(report, label))
    return figure


def _title(finding: Finding | None) -> str:
    """Where attention goes most."""
    if finding is None or not finding.claims:
        return "Attention of the token before the answer"
    return f"The token before the answer attends most to {attention_words(finding)}"


def _note(report: Report, label: str) -> str:
    assert report.attention is not None
    run = run_of(report.attention)
    said = (
        f"{model_name(run)} on {data_name(run)}: share of its attention that the token before the "
        "answer gives each thought, mean over pairs, in percent from 10 on."
    )
    if label:
        said += (
            " On the right where a patch acts, and under it the largest share that a thought gets "
            "in any layer above, from any later reader."
        )
    return f"{said} What is attended to need not be used."
