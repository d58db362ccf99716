"""Many tokens in pieces, so that what an operation on them makes in between stays in caches."""

from __future__ import annotations

import torch

_BYTES = 2**23
"""Of the widest tensor that is made of a piece. Caches of a CPU's cores hold a few of them, and
what is no larger is not given back to the operating system when it is freed, to be had back zeroed
page by page."""


def cache_pieces(tokens: int, token_bytes: int, device: torch.device) -> list[int]:
    """Sizes of pieces as equal as can be; on a device other than a CPU one piece.

    Args:
        tokens: How many there are.
        token_bytes: Width of a token in the widest tensor that is made of it.
        device: Where.

    Example:
        >>> cache_pieces(1000, 16_384, torch.device("cpu"))
        [500, 500]
        >>> cache_pieces(1000, 16_384, torch.device("meta"))
        [1000]
    """
    pieces = -(-tokens * token_bytes // _BYTES) if device.type == "cpu" else 1
    pieces = max(1, min(pieces, tokens))
    return [(tokens + piece) // pieces for piece in range(pieces)]
