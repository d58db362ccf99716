"""Splits many tokens into pieces, so that an operation's intermediates stay in a CPU's caches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BYTES = 2**23
"""Aimed at for the widest intermediate of a piece, chosen by measurement: a few of them fit a
shared cache, and glibc reuses blocks of this size instead of fetching fresh, zeroed pages."""


def cache_pieces(tokens: int, token_bytes: int, device: torch.device) -> list[int]:
    """Sizes of pieces as equal as can be, by these numbers alone; one piece if not on a CPU.

    A piece may be larger than is aimed at by less than one token.

    Args:
        tokens: How many there are.
        token_bytes: Width of a token in the widest intermediate.
        device: Where they are.

    Example:
        >>> cache_pieces(1000, 16_384, torch.device("cpu"))
        [500, 500]
        >>> cache_pieces(1000, 16_384, torch.device("meta"))
        [1000]
    """
    pieces = -(-tokens * token_bytes // _BYTES) if device.type == "cpu" else 1
    pieces = max(1, min(pieces, tokens))
    return [(tokens + piece) // pieces for piece in range(pieces)]


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """The pieces as one; a single one is not copied."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
