"""How many pairs, and how many patched runs, go through a model together.

By the model's shape, the device, and how many pairs and processes there are: what memory is free
makes no difference, so that the same command always puts the same pairs together.
"""

from __future__ import annotations

from math import ceil

import torch

from codi_patching.models.codi import CodiModel

_ACTIVATIONS = 2**30
"""Bytes that the activations of one batch of patched runs may take, were they all held at once."""
_PART = 8
"""Of a GPU's memory a batch of patched runs may take one part in so many, where that is more."""
LEAST_PAIRS = 8
"""A batch's on a CPU, and at least on a GPU."""


def gpu_memory(device: torch.device) -> int:
    """Bytes of a GPU in all; 0 of a device that has no memory of its own, or does not tell.

    Example:
        >>> gpu_memory(torch.device("cpu"))
        0
    """
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def pairs_at_once(device: torch.device, pairs: int, processes: int) -> int:
    """How many pairs go in a batch: 8, on a GPU up to one for each GiB that it has.

    Most of a GPU's time goes into starting work, and for many pairs little more is started than
    for few. Of several processes each has its share in one batch, if it is within that.

    Args:
        device: Where the model runs.
        pairs: Of the run.
        processes: How many run them.
    """
    share = max(1, ceil(pairs / processes))
    if ceil(pairs / share) < processes:  # the last of them would have none
        share = pairs // processes
    return max(LEAST_PAIRS, min(share, gpu_memory(device) // 2**30))


def rows_at_once(model: CodiModel, device: torch.device | None = None) -> int:
    """How many patched runs may go in a batch.

    A run is counted as ten suffix tokens with their widest activations, as a GPU holds them; a CPU,
    which takes MLPs in pieces, holds less.

    Args:
        model: The model.
        device: Where it will run; where it is now if not given.
    """
    parameter = next(model.parameters())
    hidden, width = model.backbone.config.hidden_size, parameter.element_size()
    room = max(_ACTIVATIONS, gpu_memory(device or parameter.device) // _PART)
    return max(1, room // (10 * width * (3 * model.inner_size + 6 * hidden)))
