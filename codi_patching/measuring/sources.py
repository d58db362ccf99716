"""Which activations are patched in: those of the source run, or what stands in for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch

from codi_patching.errors import InputError
from codi_patching.metrics.functional import widest_float
from codi_patching.patching.interventions import Activations

Source = Literal["clean", "zero", "mean", "random_pair"]


def mean_activations(runs: Iterable[Activations]) -> Activations:
    """The mean of each cell over runs, which may be made one at a time.

    Summed as wide as the device allows: in bf16 the sum of 57 runs is off by a percent, and of more
    by more.

    Raises:
        InputError: There are none.
    """
    total: Activations | None = None
    count, dtype = 0, torch.float32
    for own in runs:
        dtype = own.thoughts.dtype
        wide = own.to(widest_float(own.thoughts.device))
        total = wide if total is None else total.plus(wide)
        count += 1
    if total is None:
        raise InputError("no pair can be run, to take the mean of: set [[data.pairs]]")
    return total.map(lambda values: values / count).to(dtype)
