"""The metrics by name: of a pair's patched runs, a value for each.

    METRICS["kl_divergence"](inputs)  ->  (rows,)

What each is stands at its function in `functional`; here stands which runs it compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from codi_patching.metrics import functional as F
from codi_patching.metrics.inputs import AnswerLogits, MetricInputs

Metric = Callable[[MetricInputs], Tensor]
"""The value of each patched run, `(rows,)`."""


def _difference(inputs: MetricInputs, logits: AnswerLogits) -> Tensor:
    """Clean minus corrupted, whatever the direction."""
    clean, corrupted = inputs.answer(True, logits), inputs.answer(False, logits)
    return F.compute_answer_logit_difference(*clean, *corrupted)


def _recovery(inputs: MetricInputs) -> Tensor:
    runs = (inputs.patched, inputs.base_run, inputs.source_run)
    return F.compute_recovery(*(_difference(inputs, run) for run in runs))


def _cosine(inputs: MetricInputs, clean: bool) -> Tensor:
    generated = inputs.generated
    if generated is None:
        raise ValueError("expected the generated activations of iterative patching, got none")
    there = generated.source if clean == inputs.clean_is_source else generated.base
    return F.compute_cosine_similarity(generated.made, there)


METRICS: dict[str, Metric] = {
    "kl_divergence": lambda i: F.compute_kl_divergence(i.patched.base, i.base_run.base),
    "l2_difference": lambda i: F.compute_l2_difference(i.patched.base, i.base_run.base),
    "prediction_change_rate": lambda i: F.compute_prediction_change_rate(
        i.patched.base, i.base_run.base
    ),
    "answer_logit_difference": lambda i: _difference(i, i.patched),
    "kl_to_source": lambda i: F.compute_kl_divergence(i.source_run.source, i.patched.source),
    "recovery": _recovery,
    "predicts_clean": lambda i: F.compute_predicts(*i.answer(True, i.patched)),
    "predicts_corrupted": lambda i: F.compute_predicts(*i.answer(False, i.patched)),
    "clean_probability": lambda i: F.compute_answer_probability(*i.answer(True, i.patched)),
    "corrupted_probability": lambda i: F.compute_answer_probability(*i.answer(False, i.patched)),
}
"""Of every experiment."""

ITERATIVE_METRICS: dict[str, Metric] = {
    **METRICS,
    "cosine_to_clean": lambda i: _cosine(i, clean=True),
    "cosine_to_corrupted": lambda i: _cosine(i, clean=False),
}
"""Of iterative patching."""


def metric_rows(inputs: MetricInputs, metrics: Mapping[str, Metric] = METRICS) -> dict[str, Tensor]:
    """Each metric of every patched run, `(rows,)`, on the CPU.

    They come in one transfer, unless gradients are asked for: each has a graph of its own.
    """
    values = {name: metric(inputs) for name, metric in metrics.items()}
    kinds = {(value.device, value.dtype) for value in values.values()}
    if len(kinds) != 1 or any(value.requires_grad for value in values.values()):
        return {name: value.cpu() for name, value in values.items()}
    return dict(zip(values, torch.stack(list(values.values())).cpu()))
