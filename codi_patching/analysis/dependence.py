"""Whether effects depend on what is known of the pairs, and how far that explains them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from codi_patching.analysis.groups import sum_rows
from codi_patching.results.description import Array

PERMUTATIONS = 1_999

BIMODAL = 0.05
"""How near to 0 or 1 in size a value has to be to count as one of the two."""

_PART = 2**22
"""Numbers of permuted labels and of their sums that are held at a time."""

Labels = NDArray[np.int_]


def permutation_p(
    effects: Sequence[Array],
    labels: Sequence[Labels],
    blocks: Labels,
    groups: Labels,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> float:
    """P that effects depend on labels, from permutations of the labels within blocks.

    The statistic is the sum over cells and kinds of label of n_g · mean_g² over the labels' values
    g. Pairs of one group with the same labels are averaged first: they are not independent.

    Args:
        effects: `(pairs, cells)`, one for each thing that effects are relative to.
        labels: `(pairs,)` each, one for each kind; all are permuted together. -1 where unknown in
            the first of them: such pairs are left out.
        blocks: `(pairs,)`; labels are permuted within.
        groups: `(pairs,)`.
        seed: Of the permutations.
        permutations: How many.

    Returns:
        The largest p over `effects`, at least 1 / (1 + permutations); NaN where no permutation
        changes anything.
    """
    if not labels:
        return float("nan")
    known = np.flatnonzero(labels[0] >= 0)
    keys = np.stack([blocks, groups, *labels])[:, known]
    units, unit_of, sizes = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    indicator = np.concatenate([_indicator(row) for row in units[2:]])
    permuted_blocks, unit_labels = units[0], units[2:]
    if not any(
        len(np.unique(unit_labels[:, permuted_blocks == block], axis=1).T) > 1
        for block in np.unique(permuted_blocks)
    ):
        return float("nan")
    means = [sum_rows(v[known], unit_of.reshape(-1)) / sizes[:, None] for v in effects]
    observed = [_between(indicator @ values, indicator) for values in means]
    reached = np.zeros(len(means), dtype=int)
    width = max(1, _PART // (len(indicator) * max(len(sizes), *(v.shape[1] for v in means), 1)))
    for drawn in _permuted(indicator, permuted_blocks, seed, permutations, width):
        for place, values in enumerate(means):
            at_least = _between(drawn @ values, indicator) >= observed[place] * (1 - 1e-9)
            reached[place] += int(at_least.sum())
    return float(1 + reached.max()) / (1 + permutations)


def _between(sums: Array, indicator: Array) -> Array:
    """The statistic of sums over each label's pairs, `(…, labels, cells)`."""
    return np.asarray((sums**2 / indicator.sum(1)[:, None]).sum((-2, -1)))


def explained_share(effects: Array, labels: Labels) -> float:
    """Share of the variance over pairs that labels explain (η²), median over cells that vary.

    Args:
        effects: `(pairs, cells)`.
        labels: `(pairs,)`; -1 where unknown.

    Returns:
        0..1; NaN if no cell varies or there is one label.

    Example:
        >>> explained_share(np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([0, 0, 1, 1]))
        1.0
    """
    known = labels >= 0
    values = effects[known]
    if len(np.unique(labels[known])) < 2:
        return float("nan")
    values = values - values.mean(0)
    total = (values**2).sum(0)
    varies = total > 1e-12 * len(values)
    if not varies.any():
        return float("nan")
    indicator = _indicator(labels[known])
    between = ((indicator @ values) ** 2 / indicator.sum(1, keepdims=True)).sum(0)
    return min(float(np.median(between[varies] / total[varies])), 1.0)


def bimodal_share(effects: Array) -> float:
    """Share of values that are 0 or 1 in size, to within `BIMODAL`; NaN without values."""
    sizes = np.abs(effects[np.isfinite(effects)])
    near = np.minimum(sizes, np.abs(sizes - 1)) <= BIMODAL
    return float(near.mean()) if near.size else float("nan")


def _indicator(labels: Labels) -> Array:
    """`(labels, pairs)`: 1 where a pair has the label."""
    return np.equal.outer(np.unique(labels), labels).astype(np.float64)


def _permuted(
    indicator: Array, blocks: Labels, seed: int, permutations: int, width: int
) -> Iterator[Array]:
    """The indicator with its columns permuted within blocks, so many permutations at a time.

    Yields:
        `(permutations, labels, units)`.
    """
    generator = np.random.default_rng(seed)
    by_block = np.argsort(blocks, kind="stable")
    for first in range(0, permutations, width):
        keys = generator.random((min(width, permutations - first), len(blocks)))
        order = np.lexsort((keys, np.broadcast_to(blocks, keys.shape)), axis=1)
        taken = np.empty_like(order)
        taken[:, by_block] = order
        yield np.ascontiguousarray(np.moveaxis(indicator[:, taken], 0, 1))
