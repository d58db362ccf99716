"""The measured files of a run, written from its records.

    <experiment>_patching_results.json   metadata, baseline and every metric of every cell of
                                         every pair; one line a pair
    activations.safetensors              iterative: for each pair the activations that its
                                         iterations generated, (layers, iterations - 1, hidden)
    trace_<pair>.csv                     iterative: every patch of one pair
    SHA256SUMS                           of these

All other files of a results folder are derived from them and can be made again; see `reporting`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from codi_patching.results.files import (
    as_json,
    atomic_write,
    file_name,
    text_file,
    write_checksums,
    write_csv,
)
from codi_patching.results.layout import ACTIVATIONS, measured_files, put_cell, results_name
from codi_patching.results.records import PairResult, Records
from codi_patching.results.schema import ResultsError, RunDescription

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}


def write_run(folder: Path, run: RunDescription, records: Records) -> None:
    """Write the measured files of a run whose records are complete.

    Raises:
        ResultsError: Records are missing, no pair could be run, or a file cannot be written.
    """
    run = records.complete(run)
    if not run.num_pairs:
        pair_id, reason = next(iter(run.excluded.items()))
        raise ResultsError(f"no pair could be run; {pair_id} was left out because {reason}")
    old = set(measured_files(folder))
    written = _write_extras(folder, records)
    results = folder / results_name(run.experiment)
    write_results(results, run, records)
    for stale in old - {results, *written}:
        stale.unlink()
    write_checksums(folder, measured_files(folder))


def _write_extras(folder: Path, records: Records) -> list[Path]:
    """Activations and traces, where there are any."""
    written = []
    whole = records.everything(activations=True)
    kept = (r.activations for r in whole if isinstance(r, PairResult))
    tensors = (tensor for tensor in kept if tensor is not None)
    first = next(tensors, None)
    if first is not None:
        written.append(folder / ACTIVATIONS)
        pair_ids = [result.pair_id for result in records]
        write_activations(written[-1], pair_ids, chain([first], tensors))
    for result in records:
        if result.trace:
            written.append(folder / f"trace_{file_name(result.pair_id)}.csv")
            write_csv(written[-1], result.trace, list(result.trace[0]))
    return written


def write_results(path: Path, run: RunDescription, records: Iterable[PairResult]) -> None:
    """Write the results file, one line a pair; `records` is gone through twice."""
    with text_file(path) as file:
        file.write(f'{{"metadata": {as_json(run.to_json(), indent=2)},\n"baseline": {{\n')
        described = ((r.pair_id, r.description.to_json()) for r in records)
        _write_lines(file, described)
        file.write('\n},\n"results": {\n')
        _write_lines(file, ((r.pair_id, nested_cells(r, run)) for r in records))
        file.write("\n}}\n")


def _write_lines(file: TextIO, entries: Iterable[tuple[str, Any]]) -> None:
    for index, (key, value) in enumerate(entries):
        file.write(",\n" * (index > 0) + f"{as_json(key)}: {as_json(value)}")


def nested_cells(record: PairResult, run: RunDescription) -> dict[str, Any]:
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
        put_cell(cells, run.grid, layer, column, cell)
    return cells


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
