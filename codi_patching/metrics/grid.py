"""The metrics of a pair's grid, accumulated over pairs: torchmetrics whose state is the grid.

`metric(inputs)` takes all cells of one pair at once, returns that pair's map and adds it to the
mean; `compute()` gives the mean map over the pairs. States are sums, so ranks reduce by themselves.
`metric.rows(inputs)` gives the value of each patched run and adds nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from codi_patching.metrics import functional as F
from codi_patching.metrics.inputs import AnswerLogits, MetricInputs


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
        """Move, but keep sums as wide as the device allows when a model around is cast to bf16."""
        self._widen(fn(torch.empty(0)).device)  # before the move: MPS takes no float64
        super()._apply(fn, *args)
        self._widen(self.total.device)
        return self

    def _widen(self, device: torch.device) -> None:
        """Make sums as wide as a device allows."""
        dtype = F.widest_float(device)
        for name in ("total", "count"):
            setattr(self, name, getattr(self, name).to(dtype))
            self._defaults[name] = self._defaults[name].to(dtype)

    @staticmethod
    @abstractmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """The value of each patched run, `(rows,)`."""

    def update(self, inputs: MetricInputs) -> None:
        """Add one pair."""
        self.add(self.rows(inputs))

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

    def load_cached(self, values: Tensor) -> None:
        """Add one pair whose values are known already, as `add`."""
        self.add(values)
        self._update_count += 1  # else torchmetrics warns that nothing was ever added

    def compute(self) -> Tensor:
        """The mean map; NaN where no pair had a value."""
        return self.total / self.count


class KLDivergence(GridMetric):
    """`compute_kl_divergence` of patched and base runs at the base answer, in nats."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return F.compute_kl_divergence(inputs.patched.base, inputs.base_run.base)


class L2Difference(GridMetric):
    """`compute_l2_difference` of patched and base runs at the base answer, in logits."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return F.compute_l2_difference(inputs.patched.base, inputs.base_run.base)


class PredictionChangeRate(GridMetric):
    """`compute_prediction_change_rate` of patched and base runs at the base answer, 0 to 1."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return F.compute_prediction_change_rate(inputs.patched.base, inputs.base_run.base)


def answer_logit_difference(inputs: MetricInputs, logits: AnswerLogits) -> Tensor:
    """`compute_answer_logit_difference`, clean minus corrupted, whatever the direction."""
    clean, corrupted = inputs.answer(True, logits), inputs.answer(False, logits)
    return F.compute_answer_logit_difference(*clean, *corrupted)


class AnswerLogitDifference(GridMetric):
    """`compute_answer_logit_difference` of the patched runs, clean minus corrupted, in logits."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return answer_logit_difference(inputs, inputs.patched)


class KLToSource(GridMetric):
    """KL of the source run's distribution from the patched runs', in nats; 0 = fully restored."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return F.compute_kl_divergence(inputs.source_run.source, inputs.patched.source)


class Recovery(GridMetric):
    """`compute_recovery` of the patched runs; 1 = fully restored."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        runs = (inputs.patched, inputs.base_run, inputs.source_run)
        return F.compute_recovery(*(answer_logit_difference(inputs, run) for run in runs))


class PredictsClean(GridMetric):
    """Whether the patched run answers as the clean question does."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return F.compute_predicts(*inputs.answer(True, inputs.patched))


class PredictsCorrupted(GridMetric):
    """Whether the patched run answers as the corrupted question does."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return F.compute_predicts(*inputs.answer(False, inputs.patched))


class CleanProbability(GridMetric):
    """`compute_answer_probability` of the pair's clean answer, 0 to 1."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return F.compute_answer_probability(*inputs.answer(True, inputs.patched))


class CorruptedProbability(GridMetric):
    """`compute_answer_probability` of the pair's corrupted answer, 0 to 1."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return F.compute_answer_probability(*inputs.answer(False, inputs.patched))


GRID_METRICS: dict[str, type[GridMetric]] = {
    "kl_divergence": KLDivergence,
    "l2_difference": L2Difference,
    "prediction_change_rate": PredictionChangeRate,
    "answer_logit_difference": AnswerLogitDifference,
    "kl_to_source": KLToSource,
    "recovery": Recovery,
    "predicts_clean": PredictsClean,
    "predicts_corrupted": PredictsCorrupted,
    "clean_probability": CleanProbability,
    "corrupted_probability": CorruptedProbability,
}


def _cosine(inputs: MetricInputs, clean: bool) -> Tensor:
    generated = inputs.generated
    if generated is None:
        raise ValueError("expected the generated activations of iterative patching, got none")
    there = generated.source if clean == inputs.clean_is_source else generated.base
    return F.compute_cosine_similarity(generated.made, there)


class CosineToClean(GridMetric):
    """`compute_cosine_similarity` of the generated activation to the clean run's there."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return _cosine(inputs, clean=True)


class CosineToCorrupted(GridMetric):
    """`compute_cosine_similarity` of the generated activation to the corrupted run's there."""

    @staticmethod
    def rows(inputs: MetricInputs) -> Tensor:
        """`(rows,)`."""
        return _cosine(inputs, clean=False)


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


def row_values(
    inputs: MetricInputs, metrics: Mapping[str, type[GridMetric]] = GRID_METRICS
) -> dict[str, Tensor]:
    """Each metric of every patched run, `(rows,)`, on the CPU; nothing is accumulated."""
    return {name: metric.rows(inputs).cpu() for name, metric in metrics.items()}
