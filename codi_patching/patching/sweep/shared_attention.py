"""Attention of many tokens to prompts that many of them share, and to a few keys of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Segment = tuple[Tensor, int]
"""A prompt's keys and values `(2, kv heads, length, size)`, and how many tokens attend to it."""


def shared_attention(
    query: Tensor, segments: Sequence[Segment], own: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Attention of tokens to a prompt and to keys of their own, in float32 at least.

    Args:
        query: `(heads, tokens, size)`; consecutive heads share a key and value head.
        segments: Prompts, and how many tokens of the query, one segment after the other, attend.
        own: Keys and values of each token's own, `(2, tokens, own, kv heads, size)`.
        mask: `(tokens, own)`, false where an own key is not meant; None for all.
        scaling: Of the scores.

    Returns:
        `(tokens, heads, size)`, in the query's dtype.
    """
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    heads, tokens, size = query.shape
    groups = own.shape[3]
    query = query.to(wide).view(groups, heads // groups, tokens, size) * scaling
    own_keys, own_values = own.to(wide)
    scores = query.permute(2, 0, 1, 3) @ own_keys.permute(0, 2, 3, 1)  # tokens, groups, …, own
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    longest = max(prompt.shape[2] for prompt, _ in segments)
    weights = scores.new_full((*scores.shape[:3], longest + scores.shape[3]), -torch.inf)
    weights[..., longest:] = scores
    first = 0
    for prompt, count in segments:
        here = slice(first, first + count)
        found = query[:, :, here].flatten(1, 2) @ prompt[0].to(wide).transpose(1, 2)
        found = found.view(groups, -1, count, prompt.shape[2])
        weights[here, ..., : prompt.shape[2]] = found.permute(2, 0, 1, 3)
        first += count
    weights = weights.softmax(dim=-1)
    mixed = weights[..., longest:] @ own_values.transpose(1, 2)
    first = 0
    for prompt, count in segments:
        here = slice(first, first + count)
        of_prompt = weights[here, ..., : prompt.shape[2]].permute(1, 2, 0, 3).flatten(1, 2)
        read = of_prompt @ prompt[1].to(wide)
        mixed[here] += read.view(groups, -1, count, size).permute(2, 0, 1, 3)
        first += count
    return mixed.reshape(tokens, heads, size).to(dtype)
