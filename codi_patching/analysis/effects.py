"""Effects pair by pair: the one place where estimates are made from what was measured.

The content effect takes two comparisons (resample ablation as a control: Heimersheim and Nanda,
arXiv 2404.15255, section 3). Own patch minus unpatched run: does it restore the source answer? Own
patch minus control: is it this pair's content that does? A stranger's activation that only
disrupts makes the second positive where the own patch does nothing; an own patch that only raises
the answer's prior makes the first positive. Both are kept to the end; their minimum is never formed
pair by pair.

Whatever a question asks is a weighted sum of such effects over cells and runs, a `Contrast`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from codi_patching.analysis.findings import Against
from codi_patching.analysis.groups import by_group
from codi_patching.analysis.intervals import ROUNDING
from codi_patching.results.dataset import CONTROL, OWN, has_control, run_of, structural_of
from codi_patching.results.description import Array, RunDescription

Measure = Literal["probability", "hit", "logits"]
"""Of the source run's answer: its probability, whether it is predicted, its logit difference."""

UNITS: Mapping[Measure, str] = {"probability": "probability", "hit": "rate", "logits": "logits"}


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of effects, pair by pair: what one claim is about.

    Attributes:
        name: In words.
        weights: For each role that a run has in the question, `(layers, columns)`.
        layer: Name of the layer, if it is about one.
        column: Name of the position or iteration, if it is about one.
        kind: What is estimated.
        ceilings: For each role, the weight of its run's ceiling.
        either: Whether it may go either way; else only a rise answers what is asked.
        one_base: Whether all of its runs have the same unpatched run, which then cancels.
        step: The reasoning step that it is about, from 1, if it is about one.
        axis: What `column` is, as `Grid` has it.
    """

    name: str
    weights: Mapping[str, Array]
    layer: str | None = None
    column: str | None = None
    kind: str = "content"
    ceilings: Mapping[str, float] = field(default_factory=dict)
    either: bool = False
    one_base: bool = True
    step: int | None = None
    axis: str = "position"

    def reach(self, against: Against) -> float:
        """The largest size that it can have; what effects relative to a run share cancels."""
        parts = [*(np.ravel(w) for w in self.weights.values()), [*self.ceilings.values()]]
        weights = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
        rise, fall = weights[weights > 0].sum(), -weights[weights < 0].sum()
        alone = against == CONTROL or not self.one_base
        return float(rise + fall if alone else max(rise, fall))


@dataclass(frozen=True)
class Effect:
    """Contrasts with their values.

    Attributes:
        contrasts: What is estimated.
        values: Relative to each thing, `(pairs, contrasts)`; NaN where undefined.
        groups: Of each pair.
        unit: Of the values.
        rounding: Values under it count as neither up nor down; means and bounds have them whole.
    """

    contrasts: tuple[Contrast, ...]
    values: Mapping[Against, Array]
    groups: tuple[str, ...]
    unit: str = "probability"
    rounding: float = ROUNDING

    def counted(self, against: Against) -> Array:
        """The values whose signs are counted: 0 within rounding."""
        return without_rounding(self.values[against], self.rounding)

    @property
    def bounded(self) -> bool:
        """Whether values have a largest size."""
        return self.unit != "logits"

    def reach(self, against: Against) -> Array:
        """The largest size of the values, `(contrasts,)`; infinite if there is none."""
        sizes = [c.reach(against) if self.bounded else np.inf for c in self.contrasts]
        return np.array(sizes, dtype=np.float64)


def source_probability(run: RunDescription) -> str:
    """The metric that is the probability of the source run's answer."""
    return "clean_probability" if run.clean_is_source else "corrupted_probability"


def base_probability(run: RunDescription) -> str:
    """The metric that is the probability of the base run's answer."""
    return "corrupted_probability" if run.clean_is_source else "clean_probability"


def metric_of(run: RunDescription, measure: Measure) -> str:
    """The metric that a measure of the source run's answer is in a run."""
    answer = "clean" if run.clean_is_source else "corrupted"
    return {
        "probability": f"{answer}_probability",
        "hit": f"predicts_{answer}",
        "logits": "answer_logit_difference",
    }[measure]


def of_run(data: xr.Dataset, name: str, metric: str) -> Array:
    """A metric of an unpatched run or a ceiling, `(pairs,)`; NaN if it is not known."""
    if f"run_{metric}" not in data:
        return np.full(data.sizes["pair"], np.nan)
    return np.asarray(data[f"run_{metric}"].sel(run=name).values, dtype=np.float64)


def cells_of(data: xr.Dataset, metric: str, arm: str = OWN) -> Array:
    """A metric of every patched run, `(pairs, layers, columns)`."""
    return np.asarray(data[metric].sel(arm=arm).values, dtype=np.float64)


def content(data: xr.Dataset, metric: str | None = None) -> dict[Against, Array]:
    """The content effect of every cell, relative to the unpatched run and to the control.

    Args:
        data: Of a run of patching.
        metric: By default the probability of the source run's answer.

    Returns:
        `(pairs, layers, columns)` each; 0 at structural zeros, where nothing can be.
    """
    metric = metric or source_probability(run_of(data))
    own = cells_of(data, metric)
    found: dict[Against, Array] = {"unpatched": own - of_run(data, "base", metric)[:, None, None]}
    if has_control(data):
        found["control"] = own - cells_of(data, metric, CONTROL)
    zero, sign = structural_of(data), _sign(data, metric)
    return {against: np.where(zero, 0.0, sign * effect) for against, effect in found.items()}


