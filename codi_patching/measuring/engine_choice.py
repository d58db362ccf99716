"""Which engine runs an experiment's patches.

The sweep runs the parts of decoder blocks on packed tokens, so it calls neither whole blocks nor
the stack, and what a user hangs on them (a steering hook, a wrapped block) would do nothing. A
model that was changed so is left to the reference engine, which makes whole forward passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import torch
from torch import nn

from codi_patching.errors import InputError
from codi_patching.models import attention
from codi_patching.models.codi import CodiModel
from codi_patching.models.families import sweep_unsupported_reason
from codi_patching.models.row_limit import rows_at_once
from codi_patching.patching.engine import Engine, Patched, PatchRequest, Readout, Unpatched
from codi_patching.patching.interventions import Cell, Latents, PatchSet, SiteName
from codi_patching.patching.reference import Prompt, ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine

EngineName = Literal["sweep", "reference"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def build_engine(model: CodiModel, name: EngineName, max_rows: int | None) -> Engine:
    """The engine that was asked for; the reference where a model cannot be swept.

    Args:
        model: The model.
        name: `sweep` or `reference`.
        max_rows: Patched runs a batch; as many as `rows_at_once` says if not given.
    """
    rows = max_rows or rows_at_once(model)
    if name == "reference":
        return ReferenceEngine(model, rows)
    reason = sweep_unsupported_reason(model.backbone)
    if reason is not None:
        warnings.warn(f"the reference engine is used in place of the sweep: {reason}", stacklevel=2)
        return ReferenceEngine(model, rows)
    return WatchfulSweep(model, rows)


class WatchfulSweep(SweepEngine):
    """The sweep; of a model that was changed after it was loaded, the reference engine.

    Args:
        model: The model, as it was loaded.
        max_rows: See `SweepEngine`.
    """

    def __init__(self, model: CodiModel, max_rows: int) -> None:
        super().__init__(model, max_rows)
        self._codi, self._reference = model, ReferenceEngine(model, max_rows)
        self._classes = _classes_of(model)
        self._said = ""

    def unpatched(
        self,
        requests: Sequence[tuple[Sequence[int], Readout]],
        record: Collection[SiteName] = (),
    ) -> list[Unpatched]:
        """Run prompts without patches, by the engine that fits the model as it is now."""
        self._codi.check_mode()
        reason = changed_reason(self._codi, self._classes)
        if reason is None:
            return super().unpatched(requests, record)
        if reason != self._said:
            self._said = reason
            warnings.warn(
                f"the reference engine is used in place of the sweep: {reason}", stacklevel=2
            )
        return self._reference.unpatched(requests, record)

    def patched(
        self,
        start: Unpatched,
        rows: Sequence[PatchSet],
        latents: Latents = "recomputed",
        watch: Sequence[Sequence[Cell]] = (),
        on_rows_done: Callable[[int], None] = lambda _: None,
    ) -> Patched:
        """Run every row of patches by the engine that made the run without patches."""
        if isinstance(start.state, Prompt):
            return self._reference.patched(start, rows, latents, watch, on_rows_done)
        return super().patched(start, rows, latents, watch, on_rows_done)

    def patched_each(
        self,
        requests: Sequence[PatchRequest],
        latents: Latents = "recomputed",
        on_rows_done: Callable[[int, int], None] = lambda *_: None,
    ) -> Iterator[Patched]:
        """Run the rows of several requests; see `patched`."""
        if any(isinstance(request.start.state, Prompt) for request in requests):
            yield from self._reference.patched_each(requests, latents, on_rows_done)
        else:
            yield from super().patched_each(requests, latents, on_rows_done)


def _classes_of(model: CodiModel) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def changed_reason(model: CodiModel, classes: dict[str, type]) -> str | None:
    """What was done to a model that the sweep would not follow, if anything.

    Args:
        model: The model as it is now.
        classes: Of its modules, by name, when it was loaded.

    Raises:
        InputError: It was done to the head, whose weight alone is used in 16 bits.
    """
    used = model.backbone.config._attn_implementation
    if used != attention.NAME:
        return f"its attention was set to {used!r} after it was loaded"
    head = model.backbone.get_output_embeddings()
    for name, module in model.named_modules():
        done = _done_to(module)
        if classes.get(name) is not type(module):
            done = f"is another module ({type(module).__name__}) than was loaded"
        if module in (model, model.backbone) or not done:
            continue  # no engine calls these two as a whole
        if module is head and torch.finfo(head.weight.dtype).bits < 32:
            raise InputError(
                f"{name} {done}, but in 16 bits only the weight of the head is used: remove it, or "
                "load the model in float32"
            )
        return f"{name} {done}"
    return None


def _done_to(module: nn.Module) -> str:
    """What hangs on a module; empty if nothing."""
    if any(getattr(module, hooks) for hooks in _HOOKS):
        return "has a hook"
    return "has a forward of its own" if "forward" in vars(module) else ""
