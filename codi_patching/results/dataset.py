"""Results in memory: one `xarray.Dataset` for each run, whatever it measured.

Patching, with a variable for each metric:

    <metric>          (pair, layer, column, arm)   arm: own, and control if one was run
    run_<metric>      (pair, run)                  run: base, source, ceiling, ceiling_control
    self_patch        (pair,)                      nats, NaN where it was not run
    structural_zero   (layer, column)              coordinate: nothing reads the patched state

The lens, S reasoning steps:

    rank              (pair, step, layer, column, arm)   arm: own, and chance, another pair's result
    whole_rank        (pair, step, column)               of all tokens of a result, last layer
    differs           (pair, step)                       1 where the two questions' results differ

Attention of the clean run, shares that sum to 1 over what is attended to:

    attention         (pair, reader, layer, attended)   mean over heads
    strongest         (pair, reader, layer, attended)   the head that looks there most
    tokens            (pair, attended)                  how many there are

Its coordinate `heads` along `pair` has what single heads gave where they were read again,
`(looks, attended)`, in the order of the description's `verified`.

Cut edges of attention, the columns being edges; arm: own, and control, in which the same readers do
not see as many tokens of the question that carry no number, NaN where the question itself is cut:

    <metric>          (pair, layer, column, arm)
    run_<metric>      (pair, run)                  run: base, the run without a cut
    structural_zero   (layer, column)              coordinate: nothing reads what the cut changes

All have the coordinates `group` and `description` (`PairDescription`, or what `PAIR_KINDS` has)
along `pair`; all but the lens also `num_steps`, patching and cut edges `changed_step`, NaN where
unknown, and `control_kind`, "" without one.
Undefined values are NaN. `data.attrs` has `run`, the `RunDescription`; `folder`, where it was read
from, or None; `changed`, names of measured files that are not as they were written.

Example: `data.kl_divergence.sel(layer="3", column="1", arm="own").mean("pair")`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from codi_patching.results.description import Array, RunDescription
from codi_patching.results.pair_descriptions import (
    AttentionPair,
    KnockoutPair,
    LensPair,
    PairDescription,
)

OWN, CONTROL, CHANCE = "own", "control", "chance"
RUNS = ("base", "source", "ceiling", "ceiling_control")
"""The runs of a pair in which no single cell is patched."""

LENS, ATTENTION, KNOCKOUT = "lens", "attention", "knockout"
"""Names of the experiments that patch nothing."""

PAIR_KINDS = {LENS: LensPair, ATTENTION: AttentionPair, KNOCKOUT: KnockoutPair}
"""What is known of a pair of these."""


def patching_dataset(
    run: RunDescription,
    pair_ids: Sequence[str],
    pairs: Sequence[PairDescription],
    values: Mapping[str, Array],
    control: Mapping[str, Array],
    folder: Path | None = None,
    changed: Sequence[str] = (),
) -> xr.Dataset:
    """Results of patching.

    Args:
        run: What was run.
        pair_ids: Names of the pairs.
        pairs: What is known of them.
        values: For each metric `(pairs, layers, columns)`, the own patch.
        control: The same with the control's activations; empty if there was none at all.
        folder: Where they were read from.
        changed: Measured files that are not as they were written.
    """
    of_runs = [{name: getattr(pair, name) for name in RUNS} for pair in pairs]
    variables = _of_cells(run, values, control, of_runs)
    variables["self_patch"] = ("pair", np.array([_number(p.self_patch) for p in pairs]))
    kinds = [p.control.kind if p.control else "" for p in pairs]
    coordinates = _of_grid(run, pairs, control, kinds)
    return _dataset(run, pair_ids, pairs, variables, coordinates, folder, changed)


def knockout_dataset(
    run: RunDescription,
    pair_ids: Sequence[str],
    pairs: Sequence[KnockoutPair],
    values: Mapping[str, Array],
    control: Mapping[str, Array],
    folder: Path | None = None,
    changed: Sequence[str] = (),
) -> xr.Dataset:
    """Results of cut edges.

    Args:
        run: What was run.
        pair_ids: Names of the pairs.
        pairs: What is known of them.
        values: For each metric `(pairs, layers, columns)`, the edge cut.
        control: The same with words of the question cut in its place; empty if there was none.
        folder: Where they were read from.
        changed: Measured files that are not as they were written.
    """
    variables = _of_cells(run, values, control, [{"base": pair.uncut} for pair in pairs])
    kinds = ["words" if pair.control_tokens else "" for pair in pairs]
    coordinates = _of_grid(run, pairs, control, kinds)
    return _dataset(run, pair_ids, pairs, variables, coordinates, folder, changed)


def _of_cells(
    run: RunDescription,
    values: Mapping[str, Array],
    control: Mapping[str, Array],
    runs: Sequence[Mapping[str, Mapping[str, float | None]]],
) -> dict[str, Any]:
    """Every metric of all cells, and of each pair's runs of which no single cell is part."""
    cells = ("pair", "layer", "column", "arm")
    variables: dict[str, Any] = {
        metric: (cells, np.stack([values[metric], *([control[metric]] if control else [])], -1))
        for metric in run.metrics
    }
    for metric in run.metrics:
        of_runs = [[_number(pair.get(name, {}).get(metric)) for name in RUNS] for pair in runs]
        variables[f"run_{metric}"] = (("pair", "run"), np.array(of_runs).reshape(-1, len(RUNS)))
    return variables


