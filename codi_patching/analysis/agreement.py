"""Checks across runs: what must be the same in several of them, whatever the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import xarray as xr

from codi_patching.analysis.checks import Check, judged
from codi_patching.results.dataset import OWN, patches, run_of
from codi_patching.results.description import Array

ROUNDING = 1e-5
"""How far two runs of the same patches may differ, relative to a metric's largest value."""

LEAST = 0.1
"""A largest value counts as this at least: of cells in which nothing happens rounding is all."""


def check_agreement(runs: Mapping[str, xr.Dataset]) -> list[Check]:
    """All checks that need several runs.

    Args:
        runs: Datasets by label; those that patch nothing have nothing to compare.
    """
    checks = []
    patching = [(label, data) for label, data in runs.items() if patches(data)]
    for (first, one), (second, other) in combinations(patching, 2):
        if not _same_setting(one, other):
            continue
        shared = [pair for pair in one["pair"].values if pair in other["pair"].values]
        both = one.sel(pair=shared), other.sel(pair=shared)
        label = f"{first} and {second}"
        checks.append(_check_equal(f"{label}, unpatched runs", *_unpatched(*both)))
        for what, values, others in _same_by_construction(*both):
            checks.append(_check_equal(f"{label}, {what}", values[None], others[None]))
    return checks


def check_uncut(cut: xr.Dataset, runs: Mapping[str, xr.Dataset]) -> list[Check]:
    """The run of which edges are cut is the clean question's run that patching has.

    Args:
        cut: Of cut edges.
        runs: Of patching, by label.
    """
    checks = []
    for label, data in runs.items():
        if run_of(data).precision != run_of(cut).precision:
            continue
        name = "source" if run_of(data).clean_is_source else "base"
        pairs = [pair for pair in cut["pair"].values if pair in data["pair"].values]
        both = ((cut, "base"), (data, name))
        values = [
            d["run_clean_probability"].sel(pair=pairs, run=run).values[None] for d, run in both
        ]
        checks.append(_check_equal(f"knockout and {label}, clean question's run", *values))
    return checks


def _same_setting(one: xr.Dataset, other: xr.Dataset) -> bool:
    keys = ("checkpoint_sha256", "data_sha256", "direction", "source", "site", "precision")
    return all(getattr(run_of(one), key) == getattr(run_of(other), key) for key in keys)


def _unpatched(one: xr.Dataset, other: xr.Dataset) -> tuple[Array, Array]:
    """Base and source runs, `(metrics, pairs × runs)`: the same in all experiments."""
    metrics = [metric for metric in run_of(one).metrics if metric in run_of(other).metrics]

    def values(data: xr.Dataset) -> Array:
        runs = [data[f"run_{metric}"].sel(run=["base", "source"]).values for metric in metrics]
        return np.array(runs).reshape(len(metrics), -1)

    return values(one), values(other)


def _same_by_construction(one: xr.Dataset, other: xr.Dataset) -> Iterator[tuple[str, Array, Array]]:
    """KL of cells in which two runs run the same patches."""
    if run_of(one).grid.layers != run_of(other).grid.layers:
        return
    kl = [data["kl_divergence"].sel(arm=OWN).values for data in (one, other)]
    arms = {run_of(one).arm, run_of(other).arm}
    latents = {run_of(one).latents, run_of(other).latents}
    if arms == {"layer", "cumulative"} and latents == {"recomputed"}:
        yield "whole layers", kl[0][..., -1], kl[1][..., -1]
    if arms == {"position", "relay"} and latents == {"recomputed"}:
        yield "the first position", kl[0][..., 0], kl[1][..., 0]
    if arms == {"position"} and latents == {"frozen", "recomputed"}:
        if run_of(one).feeds_back:
            yield "the last position", kl[0][..., -1], kl[1][..., -1]
        else:
            yield "all positions, nothing being fed back", kl[0], kl[1]
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
    same = bool((gaps <= ROUNDING * np.maximum(sizes, LEAST)).all())
    return judged(name, expected, f"differ by at most {gaps.max():.2g}", same)
