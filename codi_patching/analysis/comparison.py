"""What layer, position and iterative patching say together, as pure functions on arrays.

Three questions are about pairs of arms, each paired over question pairs: an iterative chain's last
iteration against layer patching; a latent position against another; the sum of single-position
effects against all positions at once. p-values are corrected by Holm's method over the layers, or
the pairs of positions, that are compared. Structural zeros take no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codi_patching.analysis.statistics import (
    Array,
    Paired,
    compare_paired,
    correlate_means,
    fit_line,
    friedman,
    holm,
    mean_and_deviation,
    predict_left_out,
)

COMPARED = (
    "kl_divergence",
    "answer_logit_difference",
    "recovery",
    "prediction_change_rate",
    "predicts_clean",
    "predicts_corrupted",
)
"""Metrics of which an iterative chain's end is compared with layer patching."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Arm:
    """The results of one experiment.

    Attributes:
        name: `layer`, `position`, `relay`, `cumulative`.
        latents: `frozen` or `recomputed`.
        layers: Names of the grid's rows, those of all arms.
        columns: Names of its columns; empty if a layer is one cell.
        values: For each metric `(pairs, layers, columns)`, `(pairs, layers)` without columns.
        structural: Cells that cannot have an effect, in the grid's shape.
    """

    name: str
    latents: str
    layers: tuple[str, ...]
    columns: tuple[str, ...]
    values: Mapping[str, Array]
    structural: Mask

    def known(self, metric: str) -> Array:
        """A metric without structural zeros, which become NaN."""
        return np.where(self.structural, np.nan, self.values[metric])

    def end(self) -> Arm:
        """Of a chain, its last iteration: one cell a layer."""
        last = {metric: values[..., -1] for metric, values in self.values.items()}
        return replace(self, columns=(), values=last, structural=self.structural[..., -1])


def same_by_construction(first: Arm, second: Arm) -> bool:
    """Whether two arms run the same patches.

    Layer patching with recomputed latents and the end of a cumulative chain do.
    """
    kinds = {first.name, second.name}
    return kinds == {"layer", "cumulative"} and first.latents == second.latents


def compare_with_parallel(
    chain: Arm, layer: Arm, seed: int, rounding: float
) -> dict[str, dict[str, Any]]:
    """An iterative chain's last iteration minus layer patching, by metric: layers and overall.

    Overall is the mean over those layers that both have, for each pair.
    """
    end = chain.end()
    both = ~(end.structural | layer.structural)
    compared: dict[str, dict[str, Any]] = {}
    for metric in COMPARED:
        first, second = end.values[metric], layer.values[metric]
        tests = [
            compare_paired(first[:, i], second[:, i], seed, rounding) if both[i] else Paired(0)
            for i in range(len(layer.layers))
        ]
        overall = compare_paired(_mean(first[:, both]), _mean(second[:, both]), seed, rounding)
        compared[metric] = {
            "overall": asdict(overall),
            "layers": _corrected(layer.layers, tests),
        }
    return compared


def compare_positions(position: Arm, seed: int, rounding: float) -> dict[str, Any]:
    """Whether latent positions differ, by KL: over all layers, and in each.

    Overall each pair has for each position the mean over layers. Positions are then compared two by
    two, those of a layer only where they differ at all.
    """
    values = position.known("kl_divergence")
    per_position = np.stack([_mean(values[:, :, k]) for k in range(values.shape[2])], axis=1)
    layers = {}
    tests = [friedman(_drop_structural(values[:, i]), rounding) for i in range(values.shape[1])]
    for name, index, test, p in zip(
        position.layers, range(len(tests)), tests, holm([t.p for t in tests])
    ):
        layers[name] = {
            **asdict(test),
            "p_holm": p,
            "pairs": _two_by_two(values[:, index], position.columns, seed, rounding),
        }
    means = {c: _summary(per_position[:, k], seed) for k, c in enumerate(position.columns)}
    return {
        "means": means,
        "friedman": asdict(friedman(_drop_structural(per_position), rounding)),
        "pairs": _two_by_two(per_position, position.columns, seed, rounding),
        "layers": layers,
    }


