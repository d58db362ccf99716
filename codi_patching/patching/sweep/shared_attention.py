"""Attention of many tokens to one prompt that all share, and to a few keys of their own."""

from __future__ import annotations

import torch
from torch import Tensor


def shared_attention(
    query: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    mask: Tensor | None,
    scaling: float,
) -> Tensor:
    """Attention of tokens to keys that all share and keys of their own, in float32 at least.

    Args:
        query: `(heads, tokens, size)`; consecutive heads share a key and value head.
        prompt_keys: `(kv heads, length, size)`.
        prompt_values: The same.
        own_keys: `(tokens, own, kv heads, size)`.
        own_values: The same.
        mask: `(tokens, own)`, false where an own key is not meant; None for all.
        scaling: Of the scores.

    Returns:
        `(tokens, heads, size)`, in the query's dtype.
    """
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    heads, tokens, size = query.shape
    groups, length = prompt_keys.shape[:2]
    query = query.to(wide).view(groups, heads // groups, tokens, size) * scaling
    shared = query.flatten(1, 2) @ prompt_keys.to(wide).transpose(1, 2)
    shared = shared.view(groups, -1, tokens, length).permute(2, 0, 1, 3)  # tokens, groups, …
    query = query.permute(2, 0, 1, 3)
    own = query @ own_keys.to(wide).permute(0, 2, 3, 1)  # tokens, groups, heads a group, own
    if mask is not None:
        own = own.masked_fill(~mask[:, None, None], -torch.inf)
    weights = torch.cat([shared, own], dim=-1).softmax(dim=-1)
    shared, own = weights.split([length, own.shape[-1]], dim=-1)
    shared = shared.permute(1, 2, 0, 3).flatten(1, 2) @ prompt_values.to(wide)
    shared = shared.view(groups, -1, tokens, size).permute(2, 0, 1, 3)
    mixed = shared + own @ own_values.to(wide).transpose(1, 2)
    return mixed.reshape(tokens, heads, size).to(dtype)
