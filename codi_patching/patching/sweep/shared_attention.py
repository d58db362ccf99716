"""Attention of many tokens to prompts that many of them share, and to a few keys of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Segment = tuple[Tensor, int]
"""A prompt's keys and values `(2, kv heads, length, size)`, and how many tokens attend to it."""


def shared_attention(
    query: Tensor, segments: Sequence[Segment], own: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Attention of tokens to a prompt and to keys of their own, in float32 at least.

    Scores lie token by token, so that those of a segment are one block of rows: products read and
    write them in place.

    Args:
        query: `(heads, tokens, size)`; consecutive heads share a key and value head.
        segments: Prompts, and how many tokens of the query, one segment after the other, attend.
        own: Keys and values of each token's own, `(2, kv heads, tokens, own, size)`.
        mask: `(tokens, own)`, false where an own key is not meant; None for all.
        scaling: Of the scores.

    Returns:
        `(tokens, heads, size)`, in the query's dtype.
    """
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    heads, tokens, size = query.shape
    groups, longest = own.shape[1], max(prompt.shape[2] for prompt, _ in segments)
    each = heads // groups
    own_keys, own_values = own.to(wide)
    query = query.to(wide).view(groups, each, tokens, size).transpose(1, 2).contiguous() * scaling
    scores = query.new_zeros(groups, tokens, each, longest + own.shape[3])
    scores[..., longest:] = query @ own_keys.transpose(2, 3)
    if mask is not None:
        scores[..., longest:].masked_fill_(~mask[:, None], -torch.inf)
    for prompt, asking, found in _by_segment(segments, query, scores):
        length = prompt.shape[2]
        found[..., length:longest] = -torch.inf
        found[..., :length].baddbmm_(asking, prompt[0].to(wide).transpose(1, 2))
    weights = scores.softmax(dim=-1)
    mixed = weights[..., longest:] @ own_values
    for prompt, answer, given in _by_segment(segments, mixed, weights):
        answer.baddbmm_(given[..., : prompt.shape[2]], prompt[1].to(wide))
    return mixed.transpose(0, 1).reshape(tokens, heads, size).to(dtype)


def _by_segment(
    segments: Sequence[Segment], first: Tensor, second: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each segment's prompt with its rows of two tensors `(kv heads, tokens, heads each, …)`.

    The rows are views `(kv heads, count * heads each, …)`.
    """
    groups, tokens, each = first.shape[:3]
    first, second = (part.view(groups, tokens * each, -1) for part in (first, second))
    start = 0
    for prompt, count in segments:
        end = start + count * each
        yield prompt, first[:, start:end], second[:, start:end]
        start = end
