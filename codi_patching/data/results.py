"""The files of a run: one place that knows how they are written and read.

    <experiment>_patching_results.json   metadata, baseline and every metric of every cell of
                                         every pair; one line a pair
    results.csv                          the same, a row for each pair and cell
    aggregate.json                       mean, deviation, interval over pairs for each cell
    activations.safetensors              iterative: for each pair the activations that its
                                         iterations generated, (layers, iterations - 1, hidden)
    trace_<pair>.csv                     iterative: every patch of one pair
    SHA256SUMS                           of all of these

A pair's cells are kept as arrays in the grid's shape: `(layers, positions)`, or `(layers,)` where
a layer is one cell. Undefined values are NaN here and null in JSON.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import ijson
import numpy as np
import torch
from torch import Tensor

from codi_patching.analysis.statistics import Array, bootstrap_interval, mean_and_deviation
from codi_patching.data.records import Metadata, PairResult, ResultsError, whole_file

_CHECKSUMS = "SHA256SUMS"
_DATA_FILES = ("*_patching_results.json", "*.csv", "aggregate.json", "*.safetensors")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
}


@dataclass
class Results:
    """A results file, read.

    Attributes:
        metadata: What was run.
        pair_ids: In the file's order.
        baseline: For each pair.
        values: For each metric `(pairs, *grid)`.
        changed: Files of the folder that are not as they were written.
    """

    metadata: Metadata
    pair_ids: list[str]
    baseline: dict[str, dict[str, Any]]
    values: dict[str, Array]
    changed: list[str] = field(default_factory=list)

    @cached_property
    def structural(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Cells that cannot have an effect, in the grid's shape."""
        mask = np.zeros(self.metadata["grid"]["shape"], dtype=bool)
        for cell in self.metadata["grid"]["structural_zeros"]:
            mask[tuple(cell)] = True
        return mask

    def of_pair(self, pair_id: str) -> PairResult:
        """A pair's values."""
        row = self.pair_ids.index(pair_id)
        values = {metric: values[row] for metric, values in self.values.items()}
        return PairResult(pair_id, self.baseline[pair_id], values)


def results_name(experiment: str) -> str:
    """Name of an experiment's results file."""
    return f"{experiment}_patching_results.json"


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """Write a text file that appears whole or not at all."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_results(path: Path, metadata: Metadata, records: Iterable[PairResult]) -> None:
    """Write the results file, one line a pair; `records` is gone through twice."""
    with text_file(path) as file:
        file.write(f'{{"metadata": {_dump(metadata, indent=2)},\n"baseline": {{\n')
        _write_lines(file, (f"{_dump(r.pair_id)}: {_dump(r.baseline)}" for r in records))
        file.write('\n},\n"results": {\n')
        cells = (f"{_dump(r.pair_id)}: {_dump(_nested(r, metadata))}" for r in records)
        _write_lines(file, cells)
        file.write("\n}}\n")


def _write_lines(file: TextIO, lines: Iterable[str]) -> None:
    for index, line in enumerate(lines):
        file.write(",\n" * (index > 0) + line)


def write_csv(path: Path, metadata: Metadata, records: Iterable[PairResult]) -> None:
    """Write a row for each pair, layer and position, for pandas and R."""
    structural = {tuple(cell) for cell in metadata["grid"]["structural_zeros"]}
    with text_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        column = metadata["grid"]["column"]
        writer.writerow(["pair_id", "layer", column, "structural_zero", *metadata["metrics"]])
        for record in records:
            for index, layer, position in cells_of(metadata):
                values = (record.values[m][index] for m in metadata["metrics"])
                numbers = ["" if math.isnan(v) else repr(float(v)) for v in values]
                mark = int(index in structural)
                writer.writerow([record.pair_id, layer, position or "all", mark, *numbers])


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
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in chain([first], rest):
            file.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV."""
    with text_file(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def file_name(pair_id: str) -> str:
    """A pair's id as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", pair_id)[:60]


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of the data files, as `sha256sum --check SHA256SUMS` reads them."""
    files = [path for pattern in _DATA_FILES for path in folder.glob(pattern)]
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(files)]
    with text_file(folder / _CHECKSUMS) as file:
        file.writelines(lines)