def ceiling_content(data: xr.Dataset, metric: str | None = None) -> dict[Against, Array]:
    """The content effect of the ceiling, `(pairs,)` each; NaN where it was not run."""
    metric = metric or source_probability(run_of(data))
    own, sign = of_run(data, "ceiling", metric), _sign(data, metric)
    found: dict[Against, Array] = {"unpatched": sign * (own - of_run(data, "base", metric))}
    if has_control(data):
        found["control"] = sign * (own - of_run(data, "ceiling_control", metric))
    return found


def base_answer_fall(data: xr.Dataset) -> Array:
    """How far every patch lowers the probability of the base run's own answer.

    Against the unpatched run alone: a stranger's activations destroy what is needed too.

    Returns:
        `(pairs, layers, columns)`; 0 at structural zeros.
    """
    metric = base_probability(run_of(data))
    fall = of_run(data, "base", metric)[:, None, None] - cells_of(data, metric)
    return np.where(structural_of(data), 0.0, fall)


def _sign(data: xr.Dataset, metric: str) -> float:
    """1 if a metric rises as the source run's answer is restored, -1 if it falls."""
    noising = not run_of(data).clean_is_source
    return -1.0 if metric == "answer_logit_difference" and noising else 1.0


def rounding_of(*runs: xr.Dataset) -> float:
    """Differences in probability whose sign is not told: what self-patches show of the precision.

    A KL of k nats moves no probability by more than √(k/2) (Pinsker's inequality); k is the median
    over self-patches, so that no single pair decides for all.
    """
    shown = [data["self_patch"].values for data in runs if "self_patch" in data]
    known = np.concatenate([values[np.isfinite(values)] for values in shown] or [np.empty(0)])
    return max(ROUNDING, float(np.sqrt(np.median(known) / 2)) if len(known) else 0.0)


def effect_of(
    runs: Mapping[str, xr.Dataset],
    contrasts: Sequence[Contrast],
    measure: Measure = "probability",
) -> Effect:
    """The values of contrasts.

    Args:
        runs: By role, over the same pairs; see `align`.
        contrasts: What to estimate.
        measure: Of the source run's answer.
    """
    first, values = next(iter(runs.values())), {}
    parts = {role: content(data, metric_of(run_of(data), measure)) for role, data in runs.items()}
    wholes = {
        role: ceiling_content(data, metric_of(run_of(data), measure)) for role, data in runs.items()
    }
    for against in set.intersection(*(set(part) for part in parts.values())):
        values[against] = sum(
            (
                _weighted(parts[role][against], [c.weights.get(role) for c in contrasts])
                + _weighted(wholes[role][against], [c.ceilings.get(role) for c in contrasts])
                for role in runs
            ),
            np.zeros((first.sizes["pair"], len(contrasts))),
        )
    order: tuple[Against, ...] = ("unpatched", "control")
    kept = {key: without_rounding(values[key]) for key in order if key in values}
    rounding = rounding_of(*runs.values())
    return Effect(tuple(contrasts), kept, groups_of(first), UNITS[measure], rounding)


def _weighted(effects: Array, weights: Sequence[Array | float | None]) -> Array:
    """Sums over cells, `(pairs, contrasts)`; NaN where a cell with a weight is."""
    flat = effects.reshape(len(effects), -1)
    none = np.zeros(flat.shape[1])
    matrix = np.stack([none if w is None else np.ravel(w) for w in weights], axis=1)
    absent = ~np.isfinite(flat)
    sums = np.where(absent, 0.0, flat) @ matrix
    lost = absent.astype(np.float64) @ (matrix != 0) > 0
    return np.where(lost, np.nan, sums)


def without_rounding(values: Array, rounding: float = ROUNDING) -> Array:
    """Differences under `rounding` in size become 0."""
    return np.where(np.abs(values) < rounding, 0.0, values)


def mean_over(values: Array, axis: int = 0) -> Array:
    """Mean along an axis without NaN; NaN where there is nothing else."""
    present = np.isfinite(values)
    count = present.sum(axis=axis)
    total = np.where(present, values, 0.0).sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def mean_error(values: Array, groups: Sequence[str]) -> Array:
    """Standard error of means over pairs, of sums over groups, `(columns,)`; NaN of one group."""
    present = np.isfinite(values)
    rest = by_group(np.where(present, values - mean_over(values), 0.0), groups)
    units = (by_group(present.astype(np.float64), groups) > 0).sum(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = units / (units - 1) * (rest**2).sum(axis=0)
        return np.asarray(np.sqrt(np.where(units > 1, variance, np.nan)) / present.sum(axis=0))


def groups_of(data: xr.Dataset) -> tuple[str, ...]:
    """The group of each pair."""
    return tuple(map(str, data["group"].values))


def align(runs: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Runs over the pairs that all of them have, in the first one's order."""
    first, *others = runs.values()
    known = [set(map(str, data["pair"].values)) for data in others]
    ids = [str(pair) for pair in first["pair"].values if all(str(pair) in ids for ids in known)]
    return {
        role: data if [*map(str, data["pair"].values)] == ids else data.sel(pair=ids)
        for role, data in runs.items()
    }


def able_rows(data: xr.Dataset) -> NDArray[np.int_]:
    """Rows in which some cell can have an effect."""
    return np.flatnonzero(~structural_of(data).all(axis=1))


def end_of(data: xr.Dataset) -> int:
    """The last column in which every layer that can have an effect has one; -1 if there is none.

    A chain's end is the same iteration at every layer.
    """
    able = ~structural_of(data)[able_rows(data)]
    common = np.flatnonzero(able.all(axis=0)) if len(able) else np.empty(0, dtype=int)
    return int(common[-1]) if len(common) else -1
