"""Pairs and cells that a reader should know of before trusting a mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from codi_patching.analysis.intervals import mean_and_deviation, mean_intervals
from codi_patching.analysis.summary import groups_of
from codi_patching.results.read import Results

_FENCE = 3.0
"""Interquartile ranges beyond the upper quartile (Tukey's outer fence, 1977)."""


@dataclass(frozen=True)
class Outlier:
    """A pair whose mean KL is unlike the others'.

    Attributes:
        pair_id: The pair.
        value: Its mean KL over cells, nats.
        fence: What others stay under.
    """

    pair_id: str
    value: float
    fence: float


def outlier_pairs(results: Results) -> list[Outlier]:
    """Pairs whose mean KL over cells lies beyond the outer fence, the largest first."""
    kl = np.where(results.structural, np.nan, results.values["kl_divergence"])
    means = mean_and_deviation(kl.reshape(len(kl), -1).T)[0]
    if not np.isfinite(means).any():
        return []
    low, high = np.nanpercentile(means, [25, 75])
    fence = float(high + _FENCE * (high - low))
    order = [int(index) for index in np.argsort(-means) if means[index] > fence]
    return [Outlier(results.pair_ids[index], float(means[index]), fence) for index in order]


def negative_cells(results: Results) -> list[tuple[str, float, float, float]]:
    """Cells whose mean recovery is under 0, its interval too: name, mean, interval; worst first."""
    recovery = np.where(results.structural, np.nan, results.values["recovery"])
    mean, _, _ = mean_and_deviation(recovery)
    low, high = mean_intervals(recovery, groups_of(results), results.run.seed)
    cells = [(int(row), int(column)) for row, column in np.argwhere(high < 0)]
    found = [(results.run.label(c), float(mean[c]), float(low[c]), float(high[c])) for c in cells]
    return sorted(found, key=lambda cell: cell[1])
