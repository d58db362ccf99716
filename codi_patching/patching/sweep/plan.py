"""A sweep worked out: which token of which run is computed at which layer, as tensors of indices.

`planner` decides, `lowering` writes it down in these types, `run` follows them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One layer of a wave.

    Attributes:
        source: Where each node's input comes from, `(nodes,)`: the wave's outputs of the layer
            before (at layer 0 its new thoughts), then the unpatched run's, then the values.
        nodes: Number of each node in the wave, `(nodes,)`; those that attend come first.
        attending: How many of them attend; of the others only keys and values are needed.
        slots: Slot of each node's keys and values in the pool, `(nodes,)`.
        keys: Slots that each attending node attends to, `(attending, longest)`.
        mask: Which of `keys` are meant, `(attending, longest)`; None for all.
    """

    source: Tensor
    nodes: Tensor
    attending: int
    slots: Tensor
    keys: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Wave:
    """Nodes that go up through the layers together.

    Attributes:
        depths: Position of each node after the prompt, `(nodes,)`.
        steps: One for each layer.
        watched: For the new thoughts, then for each layer's outputs: those that are watched, and
            their places among all watched cells.
        parents: Sources, at the last layer, of the states that the next wave's new thoughts are
            made from, `(thoughts,)`.
    """

    depths: Tensor
    steps: tuple[Step, ...]
    watched: tuple[tuple[Tensor, Tensor], ...]
    parents: Tensor


@dataclass(frozen=True)
class Plan:
    """A whole sweep.

    Attributes:
        waves: In order.
        logit_outputs: The last wave's outputs that logits are made from.
        reads: For each answer which logits are its tokens', `(rows, tokens)`: those of
            `logit_outputs`, then the unpatched run's of `Suffix.read_tokens`.
        num_slots: Slots for keys and values, the unpatched run's included.
        watched: Number of watched cells.
        constant: Watched cells that are not computed: `(place, layer or -1, source)`, sources being
            the unpatched run's tokens, then the values.
        token_layers: Tokens through a layer, all waves; without those that do not attend.
    """

    waves: tuple[Wave, ...]
    logit_outputs: Tensor
    reads: tuple[Tensor, ...]
    num_slots: int
    watched: int
    constant: tuple[tuple[int, int, int], ...]
    token_layers: int
