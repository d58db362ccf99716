"""Merging LoRA adapters into the weights that they change. LoRA: arXiv 2106.09685."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from codi_patching.models.loading.adapter import Adapter
from codi_patching.models.loading.files import CheckpointError, shorten

_ROWS_AT_ONCE = 512
"""Rows of a weight that are merged at a time."""


@torch.no_grad()
def merge_lora(
    base: dict[str, Tensor],
    lora: dict[str, tuple[Tensor, Tensor]],
    adapter: Adapter,
    transposed: bool,
    dtype: torch.dtype,
    path: Path,
) -> dict[str, float]:
    """Add `scale * B @ A` to each adapted weight, in float32, then cast to `dtype`.

    Args:
        base: Weights by name; the adapted ones are replaced.
        lora: For each adapted module its `lora_A` `(rank, in)` and `lora_B` `(out, rank)`; used
            up.
        adapter: Gives each module's scale.
        transposed: Whether the family keeps linear weights as `(in, out)`, as GPT-2 does.
        dtype: Of the merged weights.
        path: Of the file, for errors.

    Returns:
        The scale of each merged module.

    Raises:
        CheckpointError: Ranks or shapes do not fit.
    """
    flat = [f"{m}: no matrices" for m, ab in lora.items() if {half.ndim for half in ab} != {2}]
    ranks = {module: len(down) for module, (down, _) in lora.items() if down.ndim}
    problems = flat or (adapter.misfits(ranks) + _misfits(base, lora, transposed))
    if problems:
        raise CheckpointError(f"{path}: LoRA does not fit: {shorten(problems)}")
    scales = {module: adapter.scale(module, rank) for module, rank in ranks.items()}
    for module in list(lora):
        down, up = (half.float() for half in lora.pop(module))
        left, right = (down.T, up.T) if transposed else (up, down)
        name = f"{module}.weight"
        base[name] = _plus(base[name], left, right, scales[module], dtype)
    return scales


def _plus(weight: Tensor, left: Tensor, right: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """`weight + scale * left @ right`, a few rows at a time: what is in float32 stays in caches.

    The weight itself is left as it was: another name may stand for the same tensor.
    """
    merged = torch.empty_like(weight, dtype=dtype)
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        into = merged[rows] if dtype == torch.float32 else None
        block = torch.addmm(weight[rows].float(), left[rows], right, alpha=scale, out=into)
        if into is None:
            merged[rows] = block
    return merged


def _misfits(
    base: dict[str, Tensor], lora: dict[str, tuple[Tensor, Tensor]], transposed: bool
) -> list[str]:
    """What does not fit between adapters and weights."""
    problems = []
    for module, (down, up) in lora.items():
        weight = base.get(f"{module}.weight")
        if weight is None:
            problems.append(f"{module}.base_layer.weight is missing")
            continue
        shape = tuple(reversed(weight.shape)) if transposed else tuple(weight.shape)
        if (up.shape[0], down.shape[1]) != shape or up.shape[1] != down.shape[0]:
            problems.append(
                f"{module}: lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)} do not fit "
                f"a weight of (out, in) {shape}"
            )
    return problems
