"""The unpatched runs that a sweep starts from, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from codi_patching.patching.sweep.unpatched import UnpatchedState


@dataclass(frozen=True)
class Starts:
    """Several `UnpatchedState`; what is by token of the suffix is one start after the other.

    Attributes:
        lengths: Number of prompt tokens of each, `(starts,)`.
        prompt_kv: Of each, `(L, 2, kv heads, length, size)`.
        suffix_kv: `(L, 2, kv heads, tokens, size)`.
        stream: `(L + 1, tokens, hidden)`.
        mid: `(L, tokens, hidden)`, where it was recorded: elsewhere zeros that nothing reads; None
            if no start has it.
    """

    lengths: Tensor
    prompt_kv: tuple[Tensor, ...]
    suffix_kv: Tensor
    stream: Tensor
    mid: Tensor | None

    @cached_property
    def padded_kv(self) -> Tensor:
        """Of all, `(L, 2, kv heads, starts, longest, size)`, zero after a prompt's end."""
        longest = max(own.shape[3] for own in self.prompt_kv)
        padded = [pad(own, (0, 0, 0, longest - own.shape[3])) for own in self.prompt_kv]
        return torch.stack(padded, dim=3)

    @classmethod
    def of(cls, states: Sequence[UnpatchedState]) -> Starts:
        """Side by side, in this order."""
        stream = torch.cat([state.stream for state in states], dim=1)
        mids = [
            torch.zeros_like(state.stream[1:])
            if state.mid is None
            else pad(state.mid, (0, 0, 0, len(state.suffix) - state.mid.shape[1]))
            for state in states
        ]
        recorded = any(state.mid is not None for state in states)
        return cls(
            torch.tensor([state.length for state in states], device=stream.device),
            tuple(state.prompt_kv for state in states),
            torch.cat([state.suffix_kv for state in states], dim=3),
            stream,
            torch.cat(mids, dim=1) if recorded else None,
        )
