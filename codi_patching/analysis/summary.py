"""What a run gave, over pairs: means and intervals of every cell, and the cells that lead.

Two orders are kept apart. Mean KL to the unpatched run says where a patch *disrupts*. The content
effect says where it carries this pair's content: the rise of the probability of the source run's
answer, over the unpatched run and over the control, of which the smaller counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from codi_patching.analysis.bounds import unseen_share
from codi_patching.analysis.effects import content, groups_of
from codi_patching.analysis.groups import by_group
from codi_patching.analysis.intervals import (
    ROUNDING,
    mean_and_deviation,
    mean_intervals,
    median_interval,
    share_of_largest,
)
from codi_patching.results.dataset import CONTROL, OWN, has_control, run_of, structural_of
from codi_patching.results.description import Array

KL = "kl_divergence"
STATISTICS = ("mean", "std", "ci_low", "ci_high", "n")
OVER = {"unpatched": "content_over_unpatched", "control": "content_over_control"}
"""Measures of the content effect, by what it is relative to."""

LEAST_CONTENT = 1e-3
"""Content effects under this are neither ranked nor predicted, in probability."""

_FENCE = 3.0
"""Interquartile ranges beyond the upper quartile (Tukey's outer fence, 1977)."""


@dataclass(frozen=True)
class Summary:
    """One run over its pairs, computed once.

    Attributes:
        label: What sentences call the run: `position, recomputed`.
        data: Its dataset; see `results.dataset`.
        table: An `xarray.Dataset` over (layer, column) with, for each measure (every metric,
            `control_…` of it, `content_over_unpatched`, `content_over_control`), the variables
            `<measure>` with a dimension `statistic`: mean, std, ci_low, ci_high, n; KL has
            `kl_median`, `kl_median_low`, `kl_median_high`, `kl_share_of_largest` too, and
            `content_effect` is the smaller of the two comparisons' means. NaN at structural zeros.
        top_content: Cells of the largest content effect, and all that tie with the last of them,
            in the grid's order where they tie.
        top_kl: Cells of the largest mean KL, in the same way.
        outliers: Pairs whose mean KL is unlike the others': id, value, fence.
    """

    label: str
    data: xr.Dataset
    table: xr.Dataset
    top_content: tuple[tuple[int, int], ...]
    top_kl: tuple[tuple[int, int], ...]
    outliers: tuple[tuple[str, float, float], ...]


def summarise(data: xr.Dataset, label: str, seed: int | None = None, top: int = 5) -> Summary:
    """The summary of a run of patching.

    Args:
        data: Its dataset.
        label: What it is called.
        seed: Of the bootstrap; the run's own if not given.
        top: How many cells lead at least, if so many have an effect.
    """
    table = _table(data, run_of(data).seed if seed is None else seed)
    mean_kl = table[KL].sel(statistic="mean").values
    return Summary(
        label, data, table,
        tuple(rank_cells(table["content_effect"].values, top, LEAST_CONTENT)),
        tuple(rank_cells(mean_kl, top)), _outliers(data),
    )  # fmt: skip


def measures(data: xr.Dataset) -> dict[str, Array]:
    """All that is summarised, `(pairs, layers, columns)`: metrics, controls, content effects."""
    metrics = run_of(data).metrics
    found = {m: np.asarray(data[m].sel(arm=OWN).values, dtype=np.float64) for m in metrics}
    if has_control(data):
        found |= {f"control_{m}": data[m].sel(arm=CONTROL).values for m in metrics}
    return {**found, **{OVER[against]: effect for against, effect in content(data).items()}}


def _table(data: xr.Dataset, seed: int) -> xr.Dataset:
    structural, groups = structural_of(data), groups_of(data)
    statistics = {
        name: _statistics(name, np.where(structural, np.nan, values), groups, seed)
        for name, values in measures(data).items()
    }
    cells = ("layer", "column")
    sides = [statistics[name][..., 0] for name in OVER.values() if name in statistics]
    of_cells = {"content_effect": np.minimum.reduce(sides), **_medians(data)}
    return xr.Dataset(
        {
            **{name: ((*cells, "statistic"), values) for name, values in statistics.items()},
            **{name: (cells, values) for name, values in of_cells.items()},
        },
        {
            "layer": data["layer"], "column": data["column"], "statistic": list(STATISTICS),
            "structural_zero": (cells, structural),
        },
    )  # fmt: skip


def _statistics(measure: str, values: Array, groups: tuple[str, ...], seed: int) -> Array:
    """What is said of a measure, `(layers, columns, statistics)`, of its values over pairs."""
    mean, deviation, count = mean_and_deviation(values)
    smallest, largest = _range(measure)
    low, high = mean_intervals(values, groups, seed)
    low, high = np.clip(low, smallest, largest), np.clip(high, smallest, largest)
    if np.isfinite(smallest):
        alike = np.isnan(low) & (deviation < ROUNDING)
        unseen = unseen_share(0.05, _units(values, groups))
        low = np.where(alike, mean - unseen * (mean - smallest), low)
        high = np.where(alike, mean + unseen * (largest - mean), high)
    return np.stack([mean, deviation, low, high, count], axis=-1)


def _medians(data: xr.Dataset) -> dict[str, Array]:
    """Medians of KL with their exact intervals, and the share of the five largest pairs."""
    names = ("kl_median", "kl_median_low", "kl_median_high", "kl_share_of_largest")
    found = np.full((len(names), *run_of(data).grid.shape), np.nan)
    kl, groups = data[KL].sel(arm=OWN).values, groups_of(data)
    for row, column in np.argwhere(~structural_of(data)):
        values = kl[:, row, column]
        medians = median_interval(values, groups)
        found[:, row, column] = [*medians, share_of_largest(values)]
    return dict(zip(names, found, strict=True))


def _units(values: Array, groups: tuple[str, ...]) -> Array:
    """Groups of pairs that have a value, `(…)` of `(pairs, …)`; 1 at least."""
    present = by_group((~np.isnan(values)).astype(np.float64), groups) > 0
    return np.maximum(present.sum(axis=0), 1)


def _range(measure: str) -> tuple[float, float]:
    """Smallest and largest value that a measure can have."""
    name = measure.removeprefix("control_")
    if name.startswith("predicts_") or name.endswith(("_probability", "_rate")):
        return 0.0, 1.0
    if name.startswith(("content_", "cosine_")):
        return -1.0, 1.0
    return -np.inf, np.inf


def rank_cells(values: Array, count: int, least: float = ROUNDING) -> list[tuple[int, int]]:
    """The cells of a map with the largest values beyond `least`, and those that tie with the last.

    Values that agree to three decimals tie and are in the grid's order: what is less is rounding.

    Example:
        >>> rank_cells(np.array([[0.1, np.nan], [0.0, 0.7]]), 3)
        [(1, 1), (0, 0)]
        >>> rank_cells(np.array([[0.7, 0.2], [0.7, 0.7]]), 1)
        [(0, 0), (1, 0), (1, 1)]
    """
    rounded = np.round(np.nan_to_num(values, nan=-np.inf), 3)
    order = np.argsort(-rounded, axis=None, kind="stable")
    cells = [divmod(int(place), values.shape[1]) for place in order]
    ranked = [cell for cell in cells if values[cell] > least]
    if len(ranked) <= count:
        return ranked
    last = rounded[ranked[count - 1]]
    return [cell for place, cell in enumerate(ranked) if place < count or rounded[cell] == last]


def _outliers(data: xr.Dataset) -> tuple[tuple[str, float, float], ...]:
    """Pairs whose mean KL over cells lies beyond the outer fence, the largest first."""
    kl = np.where(structural_of(data), np.nan, data[KL].sel(arm=OWN).values)
    means = mean_and_deviation(kl.reshape(len(kl), -1).T)[0]
    if not np.isfinite(means).any():
        return ()
    low, high = np.nanpercentile(means, [25, 75])
    fence = float(high + _FENCE * (high - low))
    order = [int(index) for index in np.argsort(-means) if means[index] > fence]
    ids = data["pair"].values
    return tuple((str(ids[index]), float(means[index]), fence) for index in order)
