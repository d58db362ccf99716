"""Results as pandas frames, for notebooks."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Frames:
    """Results of a folder.

    Attributes:
        metadata: What was run.
        cells: A row for each pair and cell: `pair_id`, `layer` and `position` (or `iteration`) as
            text, `structural_zero`, and every metric, NaN where undefined.
        pairs: A row for each pair, by `pair_id`: questions, answers, and what the unpatched runs
            gave (`baseline.…`, `giving.…`).
        aggregate: A row for each metric and cell that can have an effect: mean, deviation, 95 %
            bootstrap interval over pairs.
    """

    metadata: dict[str, Any]
    cells: pd.DataFrame
    pairs: pd.DataFrame
    aggregate: pd.DataFrame

    def grid(self, metric: str = "kl_divergence") -> pd.DataFrame:
        """The mean of a metric over pairs, a row for each layer, a column for each position."""
        grid = self.metadata["grid"]
        means = self.cells.groupby(["layer", grid["column"]], sort=False)[metric].mean()
        return means.unstack(sort=False).loc[grid["layers"]]


def load_results(folder: str | Path) -> Frames:
    """Read a results folder.

    Args:
        folder: As `--results.dir`.

    Raises:
        ResultsError: There are no whole results in it.
    """
    import pandas as pd

    from codi_patching.data.results import aggregate_rows, read_results

    folder = Path(folder)
    results = read_results(folder)
    if results.changed:
        warnings.warn(
            f"{', '.join(results.changed)} in {folder} changed since the run wrote it", stacklevel=2
        )
    column = results.metadata["grid"]["column"]
    text = dict.fromkeys(("pair_id", "layer", column), str)
    cells = pd.read_csv(folder / "results.csv", dtype=text, keep_default_na=False, na_values=[""])
    pairs = pd.json_normalize([results.baseline[pair] for pair in results.pair_ids])
    pairs.index = pd.Index(results.pair_ids, name="pair_id")
    summary = json.loads((folder / "aggregate.json").read_text(encoding="utf-8"))
    rows = [
        {"metric": metric, "layer": layer, column: position, **cell}
        for metric, layer, position, cell in aggregate_rows(summary)
    ]
    return Frames(results.metadata, cells, pairs, pd.DataFrame(rows))
