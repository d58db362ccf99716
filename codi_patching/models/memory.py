"""How many patched runs fit in the memory that there is."""

from __future__ import annotations

import psutil
import torch

from codi_patching.models.codi import CodiModel

_BATCH = 2**30
"""Bytes that one batch of patched runs may take, if there are as many."""


def free_memory(device: torch.device) -> int:
    """Free memory of a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def rows_in_memory(model: CodiModel) -> int:
    """How many patched runs may go in a batch: by the model's shape, less where memory is short.

    A run of ten suffix tokens holds their widest activations, and a few copies of its logits.
    """
    config = model.backbone.config
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    width = next(model.parameters()).element_size()
    run = 10 * width * (3 * inner + 6 * config.hidden_size) + 32 * config.vocab_size
    return max(1, min(_BATCH, free_memory(model.device) // 2) // run)
