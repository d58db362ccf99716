"""Which engine runs an experiment's patches."""

from __future__ import annotations

from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn

from codi_patching.models.codi import CodiModel
from codi_patching.models.families import sweep_unsupported_reason
from codi_patching.models.row_limit import rows_at_once
from codi_patching.patching.engine import Engine
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine

EngineName = Literal["sweep", "reference"]


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
        rank_zero_warn(f"the reference engine is used in place of the sweep: {reason}")
        return ReferenceEngine(model, rows)
    return SweepEngine(model, rows)
