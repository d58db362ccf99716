"""Logits of hidden states, in float32 at least."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

_INVARIANT_ROWS = 4
"""With fewer, MKL's products with a vocabulary of uneven size depend on the number of threads."""

_CPU_ROWS = 512
"""Rows of the head that a CPU widens at a time: a few megabytes, which caches can hold."""

_DEVICE_BYTES = 2**28
"""Of the head's rows that a GPU widens at a time, each time in a few launches."""


def wide_logits(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Logits `(…, vocabulary)` of hidden states after the final norm `(…, hidden)`.

    In float32 at least: rounded to bf16, a logit of 20 is off by up to 0.06, and a small KL
    divergence is mostly that. The head is widened a few rows at a time.
    """
    if torch.promote_types(hidden.dtype, torch.float32) == hidden.dtype:
        rows = hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])
        missing = max(0, _INVARIANT_ROWS - len(rows))
        logits = head(functional.pad(rows, (0, 0, 0, missing)))
        return logits[: len(rows)].view(*hidden.shape[:-1], logits.shape[-1])
    wide = hidden.float()
    logits = wide.new_empty(*hidden.shape[:-1], len(head.weight))
    buffer = wide.new_empty(_rows_at_once(head.weight), hidden.shape[-1])
    with _bf16_products(hidden):
        for start in range(0, len(head.weight), len(buffer)):
            weight = head.weight[start : start + len(buffer)]
            kept = torch.is_grad_enabled() and wide.requires_grad  # not to be written over
            widened = weight.float() if kept else buffer[: len(weight)].copy_(weight)
            logits[..., start : start + len(weight)] = functional.linear(wide, widened)
    return logits if head.bias is None else logits + head.bias.float()


def _rows_at_once(weight: Tensor) -> int:
    """How many rows of a head are widened at a time."""
    at_once = _CPU_ROWS if weight.device.type == "cpu" else _DEVICE_BYTES // (4 * weight.shape[1])
    return min(len(weight), at_once)


@contextmanager
def _bf16_products(hidden: Tensor) -> Iterator[None]:
    """Let a CPU multiply float32 as bf16 and add up in float32: exact for what was bf16 before."""
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    if hidden.dtype == torch.bfloat16 and hidden.device.type == "cpu":
        setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before
