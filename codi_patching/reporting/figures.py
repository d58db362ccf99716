"""The figures that a report has, by the names of their files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from codi_patching.analysis.report import Report
from codi_patching.reporting.attention_figure import draw_attention
from codi_patching.reporting.canvas import Width, save_figure
from codi_patching.reporting.comparison_figures import (
    draw_by_layer,
    draw_parts,
    parts_finding,
    whole_layers,
)
from codi_patching.reporting.content import ceiling_of, draw_content, main_run, mean_of, strata_of
from codi_patching.reporting.effects_figure import KL, RECOVERY, draw_measure
from codi_patching.reporting.head_figure import draw_heads, has_heads
from codi_patching.reporting.knockout_figure import draw_knockout
from codi_patching.reporting.layer_tables import draw_carried
from codi_patching.reporting.lens_figure import draw_beside_patching, draw_hit_rates
from codi_patching.reporting.names import counted, kind, model_name
from codi_patching.reporting.sentences import headline, short_headline
from codi_patching.reporting.sheets import pair_sheets
from codi_patching.reporting.trajectories import COSINES, draw_cosines, draw_trajectories
from codi_patching.results.dataset import run_of

__all__ = ["draw_figures", "first_figure", "pair_sheets", "save_figure"]


def draw_figures(report: Report) -> Iterator[tuple[str, Figure]]:
    """The figures of one run, or of several together, the first figure first."""
    models = _by_model(report)
    end = max((_end_of(own, main_run(own)) for own in models), default=0.0)
    for number, own in enumerate(models, 1):
        ending = f"_{number}" if report.models else ""
        label = main_run(own)
        yield f"content{ending}", first_figure(own, label, end=end)
        if strata_of(own, label):
            yield f"carried{ending}", draw_carried(own, label)
    if len(report.summaries) > 1:
        yield from _of_several(report)
    elif report.summaries:
        yield from _of_one(report, main_run(report))
    if report.attention is not None and report.attention.sizes["pair"]:
        yield "attention", draw_attention(report)
        if has_heads(report):
            yield "attention_heads", draw_heads(report)
    if report.knockout is not None and report.knockout.sizes["pair"]:
        yield "knockout", draw_knockout(report)
    if report.hit_rates is not None and report.hit_rates.sizes["step"]:
        yield "lens_hit_rates", draw_hit_rates(report)


def _by_model(report: Report) -> list[Report]:
    """What is said of each model alone."""
    if not report.models:
        return [report] if report.summaries else []
    found = []
    for model in report.models:
        own = {k: s for k, s in report.summaries.items() if k.startswith(f"{model}: ")}
        findings = tuple(f for f in report.findings if f.model == model)
        if own:
            found.append(replace(report, summaries=own, findings=findings, models=()))
    return found


def _end_of(report: Report, label: str) -> float:
    """Where the scale of a run's first figure ends by itself: all models are drawn on one."""
    effect = np.nan_to_num(mean_of(report.summaries[label], "content_effect"))
    return max(ceiling_of(report, label) or 0.0, float(effect.max(initial=0.0)))


def _of_one(report: Report, label: str) -> Iterator[tuple[str, Figure]]:
    summary = report.summaries[label]
    run = run_of(summary.data)
    yield "effects", draw_measure(summary, KL)
    if RECOVERY in summary.table:
        yield "recovery", draw_measure(summary, RECOVERY)
    if run.grid.column == "iteration":
        yield "trajectories", draw_trajectories(report, label)
        if set(COSINES) <= set(run.metrics) and len(run.grid.columns) > 1:
            yield "trajectories_cosine", draw_cosines(report, label)


def _of_several(report: Report) -> Iterator[tuple[str, Figure]]:
    if len(whole_layers(report)) > 1:
        yield "by_layer", draw_by_layer(report)
    direct = parts_finding(report)
    if direct is not None:
        yield "decomposition", draw_parts(direct)
    if report.hit_rates is not None:
        read = report.finding("read")
        label = next((k for k in (read.runs if read else ()) if k in report.summaries), None)
        if label:
            yield "lens_and_patching", draw_beside_patching(report, label)


def first_figure(
    report: Report, label: str, width: Width = "page", end: float | None = None
) -> Figure:
    """The first figure of a run, with its sentence and what was run.

    Args:
        report: What is drawn.
        label: Of the run.
        width: Of one or two columns.
        end: Where the map's scale ends at least.
    """
    keys = ("strata", "cells", "chain")
    own = tuple(f for f in report.findings if f.key in keys and label in f.runs)
    summary = report.summaries[label]
    alone = replace(report, findings=own, summaries={label: summary}, lens=None, hit_rates=None)
    model = model_name(run_of(summary.data))
    said = [f"{model}, {counted(run_of(summary.data).num_pairs, 'pair')}, {_what(report, label)}"]
    kinds = sorted({str(name) for name in summary.data["control_kind"].values if name})
    control = " and ".join(name.replace("_", " ") for name in kinds) or "none"
    said.append(f"control: {control}")
    if strata := strata_of(report, label):
        n = sum(table.control_n for table in strata.others)
        restored = sum(table.control_restored for table in strata.others)
        said[-1] += f", which restores {restored:,} of {n:,}" if n else ""
    first, *rest = headline(alone)
    title, _, more = first.partition("; ")
    if more:
        title, rest = f"{title}.", [f"{more[0].upper()}{more[1:]}", *rest]
    if width == "column":
        title = short_headline(alone) or title
    note = " ".join([*rest, "; ".join(said) + "."])
    return draw_content(report, label, title, note, width, end=end)


def _what(report: Report, label: str) -> str:
    run = run_of(report.summaries[label].data)
    return f"{kind(run)}, {run.latents}"
