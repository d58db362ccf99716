"""Rotary positions of queries and keys, apart from the blocks that apply them."""

from __future__ import annotations

import torch
from torch import Tensor

Rotations = tuple[Tensor, ...]
"""Cosines and sines of positions, `(1, tokens, size)` each; none where a model has no rotary
positions."""


def still(rotations: Rotations) -> Rotations:
    """Those of as many tokens that turn nothing."""
    return (torch.ones_like(rotations[0]), torch.zeros_like(rotations[1])) if rotations else ()


def turned(states: Tensor, rotations: Rotations) -> Tensor:
    """Queries or keys `(heads, tokens, size)`, turned by their positions.

    Example:
        >>> quarter = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
        >>> turned(torch.tensor([[[3.0, 4.0]]]), quarter).tolist()
        [[[-4.0, 3.0]]]
    """
    if not rotations:
        return states
    cosine, sine = rotations
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat([-second, first], dim=-1) * sine
