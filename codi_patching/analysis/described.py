"""What is described and never judged: disruption, rank agreement, prediction from positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from codi_patching.analysis.distributions import ranks
from codi_patching.analysis.effects import cells_of, content, end_of, groups_of, mean_over
from codi_patching.analysis.findings import Claim, Comparison, Finding
from codi_patching.analysis.intervals import ROUNDING
from codi_patching.analysis.prediction import predict_held_out
from codi_patching.analysis.study import Study
from codi_patching.analysis.summary import KL, LEAST_CONTENT, Summary
from codi_patching.results.dataset import run_of, structural_of
from codi_patching.results.description import THOUGHT, Array

FOLDS = 5


def disruption(summary: Summary) -> Finding:
    """The cell of the largest mean KL: how far a patch moves the answer, whatever the content."""
    table, run = summary.table, run_of(summary.data)
    if not summary.top_kl:
        return Finding("disruption", None, "described", (summary.label,))
    row, column = summary.top_kl[0]
    cell = table.isel(layer=row, column=column)
    values = cells_of(summary.data, KL)[:, row, column]
    known = np.isfinite(values)
    estimate, low, high = (
        float(cell[KL].sel(statistic=name)) for name in ("mean", "ci_low", "ci_high")
    )
    comparison = Comparison(
        "unpatched", estimate, low, high, int((values > ROUNDING).sum()),
        int((values < -ROUNDING).sum()), int(known.sum()),
        len(set(np.array(groups_of(summary.data))[known])),
    )  # fmt: skip
    nan = float("nan")
    layer, name = run.grid.layers[row], run.grid.columns[column]
    claim = Claim(
        run.label((row, column)), "described", (comparison,), nan, nan, layer, name, "mean KL",
        "nats",
    )  # fmt: skip
    numbers = (
        ("median", float(cell["kl_median"])),
        ("share of the five largest", float(cell["kl_share_of_largest"])),
    )
    return Finding(
        "disruption", None, "described", (summary.label,), claim, (claim,), numbers=numbers
    )


def leading(study: Study, summaries: Mapping[str, Summary]) -> Iterator[Finding]:
    """Rank agreement over layers of the largest content effects, for runs that differ in one thing.

    Without p: neighbouring layers are not exchangeable.
    """
    total = "layer, recomputed" if "layer, recomputed" in study.runs else "cumulative"
    profiles = {
        kind: _profile(summaries[study.label(kind)]) for kind in study.runs if kind != "own"
    }
    for first, second in (
        ("layer, frozen", "position, frozen"),
        (total, "position, recomputed"),
        ("layer, frozen", total),
        ("position, frozen", "position, recomputed"),
        ("relay", "cumulative"),
    ):
        if first not in profiles or second not in profiles:
            continue
        one, other = profiles[first], profiles[second]
        layers = [layer for layer in one if layer in other]
        rho = rank_agreement(*(np.array([p[layer] for layer in layers]) for p in (one, other)))
        if np.isfinite(rho):
            labels = (study.label(first), study.label(second))
            numbers = (("rank agreement", rho), ("layers", len(layers)))
            yield Finding("leading", None, "described", labels, numbers=numbers)


def _profile(summary: Summary) -> dict[str, float]:
    """Content effect by layer: the largest over positions, of a chain that of its end."""
    run, effect = run_of(summary.data), summary.table["content_effect"].values
    if run.strategy is not None:
        effect = effect[:, [end_of(summary.data)]]
    return {
        layer: float(np.nanmax(row))
        for layer, row in zip(run.grid.layers, effect, strict=True)
        if layer != THOUGHT and np.isfinite(row).any()
    }


def rank_agreement(one: Array, other: Array) -> float:
    """Spearman's rank correlation of values to three decimals; NaN where one does not vary."""
    one, other = np.round(one, 3), np.round(other, 3)
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def from_positions(study: Study) -> Iterator[Finding]:
    """How well a layer's effect is predicted from those of its single positions, same latents."""
    for latents, whole in (
        ("frozen", "layer, frozen"),
        ("recomputed", "layer, recomputed"),
        ("recomputed", "cumulative"),
    ):
        kind = f"position, {latents}"
        runs = study.playing({"single": kind, "whole": whole})
        if runs is None or (whole == "cumulative" and "layer, recomputed" in study.runs):
            continue
        single, together = runs["single"], runs["whole"]
        able = ~structural_of(together)[:, end_of(together)]
        theirs = {n: r for r, n in enumerate(run_of(together).grid.layers) if able[r]}
        rows = [
            (row, theirs[name])
            for row, name in enumerate(run_of(single).grid.layers)
            if name in theirs and name != THOUGHT
        ]
        if not rows:
            continue
        here, there = [row for row, _ in rows], [row for _, row in rows]
        parts = content(single)["unpatched"][:, here]
        target = content(together)["unpatched"][:, there, end_of(together)]
        labels = (study.label(kind), study.label(whole))
        if not np.isfinite(target).any():
            continue
        largest = float(np.sqrt(np.nanmax(mean_over(target**2))))
        if largest < LEAST_CONTENT:
            size = (("root mean square", largest),)
            yield Finding("layers_from_positions", None, "described", labels, numbers=size)
            continue
        found = predict_held_out(parts, target, groups_of(single), study.seed, FOLDS)
        if found.r_squared is None or found.low is None or found.high is None:
            continue
        ranks = rank_agreement(mean_over(parts.sum(axis=2)), mean_over(target))
        numbers = (
            ("r squared", found.r_squared), ("low", found.low), ("high", found.high),
            ("n", found.n), ("rank agreement", ranks),
        )  # fmt: skip
        yield Finding("layers_from_positions", None, "described", labels, numbers=numbers)
