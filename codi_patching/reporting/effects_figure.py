"""Maps of one measure: disruption (KL to the unpatched run), recovery.

Neither is evidence of content: KL says how much a patch disturbs, and recovery rises too where the
base answer's logit merely falls.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codi_patching.analysis.report import Summary
from codi_patching.reporting.canvas import WIDTHS, Width, new_figure, put_note, put_title, style
from codi_patching.reporting.content import mean_of
from codi_patching.reporting.maps import (
    LEAST,
    add_bar,
    draw_cells,
    notes_on,
    scale_of,
    write_values,
)
from codi_patching.reporting.names import counted, title
from codi_patching.reporting.profiles import Profile, draw_profiles
from codi_patching.results.dataset import has_control, run_of
from codi_patching.results.description import Array

KL, RECOVERY = "kl_divergence", "recovery"
_HEADS = {
    KL: ("Disruption: mean KL(patched ‖ unpatched)", "KL (nats)", "nats"),
    RECOVERY: ("Recovery: normalised logit difference", "recovery", "rate"),
}
_NOTES = {
    KL: "Disruption says how much a patch changes the answer's distribution, not what it carries.",
    RECOVERY: "Recovery rises too where the base answer's logit merely falls.",
}


def draw_measure(summary: Summary, measure: str, width: Width = "page") -> Figure:
    """A measure of a run, with the own patch and, beside it on one scale, with the control's.

    Args:
        summary: Of the run.
        measure: `kl_divergence` or `recovery`.
        width: Of one or two columns.
    """
    run = run_of(summary.data)
    arms = {"own patch": mean_of(summary, measure)}
    if has_control(summary.data) and f"control_{measure}" in summary.table:
        arms["control's patch"] = mean_of(summary, f"control_{measure}")
    with style():
        if run.grid.whole_layers:
            figure = new_figure(WIDTHS[width], 2.4)
            _profiles(figure.subplots(), summary, measure)
        else:
            figure = _maps(summary, measure, arms, width)
        put_title(figure, f"{_HEADS[measure][0]}. {title(run)}, {counted(run.num_pairs, 'pair')}")
        put_note(figure, " ".join([_NOTES[measure], *notes_on(run)]))
    return figure


def _maps(summary: Summary, measure: str, arms: dict[str, Array], width: Width) -> Figure:
    run = run_of(summary.data)
    rows, columns = run.grid.shape
    height = min(max(1.5, 0.15 * rows), 5.0)
    inches = WIDTHS[width] if width == "column" else min(WIDTHS[width], 1.6 + 1.1 * columns)
    figure = new_figure(inches, height + 1.2)
    panels = list(np.atleast_1d(figure.subplots(1, len(arms), sharey=True)))
    scale = scale_of(np.stack(list(arms.values())), LEAST[_HEADS[measure][2]])
    for axes, (name, values) in zip(panels, arms.items()):
        draw_cells(axes, values, run, scale)
        write_values(axes, values, scale, 72 * height / rows)
        axes.set_title(name)
    for axes in panels[1:]:
        axes.set_ylabel("")
    add_bar(figure, panels, scale, _HEADS[measure][1], aspect=24, fraction=0.06)
    return figure


def _profiles(axes: Axes, summary: Summary, measure: str) -> None:
    """By layer, with 95 % intervals."""
    layers, profiles = run_of(summary.data).grid.layers, []
    for name, key in (("own patch", measure), ("control's patch", f"control_{measure}")):
        if key in summary.table:
            own = summary.table[key].isel(column=0)
            shown = [own.sel(statistic=s).values for s in ("mean", "ci_low", "ci_high")]
            profiles.append(Profile(name, *shown))
    draw_profiles(axes, profiles, layers)
    axes.set_ylabel(_HEADS[measure][1])
    axes.legend(frameon=False, loc="upper right")
