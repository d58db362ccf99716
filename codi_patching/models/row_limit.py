"""How many patched runs go through a model together."""

from __future__ import annotations

from codi_patching.models.codi import CodiModel

_BATCH = 2**30
"""Bytes that the activations of one batch of patched runs may take."""


def rows_at_once(model: CodiModel) -> int:
    """How many patched runs may go in a batch, by the model's shape alone.

    What memory is free makes no difference, so that the same pairs always go together: a run of ten
    suffix tokens holds their widest activations.
    """
    hidden, width = model.backbone.config.hidden_size, next(model.parameters()).element_size()
    return max(1, _BATCH // (10 * width * (3 * model.inner_size + 6 * hidden)))
