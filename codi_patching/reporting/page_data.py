"""What the page's script draws, as plain lists: maps of means, and maps of single pairs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codi_patching.analysis.intervals import mean_and_deviation
from codi_patching.analysis.summary import (
    content_effect,
    content_size,
    mean_kl,
    measures,
    source_probability,
)
from codi_patching.reporting.evidence import FindingLike, passing_cells
from codi_patching.reporting.maps import LEAST_KL, LEAST_PROBABILITY, notes_on
from codi_patching.reporting.names import kind, words
from codi_patching.reporting.side_by_side import content_by_layer, of_whole_layers
from codi_patching.results.read import Results
from codi_patching.results.schema import Array, RunDescription

PAIRS = 500
"""So many pairs can be chosen; each is a few kilobytes."""

LABELS = {
    "content_effect": "content effect (smaller of the two)",
    "content_over_unpatched": "rise of P(source answer) over the unpatched run",
    "content_over_control": "rise of P(source answer) over the control",
    "kl_divergence": "KL(patched ‖ unpatched), nats",
    "l2_difference": "L2 distance of logits",
    "prediction_change_rate": "flip rate (of tokens)",
    "answer_logit_difference": "answer logit difference, logits",
    "kl_to_source": "KL(source ‖ patched), nats",
    "recovery": "recovery (normalised logit difference)",
    "predicts_clean": "predicts the clean answer",
    "predicts_corrupted": "predicts the corrupted answer",
    "clean_probability": "P(clean answer)",
    "corrupted_probability": "P(corrupted answer)",
    "cosine_to_clean": "cosine to the clean run's activation",
    "cosine_to_corrupted": "cosine to the corrupted run's activation",
}
"""Measures in words, in the order in which a page offers them."""

_SIGNED = ("content", "recovery", "answer_logit_difference", "cosine")


def arm_data(
    label: str, results: Results, findings: Sequence[FindingLike], alone: bool = False
) -> dict[str, Any]:
    """A run for the page: its grid, the means over pairs, and maps of each pair.

    Args:
        label: What the page and the findings' `arms` call it.
        results: Of the run.
        findings: Whose claims mark cells.
        alone: Whether the page is of this run alone, whatever the findings call it.
    """
    grid = results.run.grid
    found = measures(results)
    means = {"content_effect": content_size(results)}
    means |= {name: mean_and_deviation(values)[0] for name, values in found.items()}
    means["kl_divergence"] = mean_kl(results)
    passing = passing_cells(results.run, findings, None if alone else label)
    order = [name for name in LABELS if name in means]
    order += sorted(name for name in means if name.startswith("control_"))
    largest = np.nanmax(found["kl_divergence"], axis=(1, 2), initial=0.0)
    return {
        "label": label,
        "title": f"{kind(results.run)}, {results.run.latents} latents",
        "layers": grid.layers,
        "columns": grid.columns,
        "column": "latent position" if grid.column == "position" else grid.column,
        "chain": grid.column == "iteration",
        "whole": grid.whole_layers,
        "names": _cell_names(results.run),
        "measures": [(name, _label(name), name.startswith(_SIGNED)) for name in order],
        "structural": results.structural.tolist(),
        "means": {name: table(means[name]) for name in order},
        "passing": passing,
        "notes": _notes(results, passing),
        "least": {"kl_divergence": LEAST_KL, "content_effect": LEAST_PROBABILITY},
        "klTop": float(max(np.percentile(largest, 95), LEAST_KL)),
        "pairs": _pair_maps(results),
    }


def _cell_names(run: RunDescription) -> list[list[str]]:
    """The cells of a grid in words, row by row."""
    rows, columns = run.grid.shape
    return [[run.label((row, column)) for column in range(columns)] for row in range(rows)]


def by_layer_data(arms: Mapping[str, Results]) -> list[dict[str, Any]]:
    """The content effect of whole layers, a series for each arm that has one value a layer."""
    found = []
    for label, results in of_whole_layers(arms).items():
        effect = content_by_layer(results)
        ends = {"up": effect.high - effect.mean, "down": effect.mean - effect.low}
        rows = {"mean": effect.mean, **ends}
        lists = {name: table(values[None])[0] for name, values in rows.items()}
        found.append({"label": label, "layers": results.run.grid.layers, **lists})
    return found if len(found) > 1 else []


def _label(name: str) -> str:
    if name.startswith("control_"):
        return f"control: {LABELS[name.removeprefix('control_')]}"
    return LABELS[name]


def _notes(results: Results, passing: Sequence[tuple[int, int]] | None) -> list[str]:
    framed = "No test of single cells was made."
    if passing is not None:
        framed = "In no cell is the content effect shown to be beyond the threshold."
    if passing:
        framed = "Framed: the content effect is beyond the threshold, tested over all cells."
    if not results.control:
        framed += " No control was run: the content effect is over the unpatched run alone."
    return [framed, *notes_on(results.run, "Grey")]


def _pair_maps(results: Results) -> list[dict[str, Any]]:
    """KL and the two comparisons of every pair."""
    restored, specific = content_effect(results)
    kl = np.where(results.structural, np.nan, results.values["kl_divergence"])
    maps = {"kl": kl, "unpatched": restored}
    if specific is not None:
        maps["control"] = specific
    count = min(PAIRS, len(results.pair_ids))
    ids = results.pair_ids
    return [
        {"id": ids[row], **{name: table(values[row]) for name, values in maps.items()}}
        for row in range(count)
    ]


def table(values: Array) -> list[list[float | None]]:
    """A map with five digits, what is undefined as None."""
    return [[None if v != v else float(f"{v:.5g}") for v in row] for row in values]


def pair_data(results: Results) -> list[dict[str, Any]]:
    """Questions, answers, control and unpatched runs of every pair."""
    metric = source_probability(results.run)
    rows = []
    for pair_id, pair in list(zip(results.pair_ids, results.pairs))[:PAIRS]:
        source, base = mark_changes(pair.source_question, pair.base_question)
        runs = {
            "base run": pair.base,
            "source run": pair.source,
            "ceiling (all thoughts of the source run)": pair.ceiling,
            "ceiling with the control's thoughts": pair.ceiling_control,
        }
        rows.append(
            {
                "id": pair_id,
                "source": source,
                "base": base,
                "sourceAnswer": pair.source_answer,
                "baseAnswer": pair.base_answer,
                "control": pair.control
                and {
                    "kind": words(pair.control.kind),
                    "question": pair.control.question,
                    "answer": pair.control.answer,
                },
                "unknown": pair.unknown_words,
                "runs": [(name, own[metric]) for name, own in runs.items() if metric in own],
            }
        )
    return rows


def mark_changes(first: str, second: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Two texts in parts, each with whether it is not in the other text there.

    Example:
        >>> mark_changes("Tom has 3 pens.", "Tom has 14 pens.")[1]
        [('Tom has ', False), ('14', True), (' pens.', False)]
    """
    parts = [re.findall(r"\d[\d,.]*\d|\d|\w+|\s+|[^\w\s]", text) for text in (first, second)]
    matcher = difflib.SequenceMatcher(None, parts[0], parts[1], autojunk=False)
    sides: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for change, *places in matcher.get_opcodes():
        for side, own, (start, end) in zip(sides, parts, (places[:2], places[2:])):
            if end > start:
                side.append(("".join(own[start:end]), change != "equal"))
    return sides
