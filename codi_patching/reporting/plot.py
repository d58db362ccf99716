"""Figures for papers and notebooks: `cp.plot(results)`."""

from __future__ import annotations

from typing import Literal, Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codi_patching.analysis.report import Report
from codi_patching.errors import InputError, brief
from codi_patching.reporting.attention_figure import draw_attention
from codi_patching.reporting.canvas import WIDTHS, Width
from codi_patching.reporting.comparison_figures import draw_by_layer, draw_parts, parts_finding
from codi_patching.reporting.content import main_run
from codi_patching.reporting.effects_figure import KL, RECOVERY, draw_measure
from codi_patching.reporting.figures import first_figure
from codi_patching.reporting.head_figure import draw_heads
from codi_patching.reporting.knockout_figure import draw_knockout
from codi_patching.reporting.layer_tables import draw_carried
from codi_patching.reporting.lens_figure import draw_hit_rates
from codi_patching.reporting.trajectories import draw_cosines, draw_trajectories

Kind = Literal[
    "content", "carried", "effects", "recovery", "trajectories", "trajectories_cosine",
    "by_layer", "decomposition", "lens_hit_rates", "attention", "attention_heads",
    "knockout",
]  # fmt: skip
KINDS: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]


class HasReport(Protocol):
    """Saved results."""

    def report(self) -> Report:
        """What is said of them."""


def plot(
    results: Report | HasReport,
    kind: Kind = "content",
    width: Width = "page",
    run: str | None = None,
) -> list[Axes]:
    """Draw a figure as reports have it, at the width of one or two columns of a paper.

    The panels can be changed before the figure is saved: `plot(results)[0].figure.savefig(…)`.

    Args:
        results: Of one run or of several.
        kind: Which figure.
        width: `column`, 3.3 inches, or `page`, 6.8 inches.
        run: Label of the run, of several; the main one by default.

    Returns:
        The axes of its panels, in reading order.

    Raises:
        InputError: There is no such figure, width or run, or these results do not have it.

    Example:
        >>> import codi_patching as cp
        >>> axes = cp.plot(cp.load_results("results/layer"), width="column")
        >>> print(axes[0].figure.get_figwidth(), "inches")
        3.3 inches
        >>> axes[0].figure.savefig("content.pdf")
    """
    if not isinstance(results, Report) and not hasattr(results, "report"):
        raise InputError(f"expected results, as load_results gives them, got {brief(results)}")
    report = results if isinstance(results, Report) else results.report()
    for name, given, known in (("kind", kind, KINDS), ("width", width, tuple(WIDTHS))):
        if given not in known:
            raise InputError(f"expected a {name} of {', '.join(known)}, got {given!r}")
    if run is not None and run not in report.summaries:
        raise InputError(f"expected a run of {', '.join(report.summaries)}, got {run!r}")
    label = run or (main_run(report) if report.summaries else "")
    try:
        return list(_draw(report, kind, width, label).axes)
    except (ValueError, KeyError) as error:
        raise InputError(f"these results have no figure {kind!r}: {error}") from error


_OF_REPORT = {
    "lens_hit_rates": draw_hit_rates,
    "attention": draw_attention,
    "attention_heads": draw_heads,
    "knockout": draw_knockout,
    "by_layer": draw_by_layer,
}
"""Figures that are of no single run of patching."""


def _draw(report: Report, kind: Kind, width: Width, label: str) -> Figure:
    if kind in _OF_REPORT:
        return _OF_REPORT[kind](report, width)
    if kind == "decomposition":
        finding = parts_finding(report)
        if finding is None:
            raise ValueError("they do not have frozen and recomputed runs of whole layers")
        return draw_parts(finding, width)
    if kind in ("effects", "recovery"):
        return draw_measure(report.summaries[label], KL if kind == "effects" else RECOVERY, width)
    of_run = {
        "content": first_figure,
        "carried": draw_carried,
        "trajectories": draw_trajectories,
        "trajectories_cosine": draw_cosines,
    }
    return of_run[kind](report, label, width)
