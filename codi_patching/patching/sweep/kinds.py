"""Lists of several parts in which all of one kind come before the next kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def places_of(kinds: Sequence[Sequence[int]]) -> list[Tensor]:
    """Where each part's things are when all of a kind come before the next kind.

    Args:
        kinds: For each part how many it has of each kind.

    Example:
        >>> places_of([[2, 1], [1, 1]])
        [tensor([0, 1, 3]), tensor([2, 4])]
    """
    places: list[list[Tensor]] = [[] for _ in kinds]
    at = 0
    for of_kind in zip(*kinds, strict=True):
        for mine, count in zip(places, of_kind, strict=True):
            mine.append(torch.arange(at, at + count))
            at += count
    return [torch.cat(mine) for mine in places]


def put(values: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Each part's values at its places."""
    every = torch.cat(list(values))
    put = torch.empty_like(every)
    put[torch.cat(list(places))] = every
    return put


def padded(
    keys: Sequence[tuple[Tensor, Tensor | None, int]],
) -> tuple[Tensor, Tensor | None]:
    """Slots `(attending, own)` of all parts, as wide as the widest, and which are meant.

    Args:
        keys: Each part's slots, which of them are meant (None for all), and what to pad with: a
            slot of the part's own, since what is not meant still meets a weight of 0.
    """
    some = [part for part in keys if len(part[0])]
    if not some:
        return keys[0][:2]
    longest = max(slots.shape[1] for slots, _, _ in some)
    if all(mask is None and slots.shape[1] == longest for slots, mask, _ in some):
        return torch.cat([slots for slots, _, _ in some]), None
    wide, meant = [], []
    for slots, mask, own in some:
        mask = torch.ones_like(slots, dtype=torch.bool) if mask is None else mask
        wide.append(pad(slots, (0, longest - slots.shape[1]), value=own))
        meant.append(pad(mask, (0, longest - slots.shape[1])))
    return torch.cat(wide), torch.cat(meant)
