"""What the page's script draws, as plain lists: the grid of each run, its pairs, its strata.

Cells of a grid are flat lists, row by row, so that the page of a study stays about a megabyte.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from codi_patching.analysis.attended import by_length, looks, mean_share
from codi_patching.analysis.effects import content, metric_of, source_probability
from codi_patching.analysis.findings import StrataFinding, StrataTable
from codi_patching.analysis.knocked_out import mean_fall
from codi_patching.analysis.report import Report, Summary
from codi_patching.analysis.restored import Restored
from codi_patching.analysis.strata import strata_of as strata_of_pairs
from codi_patching.reporting.carried import joined, row_name, two_tables
from codi_patching.reporting.claims_in_words import claim_details
from codi_patching.reporting.content import (
    ceiling_of,
    claims_of,
    effect_name,
    mean_of,
    strata_of,
)
from codi_patching.reporting.maps import LEAST, column_kind, column_names
from codi_patching.reporting.names import HEADS, counted, kind, reader_name, words
from codi_patching.results.dataset import pairs_of, run_of, structural_of
from codi_patching.results.description import Array, Grid, RunDescription
from codi_patching.results.pair_descriptions import PairDescription

PAIRS = 500
"""So many pairs can be looked at; each is a few kilobytes a run."""

MEANS = 6
"""Digits of means, which are rounded again where they are printed."""

LABELS = {
    "content_effect": "content effect",
    "content_over_unpatched": "content, over unpatched",
    "content_over_control": "content, over control",
    "kl_divergence": "KL to unpatched, nats",
    "recovery": "recovery",
    "kl_to_source": "KL to source, nats",
    "l2_difference": "L2 of logits",
    "prediction_change_rate": "flip rate",
    "answer_logit_difference": "logit difference",
    "predicts_clean": "says clean answer",
    "predicts_corrupted": "says corrupted answer",
    "clean_probability": "P(clean answer)",
    "corrupted_probability": "P(corrupted answer)",
    "cosine_to_clean": "cosine to clean",
    "cosine_to_corrupted": "cosine to corrupted",
}
"""Measures in words, in the order in which the page offers them."""


def page_data(report: Report) -> dict[str, Any]:
    """All that the script of the page reads."""
    runs, sides = [], []
    for label, summary in report.summaries.items():
        pairs = pair_data(summary)  # another direction or model has its own
        if pairs not in sides:
            sides.append(pairs)
        end = _shared_end(report) if report.models else 0
        runs.append(run_data(report, label) | {"side": sides.index(pairs), "end": end})
    if report.hit_rates is not None and report.lens is not None:
        runs.append(lens_data(report.lens, report.hit_rates))
    if report.attention is not None:
        runs.append(attention_data(report.attention))
    if report.knockout is not None:
        runs.append(knockout_data(report.knockout))
    found = report.finding("strata") or report.finding("cells")
    first = next(
        (label for label in (found.runs if found else ()) if label in report.summaries), ""
    )
    return {"runs": runs, "pairs": sides, "first": first or (runs[0]["id"] if runs else "")}


def _shared_end(report: Report) -> float:
    """Where scales of the content effect end, so that models are on one, as in their figures."""
    means = [mean_of(summary, "content_effect") for summary in report.summaries.values()]
    ceilings = [ceiling_of(report, label) or 0.0 for label in report.summaries]
    return max([*ceilings, *(float(np.nan_to_num(np.abs(m)).max(initial=0)) for m in means)])


def run_data(report: Report, label: str) -> dict[str, Any]:
    """A run: its grid, means over pairs, claims, strata, and what each pair gave."""
    summary = report.summaries[label]
    run = run_of(summary.data)
    names = ["content_effect", *(m for m in LABELS if m != "content_effect")]
    names = [name for name in names if name in summary.table]
    names += [name for name in map(str, summary.table.data_vars) if name.startswith("control_")]
    best = summary.top_content or ((0, 0),)
    strata = strata_of(report, label)
    return {
        "id": label,
        "title": f"{kind(run)}, {run.latents}",
        "effect": effect_name(summary),
        "layers": run.grid.layers,
        "columns": column_names(run),
        "column": column_kind(run),
        "names": [run.label(cell) for cell, _, _ in run.grid.cells()],
        "structural": flags(structural_of(summary.data)),
        "measures": [[name, _label(name), _least(name)] for name in names],
        "means": {name: numbers(mean_of(summary, name), MEANS) for name in names},
        "ceiling": ceiling_of(report, label),
        "best": int(best[0][0] * run.grid.shape[1] + best[0][1]),
        **_claims(report, label),
        "strata": strata_data(strata) if strata else None,
        "pairs": _pair_values(summary, strata),
    }


def _claims(report: Report, label: str) -> dict[str, Any]:
    """What is claimed of the cells, by their place in the flat lists."""
    grid = run_of(report.summaries[label].data).grid
    places = {(layer, column): cell for cell, layer, column in grid.cells()}
    found, tied = claims_of(report, label)
    claims = {}
    for claim in found:
        cell = places.get((claim.layer or "", claim.column or ""))
        if cell is not None:
            said = [claim.verdict, claim.claimed, claim_details(claim), claim.p, claim.bound]
            claims[cell[0] * len(grid.columns) + cell[1]] = [*said, claim.name in tied]
    return {"claims": claims}


def strata_data(finding: StrataFinding) -> dict[str, Any]:
    """The tables of all layers, equal neighbours joined, and which to show first."""
    groups = joined(finding.others or (finding.main,))
    first = [group[0].layer for group in two_tables(finding)]
    rows = [[s.num_steps, row_name(s), s.n] for s in finding.main.strata]
    return {"rows": rows, "first": first, "tables": [_table(group) for group in groups]}


def _table(group: Sequence[StrataTable]) -> dict[str, Any]:
    entries = [[[e.restored, e.n, int(e.counts)] for e in row] for row in group[0].entries]
    return {"layers": [table.layer for table in group], "entries": entries}


def _pair_values(summary: Summary, strata: StrataFinding | None) -> dict[str, Any]:
    """Of every pair its stratum, and of its cells the effects, KL, and whether it is restored."""
    data = summary.data.isel(pair=slice(0, PAIRS))
    run, parts = run_of(data), content(data)
    made: dict[str, Any] = {"ids": [str(name) for name in data["pair"].values]}
    made |= {name: [numbers(v) for v in part] for name, part in parts.items()}
    made["kl"] = [numbers(v) for v in data["kl_divergence"].sel(arm="own").values]
    said = metric_of(run, "hit")
    if said in data and run.source == "clean":
        restored = Restored.of(data, said)
        states = np.where(restored.own > 0, 1, np.where(restored.control > 0, 2, 0))
        states = np.where(structural_of(data), 0, states)
        made["restored"] = ["".join(map(str, pair.ravel())) for pair in states]
    if strata:
        fields = [s.field[0] for s in strata.main.strata if s.field]
        _, labels = strata_of_pairs(summary.data, list(dict.fromkeys(fields)))
        made["stratum"] = [int(place) for place in labels[0][:PAIRS]]
    return made


def attention_data(data: xr.Dataset) -> dict[str, Any]:
    """Where each reader looks, as a run whose measures are the readers, the last one first.

    That one also by number of steps, since where it looks may depend on it.
    """
    run = run_of(data)
    measures, means = [], {}
    for measure, name in HEADS.items():
        for look in looks(data, measure):
            if look.length:
                key = f"{measure}_{look.length}_steps"
                of = f"{counted(look.length, 'step')}, {reader_name(run.readers, run.readers[-1])}"
                measures.append([key, f"{of}, {name}", 1.0])
                means[key] = numbers(look.shares, MEANS)
    for reader in reversed(run.readers):
        for measure, name in HEADS.items():
            key = f"{measure}_{reader}"
            measures.append([key, f"{reader_name(run.readers, reader)}, {name}", 1.0])
            means[key] = numbers(mean_share(data, reader, measure), MEANS)
    return _unpatched(run, "attention: share given to each thought", measures, means)


def knockout_data(data: xr.Dataset) -> dict[str, Any]:
    """What the answer loses where the readout does not see something, as a run.

    Its measures are the falls, by number of steps first; its columns what is hidden.
    """
    run = run_of(data)
    read = [name for name in run.grid.columns if name.endswith("->readout")]
    places = [run.grid.columns.index(name) for name in read]
    measures, means = [], {}
    lengths = by_length(data)
    for length, mask in [*(each for each in lengths if each[0]), (None, slice(None))]:
        key, of = f"fall_{length or 'all'}", counted(length, "step") if length else "all pairs"
        measures.append([key, f"fall of P(answer), {of}", LEAST["probability"]])
        means[key] = numbers(mean_fall(data.isel(pair=mask))[:, places], MEANS)
    hidden = tuple(name.removesuffix("->readout") for name in read)
    zeros = tuple((row, places.index(at)) for row, at in run.grid.structural_zeros if at in places)
    shown = replace(run, grid=Grid(run.grid.layers, "place", hidden, zeros))
    names = [run.label((row, at)) for row in range(run.grid.shape[0]) for at in places]
    title = "knock-out: hidden from the readout"
    columns = [f"z{name}" if name.isdigit() else name for name in hidden]
    return _unpatched(shown, title, measures, means) | {
        "columns": columns, "column": "place", "names": names,
    }  # fmt: skip


def lens_data(lens: xr.Dataset, rates: xr.Dataset) -> dict[str, Any]:
    """What the lens reads, as a run whose measures are the steps."""
    run = run_of(lens)
    measures, means = [], {}
    for step in rates["step"].values:
        for arm, name in (("own", "read: step"), ("chance", "chance: step")):
            if arm in rates:
                key = f"{arm}_{step}"
                measures.append([key, f"{name} {step}", 1.0])
                means[key] = numbers(rates[arm].sel(step=step).values, MEANS)
    title = f"lens: share of pairs, result among the {run.top} most probable tokens"
    return _unpatched(run, title, measures, means)


def _unpatched(
    run: RunDescription, title: str, measures: list[list[Any]], means: dict[str, Any]
) -> dict[str, Any]:
    """A run that patches nothing."""
    return {
        "id": run.experiment,
        "title": title,
        "layers": run.grid.layers,
        "columns": column_names(run), "column": "thought",
        "names": [run.label(cell) for cell, _, _ in run.grid.cells()],
        "structural": flags(run.grid.structural), "measures": measures, "means": means,
        "ceiling": None, "best": 0, "claims": {}, "strata": None, "pairs": {}, "side": 0, "end": 0,
    }  # fmt: skip


def pair_data(summary: Summary) -> list[dict[str, Any]]:
    """Questions, answers, control and unpatched runs of every pair."""
    metric, data = source_probability(run_of(summary.data)), summary.data
    ids = [str(name) for name in data["pair"].values]
    return [_pair(name, pair, metric) for name, pair in list(zip(ids, pairs_of(data)))[:PAIRS]]


def _pair(pair_id: str, pair: PairDescription, metric: str) -> dict[str, Any]:
    source, base = mark_changes(pair.source_question, pair.base_question)
    runs = {
        "unpatched": pair.base,
        "source run": pair.source,
        "all thoughts at once": pair.ceiling,
        "all the control's thoughts": pair.ceiling_control,
    }
    control = pair.control
    return {
        "id": pair_id,
        "source": source,
        "base": base,
        "answers": [pair.source_answer, pair.base_answer],
        "control": control and [words(control.kind), control.question, control.answer],
        "unknown": pair.unknown_words,
        "runs": [[name, short_of(own[metric])] for name, own in runs.items() if metric in own],
    }


def _label(name: str) -> str:
    plain = name.removeprefix("control_")
    label = LABELS.get(plain, plain.replace("_", " "))
    return f"control: {label}" if name.startswith("control_") else label


def _least(name: str) -> float:
    """What is too small to matter, of a measure."""
    return LEAST["nats"] if "kl_" in name else LEAST["probability"]


def numbers(values: Array, digits: int = 3) -> list[float | None]:
    """A flat list with so many digits, what is undefined as None."""
    return [short_of(float(value), digits) for value in np.asarray(values).ravel()]


def short_of(value: float | None, digits: int = 3) -> float | int | None:
    """A number with three digits, or so many, those under 0.0005 as 0.

    Example:
        >>> short_of(0.12345), short_of(1e-9), short_of(12.0), short_of(float("nan"))
        (0.123, 0, 12, None)
    """
    if value is None or value != value:
        return None
    rounded = float(f"{value:.{digits}g}") if abs(value) >= 5e-4 else 0.0
    return int(rounded) if rounded == int(rounded) else rounded


def flags(mask: np.ndarray) -> str:
    """A mask as a text of 0 and 1, row by row."""
    return "".join("1" if value else "0" for value in mask.ravel())


def mark_changes(first: str, second: str) -> tuple[list[list[Any]], list[list[Any]]]:
    """Two texts in parts, each with whether it is not in the other text there.

    Example:
        >>> mark_changes("Tom has 3 pens.", "Tom has 14 pens.")[1]
        [['Tom has ', 0], ['14', 1], [' pens.', 0]]
    """
    parts = [re.findall(r"\d[\d,.]*\d|\d|\w+|\s+|[^\w\s]", text) for text in (first, second)]
    matcher = difflib.SequenceMatcher(None, parts[0], parts[1], autojunk=False)
    sides: tuple[list[list[Any]], list[list[Any]]] = ([], [])
    for change, *places in matcher.get_opcodes():
        for side, own, (start, end) in zip(sides, parts, (places[:2], places[2:])):
            if end > start:
                side.append(["".join(own[start:end]), int(change != "equal")])
    return sides
