"""Recording and overwriting the residual stream at the output of decoder blocks.

Hooks live inside context managers only, which remove them whatever happens. Neither kind writes
into a tensor that the model holds: patching returns a new one.

A decoder block returns its output as a tensor, or, in older versions of transformers and in some
families, as the first item of a tuple. Both are handled; anything else is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def capture(blocks: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Record what every block puts on the residual stream.

    Recording is done by a hook of our own, entered *after* any patching hook of the same block, so
    it sees the patched state, which `output_hidden_states=True` does not promise.

    Args:
        blocks: The L decoder blocks, in order.

    Yields:
        A list with one list a block, to which each forward pass appends `(rows, length, hidden)`.
    """
    records: list[list[Tensor]] = [[] for _ in blocks]

    def record(record_to: list[Tensor]) -> Callable[..., None]:
        return lambda _module, _args, output: record_to.append(_stream(output))

    handles = []
    try:
        for block, record_to in zip(blocks, records, strict=True):
            handles.append(block.register_forward_hook(record(record_to)))
        yield records
    finally:
        for handle in handles:
            handle.remove()


class PatchNotAppliedError(RuntimeError):
    """A patching hook fired more or less often than it was told to."""


@contextmanager
def patch(blocks: Sequence[nn.Module], edits: dict[int, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Overwrite the output of blocks during exactly one forward pass.

    Args:
        blocks: The L decoder blocks, in order.
        edits: For each block index, `(mask, values)`: `mask` is `(rows, length)`, true where the
            output is overwritten by `values`, `(rows, length, hidden)` or broadcastable to it.

    Raises:
        PatchNotAppliedError: A hook did not fire exactly once.
        ValueError: The pass has another number of rows or positions than the mask.
    """
    fired = dict.fromkeys(edits, 0)

    def overwrite(layer: int, mask: Tensor, values: Tensor) -> Callable[..., object]:
        def hook(_module: nn.Module, _args: object, output: object) -> object:
            fired[layer] += 1
            stream = _stream(output)
            if stream.shape[:2] != mask.shape:
                raise ValueError(
                    f"patch at layer {layer}: expected {tuple(mask.shape)} rows and positions, "
                    f"the forward pass has {tuple(stream.shape[:2])}"
                )
            patched = torch.where(mask.unsqueeze(-1), values.to(stream.dtype), stream)
            return (patched, *output[1:]) if isinstance(output, tuple) else patched

        return hook

    handles = []
    try:
        for layer, (mask, values) in edits.items():
            handles.append(blocks[layer].register_forward_hook(overwrite(layer, mask, values)))
        yield
        wrong = {layer: count for layer, count in fired.items() if count != 1}
        if wrong:
            raise PatchNotAppliedError(
                f"patch hooks must fire exactly once; they fired {wrong} times (layer: times)"
            )
    finally:
        for handle in handles:
            handle.remove()


def _stream(output: object) -> Tensor:
    stream = output[0] if isinstance(output, tuple) else output
    if not isinstance(stream, Tensor) or stream.ndim != 3:
        raise TypeError(
            f"expected a decoder block to return a (rows, length, hidden) tensor or a tuple that "
            f"starts with one, got {type(output).__name__}"
        )
    return stream
