"""Results of patching as rows, for `results.csv`, frames and loggers: one a pair and cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import xarray as xr

from codi_patching.results.dataset import has_control, run_of, structural_of

if TYPE_CHECKING:
    import pandas as pd


def cell_columns(data: xr.Dataset) -> list[str]:
    """Columns of `cell_rows`."""
    run = run_of(data)
    control = [f"control_{metric}" for metric in run.metrics] if has_control(data) else []
    return ["pair_id", "layer", run.grid.column, "structural_zero", *run.metrics, *control]


def cell_rows(data: xr.Dataset) -> Iterator[dict[str, Any]]:
    """A row for each pair and cell, by the columns of `cell_columns`; undefined values are NaN."""
    grid, structural = run_of(data).grid, structural_of(data)
    values = [data[metric].values for metric in run_of(data).metrics]
    names = cell_columns(data)[4:]
    for place, pair_id in enumerate(data["pair"].values.tolist()):
        # metrics of the own arm, then those of the control, as the columns are
        numbers = [array[place, ..., arm] for arm in range(data.sizes["arm"]) for array in values]
        for cell, layer, column in grid.cells():
            yield {
                "pair_id": pair_id,
                "layer": layer,
                grid.column: column,
                "structural_zero": int(structural[cell]),
                **{name: float(array[cell]) for name, array in zip(names, numbers, strict=True)},
            }


def cells_frame(data: xr.Dataset) -> pd.DataFrame:
    """`cell_rows` as a frame, layers and columns as whole numbers but for "thought" and "all"."""
    import pandas as pd

    frame = pd.DataFrame(cell_rows(data), columns=cell_columns(data))
    for name in ("layer", run_of(data).grid.column):
        numbers = [int(key) if key.isdigit() else key for key in frame[name]]
        whole = all(isinstance(number, int) for number in numbers)
        frame[name] = pd.Series(numbers, dtype=int if whole else object)
    return frame
