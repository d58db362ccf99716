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
    config = model.backbone.config
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    width = next(model.parameters()).element_size()
    return max(1, _BATCH // (10 * width * (3 * inner + 6 * config.hidden_size)))
