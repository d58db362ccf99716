"""What stands out in one experiment's results: sentences and lists, computed from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codi_patching.analysis.statistics import (
    Array,
    bootstrap_interval,
    friedman,
    mean_and_deviation,
)

_FENCE = 3.0
"""Interquartile ranges beyond the upper quartile (Tukey's outer fence, 1977)."""


@dataclass(frozen=True)
class Outlier:
    """A pair unlike the others.

    Attributes:
        pair_id: The pair.
        value: Its mean KL over cells, nats.
        fence: What others stay under.
    """

    pair_id: str
    value: float
    fence: float


def cell_label(layer: str, column: str = "", position: str | None = None) -> str:
    """A cell in words: `layer 3, position 2`.

    Example:
        >>> cell_label("3", "position", "2"), cell_label("thought")
        ('layer 3, position 2', 'the thought row')
    """
    name = "the thought row" if layer == "thought" else f"layer {layer}"
    return name if position is None else f"{name}, {column} {position}"


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else f" [{low:.4g}, {high:.4g}]"


def unlike_the_rest(kl: Array, pair_ids: Sequence[str]) -> list[Outlier]:
    """Pairs whose mean KL lies beyond the outer fence, the largest first; `kl` is `(pairs, …)`."""
    means = np.nanmean(kl.reshape(len(kl), -1), axis=1)
    low, high = np.percentile(means, [25, 75])
    fence = float(high + _FENCE * (high - low))
    found = [Outlier(pair_ids[i], float(means[i]), fence) for i in np.argsort(-means)]
    return [outlier for outlier in found if outlier.value > fence]


def negative_cells(
    recovery: Array, structural: NDArray[np.bool_], seed: int
) -> list[tuple[tuple[int, ...], float, float, float]]:
    """Cells whose mean recovery is under 0, its interval too: index, mean, interval."""
    mean, _, _ = mean_and_deviation(recovery)
    low, high = bootstrap_interval(recovery, seed)
    wrong = np.argwhere((high < 0) & ~structural)
    cells = [tuple(int(i) for i in index) for index in wrong]
    found = [(c, float(mean[c]), float(low[c]), float(high[c])) for c in cells]
    return sorted(found, key=lambda cell: cell[1])


def implications(
    kl: Array,
    changed: Array,
    structural: NDArray[np.bool_],
    layers: Sequence[str],
    columns: Sequence[str],
    column: str,
    seed: int,
) -> list[str]:
    """What the effects say of layers and columns.

    Args:
        kl: `(pairs, layers)` or `(pairs, layers, columns)`, nats.
        changed: The prediction change rate, likewise.
        structural: Cells that cannot have an effect, without the pairs.
        layers: Names.
        columns: Names; empty if a layer is one cell.
        column: What a column is.
        seed: Of the bootstrap.
    """
    effects = np.where(structural, 0.0, kl)
    by_layer = effects.reshape(len(kl), len(layers), -1).mean(-1)
    mean = by_layer.mean(0)
    low, high = bootstrap_interval(by_layer, seed)
    top = int(mean.argmax())
    if mean[top] < 1e-6:
        return ["No cell has an effect beyond rounding: nothing can be said of where."]
    blocks = mean[[layer != "thought" for layer in layers]]
    late = blocks[len(blocks) // 2 :].sum() / blocks.sum()
    sentences = [
        f"{cell_label(layers[top]).capitalize()} has the largest mean effect, {mean[top]:.4g} nats"
        f"{_interval(low[top], high[top])}{f' over its {column}s' if columns else ''}; the later "
        f"half of the layers has {late:.0%} of the sum over layers."
    ]
    if columns:
        by_column = effects.mean(1)
        means = by_column.mean(0)
        low, high = bootstrap_interval(by_column, seed)
        order = np.argsort(-means)
        listed = "; ".join(
            f"{columns[i]}: {means[i]:.4g}{_interval(low[i], high[i])}" for i in order
        )
        test = friedman(by_column)
        said = (
            f"they differ (Friedman over pairs, p = {test.p:.3g}, Kendall's W {test.kendall_w:.2f})"
            if test.p is not None and test.p < 0.05
            else "there is no evidence that they differ"
        )
        sentences.append(f"Mean KL over layers, nats, by {column}: {listed}; {said}.")
    strongest = int(effects.mean(0).argmax())
    rate = float(changed.reshape(len(changed), -1)[:, strongest].mean())
    layer, place = divmod(strongest, max(1, len(columns)))
    name = cell_label(layers[layer], column, columns[place] if columns else None)
    sentences.append(
        f"Patching {name} changes the most probable token at {rate:.0%} of the answers' tokens."
    )
    return sentences
