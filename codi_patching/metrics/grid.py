"""The metrics of a pair's grid, accumulated over pairs: torchmetrics whose state is the grid.

`metric(…)` takes all cells of one pair at once, returns that pair's map and adds it to the mean;
`compute()` gives the mean map over the pairs. States are sums, so ranks reduce by themselves.

The runs of one pair, as keyword arguments that each metric picks from (`patched` runs have a
leading dimension of cells; `m` and `n` are the numbers of tokens of the two answers):

    patched_own      (cells, m, vocabulary)  teacher-forced on the answer of the patched question
    patched_other    (cells, n, vocabulary)  teacher-forced on the answer of the giving question
    baseline_own     (m, vocabulary)         the patched question without patches
    baseline_other   (n, vocabulary)         the same, on the other answer
    giving_own, giving_other                 the run that gives the activations, on both answers
    own_ids, other_ids                       (m,), (n,) token ids of the two answers

With denoising, "own" is the corrupted answer and "other" the clean one. Iterative patching adds

    generated        (cells, hidden)  what an iteration's run made at (layer, next position)
    giving_there     (cells, hidden)  the giving run's activation there
    baseline_there   (cells, hidden)  the baseline's

NaN in the last iteration, after which there is no position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from codi_patching.metrics import functional as F


class GridMetric(Metric):
    """Mean over pairs of a value for each cell; NaN values are left out of that cell's mean.

    Args:
        shape: Shape of the grid, such as `(16, 5)`.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        zeros = torch.zeros(self.shape, dtype=torch.float64)
        self.add_state("total", zeros, dist_reduce_fx="sum")
        self.add_state("count", zeros.clone(), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def _apply(self, fn: Callable[..., Any], *args: Any) -> GridMetric:
        """Move, but keep sums in float64 when a model around the metric is cast to bf16."""
        super()._apply(fn, *args)
        for name in ("total", "count"):
            setattr(self, name, getattr(self, name).double())
            self._defaults[name] = self._defaults[name].double()
        return self

    def add(self, values: Tensor) -> None:
        """Add one pair's value for each cell, in the grid's order.

        Raises:
            ValueError: There are more or fewer values than cells.
        """
        if values.numel() != self.total.numel():
            raise ValueError(
                f"expected a value for each of {self.total.numel()} cells, got {values.numel()}"
            )
        grid = values.detach().to(self.total).reshape(self.shape)
        self.total = self.total + grid.nan_to_num(0.0)
        self.count = self.count + (~grid.isnan())

    def recall(self, values: Tensor) -> None:
        """Add one pair whose values are known already, as `add`."""
        self.add(values)
        self._update_count += 1  # else torchmetrics warns that nothing was ever added

    def compute(self) -> Tensor:
        """The mean map; NaN where no pair had a value."""
        return self.total / self.count


class KLDivergence(GridMetric):
    """`compute_kl_divergence` of patched and baseline runs, in nats."""

    def update(self, patched_own: Tensor, baseline_own: Tensor) -> None:
        """Add one pair."""
        self.add(F.compute_kl_divergence(patched_own, baseline_own))


class L2Difference(GridMetric):
    """`compute_l2_difference` of patched and baseline runs, in logits."""

    def update(self, patched_own: Tensor, baseline_own: Tensor) -> None:
        """Add one pair."""
        self.add(F.compute_l2_difference(patched_own, baseline_own))


class PredictionChangeRate(GridMetric):
    """`compute_prediction_change_rate` of patched and baseline runs, 0 to 1."""

    def update(self, patched_own: Tensor, baseline_own: Tensor) -> None:
        """Add one pair."""
        self.add(F.compute_prediction_change_rate(patched_own, baseline_own))


class AnswerLogitDifference(GridMetric):
    """`compute_answer_logit_difference` of the patched runs, in logits."""

    def update(
        self, patched_own: Tensor, patched_other: Tensor, own_ids: Tensor, other_ids: Tensor
    ) -> None:
        """Add one pair."""
        self.add(F.compute_answer_logit_difference(patched_other, other_ids, patched_own, own_ids))


class KLToClean(GridMetric):
    """KL of the giving run's distribution from the patched runs', in nats; 0 = fully restored."""

    def update(self, patched_other: Tensor, giving_other: Tensor) -> None:
        """Add one pair."""
        self.add(F.compute_kl_divergence(giving_other, patched_other))


class Recovery(GridMetric):
    """`compute_recovery` of the patched runs; 1 = fully restored."""

    def update(
        self,
        patched_own: Tensor,
        patched_other: Tensor,
        baseline_own: Tensor,
        baseline_other: Tensor,
        giving_own: Tensor,
        giving_other: Tensor,
        own_ids: Tensor,
        other_ids: Tensor,
    ) -> None:
        """Add one pair."""
        patched, corrupted, clean = (
            F.compute_answer_logit_difference(other, other_ids, own, own_ids)
            for other, own in (
                (patched_other, patched_own),
                (baseline_other, baseline_own),
                (giving_other, giving_own),
            )
        )
        self.add(F.compute_recovery(patched, corrupted, clean))


class PredictsClean(GridMetric):
    """Whether the patched run's answer is the giving question's."""

    def update(self, patched_other: Tensor, other_ids: Tensor) -> None:
        """Add one pair."""
        self.add(F.compute_predicts(patched_other, other_ids))


class PredictsCorrupted(GridMetric):
    """Whether the patched run's answer is still its own."""

    def update(self, patched_own: Tensor, own_ids: Tensor) -> None:
        """Add one pair."""
        self.add(F.compute_predicts(patched_own, own_ids))


GRID_METRICS: dict[str, type[GridMetric]] = {
    "kl_divergence": KLDivergence,
    "l2_difference": L2Difference,
    "prediction_change_rate": PredictionChangeRate,
    "answer_logit_difference": AnswerLogitDifference,
    "kl_to_clean": KLToClean,
    "recovery": Recovery,
    "predicts_clean": PredictsClean,
    "predicts_corrupted": PredictsCorrupted,
}


class CosineToClean(GridMetric):
    """`compute_cosine_similarity` of the generated activation to the giving run's there."""

    def update(self, generated: Tensor, giving_there: Tensor) -> None:
        """Add one pair."""
        self.add(F.compute_cosine_similarity(generated, giving_there))


class CosineToCorrupted(GridMetric):
    """`compute_cosine_similarity` of the generated activation to the baseline's there."""

    def update(self, generated: Tensor, baseline_there: Tensor) -> None:
        """Add one pair."""
        self.add(F.compute_cosine_similarity(generated, baseline_there))


ITERATIVE_METRICS: dict[str, type[GridMetric]] = {
    **GRID_METRICS,
    "cosine_to_clean": CosineToClean,
    "cosine_to_corrupted": CosineToCorrupted,
}


def grid_metrics(
    shape: Sequence[int], metrics: Mapping[str, type[GridMetric]] = GRID_METRICS
) -> MetricCollection:
    """Metrics over a grid. Compute groups would merge metrics that start out equal."""
    return MetricCollection(
        {name: metric(shape) for name, metric in metrics.items()}, compute_groups=False
    )
