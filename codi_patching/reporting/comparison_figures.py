"""Figures of several runs together: whole layers side by side, and direct, mediated and total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from codi_patching.analysis.findings import Against, Claim, Finding
from codi_patching.analysis.report import Report
from codi_patching.reporting.canvas import WIDTHS, Width, new_figure, put_note, put_title, style
from codi_patching.reporting.content import claims_of
from codi_patching.reporting.profiles import Profile, draw_profiles, profile_of
from codi_patching.reporting.sentences import layers_sentence, parts_sentence
from codi_patching.results.dataset import run_of, structural_of
from codi_patching.results.description import ALL, Array

PARTS = ("direct", "mediated", "total")


def whole_layers(report: Report) -> list[str]:
    """Runs with one value a layer: layer patching, and chains at their end."""
    grids = {label: run_of(s.data).grid for label, s in report.summaries.items()}
    return [k for k, grid in grids.items() if grid.whole_layers or grid.column == "iteration"]


def draw_by_layer(report: Report, width: Width = "page") -> Figure:
    """The content effect of whole layers, an arm each, with 95 % intervals."""
    labels = whole_layers(report)
    layers = list(dict.fromkeys(_layers(report, labels)))
    with style():
        figure = new_figure(WIDTHS[width], 2.9)
        axes = figure.subplots()
        iteration = last_iteration(report)
        profiles = [_by_layer(report, label, layers, iteration) for label in labels]
        own = {p.name: _layers(report, [label]) for p, label in zip(profiles, labels)}
        draw_profiles(axes, profiles, layers)
        axes.set_ylabel("rise of P(source answer)")
        columns = 2 if width == "column" else 4
        axes.legend(frameon=False, ncols=columns, loc="lower right", bbox_to_anchor=(1, 1))
        claims = {label: _judged(report, label, iteration) for label in labels}
        put_title(figure, layers_sentence(claims) or "Content effect of whole layers, each run")
        put_note(
            figure,
            "Means over pairs with unadjusted 95 % intervals, of the comparison with the smaller "
            "gain. The title says what is claimed of all layers together. "
            f"{_zeros(profiles, layers, own)}",
        )
    return figure


def _judged(report: Report, label: str, iteration: str | None) -> list[Claim]:
    """The claims about what is drawn of a run."""
    columns = run_of(report.summaries[label].data).grid.columns
    column = iteration if iteration in columns else columns[-1]
    return [claim for claim in claims_of(report, label)[0] if claim.column in (None, ALL, column)]


def _layers(report: Report, labels: list[str]) -> list[str]:
    names = {n for label in labels for n in run_of(report.summaries[label].data).grid.layers}
    return sorted(names, key=lambda name: int(name) if name.isdigit() else -1)


def last_iteration(report: Report) -> str | None:
    """The last iteration at which no chain is zero by construction at any layer; None if none is.

    All chains are drawn at it: a later one would have more patches in one chain than in another.
    """
    free: list[list[str]] = []
    for summary in report.summaries.values():
        grid = run_of(summary.data).grid
        if grid.column == "iteration":
            zero = structural_of(summary.data)
            free.append([name for name, own in zip(grid.columns, zero.T) if not own.any()])
    shared = [name for name in free[0] if all(name in own for own in free)] if free else []
    return shared[-1] if shared else None


def _by_layer(report: Report, label: str, layers: list[str], iteration: str | None) -> Profile:
    """A run's means by layer, of a chain at an iteration or else at its last one."""
    summary = report.summaries[label]
    structural, columns = structural_of(summary.data), run_of(summary.data).grid.columns
    column = columns.index(iteration) if iteration in columns else len(columns) - 1
    chain = run_of(summary.data).grid.column == "iteration"
    parts = [m for m in ("content_over_unpatched", "content_over_control") if m in summary.table]
    stacked = np.stack([_statistics(summary.table[m].isel(column=column)) for m in parts])
    smaller = stacked[:, 0].argmin(0)  # the unknown one, if there is one
    own = np.take_along_axis(stacked, smaller[None, None, :], 0)[0]
    own[:, structural[:, column]] = np.nan
    values = np.full((3, len(layers)), np.nan)
    for row, name in enumerate(run_of(summary.data).grid.layers):
        values[:, layers.index(name)] = own[:, row]
    return Profile(f"{label}, iteration {columns[column]}" if chain else label, *values)


def _zeros(profiles: Sequence[Profile], layers: list[str], own: Mapping[str, list[str]]) -> str:
    """Which layers that a run has are not drawn, by the names of the arms."""
    said = []
    for profile in profiles:
        known = dict(zip(layers, np.isfinite(profile.mean)))
        absent = [name for name in own[profile.name] if not known[name]]
        said += [f"{profile.name} at layer {', '.join(absent)}"] if absent else []
    return f"Zero by construction: {'; '.join(said)}." if said else ""


def _statistics(table: object) -> Array:
    shown = [table.sel(statistic=s).values for s in ("mean", "ci_low", "ci_high")]  # type: ignore[attr-defined]
    return np.stack(shown).astype(np.float64)


def parts_finding(report: Report) -> Finding | None:
    """The finding whether effects are direct that has one value a layer, if there is one."""
    for finding in report.findings:
        places = [(claim.kind, claim.layer) for claim in finding.claims]
        if finding.key == "direct" and places and len(set(places)) == len(places):
            return finding
    return None


def draw_parts(finding: Finding, width: Width = "page") -> Figure:
    """Direct, mediated and total effect by layer, relative to one thing, so that they add up.

    Args:
        finding: Of the question whether effects are direct.
        width: Of one or two columns.
    """
    layers = list(dict.fromkeys(claim.layer for claim in finding.claims if claim.layer))
    controlled = all(any(c.against == "control" for c in k.comparisons) for k in finding.claims)
    against: Against = "control" if controlled else "unpatched"
    relative = "the unpatched run. Filled: claimed"
    if controlled:
        relative = "the control's patch. Filled: claimed, relative to the unpatched run too"
    with style():
        figure = new_figure(WIDTHS[width], 2.9)
        axes = figure.subplots()
        parts = [part for part in PARTS if _of(finding, part)]
        profiles = [profile_of(part, _of(finding, part), layers, against) for part in parts]
        draw_profiles(axes, profiles, layers, hollow=True)
        axes.set_ylabel("rise of P(source answer)")
        axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
        put_title(figure, parts_sentence(finding))
        put_note(
            figure,
            f"From {' and '.join(finding.runs)}. Direct: later thoughts are frozen. Total: they "
            "are made anew. Mediated: total minus direct, pair by pair. All "
            f"relative to {relative}. Simultaneous intervals. "
            f"{_zeros(profiles, layers, dict.fromkeys(parts, layers))}",
        )
    return figure


def _of(finding: Finding, kind: str) -> list[Claim]:
    return [claim for claim in finding.claims if claim.kind == kind]
