"""Attention of many tokens to prompts that many of them share, and to a few keys of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codi_patching.patching.cache_pieces import cache_pieces, joined

Segment = tuple[Tensor, int]
"""A prompt's keys and values `(2, kv heads, length, size)`, and how many tokens attend to it."""


@dataclass(frozen=True)
class OwnKeys:
    """Keys and values that tokens do not share.

    Attributes:
        pool: Of all runs, `(2, kv heads, slots, size)`.
        slots: Which of them each token attends to, `(tokens, own)`.
        mask: False where a slot is not meant, `(tokens, own)`; None for all.
    """

    pool: Tensor
    slots: Tensor
    mask: Tensor | None

    def of(self, first: int, last: int) -> tuple[Tensor, Tensor | None]:
        """Those of tokens `first` to `last` (excluded), `(2, kv heads, tokens, own, size)`.

        Beside them their mask.
        """
        slots = self.slots[first:last]
        own = self.pool.index_select(2, slots.flatten()).unflatten(2, slots.shape)
        return own, None if self.mask is None else self.mask[first:last]


def shared_attention(
    query: Tensor,
    segments: Sequence[Segment],
    own: OwnKeys,
    scaling: float,
    hidden: Tensor | None = None,
) -> Tensor:
    """Attention of tokens to a prompt and to keys of their own, in float32 at least.

    Args:
        query: `(heads, tokens, size)`; consecutive heads share a key and value head.
        segments: Prompts, and how many tokens of the query, one segment after the other, attend.
        own: Keys and values that tokens do not share.
        scaling: Of the scores.
        hidden: True where a token does not see one of its prompt, `(tokens, longest prompt)`; None
            if all see all.

    Returns:
        `(tokens, heads, size)`, in the query's dtype.
    """
    heads, tokens, size = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    longest = max(prompt.shape[2] for prompt, _ in segments)
    own_slots = own.slots.shape[1]
    scores, gathered = heads * (longest + own_slots), 2 * own.pool.shape[1] * own_slots * size
    width = wide.itemsize * max(scores, gathered)
    mixed, first = [], 0
    for count in cache_pieces(tokens, width, query.device):
        last = first + count
        there = _between(segments, first, last)
        gone = None if hidden is None else hidden[first:last]
        part = _attention(query[:, first:last], there, *own.of(first, last), scaling, gone)
        mixed.append(part)
        first = last
    return joined(mixed)


def _between(segments: Sequence[Segment], first: int, last: int) -> list[Segment]:
    """The segments of the tokens from `first` to `last` (excluded)."""
    found, start = [], 0
    for prompt, count in segments:
        inside = min(last, start + count) - max(first, start)
        if inside > 0:
            found.append((prompt, inside))
        start += count
    return found


def _attention(
    query: Tensor,
    segments: Sequence[Segment],
    own: Tensor,
    mask: Tensor | None,
    scaling: float,
    hidden: Tensor | None,
) -> Tensor:
    """The attention of a few tokens, with their own keys and values.

    Scores lie token by token, so that those of a segment are one block of rows: products read and
    write them in place.
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
        found[..., length:longest].fill_(-torch.inf)
        found[..., :length].baddbmm_(asking, prompt[0].to(wide).transpose(1, 2))
    if hidden is not None:
        scores[..., :longest].masked_fill_(hidden[:, None, :longest], -torch.inf)
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
