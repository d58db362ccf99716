"""Plans on the model's device: they are worked out on the CPU and moved there whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from codi_patching.patching.sweep.plan import Plan


@lru_cache(maxsize=16)
def on_device(plan: Plan, device: torch.device) -> Plan:
    """The same plan with its tensors on a device; a wave then waits for none of them."""
    return plan if device.type == "cpu" else moved(plan, device)


def moved(plan: Plan, device: torch.device) -> Plan:
    """A plan's tensors, copied to a device in one transfer for each dtype, from pinned memory."""
    tensors: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    _with_each(plan, note)
    there = {}
    for dtype in {tensor.dtype for tensor in tensors}:
        own = [tensor.flatten() for tensor in tensors if tensor.dtype == dtype]
        packed = torch.cat(own)
        if device.type == "cuda":
            packed = packed.pin_memory()
        there[dtype] = iter(packed.to(device, non_blocking=True).split([len(one) for one in own]))
    return _with_each(plan, lambda tensor: next(there[tensor.dtype]).view(tensor.shape))


def _with_each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same value with each tensor in it changed, always in the same order."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_with_each(one, change) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _with_each(getattr(value, f.name), change) for f in fields(value)}
        return replace(value, **changed)
    return value
