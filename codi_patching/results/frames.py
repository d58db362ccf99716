"""Results as pandas frames, for notebooks."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_patching.results.read import Results, read_results
from codi_patching.results.schema import Array, PairDescription, ResultsError, RunDescription
from codi_patching.results.tables import cell_columns, cell_rows

if TYPE_CHECKING:
    import pandas as pd

_UNPATCHED = ("base", "source", "ceiling", "ceiling_control")


@dataclass(frozen=True)
class Frames:
    """Results of a folder.

    Attributes:
        run: What was run.
        cells: A row for each pair and cell: `pair_id`, `layer` and `position` (or `iteration`) as
            whole numbers ("thought" and "all" are text), `structural_zero`, every metric and
            `control_…` of it, NaN where undefined.
        pairs: A row for each pair, by `pair_id`: questions, answers, the control, and what the
            unpatched runs and the ceiling gave (`base.…`, `source.…`, `ceiling.…`).
        results: The same as arrays.
    """

    run: RunDescription
    cells: pd.DataFrame
    pairs: pd.DataFrame
    results: Results

    def grid(self, metric: str = "kl_divergence") -> pd.DataFrame:
        """The mean of a metric over pairs, a row for each layer, a column for each position."""
        keys = ["layer", self.run.grid.column]
        return self.cells.groupby(keys, sort=False)[metric].mean().unstack(sort=False)

    def as_results(self) -> Results:
        """The frames as arrays again, whatever was changed or left out in them.

        Raises:
            ResultsError: A pair does not have every cell exactly once.
        """
        grid, ids = self.run.grid, [str(pair_id) for pair_id in self.pairs.index]
        cells = self.cells[self.cells.pair_id.isin(ids)]
        ids = [pair_id for pair_id in ids if (cells.pair_id == pair_id).any()]
        keys = [(pair_id, layer, column) for pair_id in ids for _, layer, column in grid.cells()]
        layers, columns = (cells[name].astype(str) for name in ("layer", grid.column))
        rows = dict(zip(zip(cells.pair_id, layers, columns), range(len(cells))))
        if len(rows) != len(cells) or rows.keys() != set(keys):
            raise ResultsError("expected each cell of every pair exactly once in `cells`")
        order = [rows[key] for key in keys]

        def arrays(prefix: str) -> dict[str, Array]:
            named = {m: f"{prefix}{m}" for m in self.run.metrics if f"{prefix}{m}" in cells}
            return {
                metric: cells[column].to_numpy(float)[order].reshape(len(ids), *grid.shape)
                for metric, column in named.items()
            }

        described = dict(zip(self.results.pair_ids, self.results.pairs))
        pairs = tuple(_pair_from(self.pairs.loc[i], described[i]) for i in ids)
        return Results(self.run, tuple(ids), pairs, arrays(""), arrays("control_"))


def load_results(folder: str | Path) -> Frames:
    """Read a results folder.

    Args:
        folder: As `--results.dir`.

    Raises:
        ResultsError: There are no whole results in it.
    """
    results = read_results(Path(folder))
    if results.changed:
        warnings.warn(
            f"{', '.join(results.changed)} in {folder} changed since the run wrote it", stacklevel=2
        )
    return as_frames(results)


def as_frames(results: Results) -> Frames:
    """Results as frames."""
    import pandas as pd

    cells = pd.DataFrame(cell_rows(results), columns=cell_columns(results))
    for name in ("layer", results.run.grid.column):
        numbers = [int(key) if key.isdigit() else key for key in cells[name]]
        cells[name] = pd.Series(numbers, dtype=None if _all_whole(numbers) else object)
    rows = [_pair_row(pair) for pair in results.pairs]
    pairs = pd.DataFrame(rows, index=pd.Index(results.pair_ids, name="pair_id"))
    return Frames(results.run, cells, pairs, results)


def _pair_from(row: pd.Series, pair: PairDescription) -> PairDescription:
    """A pair with the numbers of its row."""
    changed: dict[str, Any] = {
        run: {metric: float(row[f"{run}.{metric}"]) for metric in getattr(pair, run)}
        for run in _UNPATCHED
    }
    return replace(pair, group=str(row["group"]), **changed)


def _all_whole(numbers: list[int | str]) -> bool:
    """Whether no name is among them."""
    return all(isinstance(number, int) for number in numbers)


def _pair_row(pair: PairDescription) -> dict[str, object]:
    """A pair in one level of columns."""
    row = {k: v for k, v in vars(pair).items() if k not in (*_UNPATCHED, "control")}
    if pair.control is not None:
        row |= {f"control.{key}": value for key, value in asdict(pair.control).items()}
    for run in _UNPATCHED:
        row |= {f"{run}.{metric}": value for metric, value in getattr(pair, run).items()}
    return row
