"""`aggregate.json`: what a run gave over pairs, each measure of every cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import xarray as xr

from codi_patching.analysis.report import Summary
from codi_patching.results.dataset import run_of
from codi_patching.results.description import Grid

_MEDIANS = {
    "median": "kl_median",
    "median_low": "kl_median_low",
    "median_high": "kl_median_high",
    "share_of_5_largest": "kl_share_of_largest",
}


def aggregate_json(summary: Summary) -> dict[str, Any]:
    """The content of the file: mean, standard deviation, 95 % interval and count of each measure.

    Structural zeros are marked and have none. `kl_divergence` has its median too, with its exact
    interval, and the share that the five largest pairs have in the mean.
    """
    run, table = run_of(summary.data), summary.table
    measures = [str(name) for name, v in table.data_vars.items() if "statistic" in v.dims]
    metrics = {name: _nested(table, name, run.grid) for name in measures}
    return {
        "experiment": run.experiment,
        "num_pairs": summary.data.sizes["pair"],
        "interval": "95 %, of means the hull of BCa, bootstrap-t and Student's t, or Clopper and "
        "Pearson's bound where all values are alike; of medians exact",
        "top_cells": [_named(cell, summary, metrics) for cell in summary.top_kl],
        "top_content": [_named(cell, summary, metrics) for cell in summary.top_content],
        "metrics": metrics,
    }


def aggregate_rows(summary: Summary) -> Iterator[dict[str, Any]]:
    """A row for each measure and cell that can have an effect."""
    grid, table = run_of(summary.data).grid, summary.table
    for name, values in table.data_vars.items():
        if "statistic" in values.dims:
            statistics = _statistics(table, str(name))
            for index, layer, column in grid.cells():
                if not grid.structural[index]:
                    own = statistics(index)
                    yield {"metric": name, "layer": layer, grid.column: column, **own}


def _statistics(table: xr.Dataset, measure: str) -> Callable[[tuple[int, int]], dict[str, Any]]:
    """Gives the statistics of a measure in a cell."""
    values = table[measure].transpose("layer", "column", "statistic")
    names, numbers = list(map(str, values["statistic"].values)), values.values.tolist()

    def of(cell: tuple[int, int]) -> dict[str, Any]:
        found: dict[str, Any] = dict(zip(names, numbers[cell[0]][cell[1]]))
        found["n"] = 0 if math.isnan(found["n"]) else int(found["n"])
        return found

    return of


def _nested(table: xr.Dataset, measure: str, grid: Grid) -> dict[str, Any]:
    """A measure's cells as the files nest them."""
    cells: dict[str, Any] = {}
    statistics = _statistics(table, measure)
    medians = {k: table[v].values for k, v in _MEDIANS.items() if v in table}
    for index, layer, column in grid.cells():
        cell: dict[str, Any] = {"structural_zero": True}
        if not grid.structural[index]:
            cell = statistics(index)
            if measure == "kl_divergence":
                cell |= {name: float(values[index]) for name, values in medians.items()}
        if grid.whole_layers:
            cells[layer] = cell
        else:
            cells.setdefault(layer, {})[column] = cell
    return cells


def _named(cell: tuple[int, int], summary: Summary, metrics: dict[str, Any]) -> dict[str, Any]:
    """A cell with all that is known of it."""
    run = run_of(summary.data)
    layer, column = run.grid.layers[cell[0]], run.grid.columns[cell[1]]

    def of(nested: dict[str, Any]) -> Any:
        return nested[layer] if run.grid.whole_layers else nested[layer][column]

    return {
        "layer": layer,
        run.grid.column: column,
        "name": run.label(cell),
        "content_effect": float(np.asarray(summary.table["content_effect"].values)[cell]),
        **{name: of(nested) for name, nested in metrics.items()},
    }