def _of_grid(
    run: RunDescription,
    pairs: Sequence[PairDescription] | Sequence[KnockoutPair],
    control: Mapping[str, Array],
    kinds: Sequence[str],
) -> dict[str, Any]:
    """The coordinates of cells and of pairs that have them."""
    return {
        "layer": list(run.grid.layers),
        "column": list(run.grid.columns),
        "arm": [OWN, CONTROL] if control else [OWN],
        "run": list(RUNS),
        "structural_zero": (("layer", "column"), run.grid.structural),
        "num_steps": ("pair", np.array([_number(p.num_steps) for p in pairs])),
        "changed_step": ("pair", np.array([_number(p.changed_step) for p in pairs])),
        "control_kind": ("pair", list(kinds)),
    }


def lens_dataset(
    run: RunDescription,
    pair_ids: Sequence[str],
    pairs: Sequence[LensPair],
    ranks: Sequence[Array],
    chance_ranks: Sequence[Array],
    whole_ranks: Sequence[Array],
    folder: Path | None = None,
    changed: Sequence[str] = (),
) -> xr.Dataset:
    """Results of the lens.

    Args:
        run: What was run.
        pair_ids: Names of the pairs.
        pairs: What is known of them.
        ranks: Of each pair `(S, L, K)`, the rank of each step's own result.
        chance_ranks: The same of another pair's result, NaN without one.
        whole_ranks: Of each pair `(S, K)`.
        folder: Where they were read from.
        changed: Measured files that are not as they were written.
    """
    steps = max((len(pair.steps) for pair in pairs), default=0)
    shape = (len(pairs), steps, *run.grid.shape)
    rank = np.full((*shape, 2), np.nan)
    whole = np.full((len(pairs), steps, shape[-1]), np.nan)
    differs = np.full((len(pairs), steps), np.nan)
    for row, pair in enumerate(pairs):
        known = len(pair.steps)
        rank[row, :known, ..., 0] = ranks[row]
        rank[row, :known, ..., 1] = chance_ranks[row]
        whole[row, :known] = whole_ranks[row]
        for place, step in enumerate(pair.steps):
            if step.corrupted_result:
                differs[row, place] = step.result != step.corrupted_result
    variables = {
        "rank": (("pair", "step", "layer", "column", "arm"), rank),
        "whole_rank": (("pair", "step", "column"), whole),
        "differs": (("pair", "step"), differs),
    }
    coordinates = {
        "step": np.arange(1, steps + 1),
        "layer": list(run.grid.layers),
        "column": list(run.grid.columns),
        "arm": [OWN, CHANCE],
    }
    return _dataset(run, pair_ids, pairs, variables, coordinates, folder, changed)


