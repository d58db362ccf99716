"""Reading a results folder: its results file is the truth, all else derives from it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ijson
import numpy as np

from codi_patching.results.files import changed_files
from codi_patching.results.layout import get_cell, results_name
from codi_patching.results.schema import (
    Array,
    Mask,
    PairDescription,
    ResultsError,
    RunDescription,
    as_number,
)


@dataclass(frozen=True)
class Results:
    """A results file, read.

    Attributes:
        run: What was run.
        pair_ids: In the file's order.
        pairs: Descriptions, in the same order.
        values: For each metric `(pairs, layers, columns)`, NaN where undefined.
        control: The same with the control's activations; NaN for pairs without one, empty if
            there was none at all.
        changed: Measured files of the folder that are not as they were written.
        folder: Where they were read from; None for results made in memory.
    """

    run: RunDescription
    pair_ids: tuple[str, ...]
    pairs: tuple[PairDescription, ...]
    values: Mapping[str, Array]
    control: Mapping[str, Array]
    changed: tuple[str, ...] = ()
    folder: Path | None = field(default=None, compare=False)

    @cached_property
    def structural(self) -> Mask:
        """Cells that cannot have an effect, in the grid's shape."""
        return self.run.grid.structural

    def unpatched(self, run: str, metric: str) -> Array:
        """A metric of `base`, `source`, `ceiling` or `ceiling_control`, `(pairs,)`."""
        values = [getattr(pair, run).get(metric, math.nan) for pair in self.pairs]
        return np.array(values, dtype=np.float64)


def results_file(folder: Path) -> Path:
    """The results file of a folder.

    Raises:
        ResultsError: There is not exactly one, or none yet.
    """
    found = sorted(folder.glob(results_name("*")))
    if not found and (folder / "partial").is_dir():
        raise ResultsError(
            f"{folder} holds a run that is not finished: its command goes on where it stopped"
        )
    if len(found) != 1:
        raise ResultsError(
            f"expected one {results_name('*')} in {folder}, got {len(found)}: name a folder that "
            "`codi-patching predict` wrote"
        )
    return found[0]


def read_results(folder: Path) -> Results:
    """Read the results file of a folder.

    Raises:
        ResultsError: There is not exactly one, or it is not complete.
    """
    path = results_file(folder)
    try:
        run = RunDescription.from_json(dict(entries(path, "metadata")))
        if not run.metrics:
            raise ValueError("expected metrics in its metadata")
        described = {k: PairDescription.from_json(v) for k, v in entries(path, "baseline")}
        pair_ids, values, control = _read_values(path, run)
        lacking = [pair_id for pair_id in pair_ids if pair_id not in described]
        if lacking:
            raise ValueError(f"expected a baseline for each pair, got none for {lacking[0]!r}")
        pairs = tuple(described[pair_id] for pair_id in pair_ids)
    except (ValueError, KeyError, TypeError, OSError, ijson.JSONError) as error:
        reason = " ".join(str(error).split())
        raise ResultsError(f"{path} is not a complete results file: {reason}") from error
    return Results(run, pair_ids, pairs, values, control, tuple(changed_files(folder)), folder)


def entries(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    """The entries of `metadata`, `baseline` or `results`, one at a time."""
    seen: set[str] = set()
    with path.open("rb") as file:
        for name, value in ijson.kvitems(file, key, use_float=True):
            if name in seen:
                raise ValueError(f"{name!r} is there twice in {key}")
            seen.add(name)
            yield name, value


def _read_values(
    path: Path, run: RunDescription
) -> tuple[tuple[str, ...], dict[str, Array], dict[str, Array]]:
    """Ids, and for each metric `(pairs, layers, columns)`, own and control."""
    cells, pair_ids, any_control = list(run.grid.cells()), [], False
    own, control = array("d"), array("d")
    for pair_id, content in entries(path, "results"):
        pair_ids.append(pair_id)
        found = [get_cell(content, run.grid, layer, column) for _, layer, column in cells]
        where = f"pair {pair_id}"
        for metric in run.metrics:
            own.extend(as_number(cell[metric], where) for cell in found)
            others = (cell.get("control") for cell in found)
            control.extend(math.nan if c is None else as_number(c[metric], where) for c in others)
        any_control = any_control or any("control" in cell for cell in found)
    if not pair_ids:
        raise ValueError("expected at least one pair")
    shape = (len(pair_ids), len(run.metrics), *run.grid.shape)

    def by_metric(numbers: array[float]) -> dict[str, Array]:
        values = np.frombuffer(numbers).reshape(shape)
        return {metric: values[:, index] for index, metric in enumerate(run.metrics)}

    return tuple(pair_ids), by_metric(own), by_metric(control) if any_control else {}
