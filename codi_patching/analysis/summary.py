"""What a run gave, over pairs: means and intervals of every cell, and the cells that lead.

Two orders are kept apart. Mean KL to the unpatched run says where a patch *disrupts*. The content
effect says where it carries this pair's content: the rise of the probability of the source run's
answer, over the unpatched run and over the control, of which the smaller counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from codi_patching.analysis.intervals import (
    ROUNDING,
    mean_and_deviation,
    mean_intervals,
    median_interval,
    share_of_largest,
)
from codi_patching.analysis.verdicts import identical_bounds
from codi_patching.results.layout import put_cell
from codi_patching.results.read import Results
from codi_patching.results.schema import Array, RunDescription

LEAST_CONTENT = 1e-3
"""Content effects under this are not ranked, in probability."""

OVER_UNPATCHED = "content_over_unpatched"
OVER_CONTROL = "content_over_control"

_STATISTICS = ("mean", "std", "ci_low", "ci_high", "n")


def source_probability(run: RunDescription) -> str:
    """The metric that is the probability of the source run's answer."""
    return "clean_probability" if run.clean_is_source else "corrupted_probability"


def content_effect(results: Results) -> tuple[Array, Array | None]:
    """The rise of the probability of the source run's answer in every cell, pair by pair.

    Returns:
        Over the unpatched run, and over the control (None without one), `(pairs, layers, columns)`
        each; structural zeros are NaN.
    """
    metric = source_probability(results.run)
    own = np.where(results.structural, np.nan, results.values[metric])
    restored = own - results.unpatched("base", metric)[:, None, None]
    specific = own - results.control[metric] if results.control else None
    return restored, specific


def content_size(results: Results) -> Array:
    """The content effect of every cell, `(layers, columns)`: the smaller of its two means."""
    means = [mean_and_deviation(part)[0] for part in content_effect(results) if part is not None]
    return np.asarray(np.minimum.reduce(means))


def groups_of(results: Results) -> list[str]:
    """The group of each pair; its own where it has none."""
    return [pair.group or name for name, pair in zip(results.pair_ids, results.pairs)]


def rank_cells(values: Array, count: int, least: float = ROUNDING) -> list[tuple[int, int]]:
    """The cells of a map with the largest values beyond `least`, the largest first.

    Values that agree to three decimals are in the grid's order: what is less is rounding.

    Example:
        >>> rank_cells(np.array([[0.1, np.nan], [0.0, 0.7]]), 3)
        [(1, 1), (0, 0)]
    """
    rounded = np.round(np.nan_to_num(values, nan=-np.inf), 3)
    order = np.argsort(-rounded, axis=None, kind="stable")
    cells = (divmod(int(place), values.shape[1]) for place in order)
    return list(islice((cell for cell in cells if values[cell] > least), count))


def mean_kl(results: Results) -> Array:
    """Mean KL of every cell, `(layers, columns)`, nats; NaN at structural zeros."""
    mean, _, _ = mean_and_deviation(results.values["kl_divergence"])
    return np.where(results.structural, np.nan, mean)


def measures(results: Results) -> dict[str, Array]:
    """All that is summarised, by name: metrics, `control_…` of them, the two content effects."""
    found = {**results.values, **{f"control_{m}": v for m, v in results.control.items()}}
    restored, specific = content_effect(results)
    found[OVER_UNPATCHED] = restored
    if specific is not None:
        found[OVER_CONTROL] = specific
    return found


def aggregate(results: Results, top: int = 5) -> dict[str, Any]:
    """The content of `aggregate.json`.

    Mean, standard deviation, 95 % interval and count over pairs of each measure and cell;
    structural zeros are marked and have none. `kl_divergence` has its median too, with its exact
    interval, and the share that the five largest pairs have in the mean.

    Args:
        results: Of a run.
        top: How many cells to list by mean KL, and by content effect.
    """
    run = results.run
    names = measures(results)
    stacked = np.stack(list(names.values()), axis=1)
    mean, deviation, count = mean_and_deviation(stacked)
    smallest, largest = np.array([_range(name) for name in names]).T[..., None, None]
    groups = groups_of(results)
    low, high = mean_intervals(stacked, groups, run.seed)
    low, high = np.clip(low, smallest, largest), np.clip(high, smallest, largest)
    alike = np.isnan(low) & (deviation < ROUNDING) & np.isfinite(smallest)
    bounds = identical_bounds(mean, _units(stacked, groups), 0.05, smallest, largest)
    low, high = (np.where(alike, end, known) for end, known in zip(bounds, (low, high)))
    table = np.stack([mean, deviation, low, high, count])
    metrics: dict[str, Any] = {}
    for place, name in enumerate(names):
        metrics[name] = _nested(results, table[:, place])
    _add_medians(metrics["kl_divergence"], results)
    size = content_size(results)
    return {
        "experiment": run.experiment,
        "num_pairs": len(results.pair_ids),
        "interval": "95 %, of means the hull of BCa, bootstrap-t and Student's t, or Clopper and "
        "Pearson's bound where all values are alike; of medians exact",
        "top_cells": _listed(rank_cells(mean_kl(results), top), results, metrics, size),
        "top_content": _listed(rank_cells(size, top, LEAST_CONTENT), results, metrics, size),
        "metrics": metrics,
    }


