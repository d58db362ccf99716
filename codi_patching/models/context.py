"""What a model has read so far, and rows of prompts to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class Context:
    """What has been read so far: the cache and which of its positions are real.

    A context is a value: continuing from it leaves it as it was.

    Attributes:
        cache: Keys and values of every layer.
        mask: `(rows, length)`, 1 at real positions and 0 at padding; None if nothing is padded.
        length: Number of positions in the cache, padding included.
        rows: Batch size.
    """

    cache: DynamicCache | None
    mask: Tensor | None
    length: int
    rows: int

    def expand(self, rows: int) -> Context:
        """The same context for `rows` identical rows; only from a single row."""
        if self.rows != 1:
            raise ValueError(f"expected a context of 1 row to expand, got {self.rows}")
        return replace(self, cache=expanded(self.cache, rows), rows=rows)

    def take(self, rows: Tensor) -> Context:
        """The same context for some of its rows only, by their numbers."""
        mask = None if self.mask is None else self.mask[rows]
        cache = _with_rows(self.cache, lambda kv: kv[rows])
        return replace(self, cache=cache, mask=mask, rows=len(rows))


def expanded(cache: DynamicCache | None, rows: int) -> DynamicCache | None:
    """A cache of one row for several identical ones."""
    return _with_rows(cache, lambda kv: kv.expand(rows, -1, -1, -1))


def _with_rows(
    cache: DynamicCache | None, change: Callable[[Tensor], Tensor]
) -> DynamicCache | None:
    """A cache of its own, with keys and values changed.

    It may share tensors with the first: a forward pass replaces them by longer ones and writes
    into none.
    """
    if cache is None:
        return None
    own = copy(cache)
    own.layers = [copy(layer) for layer in cache.layers]
    for layer in own.layers:
        layer.keys, layer.values = change(layer.keys), change(layer.values)
    return own


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask `(rows, longest)`, padding before the tokens."""
    longest = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, longest - len(sequence) :] = torch.tensor(list(sequence))
        mask[row, longest - len(sequence) :] = 1
    return ids, mask