def attention_dataset(
    run: RunDescription,
    pair_ids: Sequence[str],
    pairs: Sequence[AttentionPair],
    values: Mapping[str, Array],
    heads: Sequence[Array] | None = None,
    folder: Path | None = None,
    changed: Sequence[str] = (),
) -> xr.Dataset:
    """Results of attention.

    Args:
        run: What was run.
        pair_ids: Names of the pairs.
        pairs: What is known of them.
        values: `attention` and `strongest`, `(pairs, readers, L, attended)`.
        heads: Of each pair what single heads gave where they were read again, `(looks, attended)`;
            unknown if not given.
        folder: Where they were read from.
        changed: Measured files that are not as they were written.
    """
    cells = ("pair", "reader", "layer", "attended")
    if heads is None:
        heads = [np.full((len(p.verified), len(run.attended)), np.nan) for p in pairs]
    single: NDArray[Any] = np.empty(len(pairs), dtype=object)
    single[:] = list(heads)
    tokens = np.array([pair.tokens for pair in pairs], dtype=np.float64)
    tokens = tokens.reshape(len(pairs), len(run.attended))
    coordinates = {
        "reader": list(run.readers),
        "layer": list(run.grid.layers),
        "attended": list(run.attended),
        "num_steps": ("pair", np.array([_number(p.num_steps) for p in pairs])),
        "heads": ("pair", single),
    }
    variables: dict[str, Any] = {name: (cells, of_all) for name, of_all in values.items()}
    variables["tokens"] = (("pair", "attended"), tokens)
    return _dataset(run, pair_ids, pairs, variables, coordinates, folder, changed)


def _dataset(
    run: RunDescription,
    pair_ids: Sequence[str],
    pairs: Sequence[PairDescription | LensPair | AttentionPair | KnockoutPair],
    variables: Mapping[str, Any],
    coordinates: Mapping[str, Any],
    folder: Path | None,
    changed: Sequence[str],
) -> xr.Dataset:
    described: NDArray[Any] = np.empty(len(pairs), dtype=object)
    described[:] = list(pairs)
    groups = [pair.group or name for name, pair in zip(pair_ids, pairs, strict=True)]
    return xr.Dataset(
        variables,
        {
            "pair": np.array(pair_ids, dtype=str),
            "group": ("pair", np.array(groups, dtype=str)),
            "description": ("pair", described),
            **coordinates,
        },
        {"run": run, "folder": folder, "changed": tuple(changed)},
    )


def run_of(data: xr.Dataset) -> RunDescription:
    """What a dataset's run was."""
    run = data.attrs["run"]
    assert isinstance(run, RunDescription)
    return run


def pairs_of(data: xr.Dataset) -> list[Any]:
    """What is known of each pair: `PairDescription`, or what `PAIR_KINDS` has."""
    return list(data["description"].values)


def is_lens(data: xr.Dataset) -> bool:
    """Whether a dataset is of the lens, which patches nothing."""
    return run_of(data).experiment == LENS


def is_attention(data: xr.Dataset) -> bool:
    """Whether a dataset is of attention, which patches nothing."""
    return run_of(data).experiment == ATTENTION


def is_knockout(data: xr.Dataset) -> bool:
    """Whether a dataset is of cut edges, which patch nothing."""
    return run_of(data).experiment == KNOCKOUT


def patches(data: xr.Dataset) -> bool:
    """Whether a dataset is of patching."""
    return run_of(data).experiment not in PAIR_KINDS


def has_control(data: xr.Dataset) -> bool:
    """Whether every patch was made again with the control's activations."""
    return CONTROL in data["arm"].values


def structural_of(data: xr.Dataset) -> NDArray[np.bool_]:
    """Cells whose patched state nothing reads, `(layers, columns)`."""
    return np.asarray(data["structural_zero"].values, dtype=bool)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