def changed_files(folder: Path) -> list[str]:
    """Names of data files that are missing or not as they were written."""
    path = folder / _CHECKSUMS
    if not path.exists():
        return []
    expected = [line.partition("  ") for line in path.read_text("utf-8").splitlines()]
    return [
        name
        for digest, _, name in expected
        if not (folder / name).is_file() or _sha256(folder / name) != digest
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_results(folder: Path) -> Results:
    """Read the results file of a folder.

    Raises:
        ResultsError: There is not exactly one, or it is not complete.
    """
    found = sorted(folder.glob(results_name("*")))
    if len(found) != 1:
        raise ResultsError(f"expected one {results_name('*')} in {folder}, got {len(found)}")
    try:
        metadata = _read_metadata(found[0])
        baseline = dict(entries(found[0], "baseline"))
        pair_ids, values = _read_values(found[0], metadata)
        if not baseline.keys() >= set(pair_ids):
            raise ValueError("expected a baseline for each pair")
        return Results(metadata, pair_ids, baseline, values, changed_files(folder))
    except (ValueError, KeyError, TypeError, OSError, ijson.JSONError) as error:
        reason = " ".join(str(error).split())
        raise ResultsError(f"{found[0]} is not a complete results file: {reason}") from error


def entries(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    """The entries of `metadata`, `baseline` or `results`, one at a time."""
    seen: set[str] = set()
    with path.open("rb") as file:
        for name, value in ijson.kvitems(file, key, use_float=True):
            if name in seen:
                raise ValueError(f"{name!r} is there twice in {key}")
            seen.add(name)
            yield name, value


def _read_metadata(path: Path) -> Metadata:
    metadata = dict(entries(path, "metadata"))
    grid, metrics = metadata["grid"], metadata["metrics"]
    names = [*grid["layers"], *grid["positions"], *metrics, grid["column"], metadata["experiment"]]
    if "seed" not in metadata:
        raise ValueError("expected a seed in its metadata")
    if not all(isinstance(name, str) for name in names) or not metrics:
        raise ValueError("expected layers, positions and metrics as lists of text in its metadata")
    shape = [len(grid["layers"])] + [len(grid["positions"])] * bool(grid["positions"])
    if grid["shape"] != shape:
        raise ValueError(f"expected a grid of shape {shape}, got {grid['shape']}")
    for cell in grid["structural_zeros"]:
        if len(cell) != len(shape) or not all(0 <= i < n for i, n in zip(cell, shape)):
            raise ValueError(f"expected structural zeros inside {shape}, got {cell}")
    return metadata


def _read_values(path: Path, metadata: Metadata) -> tuple[list[str], dict[str, Array]]:
    """Ids, and for each metric `(pairs, *grid)`."""
    cells, metrics = list(cells_of(metadata)), metadata["metrics"]
    pair_ids, numbers = [], array("d")
    for pair_id, content in entries(path, "results"):
        pair_ids.append(pair_id)
        numbers.extend(
            _number(_at(content, layer, position)[metric], pair_id)
            for metric in metrics
            for _, layer, position in cells
        )
    if not pair_ids:
        raise ValueError("expected at least one pair")
    shape = (len(pair_ids), len(metrics), *metadata["grid"]["shape"])
    values = np.frombuffer(numbers).reshape(shape)
    return pair_ids, {metric: values[:, index] for index, metric in enumerate(metrics)}


def _number(value: Any, pair_id: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"pair {pair_id}: expected numbers or null, got {value!r}")
    return float(value)


def aggregate(results: Results, top_k: int) -> dict[str, Any]:
    """Mean, deviation and 95 % bootstrap interval over pairs of each cell, and the top cells.

    Structural zeros are marked and have no statistics. Top cells are ranked by mean KL.
    """
    metadata = results.metadata
    metrics: dict[str, Any] = {}
    for metric, values in results.values.items():
        mean, deviation, count = mean_and_deviation(values)
        low, high = bootstrap_interval(values, seed=metadata["seed"])
        cells: dict[str, Any] = {}
        for index, layer, position in cells_of(metadata):
            cell = (
                {"structural_zero": True}
                if results.structural[index]
                else {
                    "mean": mean[index],
                    "std": deviation[index],
                    "ci_low": low[index],
                    "ci_high": high[index],
                    "n": int(count[index]),
                }
            )
            _put(cells, layer, position, cell)
        metrics[metric] = cells
    top = []
    for layer, position in top_cells(results, top_k):
        cell = {metric: _at(cells, layer, position) for metric, cells in metrics.items()}
        top.append({"layer": layer, "position": position, **cell})
    return {
        "experiment": metadata["experiment"],
        "num_pairs": len(results.pair_ids),
        "interval": "95 % percentile bootstrap over pairs",
        "top_cells": top,
        "metrics": metrics,
    }


def aggregate_rows(
    summary: Mapping[str, Any],
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Metric, layer, position and statistics of each cell of a summary that can have an effect.

    The position is `all` where a layer is one cell.
    """
    for metric, layers in summary["metrics"].items():
        for layer, cells in layers.items():
            single = "mean" in cells or "structural_zero" in cells
            for position, cell in {"all": cells}.items() if single else cells.items():
                if "mean" in cell:
                    yield metric, layer, position, cell


def top_cells(results: Results, count: int) -> list[tuple[str, str | None]]:
    """The cells with the largest mean KL, structural zeros left out."""
    mean, _, _ = mean_and_deviation(results.values["kl_divergence"])
    ranked = sorted(
        (cell for cell in cells_of(results.metadata) if not results.structural[cell[0]]),
        key=lambda cell: -mean[cell[0]],
    )
    return [(layer, position) for _, layer, position in ranked[:count]]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people, NaN as null."""
    with text_file(path) as file:
        file.write(_dump(content, indent=2) + "\n")


def cells_of(metadata: Metadata) -> Iterator[tuple[tuple[int, ...], str, str | None]]:
    """Index, layer name and position name of every cell, in the grid's order."""
    grid = metadata["grid"]
    for row, layer in enumerate(grid["layers"]):
        if not grid["positions"]:
            yield (row,), layer, None
        for column, position in enumerate(grid["positions"]):
            yield (row, column), layer, position


def _nested(record: PairResult, metadata: Metadata) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for index, layer, position in cells_of(metadata):
        cell: dict[str, Any] = {m: record.values[m][index] for m in metadata["metrics"]}
        if "activations" in metadata:
            last = index[-1] + 1 == metadata["grid"]["shape"][-1]
            cell["activation"] = None if last else {"tensor": record.pair_id, "index": list(index)}
        _put(cells, layer, position, cell)
    return cells


def _put(cells: dict[str, Any], layer: str, position: str | None, value: Any) -> None:
    if position is None:
        cells[layer] = value
    else:
        cells.setdefault(layer, {})[position] = value


def _at(cells: dict[str, Any], layer: str, position: str | None) -> Any:
    return cells[layer] if position is None else cells[layer][position]


def _dump(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's, NaN as None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
