"""The files of a run: one place that knows how they are written and read.

    <experiment>_patching_results.json   metadata, baseline and every metric of every cell of
                                         every pair; one line a pair
    results.csv                          the same, a row for each pair and cell
    aggregate.json                       mean, deviation, interval over pairs for each cell
    activations.safetensors              iterative: for each pair the activations that its
                                         iterations generated, (layers, iterations - 1, hidden)
    trace_<pair>.csv                     iterative: every patch of one pair

A pair's cells are kept as arrays in the grid's shape: `(layers, positions)`, or `(layers,)` where
a layer is one cell. Undefined values are NaN here and null in JSON.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from codi_patching.analysis.statistics import Array, bootstrap_interval, mean_and_deviation

Metadata = dict[str, Any]


class ResultsError(ValueError):
    """A results folder is not what it should be."""


@dataclass
class PairRecord:
    """What is written of one pair.

    Attributes:
        pair_id: The pair.
        baseline: Of its unpatched runs.
        values: For each metric, the grid.
    """

    pair_id: str
    baseline: dict[str, Any]
    values: dict[str, Array]


@dataclass
class Results:
    """A results file, read.

    Attributes:
        metadata: What was run.
        pair_ids: In the file's order.
        baseline: For each pair.
        values: For each metric `(pairs, *grid)`.
    """

    metadata: Metadata
    pair_ids: list[str]
    baseline: dict[str, dict[str, Any]]
    values: dict[str, Array]

    @property
    def structural(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Cells that cannot have an effect, in the grid's shape."""
        mask = np.zeros(self.metadata["grid"]["shape"], dtype=bool)
        for cell in self.metadata["grid"]["structural_zeros"]:
            mask[tuple(cell)] = True
        return mask


def results_name(experiment: str) -> str:
    """Name of an experiment's results file."""
    return f"{experiment}_patching_results.json"


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Write a text file that appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_results(path: Path, metadata: Metadata, records: Iterable[PairRecord]) -> None:
    """Write the results file, one line a pair."""
    records = list(records)
    with atomic_write(path) as file:
        file.write(f'{{"metadata": {_dump(metadata, indent=2)},\n"baseline": {{\n')
        file.write(",\n".join(f"{_dump(r.pair_id)}: {_dump(r.baseline)}" for r in records))
        file.write('\n},\n"results": {\n')
        cells = (f"{_dump(r.pair_id)}: {_dump(_nested(r, metadata))}" for r in records)
        file.write(",\n".join(cells))
        file.write("\n}}\n")


def write_csv(path: Path, metadata: Metadata, records: Iterable[PairRecord]) -> None:
    """Write a row for each pair, layer and position, for pandas and R."""
    structural = {tuple(cell) for cell in metadata["grid"]["structural_zeros"]}
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        column = metadata["grid"]["column"]
        writer.writerow(["pair_id", "layer", column, "structural_zero", *metadata["metrics"]])
        for record in records:
            for index, layer, position in _cells(metadata):
                values = (record.values[m][index] for m in metadata["metrics"])
                numbers = ["" if math.isnan(v) else repr(float(v)) for v in values]
                mark = int(index in structural)
                writer.writerow([record.pair_id, layer, position or "all", mark, *numbers])


def write_activations(path: Path, activations: Mapping[str, Tensor]) -> None:
    """Write a tensor for each pair."""
    partial = path.with_name(path.name + ".partial")
    save_file({pair_id: tensor.contiguous() for pair_id, tensor in activations.items()}, partial)
    partial.replace(path)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV."""
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def file_name(pair_id: str) -> str:
    """A pair's id as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", pair_id)[:60]


def read_results(folder: Path) -> Results:
    """Read the results file of a folder.

    Raises:
        ResultsError: There is not exactly one, or it is not complete.
    """
    found = sorted(folder.glob(results_name("*")))
    if len(found) != 1:
        raise ResultsError(f"expected one {results_name('*')} in {folder}, got {len(found)}")
    try:
        content = json.loads(found[0].read_text(encoding="utf-8"))
        metadata, pair_ids = content["metadata"], list(content["results"])
        values = {
            metric: np.array(
                [
                    [
                        _lookup(content["results"][pair], layer, position, metric)
                        for _, layer, position in _cells(metadata)
                    ]
                    for pair in pair_ids
                ],
                dtype=np.float64,
            ).reshape(len(pair_ids), *metadata["grid"]["shape"])
            for metric in metadata["metrics"]
        }
        return Results(metadata, pair_ids, content["baseline"], values)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ResultsError(f"{found[0]} is not a complete results file: {error!r}") from error


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
        for index, layer, position in _cells(metadata):
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


def top_cells(results: Results, count: int) -> list[tuple[str, str | None]]:
    """The cells with the largest mean KL, structural zeros left out."""
    mean, _, _ = mean_and_deviation(results.values["kl_divergence"])
    ranked = sorted(
        (cell for cell in _cells(results.metadata) if not results.structural[cell[0]]),
        key=lambda cell: -mean[cell[0]],
    )
    return [(layer, position) for _, layer, position in ranked[:count]]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file for people, NaN as null."""
    with atomic_write(path) as file:
        file.write(_dump(content, indent=2) + "\n")


def _cells(metadata: Metadata) -> Iterator[tuple[tuple[int, ...], str, str | None]]:
    """Index, layer name and position name of every cell, in the grid's order."""
    grid = metadata["grid"]
    for row, layer in enumerate(grid["layers"]):
        if not grid["positions"]:
            yield (row,), layer, None
        for column, position in enumerate(grid["positions"]):
            yield (row, column), layer, position


def _nested(record: PairRecord, metadata: Metadata) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for index, layer, position in _cells(metadata):
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


def _lookup(cells: dict[str, Any], layer: str, position: str | None, metric: str) -> float:
    value = _at(cells, layer, position)[metric]
    return math.nan if value is None else value


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
