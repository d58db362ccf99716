"""Two chains of a problem exchange their residual streams, and with them what they must say.

After block l, at some of the thoughts, chain A has the states of chain B and the other way round:

    chain A   t_0 .. t_4 | block 0 .. l |  states of B  | block l+1 .. | says what follows from B's
    chain B   u_0 .. u_4 | block 0 .. l |  states of A  | block l+1 .. | says what follows from A's

So thoughts must be read above block l, where a patch of the residual stream can be seen. An
interchange intervention as a training objective: arXiv 2112.00826.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def exchanged(
    block: nn.Module, columns: tuple[Sequence[int], Sequence[int]], where: Tensor
) -> Iterator[None]:
    """Exchange the output of a block between two sets of columns of the same row.

    Args:
        block: The decoder block.
        columns: Two lists of n columns.
        where: `(rows, n)`, true where the two change places.
    """
    here, there = (torch.tensor(list(c), device=where.device) for c in columns)

    def exchange(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        order = torch.arange(output.shape[1], device=output.device).repeat(len(output), 1)
        order[:, here] = torch.where(where, there, here)
        order[:, there] = torch.where(where, here, there)
        return output.gather(1, order.unsqueeze(-1).expand_as(output))

    handle = block.register_forward_hook(exchange)
    try:
        yield
    finally:
        handle.remove()


def exchange_targets(
    said: Tensor, answers: Tensor, where: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """What two chains must say once their states at some thoughts have changed places.

    A thought follows from the one before it, and the answer from the last that is not idle.

    Args:
        said: `(rows, 2, K)`, what thoughts should be.
        answers: `(rows, 2)`.
        where: `(rows, K)`, true where the states of the two chains are exchanged.
        last: `(rows,)`, the last position that is not idle.

    Returns:
        The same two, exchanged accordingly.
    """
    moved = torch.zeros_like(where)
    moved[:, 1:] = where[:, :-1]
    at_last = where.gather(1, last[:, None])
    said = torch.where(moved[:, None], said.flip(1), said)
    return said, torch.where(at_last, answers.flip(1), answers)
