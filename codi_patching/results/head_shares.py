"""What single heads of attention give the thoughts, read from where they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open

from codi_patching.results.dataset import run_of
from codi_patching.results.description import Array, Mask, RunDescription
from codi_patching.results.layout import ACTIVATIONS

DAMAGED_TENSORS = (
    SafetensorError, OSError, IndexError, ValueError, TypeError, AttributeError,
)  # fmt: skip
"""What reading tensors stumbles over: no such file, another shape, a type unknown to numpy."""


def check_heads(shape: Sequence[int], run: RunDescription) -> None:
    """Refuse tensors of another shape than `(readers, L, heads, attended)`.

    Raises:
        ValueError: It is another.
    """
    known = (len(run.readers), len(run.grid.layers), len(run.attended))
    if len(shape) != 4 or (shape[0], shape[1], shape[3]) != known:
        raise ValueError(f"expected heads of {known}, got {tuple(shape)}")


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
                check_heads(kept.get_shape(), run)
                for number in (n for n, mask in enumerate(masks) if mask[place]):
                    own = np.asarray(kept[len(run.readers) - 1], dtype=np.float64)[..., columns]
                    before = sums[number]
                    sums[number] = own if before is None else before + own
    except DAMAGED_TENSORS:
        return None
    found = [s / m.sum() for s, m in zip(sums, masks, strict=True) if s is not None]
    return found if len(found) == len(masks) else None
