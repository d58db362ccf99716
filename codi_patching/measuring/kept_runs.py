"""Unpatched runs that are kept between calls, for as long as the model stays what it was.

A notebook patches the same question again and again; its two unpatched runs cost more than the
patched one. They are kept of the last few questions, and thrown away as soon as anything of the
model differs: a weight (every bit of all of them is summed up anew at each call), a buffer, a plain
attribute of a module, a setting. A model that was changed in any way that the sweep does not follow
keeps nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from codi_patching.measuring.engine_choice import WatchfulSweep
from codi_patching.models.codi import CodiModel
from codi_patching.patching.engine import Engine

Made = TypeVar("Made")

_PLAIN = (bool, int, float, str, torch.dtype, torch.device, type(None))
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}


class KeptRuns:
    """What was made of the last few questions.

    Args:
        model: The model.
        engine: That makes the runs.
        most: Questions, or pairs, of which it is kept.
    """

    def __init__(self, model: CodiModel, engine: Engine, most: int = 8) -> None:
        self.model, self.engine, self.most = model, engine, most
        self._state: Hashable = None
        self._made: OrderedDict[Hashable, Any] = OrderedDict()

    def of(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made under a key, of the model as it is; else it is made."""
        swept = isinstance(self.engine, WatchfulSweep) and self.engine.changed is None
        if not swept or torch.is_inference_mode_enabled():
            self._made.clear()
            return make()
        state = fingerprint(self.model)
        if state != self._state:
            self._made.clear()
            self._state = state
        if key not in self._made:
            self._made[key] = make()
        self._made.move_to_end(key)
        while len(self._made) > self.most:
            self._made.popitem(last=False)
        return self._made[key]


@torch.no_grad()
def fingerprint(model: CodiModel) -> Hashable:
    """What tells a model from any other that it could be changed into.

    Of each parameter and buffer the sums of its bits along its rows and along its columns, so that
    neither a changed bit nor an exchanged row goes unseen.
    """
    sums = [_sums(tensor) for tensor in (*model.parameters(), *model.buffers())]
    together = torch.cat([s.to(sums[0].device) for s in sums]).cpu().numpy().tobytes()
    plain = tuple(
        tuple((name, value) for name, value in vars(module).items() if isinstance(value, _PLAIN))
        for module in model.modules()
    )
    return together, plain, model.settings, model.device, model.backbone.dtype


def _sums(tensor: Tensor) -> Tensor:
    """The sums of a tensor's bits, as whole numbers, along rows and columns."""
    width = tensor.element_size()
    bits = tensor.detach().contiguous().view(_INTEGERS[width])
    rows = bits.reshape(-1, bits.shape[-1]) if bits.ndim else bits.reshape(1, 1)
    return torch.cat([rows.sum(0), rows.sum(1)])
