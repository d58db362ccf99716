"""Which engine runs an experiment's patches.

The sweep runs the parts of decoder blocks on packed tokens, so it calls neither whole blocks nor
the stack, and what a user hangs on them (a steering hook, a wrapped block) would do nothing. A
model that was changed so is left to the reference engine, which makes whole forward passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules import module as torch_modules

from codi_patching.errors import InputError
from codi_patching.models import attention
from codi_patching.models.at_once import rows_at_once
from codi_patching.models.codi import CodiModel
from codi_patching.models.families import sweep_unsupported_reason
from codi_patching.patching.cuts import CutSet
from codi_patching.patching.engine import Engine, Patched, PatchRequest, Readout, Unpatched
from codi_patching.patching.interventions import Cell, Latents, PatchSet, PlaceTokens, SiteName
from codi_patching.patching.reference import Prompt, ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine

EngineName = Literal["sweep", "reference"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def build_engine(
    model: CodiModel, name: EngineName, max_rows: int | None, device: torch.device | None = None
) -> Engine:
    """The engine that was asked for; the reference where a model cannot be swept.

    Args:
        model: The model.
        name: `sweep` or `reference`.
        max_rows: Patched runs a batch; as many as `rows_at_once` says if not given.
        device: Where the model will run; where it is now if not given.
    """
    rows = max_rows or rows_at_once(model, device)
    if name == "reference":
        return CheckedReference(model, rows)
    reason = sweep_unsupported_reason(model.backbone)
    if reason is not None:
        warnings.warn(f"the reference engine is used in place of the sweep: {reason}", stacklevel=2)
        return CheckedReference(model, rows)
    return WatchfulSweep(model, rows)


class CheckedReference(ReferenceEngine):
    """The reference engine; what no engine follows is refused.

    Args:
        model: The model.
        max_rows: See `ReferenceEngine`.
    """

    def __init__(self, model: CodiModel, max_rows: int) -> None:
        super().__init__(model, max_rows)
        self._codi = model

    def unpatched(
        self,
        requests: Sequence[tuple[Sequence[int], Readout]],
        record: Collection[SiteName] = (),
        places: Sequence[PlaceTokens] = (),
    ) -> list[Unpatched]:
        """Run prompts without patches, one by one."""
        check_followed(self._codi)
        return super().unpatched(requests, record, places)


class WatchfulSweep(SweepEngine):
    """The sweep; of a model that was changed after it was loaded, the reference engine.

    Args:
        model: The model, as it was loaded.
        max_rows: See `SweepEngine`.
    """

    def __init__(self, model: CodiModel, max_rows: int) -> None:
        super().__init__(model, max_rows)
        self._codi, self._reference = model, CheckedReference(model, max_rows)
        self._loaded = _forwards_of(model)
        self._said = ""

    @property
    def changed(self) -> str | None:
        """What was done to the model since it was loaded that the sweep would not follow."""
        return changed_reason(self._codi, self._loaded)

    def unpatched(
        self,
        requests: Sequence[tuple[Sequence[int], Readout]],
        record: Collection[SiteName] = (),
        places: Sequence[PlaceTokens] = (),
    ) -> list[Unpatched]:
        """Run prompts without patches, by the engine that fits the model as it is now."""
        check_followed(self._codi)
        reason = self.changed
        if reason is None:
            return super().unpatched(requests, record, places)
        if reason != self._said:
            self._said = reason
            warnings.warn(
                f"the reference engine is used in place of the sweep: {reason}", stacklevel=2
            )
        return self._reference.unpatched(requests, record, places)

    def _is_reference(self, starts: Sequence[Unpatched]) -> bool:
        """Whether runs without patches are the reference engine's.

        Raises:
            InputError: The model was changed since, or changed back.
        """
        by_reference = any(isinstance(start.state, Prompt) for start in starts)
        if starts and by_reference != (self.changed is not None):
            raise InputError(
                "expected the model as it was in the runs without patches, but it was changed "
                "since: make these runs again"
            )
        return by_reference

    def patched(
        self,
        start: Unpatched,
        rows: Sequence[PatchSet],
        latents: Latents = "recomputed",
        watch: Sequence[Sequence[Cell]] = (),
        on_rows_done: Callable[[int], None] = lambda _: None,
        cuts: Sequence[CutSet] = (),
    ) -> Patched:
        """Run every row of patches by the engine that made the run without patches."""
        if self._is_reference([start]):
            return self._reference.patched(start, rows, latents, watch, on_rows_done, cuts)
        latents = self._codi.effective(latents)
        return super().patched(start, rows, latents, watch, on_rows_done, cuts)

    def patched_each(
        self,
        requests: Sequence[PatchRequest],
        latents: Latents = "recomputed",
        on_rows_done: Callable[[int, int], None] = lambda *_: None,
    ) -> Iterator[Patched]:
        """Run the rows of several requests; see `patched`."""
        if self._is_reference([request.start for request in requests]):
            yield from self._reference.patched_each(requests, latents, on_rows_done)
        else:
            latents = self._codi.effective(latents)
            yield from super().patched_each(requests, latents, on_rows_done)


def _forwards_of(model: CodiModel) -> dict[str, Any]:
    """What each module computes by, by name: the `forward` of its class."""
    return {name: type(module).forward for name, module in model.named_modules()}


def changed_reason(model: CodiModel, loaded: dict[str, Any]) -> str | None:
    """What was done to a model that the sweep would not follow, if anything.

    Args:
        model: The model as it is now.
        loaded: What its modules computed by when it was loaded, by name.
    """
    used = model.backbone.config._attn_implementation
    if used != attention.NAME:
        return f"its attention was set to {used!r} after it was loaded"
    if torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks:
        return "there are hooks on all modules"
    for name, module in model.named_modules():
        if done := _done_to(module):
            return f"{name} {done}"
        if loaded.get(name) is not type(module).forward:
            return f"{name} is another module ({type(module).__name__}) than was loaded"
    return None


def check_followed(model: CodiModel) -> None:
    """Refuse a model of which no engine runs what it would compute by itself.

    Raises:
        InputError: A hook hangs where nothing is called, or activations are dropped at random, or
            nothing is remembered.
    """
    model.check_mode()
    for name, module in model.named_modules():
        rate = module.p if isinstance(module, nn.Dropout) else _attention_dropout(module)
        if module.training and rate:
            raise InputError(
                f"expected a model in evaluation mode, but {name} drops activations at random in "
                "training mode: call eval()"
            )
    whole = {"the model": model, "backbone": model.backbone}
    for name, module in whole.items():
        if done := _done_to(module):
            raise InputError(
                f"{name} {done}, but it is never called as a whole, only its decoder, head and "
                f"projection are: hang it on backbone.{model.family.decoder} or on blocks"
            )
    head = model.backbone.get_output_embeddings()
    done = _done_to(head) if type(head) is nn.Linear else f"is a {type(head).__name__}"
    if done and torch.finfo(next(model.parameters()).dtype).bits < 32:
        raise InputError(
            f"the head {done}, but in 16 bits only its weight is used: take that back, or load the "
            "model in float32"
        )


def _attention_dropout(module: nn.Module) -> float:
    """How many of its weights an attention module drops in training mode."""
    rate = getattr(module, "attention_dropout", 0.0)
    return rate if isinstance(rate, float | int) else 0.0


def _done_to(module: nn.Module) -> str:
    """What hangs on a module; empty if nothing."""
    if any(getattr(module, hooks) for hooks in _HOOKS):
        return "has a hook"
    return "has a forward of its own" if "forward" in vars(module) else ""
