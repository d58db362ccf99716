"""Results as rows, for CSV files, frames and loggers: one for each pair and cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from codi_patching.results.read import Results


def cell_columns(results: Results) -> list[str]:
    """Columns of `cell_rows`."""
    metrics = list(results.run.metrics)
    control = [f"control_{metric}" for metric in metrics] if results.control else []
    return ["pair_id", "layer", results.run.grid.column, "structural_zero", *metrics, *control]


def cell_rows(results: Results) -> Iterator[dict[str, Any]]:
    """A row for each pair and cell, by the columns of `cell_columns`; undefined values are NaN."""
    grid, metrics = results.run.grid, results.run.metrics
    sources = [(metric, results.values[metric]) for metric in metrics]
    if results.control:
        sources += [(f"control_{metric}", results.control[metric]) for metric in metrics]
    structural = results.structural
    for index, pair_id in enumerate(results.pair_ids):
        for cell, layer, column in grid.cells():
            yield {
                "pair_id": pair_id,
                "layer": layer,
                grid.column: column,
                "structural_zero": int(structural[cell]),
                **{name: float(values[index][cell]) for name, values in sources},
            }
