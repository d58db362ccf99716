"""Effects pair by pair: what a patch does against the unpatched run and against the control.

The content effect takes two comparisons (resample ablation as a control: Heimersheim and Nanda,
arXiv 2404.15255, section 3). Own patch minus unpatched run: does it restore the source answer? Own
patch minus control: is it this pair's content that does? A stranger's activation that only
disrupts makes the second positive where the own patch does nothing; an own patch that only raises
the answer's prior makes the first positive. Both are kept to the end; their minimum is never formed
pair by pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codi_patching.analysis.arms import Arm, Array, Mask
from codi_patching.analysis.intervals import ROUNDING


@dataclass(frozen=True)
class Comparisons:
    """The two comparisons of one effect, or of one contrast of effects.

    Attributes:
        restored: Own patch minus unpatched run, `(pairs, …)`.
        specific: Own patch minus control, the same shape; None without a control.
    """

    restored: Array
    specific: Array | None

    def apply(self, change: Callable[[Array], Array]) -> Comparisons:
        """The same linear map applied to both comparisons."""
        specific = None if self.specific is None else change(self.specific)
        return Comparisons(change(self.restored), specific)

    def minus(self, other: Comparisons) -> Comparisons:
        """This effect minus another, pair by pair; without a control if either has none."""
        specific = None
        if self.specific is not None and other.specific is not None:
            specific = self.specific - other.specific
        return Comparisons(self.restored - other.restored, specific)

    def columns(self, keep: Mask) -> Comparisons:
        """The columns of `(pairs, …)` that a mask keeps, as `(pairs, kept)`."""
        return self.apply(lambda values: values[:, keep])


def content(arm: Arm, metric: str | None = None, structural: float = np.nan) -> Comparisons:
    """The content effect of every cell, `(pairs, layers, columns)`.

    Args:
        arm: The experiment.
        metric: By default the probability of the source run's answer.
        structural: What stands in cells that cannot have an effect.
    """
    metric = metric or arm.probability
    own = arm.values[metric]
    specific = own - arm.control_values[metric] if arm.has_control(metric) else None
    effect = Comparisons(own - arm.base[metric][:, None, None], specific)
    return effect.apply(lambda values: np.where(arm.structural, structural, values))


def ceiling_content(arm: Arm) -> Comparisons | None:
    """The content effect of the ceiling, `(pairs,)`; None if it was not run."""
    metric = arm.probability
    if metric not in arm.ceiling:
        return None
    own = arm.ceiling[metric]
    specific = None
    if arm.control != "none" and metric in arm.ceiling_control:
        specific = own - arm.ceiling_control[metric]
    return Comparisons(own - arm.base[metric], specific)


def sign(arm: Arm, metric: str) -> float:
    """1 if a metric rises as the source run's answer is restored, -1 if it falls."""
    return -1.0 if metric == "answer_logit_difference" and arm.direction == "noising" else 1.0


def logit_span(arm: Arm) -> float:
    """Mean distance of the two unpatched runs in answer logit difference, in logits."""
    metric = "answer_logit_difference"
    spans = np.abs(arm.source_run[metric] - arm.base[metric])
    return float(np.nanmean(spans)) if np.isfinite(spans).any() else float("nan")


def mean_over(values: Array, axis: int) -> Array:
    """Mean along an axis without NaN; NaN where there is nothing else."""
    present = np.isfinite(values)
    count = present.sum(axis=axis)
    total = np.where(present, values, 0.0).sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def without_rounding(values: Array) -> Array:
    """Differences under `ROUNDING` in size become 0."""
    return np.where(np.abs(values) < ROUNDING, 0.0, values)