def compare_shares(position: Arm, seed: int, rounding: float) -> list[dict[str, Any]]:
    """Whether early and late layers rely on different positions.

    For each pair the share of each position in the KL of all positions, in the lower and in the
    upper half of the layers; lower minus upper.
    """
    values = np.nan_to_num(position.known("kl_divergence"))
    middle = values.shape[1] // 2
    halves = []
    for half in (values[:, :middle], values[:, middle:]):
        total = half.sum((1, 2))[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            halves.append(half.sum(1) / np.where(total > 0, total, np.nan))
    tests = [
        compare_paired(halves[0][:, k], halves[1][:, k], seed, rounding)
        for k in range(len(position.columns))
    ]
    return _corrected(position.columns, tests, key="position")


def compare_halves(values: Array, seed: int, rounding: float) -> dict[str, Any]:
    """Lower half minus upper half along the last axis, `(pairs, points)`; NaN is left out."""
    middle = values.shape[1] // 2
    upper = values.shape[1] - middle
    return asdict(
        compare_paired(_mean(values[:, :middle]), _mean(values[:, upper:]), seed, rounding)
    )


def describe_chains(chain: Arm, seed: int, rounding: float) -> list[dict[str, Any]]:
    """How KL goes along each layer's chain: compounds, saturates, fades or stays as it is.

    `last_first`: the last iteration that can have an effect minus the first; `last_step`: minus the
    one before it. Corrected over layers. A chain compounds if both are up, saturates if only the
    first is, fades if it is down; else there is no evidence of a change.
    """
    values = chain.known("kl_divergence")
    whole, step = [], []
    for index in range(values.shape[1]):
        own = values[:, index, ~chain.structural[index]]
        whole.append(compare_paired(own[:, -1], own[:, 0], seed, rounding))
        before = own[:, -2] if own.shape[1] > 1 else own[:, -1]
        step.append(compare_paired(own[:, -1], before, seed, rounding))
    rows = _corrected(chain.layers, whole)
    for row, test, p in zip(rows, step, holm([t.p_wilcoxon for t in step])):
        row["last_step"] = {**asdict(test), "p_wilcoxon_holm": p}
        row["verdict"] = _verdict(row)
    return rows


def _verdict(row: Mapping[str, Any]) -> str:
    changed = _shown(row)
    if changed is None:
        return "no evidence of a change"
    if changed < 0:
        return "fades"
    return "compounds" if (_shown(row["last_step"]) or 0) > 0 else "saturates"


def _shown(test: Mapping[str, Any], level: float = 0.05) -> float | None:
    """The difference, if the corrected signed-rank test shows one."""
    p = test["p_wilcoxon_holm"]
    return test["difference"] if p is not None and p < level else None


def compare_sums(
    position: Arm, whole: Arm, unpatched: Array, seed: int, rounding: float
) -> dict[str, Any]:
    """The sum of single-position effects against all positions at once, with the same latents.

    Effects are KL, and the change of the answer logit difference, which adds up in a linear model.

    Args:
        position: Single positions.
        whole: All positions at once, one cell a layer.
        unpatched: Each pair's answer logit difference without patches, `(pairs,)`.
        seed: Of the bootstrap.
        rounding: See `agree`.

    Returns:
        For each effect: the line of the whole over the sum, over all pairs and layers; and for each
        layer the paired comparison, sum minus whole.
    """
    if position.latents != whole.latents:
        raise ValueError(
            f"expected the same latents, got {position.latents} and {whole.latents}: sums of "
            "frozen effects say nothing about recomputed ones"
        )
    effects = {}
    for name in ("kl_divergence", "answer_logit_difference"):
        shift = unpatched if name == "answer_logit_difference" else np.zeros(len(unpatched))
        singles = np.where(position.structural, 0.0, position.values[name] - shift[:, None, None])
        total = singles.sum(-1)
        together = whole.values[name] - shift[:, None]
        keep = ~whole.structural
        tests = [
            compare_paired(total[:, i], together[:, i], seed, rounding) if keep[i] else Paired(0)
            for i in range(len(position.layers))
        ]
        line = fit_line(total[:, keep].ravel(), together[:, keep].ravel())
        layers = _corrected(position.layers, tests)
        effects[name] = {
            "line": asdict(line),
            "layers": layers,
            "breaks_at": [row["layer"] for row in layers if _shown(row) is not None],
        }
    return effects


def predict_layers(position: Arm, layer: Arm, seed: int) -> dict[str, Any]:
    """How well a layer's KL is predicted from its single positions' in pairs left out."""
    keep = ~layer.structural
    predictors = np.nan_to_num(position.known("kl_divergence"))[:, keep]
    target = layer.values["kl_divergence"][:, keep]
    return asdict(predict_left_out(predictors, target, seed))


def correlate_criticality(layer: Arm, chain: Arm, seed: int) -> dict[str, Any]:
    """Rank correlation, over layers, of layer patching's mean KL with the chain's last one."""
    end = chain.end()
    both = ~(end.structural | layer.structural)
    first, second = (arm.values["kl_divergence"][:, both] for arm in (layer, end))
    return asdict(correlate_means(first, second, seed))


def compare_arms(
    arms: Mapping[str, Arm], unpatched: Array, seed: int, rounding: float
) -> dict[str, Any]:
    """Everything that can be said of the arms there are.

    Args:
        arms: By name: `layer`, `position`, and `relay`, `cumulative` or both.
        unpatched: Each pair's answer logit difference without patches, `(pairs,)`.
        seed: Of the bootstrap.
        rounding: See `agree`.
    """
    layer, position = arms["layer"], arms["position"]
    chains = {name: arms[name] for name in ("relay", "cumulative") if name in arms}
    wholes = [layer, *(chain.end() for chain in chains.values() if chain.name == "cumulative")]
    additivity = {}
    for whole in wholes:
        if whole.latents == position.latents:
            additivity[whole.name] = compare_sums(position, whole, unpatched, seed, rounding)
    layer_kl = layer.known("kl_divergence")
    position_kl = position.known("kl_divergence")
    by_position = np.stack([_mean(position_kl[:, :, k]) for k in range(position_kl.shape[2])], 1)
    return {
        "iterative_against_parallel": {
            name: {
                "same_by_construction": same_by_construction(chain, layer),
                "metrics": compare_with_parallel(chain, layer, seed, rounding),
            }
            for name, chain in chains.items()
        },
        "positions": compare_positions(position, seed, rounding),
        "shares_of_early_and_late_layers": compare_shares(position, seed, rounding),
        "early_against_late": {
            "layers": compare_halves(layer_kl, seed, rounding),
            "positions": compare_halves(by_position, seed, rounding),
        },
        "chains": {name: describe_chains(c, seed, rounding) for name, c in chains.items()},
        "additivity": additivity,
        "prediction_of_layers_from_positions": predict_layers(position, layer, seed),
        "criticality_and_chain": {
            name: correlate_criticality(layer, chain, seed) for name, chain in chains.items()
        },
    }


def _mean(values: Array) -> Array:
    """Mean over the last axis without NaN."""
    return mean_and_deviation(np.moveaxis(values, -1, 0))[0]


def _drop_structural(values: Array) -> Array:
    """Without the conditions, `(pairs, conditions)`, that no pair has a value for."""
    return values[:, np.isfinite(values).any(0)]


def _summary(values: Array, seed: int) -> dict[str, float | None]:
    test = compare_paired(values, np.zeros_like(values), seed)
    return {"mean": test.first, "ci_low": test.ci_low, "ci_high": test.ci_high}


def _two_by_two(
    values: Array, columns: Sequence[str], seed: int, rounding: float
) -> list[dict[str, Any]]:
    """Every column against every later one, `(pairs, columns)`, corrected over them."""
    chosen = list(combinations(range(len(columns)), 2))
    tests = [compare_paired(values[:, a], values[:, b], seed, rounding) for a, b in chosen]
    names = [f"{columns[a]} − {columns[b]}" for a, b in chosen]
    return _corrected(names, tests, key="positions")


def _corrected(
    names: Sequence[str], tests: Sequence[Paired], key: str = "layer"
) -> list[dict[str, Any]]:
    """Tests as rows, with p-values corrected over them."""
    p_t, p_wilcoxon = holm([t.p_t for t in tests]), holm([t.p_wilcoxon for t in tests])
    return [
        {key: name, **asdict(test), "p_t_holm": a, "p_wilcoxon_holm": b}
        for name, test, a, b in zip(names, tests, p_t, p_wilcoxon, strict=True)
    ]
