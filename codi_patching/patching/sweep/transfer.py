"""Plans on the model's device: they are worked out on the CPU and moved there whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from codi_patching.patching.sweep.padded_rows import with_padded_rows
from codi_patching.patching.sweep.plan import Plan


@lru_cache(maxsize=16)
def on_device(plan: Plan, device: torch.device) -> Plan:
    """The same plan with its tensors on a device, so that no wave waits for a transfer."""
    return plan if device.type == "cpu" else moved(with_padded_rows(plan), device)


def moved(plan: Plan, device: torch.device) -> Plan:
    """A plan's tensors, copied to a device in one transfer for each dtype, from pinned memory."""
    tensors = list(_tensors(plan))
    pinned = device.type == "cuda"
    there = {}
    for dtype in {tensor.dtype for tensor in tensors}:
        own = [tensor.flatten() for tensor in tensors if tensor.dtype == dtype]
        packed = torch.cat(own)
        packed = (packed.pin_memory() if pinned else packed).to(device, non_blocking=pinned)
        there[dtype] = iter(packed.split([len(one) for one in own]))
    return _rebuilt(plan, lambda tensor: next(there[tensor.dtype]).view(tensor.shape))


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a plan or a part of one, in the order of its fields."""
    if isinstance(value, Tensor):
        yield value
    for part in _parts(value):
        yield from _tensors(part)


def _rebuilt(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same plan, or part of one, with each tensor changed, in the order of its fields."""
    if isinstance(value, Tensor):
        return change(value)
    parts = [_rebuilt(part, change) for part in _parts(value)]
    if isinstance(value, tuple):
        return tuple(parts)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: part for field, part in zip(fields(value), parts)})
    return value


def _parts(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return list(value)
    return [getattr(value, field.name) for field in fields(value)] if is_dataclass(value) else []
