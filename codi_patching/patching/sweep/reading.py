"""Logits of a sweep's answers, made together for as many requests as memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from codi_patching.patching.latent_model import LatentModel
from codi_patching.patching.sweep.plan import Reads
from codi_patching.patching.sweep.unpatched import UnpatchedState

_LOGITS = 2**29
"""Bytes of logits that are made at a time, from one reading of the head."""


@dataclass(frozen=True)
class _Wanted:
    """What is read of a request.

    Attributes:
        state: Its unpatched run.
        first: Where its outputs begin among those of all requests.
        reads: Which are its own.
    """

    state: UnpatchedState
    first: int
    reads: Reads

    @property
    def places(self) -> dict[tuple[int, ...], Tensor]:
        """By tokens of the suffix: the answers of a pair are often read at the same ones."""
        return dict(zip(self.state.suffix.reads, self.reads.answers))

    @property
    def rows(self) -> list[Tensor]:
        """The same among the outputs of all requests; any for what is the unpatched run's."""
        own = self.reads.outputs
        return [torch.where(p < own, self.first + p, 0).flatten() for p in self.places.values()]

    def answers(self, made: Iterator[Tensor | None]) -> tuple[Tensor, ...]:
        """Of each answer `(rows, tokens, vocabulary)`; takes what was made of `rows`."""
        reads, suffix = self.reads, self.state.suffix
        theirs = dict(zip(suffix.reads, reads.unpatched))
        found = {
            tokens: self._with_unpatched(next(made), place, *theirs[tokens])
            for tokens, place in self.places.items()
        }
        return tuple(found[tokens] for tokens in suffix.reads)

    def _with_unpatched(
        self, made: Tensor | None, reads: Tensor, places: Tensor, which: Tensor
    ) -> Tensor:
        """Logits `(rows, tokens, vocabulary)`, the unpatched run's where a row changed nothing.

        Args:
            made: Logits by place, `(rows * tokens, vocabulary)`, completed in place unless
                gradients are asked for; None if no row changed anything.
            reads: See `Reads.answers`.
            places: See `Reads.unpatched`, with `which`.
            which: Of the unpatched run's logits.
        """
        unpatched = self.state.logits
        if made is None:
            return unpatched[reads]  # there are no outputs before them
        if len(places):
            made = made.clone() if made.requires_grad else made
            made.index_copy_(0, places, unpatched[which])
        return made.view(*reads.shape, -1)


def answer_logits(
    model: LatentModel, states: Sequence[UnpatchedState], reads: Sequence[Reads], hidden: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Of each request the logits of its answers, `(rows, tokens, vocabulary)` each.

    Args:
        model: The model.
        states: Each request's unpatched run.
        reads: Which of the hidden states are read for each.
        hidden: After the final norm, those of one request after the other, `(outputs, hidden)`.
    """
    firsts = [0, *accumulate(read.outputs for read in reads)]
    wanted = [_Wanted(*each) for each in zip(states, firsts, reads)]
    size = 4 * states[0].logits.shape[-1]
    sizes = [size * sum(map(len, each.rows)) for each in wanted]
    for first, last in groups_within(sizes, _LOGITS):
        yield from _together(model, wanted[first:last], hidden)


def _together(
    model: LatentModel, wanted: Sequence[_Wanted], hidden: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    rows = [places for each in wanted for places in each.rows]
    made: Iterator[Tensor | None] = iter([None] * len(rows))
    if len(hidden):  # else no row changed anything
        logits = model.logits(hidden[torch.cat(rows)])
        ends = list(accumulate(map(len, rows)))
        made = iter([logits[end - len(places) : end] for end, places in zip(ends, rows)])
    for each in wanted:
        yield each.answers(made)


def groups_within(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """First and last (excluded) of items in a row that together are within a limit, or single.

    Example:
        >>> list(groups_within([2, 3, 4, 9, 1], limit=6))
        [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    first, size = 0, 0
    for place, own in enumerate(sizes):
        if place > first and size + own > limit:
            yield first, place
            first, size = place, 0
        size += own
    if first < len(sizes):
        yield first, len(sizes)
