"""Attention of packed tokens: who attends to whom is the caller's to say.

Registered with transformers under `NAME`. A forward pass of the whole model attends as with
"sdpa"; an attention module that is called with an `attend` function hands its queries, keys and
values to it. So the sweep runs the family's own norms, attention and MLPs, with their biases and
rotations, on tokens of many runs side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "codi_patching"

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""From queries `(heads, tokens, size)`, keys and values `(kv heads, tokens, size)` and the scale of
the scores to `(tokens, heads, size)`."""


class EdgesNotCutError(RuntimeError):
    """A layer whose edges were to be cut attended more or less often than once."""


class _Unseen:
    """What is not seen in a forward pass, and how often it was taken away."""

    def __init__(self, masks: Mapping[int, Tensor]) -> None:
        self.masks, self.applied = masks, dict.fromkeys(masks, 0)

    def cut(self, layer: int, mask: Tensor | None, new: int, seen: int) -> Tensor | None:
        """Where each query may look, `(rows, 1, new, seen)`: what the mask allows, and is not cut.

        Raises:
            ValueError: The pass has other tokens than the cut is of.
        """
        unseen = self.masks.get(layer)
        if unseen is None:
            return mask
        if unseen.shape[1:] != (new, seen):
            raise ValueError(
                f"expected a pass of {tuple(unseen.shape[1:])} new and seen tokens, got {new, seen}"
            )
        self.applied[layer] += 1
        if mask is None:
            mask = torch.ones(new, seen, dtype=torch.bool, device=unseen.device).tril(seen - new)
        return mask & ~unseen[:, None]


_watched: ContextVar[list[Tensor] | None] = ContextVar("watched", default=None)
_unseen: ContextVar[_Unseen | None] = ContextVar("unseen", default=None)


@contextmanager
def unseen_attention(masks: Mapping[int, Tensor]) -> Iterator[None]:
    """Take keys away from the queries of exactly one forward pass.

    Args:
        masks: For each layer `(rows, new, seen)`, true where a query does not see a key; each query
            must be left one.

    Raises:
        EdgesNotCutError: A layer attended more or less often than once, as it does where a model's
            attention was exchanged.
    """
    unseen = _Unseen(masks)
    token = _unseen.set(unseen)
    try:
        yield
        wrong = {layer: count for layer, count in unseen.applied.items() if count != 1}
        if wrong:
            raise EdgesNotCutError(
                f"edges must be cut exactly once in a pass, they were {wrong} times (layer: times)"
            )
    finally:
        _unseen.reset(token)


@contextmanager
def watched_attention() -> Iterator[list[Tensor]]:
    """Keep the attention probabilities of the forward passes made inside.

    Yields:
        A list that grows by one tensor a block and pass, in the order in which they run:
        `(rows, heads, new, seen)`, each row of which sums to 1; in float32 at least.
    """
    kept: list[Tensor] = []
    token = _watched.set(kept)
    try:
        yield kept
    finally:
        _watched.reset(token)


def attention_probabilities(
    query: Tensor, key: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Softmax of the scaled products of queries and keys, `(rows, heads, new, seen)`.

    Args:
        query: `(rows, heads, new, size)`, of the last of the tokens that are seen.
        key: `(rows, kv heads, seen, size)`.
        mask: True where a query may look; None if at everything before it.
        scaling: Of the scores.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.to(wide) @ keys.to(wide).transpose(-1, -2) * scaling
    new, seen = scores.shape[-2:]
    if mask is None:
        mask = scores.new_ones(new, seen, dtype=torch.bool).tril(seen - new)
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    attend: Attend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if attend is None:
        unseen = _unseen.get()
        if unseen is not None:
            layer: Any = module.layer_idx
            attention_mask = unseen.cut(layer, attention_mask, query.shape[2], key.shape[2])
        kept = _watched.get()
        if kept is not None:
            kept.append(attention_probabilities(query, key, attention_mask, scaling))
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    return attend(query[0], key[0], value[0], scaling).unsqueeze(0), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
