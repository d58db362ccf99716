"""Recording and overwriting activations where modules put them out, or take them in.

Hooks live inside context managers only, which remove them whatever happens. Neither kind writes
into a tensor that the model holds: patching returns a new one.

A module returns its output as a tensor, or, as attention does and in older versions of transformers
decoder blocks did, as the first item of a tuple. Both are handled; anything else is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Outlet:
    """Where a site leaves a module, or enters one: some features of its output or input.

    Attributes:
        module: Its output is `(rows, length, …)`; what follows is taken as one vector.
        start: The first of its features that belong to the site.
        stop: The first after them; None for the end.
        enters: Whether the site is the module's first input in place of its output.
    """

    module: nn.Module
    start: int = 0
    stop: int | None = None
    enters: bool = False

    @property
    def features(self) -> slice:
        """Which features of the output."""
        return slice(self.start, self.stop)

    def register(self, see: Callable[[object], object]) -> RemovableHandle:
        """Hang a function of the output, or input, on the module; what it gives replaces that."""
        if self.enters:
            return self.module.register_forward_pre_hook(lambda _module, args: see(args))
        return self.module.register_forward_hook(lambda _module, _args, output: see(output))


Outlets = Sequence[nn.Module] | Sequence[Outlet]
"""One for each layer; a module stands for all its features."""


@contextmanager
def capture(blocks: Outlets) -> Iterator[list[list[Tensor]]]:
    """Record what every block, or other module, puts out.

    Recording is done by a hook of our own, entered *after* any patching hook of the same module, so
    it sees the patched state, which `output_hidden_states=True` does not promise.

    Args:
        blocks: The L decoder blocks, or an outlet of each, in order.

    Yields:
        A list with one list a block, to which each forward pass appends `(rows, length, width)`.
    """
    records: list[list[Tensor]] = [[] for _ in blocks]

    def record(outlet: Outlet, record_to: list[Tensor]) -> Callable[[object], None]:
        return lambda output: record_to.append(_stream(output).flatten(2)[..., outlet.features])

    handles = []
    try:
        for outlet, record_to in zip(map(_outlet, blocks), records, strict=True):
            handles.append(outlet.register(record(outlet, record_to)))
        yield records
    finally:
        for handle in handles:
            handle.remove()


class PatchNotAppliedError(RuntimeError):
    """A patching hook fired more or less often than it was told to."""


@contextmanager
def patch(blocks: Outlets, edits: dict[int, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Overwrite the output of blocks, or other modules, during exactly one forward pass.

    Args:
        blocks: The L decoder blocks, or an outlet of each, in order.
        edits: For each block index, `(mask, values)`: `mask` is `(rows, length)`, true where the
            output is overwritten by `values`, `(rows, length, width)` or broadcastable to it.

    Raises:
        PatchNotAppliedError: A hook did not fire exactly once.
        ValueError: The pass has another number of rows or positions than the mask.
    """
    fired = dict.fromkeys(edits, 0)

    def overwrite(layer: int, mask: Tensor, values: Tensor) -> Callable[[object], object]:
        features = _outlet(blocks[layer]).features

        def hook(output: object) -> object:
            fired[layer] += 1
            stream = _stream(output)
            if stream.shape[:2] != mask.shape:
                raise ValueError(
                    f"patch at layer {layer}: expected {tuple(mask.shape)} rows and positions, "
                    f"the forward pass has {tuple(stream.shape[:2])}"
                )
            flat = stream.flatten(2)
            left, own, right = _split(flat, features)
            edited = torch.where(mask.unsqueeze(-1), values.to(stream.dtype), own)
            patched = torch.cat([left, edited, right], dim=-1).view(stream.shape)
            return (patched, *output[1:]) if isinstance(output, tuple) else patched

        return hook

    handles = []
    try:
        for layer, (mask, values) in edits.items():
            handles.append(_outlet(blocks[layer]).register(overwrite(layer, mask, values)))
        yield
        wrong = {layer: count for layer, count in fired.items() if count != 1}
        if wrong:
            raise PatchNotAppliedError(
                f"patch hooks must fire exactly once; they fired {wrong} times (layer: times)"
            )
    finally:
        for handle in handles:
            handle.remove()


def _outlet(block: nn.Module | Outlet) -> Outlet:
    return block if isinstance(block, Outlet) else Outlet(block)


def _split(flat: Tensor, features: slice) -> tuple[Tensor, Tensor, Tensor]:
    """What is before, in and after some features."""
    start, stop, _ = features.indices(flat.shape[-1])
    return flat[..., :start], flat[..., start:stop], flat[..., stop:]


def _stream(output: object) -> Tensor:
    stream = output[0] if isinstance(output, tuple) else output
    if not isinstance(stream, Tensor) or stream.ndim < 3:
        raise TypeError(
            f"expected a decoder block to return a (rows, length, hidden) tensor or a tuple that "
            f"starts with one, got {type(output).__name__}"
        )
    return stream
