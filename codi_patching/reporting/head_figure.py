"""Which heads of the token before the answer look at which thought: a sheet of layers by heads.

A row for each number of steps, a panel for each thought. Described, never judged.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from codi_patching.analysis.attended import LARGE, by_length
from codi_patching.analysis.report import Report
from codi_patching.reporting.canvas import WIDTHS, Width, new_figure, put_note, put_title, style
from codi_patching.reporting.maps import Scale, add_bar, column_names, layer_ticks
from codi_patching.reporting.names import counted, data_name, model_name
from codi_patching.results.dataset import run_of
from codi_patching.results.description import Array, Mask, RunDescription
from codi_patching.results.head_shares import mean_by_head

_SCALE = Scale(Normalize(0.0, 1.0), colormaps["Purples"])


def has_heads(report: Report) -> bool:
    """Whether a report has single heads to draw."""
    data = report.attention
    return data is not None and data.sizes["pair"] > 0 and mean_by_head(data, []) is not None


def draw_heads(report: Report, width: Width = "page") -> Figure:
    """The sheet.

    Raises:
        ValueError: The report has no attention, or none of single heads.
    """
    data = report.attention
    lengths = by_length(data) if data is not None else []
    shares = None if data is None else mean_by_head(data, [mask for _, mask in lengths])
    if data is None or shares is None:
        raise ValueError("expected a report with attention of single heads, got one without")
    run = run_of(data)
    names, (rows, _, thoughts) = column_names(run), shares[0].shape
    with style():
        height = min(max(0.7, 0.06 * rows), 2.0)
        figure = new_figure(WIDTHS[width], (height + 0.25) * len(lengths) + 1.1)
        axes = figure.subplots(len(lengths), thoughts, squeeze=False, sharex=True, sharey=True)
        for line, ((length, mask), own) in enumerate(zip(lengths, shares, strict=True)):
            for thought in range(thoughts):
                _draw_panel(axes[line, thought], own[..., thought], run)
                if not line:
                    axes[line, thought].set_title(names[thought])
            of = counted(length, "step") if length else "all pairs"
            axes[line, 0].set_ylabel(f"{of}, n = {int(mask.sum())}\nlayer")
        for panel in axes[-1]:
            panel.set_xlabel("head")
        add_bar(figure, axes, _SCALE, "share of attention", aspect=30)
        put_title(figure, _title(lengths, shares, run))
        put_note(
            figure,
            f"{model_name(run)} on {data_name(run)}: share of its attention that each head of the "
            "token before the answer gives each thought, mean over pairs; layers by heads. What is "
            "attended to need not be used.",
        )
    return figure


def _draw_panel(axes: Axes, shares: Array, run: RunDescription) -> None:
    axes.imshow(
        shares, origin="lower", aspect="auto", norm=_SCALE.norm, cmap=_SCALE.colours,
        interpolation="nearest",
    )  # fmt: skip
    layer_ticks(axes, run)
    heads = shares.shape[1]
    step = max(1, -(-heads // 8))
    axes.set_xticks(range(0, heads, step), [str(head) for head in range(0, heads, step)])


def _title(lengths: list[tuple[int | None, Mask]], shares: list[Array], run: RunDescription) -> str:
    """The head that looks at a thought most, for each number of steps."""
    names, found = column_names(run), []
    for (length, _), own in zip(lengths, shares, strict=True):
        layer, head, thought = map(int, np.unravel_index(own.argmax(), own.shape))
        place = f"layer {run.grid.layers[layer]} head {head} at {names[thought]}"
        of = f" in {counted(length, 'step')}" if length else ""
        found.append(f"{place}{of} ({own.max():.2f})")
    if max(float(own.max()) for own in shares) < LARGE:
        return f"No head gives a thought half of its attention; the most is {', '.join(found)}"
    return f"Most attentive heads: {', '.join(found)}"
