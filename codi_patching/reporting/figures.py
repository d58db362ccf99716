"""The figures of one run, as pure functions of its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from codi_patching.analysis.intervals import mean_and_deviation
from codi_patching.analysis.summary import content_size, mean_kl
from codi_patching.reporting.chains import (
    Highlight,
    content_course,
    cosine_course,
    kl_course,
    trajectories,
)
from codi_patching.reporting.maps import (
    LEAST_KL,
    LEAST_PROBABILITY,
    Scale,
    draw_cells,
    heading,
    label_axes,
    leading,
    mark_passing,
    mark_ranks,
    notes_on,
    scale_of,
    write_notes,
)
from codi_patching.reporting.names import counted, title
from codi_patching.reporting.profiles import content_points, kl_bars
from codi_patching.results.files import atomic_write
from codi_patching.results.read import Results

Cells = Sequence[tuple[int, int]]

EFFECTS = "effects"
RECOVERY = "recovery"
TRAJECTORIES = "trajectories"
COSINES = "trajectories_cosine"

CAPTIONS = {
    EFFECTS: "where patches disrupt (mean KL) and where they carry the pair's content",
    RECOVERY: "mean recovery, the normalised logit difference",
    TRAJECTORIES: "KL and content effect along the chain, a line for each layer",
    COSINES: "generated activations against the clean and the corrupted run's",
}
"""The figures that a run may have, in their order."""


def draw_figures(
    results: Results, top: int, passing: Cells | None, highlight: Highlight
) -> Iterator[tuple[str, Figure]]:
    """The figures of a run over its pairs, by name.

    Args:
        results: Of the run.
        top: Cells to mark by mean KL.
        passing: Cells whose content effect is beyond the threshold; None if not tested.
        highlight: Of iterative patching, layers to draw thick.
    """
    yield EFFECTS, draw_effects(results, top, passing)
    if not results.run.grid.whole_layers:
        yield RECOVERY, draw_recovery(results)
    if results.run.grid.column == "iteration":
        yield TRAJECTORIES, draw_trajectories(results, highlight)
        if "cosine_to_clean" in results.values and len(results.run.grid.columns) > 1:
            yield COSINES, draw_cosines(results, highlight)


def draw_effects(results: Results, top: int, passing: Cells | None) -> Figure:
    """Mean KL, the largest marked, and beside it the content effect."""
    run, grid = results.run, results.run.grid
    rows, columns = grid.shape
    if grid.whole_layers:
        figure = Figure(figsize=(max(11.0, 5.4 + 0.5 * rows), 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        kl_bars(left, results, top)
        content_points(right, results, passing)
    else:
        size = (max(9.0, 2 * (2.0 + 0.72 * columns)), 2.5 + 0.3 * rows)
        figure = Figure(figsize=size, layout="constrained")
        left, right = figure.subplots(1, 2)
        kl, size_of = mean_kl(results), content_size(results)
        _draw_map(left, results, kl, scale_of(kl, False, LEAST_KL), "KL (nats)")
        mark_ranks(left, leading(kl, top))
        scale = scale_of(size_of, True, LEAST_PROBABILITY)
        _draw_map(right, results, size_of, scale, "rise of P(source answer)")
        mark_passing(right, passing or ())
    left.set_title("Disruption: mean KL(patched ‖ unpatched)", fontsize=9.5)
    right.set_title(_content_title(results), fontsize=9.5)
    heading(figure, f"{title(run)}, {counted(len(results.pair_ids), 'pair')}")
    ranks = f"Red: the largest {top} by mean KL. " * (top > 0)
    write_notes(figure, [ranks + _passing_note(passing), *notes_on(run)])
    return figure


def _content_title(results: Results) -> str:
    if not results.control:
        return "Content: over the unpatched run (no control)"
    if results.run.grid.whole_layers:
        return "Content: the lower of the two counts"
    return "Content: over unpatched or control, the smaller"


def _passing_note(passing: Cells | None) -> str:
    if passing is None:
        return "No test of single cells was made."
    if not passing:
        return "In no cell is the content effect shown to be beyond the threshold."
    return "Orange: the content effect is beyond the threshold, tested over all cells together."


def _draw_map(axes: Axes, results: Results, values: np.ndarray, scale: Scale, label: str) -> None:
    draw_cells(axes, values, results.run.grid, scale)
    label_axes(axes, results.run)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.colorbar(ScalarMappable(scale.norm, scale.colours), ax=axes, label=label, fraction=0.07)


def draw_recovery(results: Results) -> Figure:
    """Mean recovery of every cell."""
    rows, columns = results.run.grid.shape
    size = (max(6.2, 2.6 + 0.85 * columns), 2.5 + 0.3 * rows)
    figure = Figure(figsize=size, layout="constrained")
    mean, _, _ = mean_and_deviation(results.values["recovery"])
    scale = scale_of(np.where(results.structural, np.nan, mean), True, LEAST_PROBABILITY)
    _draw_map(figure.subplots(), results, mean, scale, "recovery (1 = the source run's)")
    heading(figure, title(results.run), f"mean recovery, {counted(len(results.pair_ids), 'pair')}")
    note = "Recovery rises too where the base answer's logit merely falls: see the content effect."
    write_notes(figure, [note, *notes_on(results.run)])
    return figure


def draw_trajectories(results: Results, highlight: Highlight) -> Figure:
    """KL and content effect along the chain."""
    heads = ("Disruption: mean KL(patched ‖ unpatched)", _content_title(results))
    labels = ("KL (nats)", "rise of P(source answer)")
    courses = (kl_course(results), content_course(results))
    what = f"{title(results.run)}, {counted(len(results.pair_ids), 'pair')}: along the chain"
    return trajectories(list(zip(heads, labels, courses)), results.run.grid.layers, what, highlight)


def draw_cosines(results: Results, highlight: Highlight) -> Figure:
    """What each iteration generated at the next position, against the two unpatched runs."""
    courses = [
        (f"Against the {run} run's activation there", "mean cosine", cosine_course(results, run))
        for run in ("clean", "corrupted")
    ]
    what = f"{title(results.run)}, {counted(len(results.pair_ids), 'pair')}: generated activations"
    return trajectories(courses, results.run.grid.layers, what, highlight)


def save_figure(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG, the same figure as the same bytes, and clear it."""
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png", metadata={"Software": None})
    figure.clear()
