"""How many patched runs go through a model together."""

from __future__ import annotations

from codi_patching.models.codi import CodiModel

_BATCH = 2**30
"""Bytes that the activations of one batch of patched runs may take, were they all held at once."""


def rows_at_once(model: CodiModel) -> int:
    """How many patched runs may go in a batch, by the model's shape alone.

    What memory is free makes no difference, so that the same pairs always go together. A run is
    counted as ten suffix tokens with their widest activations, as a GPU holds them; a CPU, which
    takes MLPs in pieces, holds less.
    """
    hidden, width = model.backbone.config.hidden_size, next(model.parameters()).element_size()
    return max(1, _BATCH // (10 * width * (3 * model.inner_size + 6 * hidden)))
