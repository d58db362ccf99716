"""Attention of many tokens to prompts that many of them share, and to a few keys of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codi_patching.patching.cache_pieces import cache_pieces, joined

Segment = tuple[Tensor, int]
"""A prompt's keys and values `(2, kv heads, length, size)`, and how many tokens attend to it."""


class Segments:
    """Prompts in the model's dtype one by one, their tokens one segment after the other.

    Args:
        segments: The prompts, and how many tokens attend to each.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments

    @property
    def longest(self) -> int:
        """Length of the longest."""
        return max(prompt.shape[2] for prompt, _ in self.segments)

    def between(self, first: int, last: int) -> Segments:
        """The segments of the tokens from `first` to `last` (excluded)."""
        found, start = [], 0
        for prompt, count in self.segments:
            inside = min(last, start + count) - max(first, start)
            if inside > 0:
                found.append((prompt, inside))
            start += count
        return Segments(found)

    def score(self, query: Tensor, scores: Tensor) -> None:
        """Write the products of `(kv heads, tokens, heads each, size)` with keys into scores.

        Those with keys beyond a prompt's end are minus infinity.
        """
        longest = self.longest
        for prompt, asking, found in self._each(query, scores):
            length = prompt.shape[2]
            found[..., length:longest].fill_(-torch.inf)
            found[..., :length].baddbmm_(asking, prompt[0].to(query).transpose(1, 2), beta=0)

    def add_values(self, weights: Tensor, mixed: Tensor) -> None:
        """Add the values, weighted, to `(kv heads, tokens, heads each, size)`."""
        for prompt, answer, given in self._each(mixed, weights):
            answer.baddbmm_(given[..., : prompt.shape[2]], prompt[1].to(mixed))

    def _each(self, first: Tensor, second: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Each prompt with its rows of two tensors `(kv heads, tokens, heads each, …)`.

        The rows are views `(kv heads, count * heads each, …)`.
        """
        groups, tokens, each = first.shape[:3]
        first, second = (part.view(groups, tokens * each, -1) for part in (first, second))
        start = 0
        for prompt, count in self.segments:
            end = start + count * each
            yield prompt, first[:, start:end], second[:, start:end]
            start = end


@dataclass(frozen=True)
class PaddedPrompts:
    """All prompts in one product, as long as the longest, with as many tokens as one has at most.

    Attributes:
        kv: Keys and values, `(2, kv heads, prompts, longest, size)`.
        lengths: Of the prompts, `(prompts,)`.
        rows: Of each prompt its tokens, any after them, `(prompts, most)`.
        places: Where each token is in `rows`, row by row, `(tokens,)`.
    """

    kv: Tensor
    lengths: Tensor
    rows: Tensor
    places: Tensor

    @property
    def longest(self) -> int:
        """Length of the longest."""
        return self.kv.shape[3]

    def score(self, query: Tensor, scores: Tensor) -> None:
        """See `Segments`."""
        products = self._padded(query) @ self.kv[0].to(query).transpose(2, 3)
        beyond = torch.arange(self.longest, device=query.device) >= self.lengths[:, None]
        products = products.masked_fill(beyond[:, None], -torch.inf)
        scores[..., : self.longest] = self._by_token(products, query.shape[2])

    def add_values(self, weights: Tensor, mixed: Tensor) -> None:
        """See `Segments`."""
        given = self._padded(weights[..., : self.longest]) @ self.kv[1].to(mixed)
        mixed += self._by_token(given, mixed.shape[2])

    def _padded(self, values: Tensor) -> Tensor:
        """`(kv heads, prompts, most * heads each, …)` of `(kv heads, tokens, heads each, …)`."""
        return values[:, self.rows].flatten(2, 3)

    def _by_token(self, values: Tensor, each: int) -> Tensor:
        """The other way round."""
        return values.unflatten(2, (-1, each)).flatten(1, 2)[:, self.places]


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

    def between(self, first: int, last: int) -> OwnKeys:
        """Those of tokens `first` to `last` (excluded)."""
        mask = None if self.mask is None else self.mask[first:last]
        return OwnKeys(self.pool, self.slots[first:last], mask)

    @property
    def gathered(self) -> Tensor:
        """`(2, kv heads, tokens, own, size)`."""
        own = self.pool.index_select(2, self.slots.flatten())
        return own.unflatten(2, self.slots.shape)


def shared_attention(
    query: Tensor,
    prompts: Segments | PaddedPrompts,
    own: OwnKeys,
    scaling: float,
    hidden: Tensor | None = None,
) -> Tensor:
    """Attention of tokens to prompts and to keys of their own, in float32 at least.

    Scores lie token by token, so that those of a segment are one block of rows: products read and
    write them in place.

    Args:
        query: `(heads, tokens, size)`; consecutive heads share a key and value head.
        prompts: What many tokens attend to.
        own: Keys and values that tokens do not share.
        scaling: Of the scores.
        hidden: True where a token does not see one of its prompt, `(tokens, longest prompt)`; None
            if all see all.

    Returns:
        `(tokens, heads, size)`, in the query's dtype.
    """
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    heads, tokens, size = query.shape
    gathered = own.gathered.to(wide)
    own_keys, own_values = gathered
    groups, longest = gathered.shape[1], prompts.longest
    each = heads // groups
    query = query.to(wide).view(groups, each, tokens, size).transpose(1, 2).contiguous() * scaling
    scores = query.new_empty(groups, tokens, each, longest + gathered.shape[3])
    scores[..., longest:] = query @ own_keys.transpose(2, 3)
    if own.mask is not None:
        scores[..., longest:].masked_fill_(~own.mask[:, None], -torch.inf)
    prompts.score(query, scores)
    if hidden is not None:
        scores[..., :longest].masked_fill_(hidden[:, None, :longest], -torch.inf)
    weights = scores.softmax(dim=-1)
    mixed = weights[..., longest:] @ own_values
    prompts.add_values(weights, mixed)
    return mixed.transpose(0, 1).reshape(tokens, heads, size).to(dtype)


def attention_in_pieces(
    query: Tensor, prompts: Segments, own: OwnKeys, scaling: float, hidden: Tensor | None = None
) -> Tensor:
    """The same as `shared_attention`, in pieces that fit a CPU's caches."""
    heads, tokens, size = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    own_slots = own.slots.shape[1]
    scores = heads * (prompts.longest + own_slots)
    gathered = 2 * own.pool.shape[1] * own_slots * size
    width = wide.itemsize * max(scores, gathered)
    mixed, first = [], 0
    for count in cache_pieces(tokens, width, query.device):
        last = first + count
        gone = None if hidden is None else hidden[first:last]
        there, few = prompts.between(first, last), own.between(first, last)
        mixed.append(shared_attention(query[:, first:last], there, few, scaling, gone))
        first = last
    return joined(mixed)
