"""What single heads of attention give the thoughts, read from where they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open

from codi_patching.results.dataset import run_of
from codi_patching.results.description import Array, Mask
from codi_patching.results.layout import ACTIVATIONS


def mean_by_head(data: xr.Dataset, masks: Sequence[Mask]) -> list[Array] | None:
    """What each head of the token before the answer gives each thought, mean over pairs.

    One pair is in memory at a time.

    Args:
        data: Of attention.
        masks: Over its pairs, each with a pair.

    Returns:
        For each mask `(L, heads, K)`; None where the results keep no heads, or no readable ones.
    """
    run, folder = run_of(data), data.attrs["folder"]
    if folder is None or not (Path(folder) / ACTIVATIONS).is_file():
        return None
    columns = [run.attended.index(name) for name in run.grid.columns]
    sums: list[Array | None] = [None] * len(masks)
    try:
        with safe_open(Path(folder) / ACTIVATIONS, "numpy") as file:
            for place, pair_id in enumerate(data["pair"].values):
                kept = file.get_slice(str(pair_id))
                for number in (n for n, mask in enumerate(masks) if mask[place]):
                    own = np.asarray(kept[len(run.readers) - 1], dtype=np.float64)[..., columns]
                    before = sums[number]
                    sums[number] = own if before is None else before + own
    except (SafetensorError, OSError, IndexError, ValueError):
        return None
    found = [s / m.sum() for s, m in zip(sums, masks, strict=True) if s is not None]
    return found if len(found) == len(masks) else None
