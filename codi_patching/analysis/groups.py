"""Sums over pairs that belong together, without a matrix of pairs by groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codi_patching.results.description import Array


def by_group(values: Array, groups: Sequence[str]) -> Array:
    """Sums over the pairs of each group, in order of first appearance, `(groups, …)`.

    Args:
        values: `(pairs, …)`.
        groups: Of each pair.

    Example:
        >>> by_group(np.array([[1.0], [2.0], [4.0]]), ["b", "a", "b"]).tolist()
        [[5.0], [2.0]]
    """
    places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    return sum_rows(values, np.array([places[group] for group in groups], dtype=np.int_))


def sum_rows(values: Array, index: NDArray[np.int_]) -> Array:
    """Sums of the rows that share an index, `(indices, …)`.

    Args:
        values: `(rows, …)`.
        index: Of each row: 0, 1, …, none of which is left out.
    """
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    return np.asarray(np.add.reduceat(values[order], starts, axis=0))
