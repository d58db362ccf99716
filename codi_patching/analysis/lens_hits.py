"""How often the lens reads the results of reasoning steps, beside another pair's: chance."""

from __future__ import annotations

import numpy as np
import xarray as xr

from codi_patching.analysis.effects import mean_over
from codi_patching.results.dataset import run_of
from codi_patching.results.description import Array


def hits(lens: xr.Dataset) -> tuple[Array, Array]:
    """Whether each step's result is among the lens's top tokens, and another pair's result.

    Returns:
        1 or 0, `(pairs, steps, layers, columns)` each; NaN where there is no such step.
    """
    rank = lens["rank"].transpose("pair", "step", "layer", "column", "arm").values
    top = run_of(lens).top or 1
    found = np.where(np.isfinite(rank), (rank < top).astype(np.float64), np.nan)
    return found[..., 0], found[..., 1]


def hit_rates(lens: xr.Dataset) -> xr.Dataset:
    """`own` and `chance` over (step, layer, column), and `pairs` over step."""
    own, chance = hits(lens)
    cells = ("step", "layer", "column")
    return xr.Dataset(
        {
            "own": (cells, mean_over(own)),
            "chance": (cells, mean_over(chance)),
            "pairs": ("step", np.isfinite(own).any(axis=(2, 3)).sum(axis=0)),
        },
        {name: lens[name] for name in cells},
    )
