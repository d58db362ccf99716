"""Merging LoRA adapters into the weights that they change. LoRA: arXiv 2106.09685."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from codi_patching.models.loading.files import CheckpointError, shorten

DEFAULT_ALPHA = 32.0
"""LoRA's alpha in CODI's published training scripts."""


_ROWS_AT_ONCE = 512
"""Rows of a weight that are merged at a time."""


def recorded_alpha(files: list[Path]) -> float | None:
    """LoRA's alpha by the checkpoint's own record, if it has one.

    The record is `adapter_config.json` beside the file, or `lora_alpha` in safetensors metadata.
    """
    config = files[0].parent / "adapter_config.json"
    if config.is_file():
        try:
            alpha = json.loads(config.read_text(encoding="utf-8")).get("lora_alpha")
            return None if alpha is None else float(alpha)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{config}: expected a JSON object with a number lora_alpha, {error}: repair or "
                "remove it"
            ) from error
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                alpha = (file.metadata() or {}).get("lora_alpha")
            if alpha is not None:
                return float(alpha)
    return None


def choose_alpha(
    given: float | None, recorded: float | None, known: float | None, path: Path
) -> float:
    """The alpha to merge with: the recorded one, which a given one may not contradict.

    Args:
        given: By the user.
        recorded: Beside the checkpoint.
        known: By the table of known models.
        path: Of the checkpoint, for errors.

    Raises:
        CheckpointError: It does.
    """
    if given is not None and recorded is not None and given != recorded:
        raise CheckpointError(
            f"expected LoRA alpha {recorded:g}, by {path}'s own record, got {given:g}: "
            "change or leave out --model.lora_alpha"
        )
    return next(a for a in (given, recorded, known, DEFAULT_ALPHA) if a is not None)


@torch.no_grad()
def merge_lora(
    base: dict[str, Tensor],
    lora: dict[str, tuple[Tensor, Tensor]],
    alpha: float,
    transposed: bool,
    dtype: torch.dtype,
    path: Path,
) -> int:
    """Add `alpha / rank * B @ A` to each adapted weight, in float32, then cast to `dtype`.

    Args:
        base: Weights by name; the adapted ones are replaced.
        lora: For each adapted module its `lora_A` `(rank, in)` and `lora_B` `(out, rank)`; used
            up.
        alpha: LoRA's alpha.
        transposed: Whether the family keeps linear weights as `(in, out)`, as GPT-2 does.
        dtype: Of the merged weights.
        path: Of the file, for errors.

    Returns:
        The number of merged weights.

    Raises:
        CheckpointError: Ranks or shapes do not fit.
    """
    problems = _misfits(base, lora, transposed)
    if problems:
        raise CheckpointError(f"{path}: LoRA does not fit: {shorten(problems)}")
    merged = len(lora)
    for module in list(lora):
        down, up = (half.float() for half in lora.pop(module))
        left, right = (down.T, up.T) if transposed else (up, down)
        name = f"{module}.weight"
        base[name] = _plus(base[name], left, right, alpha / down.shape[0], dtype)
    return merged


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
    ranks = {down.shape[0] for down, _ in lora.values()}
    problems = [f"LoRA ranks differ: {sorted(ranks)}"] if len(ranks) > 1 else []
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
