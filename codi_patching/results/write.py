"""The measured files of a run, written from its records.

    <experiment>_patching_results.json   metadata, baseline and every metric of every cell of
                                         every pair; one line a pair
    lens_results.json                    the lens: metadata, and for each pair the ranks
    attention_results.json               attention: metadata, and for each pair the shares
    knockout_results.json                cut edges: metadata, and for each pair every metric of
                                         every cell
    activations.safetensors              iterative: for each pair the activations that its
                                         iterations generated, (layers, iterations - 1, hidden);
                                         attention: every head, (readers, layers, heads, attended)
    trace_<pair>.csv                     iterative: every patch of one pair
    SHA256SUMS                           of these

All other files of a results folder are derived from them and can be made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codi_patching.results.dataset import ATTENTION, KNOCKOUT, LENS
from codi_patching.results.description import Array, Grid, ResultsError, RunDescription
from codi_patching.results.files import (
    as_json,
    atomic_write,
    file_name,
    remove_file,
    text_file,
    write_checksums,
    write_csv,
)
from codi_patching.results.layout import (
    ACTIVATIONS,
    derived_files,
    measured_files,
    results_name,
    trace_name,
)
from codi_patching.results.pair_descriptions import LensPair
from codi_patching.results.records import PairRecord
from codi_patching.results.store import Store

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}


def write_run(folder: Path, store: Store) -> None:
    """Write the measured files of a run whose records are complete; older derived files go.

    Raises:
        ResultsError: Records are missing, no pair could be run, or a file cannot be written.
    """
    run = store.complete()
    if not run.num_pairs and run.experiment != LENS:  # of which a study goes on without any pair
        pair_id, reason = next(iter(run.excluded.items()))
        raise ResultsError(f"no pair could be run; {pair_id} was left out because {reason}")
    old = {*measured_files(folder), *derived_files(folder)}
    written = _write_extras(folder, store)
    results = folder / results_name(run.experiment)
    write_results(results, run, store)
    for stale in old - {results, *written}:
        remove_file(stale)
    write_checksums(folder)


def _write_extras(folder: Path, store: Store) -> list[Path]:
    """Activations and traces, where there are any."""
    written, with_activations = [], []
    for record in store:
        if record.activations is not None:
            with_activations.append(record.pair_id)
        if record.trace:
            written.append(folder / trace_name(file_name(record.pair_id)))
            write_csv(written[-1], record.trace, list(record.trace[0]))
    if with_activations:
        written.append(folder / ACTIVATIONS)
        tensors = (record.activations for record in store if record.activations is not None)
        write_activations(written[-1], with_activations, tensors)
    return written


def write_results(path: Path, run: RunDescription, records: Iterable[PairRecord]) -> None:
    """Write the results file, one line a pair; `records` is gone through once for each section."""
    with text_file(path) as file:
        file.write(f'{{"metadata": {as_json(run.to_json(), indent=2)}')
        for section, entry in _SECTIONS.get(run.experiment, _PATCHING_SECTIONS).items():
            file.write(f',\n"{section}": {{\n')
            for index, record in enumerate(records):
                line = f"{as_json(record.pair_id)}: {as_json(entry(record, run))}"
                file.write(",\n" * (index > 0) + line)
            file.write("\n}")
        file.write("}\n")


def _baseline(record: PairRecord, _: RunDescription) -> dict[str, Any]:
    return record.description.to_json()


def nested_cells(record: PairRecord, run: RunDescription) -> dict[str, Any]:
    """A pair's cells as `{layer: {position: {metric: value, "control": {…}}}}`.

    Where a layer is one cell, without the level of positions.
    """
    cells: dict[str, Any] = {}
    for index, layer, column in run.grid.cells():
        cell: dict[str, Any] = {m: record.values[m][index] for m in run.metrics}
        if record.control:
            cell["control"] = {m: record.control[m][index] for m in run.metrics}
        if record.activations is not None or run.experiment == "iterative":
            last = index[1] + 1 == run.grid.shape[1]
            kept = {"tensor": record.pair_id, "index": list(index)}
            cell["activation"] = None if last else kept
        _put_cell(cells, run.grid, layer, column, cell)
    return cells


def _put_cell(cells: dict[str, Any], grid: Grid, layer: str, column: str, value: Any) -> None:
    """Put a cell where `read.cell_of` finds it."""
    if grid.whole_layers:
        cells[layer] = value
    else:
        cells.setdefault(layer, {})[column] = value


def _read_steps(record: PairRecord, _: RunDescription) -> dict[str, Any]:
    """A pair of the lens: each of its steps with its ranks."""
    pair = record.description
    assert isinstance(pair, LensPair)
    ranks, whole = record.values["rank"], record.values["whole_rank"]
    chance = record.control.get("rank", np.full(ranks.shape, np.nan))
    steps = [
        {
            "result": step.result,
            "tokens": step.tokens,
            "ranks": ranks[place].astype(int),
            "whole": whole[place].astype(int),
            "chance_result": step.chance_result,
            "chance_ranks": chance[place].astype(int) if step.chance_result else [],
            "corrupted_result": step.corrupted_result,
        }
        for place, step in enumerate(pair.steps)
    ]
    known = asdict(pair) | {"steps": steps}
    return {"pair_id": record.pair_id, **known}


def _cut(record: PairRecord, run: RunDescription) -> dict[str, Any]:
    """A pair of cut edges, each metric a table of layers × edges to seven digits: what float32 has.

    Not cell by cell, as patching has them: there are several hundred.
    """
    arms = {"own": record.values, "control": record.control}
    cells = {
        arm: {metric: _seven_digits(values[metric]) for metric in run.metrics}
        for arm, values in arms.items()
        if values
    }
    return {"pair_id": record.pair_id, **record.description.to_json(), "cells": cells}


def _seven_digits(values: Array) -> Array:
    rounded = [float(f"{value:.7g}") for value in values.ravel()]
    return np.array(rounded, dtype=np.float64).reshape(values.shape)


def _attended(record: PairRecord, _: RunDescription) -> dict[str, Any]:
    """A pair of attention, its shares to seven decimals: what float32 has."""
    shares = {name: np.round(values, 7) for name, values in record.values.items()}
    return {"pair_id": record.pair_id, **record.description.to_json(), **shares}


Entry = Callable[[PairRecord, RunDescription], dict[str, Any]]

_PATCHING_SECTIONS: dict[str, Entry] = {"baseline": _baseline, "results": nested_cells}
_SECTIONS: dict[str, dict[str, Entry]] = {
    LENS: {"pairs": _read_steps},
    ATTENTION: {"pairs": _attended},
    KNOCKOUT: {"pairs": _cut},
}
"""Sections of a results file, and what stands there for a pair."""


def write_activations(path: Path, pair_ids: Sequence[str], activations: Iterable[Tensor]) -> None:
    """Write a tensor for each pair as safetensors, one at a time.

    Args:
        path: The file.
        pair_ids: Names of the tensors.
        activations: As many, of one shape and dtype.
    """
    rest = iter(activations)
    first = next(rest)
    size = first.nbytes
    described = {"dtype": _DTYPES[first.dtype], "shape": list(first.shape)}
    header = json.dumps(
        {
            pair_id: {**described, "data_offsets": [index * size, (index + 1) * size]}
            for index, pair_id in enumerate(pair_ids)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with atomic_write(path) as partial, partial.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in chain([first], rest):
            file.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())