def _units(values: Array, groups: Sequence[str]) -> Array:
    """Groups of pairs that have a value, `(…)` of `(pairs, …)`; 1 at least."""
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    present = ~np.isnan(values)
    return np.maximum(np.sum([present[own].any(axis=0) for own in rows.values()], axis=0), 1)


def _range(measure: str) -> tuple[float, float]:
    """Smallest and largest value that a measure can have."""
    name = measure.removeprefix("control_")
    if name.startswith("predicts_") or name.endswith(("_probability", "_rate")):
        return 0.0, 1.0
    if name.startswith(("content_", "cosine_")):
        return -1.0, 1.0
    return -np.inf, np.inf


def _nested(results: Results, table: Array) -> dict[str, Any]:
    """Statistics `(statistics, layers, columns)` as the files nest cells."""
    cells: dict[str, Any] = {}
    for index, layer, column in results.run.grid.cells():
        numbers = [float(value) for value in table[(slice(None), *index)]]
        cell: dict[str, Any] = dict(zip(_STATISTICS, numbers))
        cell["n"] = int(numbers[-1])
        if results.structural[index]:
            cell = {"structural_zero": True}
        put_cell(cells, results.run.grid, layer, column, cell)
    return cells


def _add_medians(cells: dict[str, Any], results: Results) -> None:
    kl = results.values["kl_divergence"]
    for index, cell in _cells_with_statistics(cells, results.run):
        values = kl[(slice(None), *index)]
        names = ("median", "median_low", "median_high")
        cell |= dict(zip(names, median_interval(values, groups_of(results))))
        cell["share_of_5_largest"] = share_of_largest(values)


def _listed(
    cells: Sequence[tuple[int, int]], results: Results, metrics: Mapping[str, Any], size: Array
) -> list[dict[str, Any]]:
    """Cells by rank, with all that is known of them."""
    grid = results.run.grid
    return [
        {
            "layer": grid.layers[cell[0]],
            grid.column: grid.columns[cell[1]],
            "name": results.run.label(cell),
            "content_effect": float(size[cell]),
            **{name: cell_of(nested, results.run, cell) for name, nested in metrics.items()},
        }
        for cell in cells
    ]


def cell_of(nested: Mapping[str, Any], run: RunDescription, cell: tuple[int, int]) -> Any:
    """The statistics of a cell, from one measure of `aggregate`."""
    layer = nested[run.grid.layers[cell[0]]]
    return layer if run.grid.whole_layers else layer[run.grid.columns[cell[1]]]


def _cells_with_statistics(
    nested: Mapping[str, Any], run: RunDescription
) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    for index, _, _ in run.grid.cells():
        cell = cell_of(nested, run, index)
        if "mean" in cell:
            yield index, cell


def aggregate_rows(summary: Mapping[str, Any], run: RunDescription) -> Iterator[dict[str, Any]]:
    """A row for each measure and cell that can have an effect."""
    grid = run.grid
    for metric, nested in summary["metrics"].items():
        for (row, column), cell in _cells_with_statistics(nested, run):
            yield {
                "metric": metric,
                "layer": grid.layers[row],
                grid.column: grid.columns[column],
                **{name: cell[name] for name in _STATISTICS},
            }


def effects_by_layer(results: Results) -> dict[str, Array]:
    """Mean KL and content effect of each layer, `(layers,)`: the largest over its columns."""
    measured = {"kl_divergence": mean_kl(results), "content_effect": content_size(results)}
    return {
        name: np.array([np.nan if np.isnan(row).all() else np.nanmax(row) for row in values])
        for name, values in measured.items()
    }
