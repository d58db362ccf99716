"""Training seeds of one configuration as one: the same runs of several checkpoints, put together.

A pooled run has every pair once for each checkpoint, `pair @ checkpoint`. Those of one pair are one
group, as pairs that share a question are: twice the checkpoints are not twice the evidence. What is
said holds of the checkpoints named; they are no sample of all that could have been trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from codi_patching.analysis.between import Model, by_checkpoint
from codi_patching.results.dataset import run_of
from codi_patching.results.description import ResultsError, RunDescription

_ALIKE = (
    "model_type",
    "feeds_back",
    "num_latents",
    "grid",
    "metrics",
    "control",
    "precision",
    "seed",
    "top",
    "readers",
    "attended",
)
"""Of a run's description, what must be the same in all checkpoints."""


def pool(datasets: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """One dataset for each run that was made with every checkpoint.

    Args:
        datasets: The same runs of two or more checkpoints, on the same file of pairs.

    Returns:
        Datasets as `results.dataset` has them, over the pairs that all checkpoints have.

    Raises:
        ResultsError: There is one checkpoint, or they differ in more than their weights.
    """
    if len({run_of(data).checkpoint_sha256 for data in datasets}) < 2:
        raise ResultsError(
            "expected results of two or more checkpoints to pool, got those of one: leave out "
            "[[pool]]"
        )
    models = by_checkpoint(datasets)
    first, *others = models
    for name in others:
        if odd := sorted(models[first].keys() ^ models[name].keys()):
            raise ResultsError(
                f"expected the same runs of every checkpoint, but only one of {first} and {name} "
                f"has {odd[0]}: leave out [[pool]], or its folder"
            )
    return [_pooled(label, models) for label in models[first]]


def _pooled(label: str, models: Mapping[str, Model]) -> xr.Dataset:
    """One run of all checkpoints."""
    runs = {name: model[label] for name, model in models.items()}
    described = {name: run_of(data) for name, data in runs.items()}
    for name, run in described.items():
        _check_alike(label, described, name, run)
    shared = [
        pair
        for pair in next(iter(runs.values()))["pair"].values
        if all(pair in data["pair"].values for data in runs.values())
    ]
    if not shared:
        raise ResultsError(f"{label}: expected pairs that all checkpoints have, there are none")
    changed = [f"{name}: {file}" for name, data in runs.items() for file in data.attrs["changed"]]
    parts = [_named(data.sel(pair=shared), name) for name, data in runs.items()]
    data = xr.concat(parts, "pair", data_vars="minimal", coords="minimal", join="outer")
    run = _description(described, data.sizes["pair"])
    folders = [data.attrs["folder"] for data in runs.values()]
    folder = None if None in folders else folders[0]
    return data.assign_attrs(run=run, folder=folder, changed=tuple(changed))


def _check_alike(
    label: str, runs: Mapping[str, RunDescription], name: str, run: RunDescription
) -> None:
    first = next(iter(runs))
    for field in _ALIKE:
        values = getattr(runs[first], field), getattr(run, field)
        if values[0] != values[1]:
            raise ResultsError(
                f"{label} of {first} and of {name} differ in {field}: leave out [[pool]], to see "
                "them side by side"
            )


def _named(data: xr.Dataset, name: str) -> xr.Dataset:
    """Its pairs named by the checkpoint too, in groups that all checkpoints share."""
    ids = np.array([f"{pair} @ {name}" for pair in data["pair"].values], dtype=str)
    return data.assign_coords(pair=("pair", ids))


def _description(runs: Mapping[str, RunDescription], pairs: int) -> RunDescription:
    """Of the pooled run; nothing of what excluded a pair in one checkpoint is lost."""
    first = next(iter(runs.values()))
    sums = "".join(sorted(run.checkpoint_sha256 for run in runs.values()))
    excluded = {
        f"{pair} @ {name}": reason
        for name, run in runs.items()
        for pair, reason in run.excluded.items()
    }
    return replace(
        first,
        model=" and ".join(runs),
        checkpoint_sha256=hashlib.sha256(sums.encode()).hexdigest(),
        checkpoint={"pooled": list(runs), "feeds_back": first.feeds_back},
        num_pairs=pairs,
        excluded=excluded,
    )
