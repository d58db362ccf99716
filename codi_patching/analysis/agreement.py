"""Checks across runs: what must be the same in several of them, whatever the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np

from codi_patching.analysis.checks import Check, judged
from codi_patching.results.read import Results
from codi_patching.results.schema import Array

ROUNDING = 1e-5
"""How far two runs of the same patches may differ, relative to a metric's largest value."""


def check_agreement(arms: Mapping[str, Results]) -> list[Check]:
    """All checks that need several runs.

    Args:
        arms: Results by label.
    """
    checks = []
    for (first, one), (second, other) in combinations(arms.items(), 2):
        if not _same_setting(one, other):
            continue
        checks.append(_check_unpatched(first, one, second, other))
        for what, values, others in _same_by_construction(one, other):
            name = f"{first} and {second}, {what}"
            checks.append(_check_equal(name, values[None], others[None]))
    return checks


def _same_setting(one: Results, other: Results) -> bool:
    keys = ("checkpoint_sha256", "data_sha256", "direction", "source", "site", "precision")
    return all(getattr(one.run, key) == getattr(other.run, key) for key in keys)


def _rows(one: Results, other: Results) -> tuple[list[int], list[int]]:
    """Of the pairs that both have, their rows in each."""
    places = {pair: row for row, pair in enumerate(other.pair_ids)}
    shared = [pair for pair in one.pair_ids if pair in places]
    return [one.pair_ids.index(pair) for pair in shared], [places[pair] for pair in shared]


def _check_unpatched(first: str, one: Results, second: str, other: Results) -> Check:
    """The unpatched runs of a pair are the same in all experiments."""
    name = f"{first} and {second}, unpatched runs"
    rows, others = _rows(one, other)
    metrics = [metric for metric in one.run.metrics if metric in other.run.metrics]

    def values(results: Results, kept: list[int]) -> Array:
        unpatched = [
            [results.unpatched(run, metric)[kept] for run in ("base", "source")]
            for metric in metrics
        ]
        return np.array(unpatched).reshape(len(metrics), -1)

    return _check_equal(name, values(one, rows), values(other, others))


def _same_by_construction(one: Results, other: Results) -> Iterator[tuple[str, Array, Array]]:
    """KL of cells in which two runs run the same patches."""
    if one.run.grid.layers != other.run.grid.layers:
        return
    rows, others = _rows(one, other)
    kl = one.values["kl_divergence"][rows], other.values["kl_divergence"][others]
    arms = {one.run.arm, other.run.arm}
    latents = {one.run.latents, other.run.latents}
    if arms == {"layer", "cumulative"} and latents == {"recomputed"}:
        yield "whole layers", kl[0][..., -1], kl[1][..., -1]
    if arms == {"position", "relay"} and latents == {"recomputed"}:
        yield "the first position", kl[0][..., 0], kl[1][..., 0]
    if arms == {"position"} and latents == {"frozen", "recomputed"}:
        yield "the last position", kl[0][..., -1], kl[1][..., -1]
    if arms == {"relay", "cumulative"}:
        yield "the first iteration", kl[0][..., 0], kl[1][..., 0]


def _check_equal(name: str, values: Array, others: Array) -> Check:
    """Whether two runs gave the same; values are `(metrics, …)`, each on its own scale."""
    expected = "the same in every pair"
    known = np.isfinite(values) & np.isfinite(others)
    if not known.any():
        return judged(name, expected, "no pair is in both", None)
    if one_sided := int((np.isfinite(values) ^ np.isfinite(others)).sum()):
        return judged(name, expected, f"{one_sided} values are in one of the two alone", False)
    sizes, gaps = (
        np.where(known, size, 0.0).reshape(len(values), -1).max(axis=1)
        for size in (np.maximum(np.abs(values), np.abs(others)), np.abs(values - others))
    )
    same = bool((gaps <= ROUNDING * np.maximum(sizes, 1e-3)).all())
    return judged(name, expected, f"differ by at most {gaps.max():.2g}", same)
