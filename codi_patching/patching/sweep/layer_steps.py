"""One layer of a wave written down: which tokens go through its two halves, and from where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from codi_patching.patching.sweep.demand import Demand
from codi_patching.patching.sweep.nodes import Node, PlannedSweep
from codi_patching.patching.sweep.plan import (
    AttentionStep,
    Functions,
    HeadFunctions,
    Heads,
    MLPStep,
    Step,
    Watched,
)


def as_tensor(values: Any, dtype: torch.dtype = torch.long) -> Tensor:
    """Indices as a tensor, of integers even if there are none."""
    return torch.tensor(values, dtype=dtype)


class LayerSteps:
    """Follows a wave's outputs from state to state.

    Attributes:
        places: Where the outputs of the present state are.
        attention_tokens: See `Plan`.
        mlp_tokens: See `Plan`.
    """

    def __init__(self, sweep: PlannedSweep, demand: Demand) -> None:
        self.sweep, self.demand = sweep, demand
        self.places: dict[Node, int] = {}
        self.count = 0
        self.attention_tokens = self.mlp_tokens = 0

    def begin(self, thoughts: dict[Node, int], count: int) -> None:
        """Start a wave with its new thoughts."""
        self.places, self.count = thoughts, count

    def index(self, node: Node, state: int) -> int:
        """Where a state is among outputs, the unpatched run's tokens, and values."""
        kind, where = self.sweep.source(node, state)
        if kind == "own":
            return self.places[where]
        return self.count + where + (len(self.sweep.base) if kind == "value" else 0)

    def layer(
        self, nodes: Sequence[Node], number: dict[Node, int], layer: int
    ) -> Callable[[Watched], Step]:
        """A layer of a wave, whose nodes have these numbers; what is watched is still missing."""
        attention, outputs = self._attention(nodes, number, layer)
        self._made(outputs)
        mlp, outputs = self._mlp(nodes, layer)
        self._made(outputs)
        return lambda watched: Step(attention, mlp, watched)

    def _made(self, outputs: Sequence[Node]) -> None:
        self.places = {node: index for index, node in enumerate(outputs)}
        self.count = len(outputs)

    def _attention(
        self, nodes: Sequence[Node], number: dict[Node, int], layer: int
    ) -> tuple[AttentionStep, list[Node]]:
        """The first half, and the nodes that have an output of it."""
        made = [n for n in nodes if 2 * layer + 1 in self.demand.states[n]]
        attending = [n for n in made if n.given("attn_out", layer) is None]
        adding = [n for n in made if n.given("attn_out", layer) is not None]
        read = [n for n in nodes if layer in self.demand.layers[n]]
        written = [n for n in read if n.given("kv", layer) is not None]
        going = set(attending)
        kv_only = [n for n in read if n.given("kv", layer) is None and n not in going]
        inputs = [*attending, *kv_only, *adding]
        self.attention_tokens += len(attending)
        step = AttentionStep(
            as_tensor([self.index(n, 2 * layer) for n in inputs]),
            as_tensor([number[n] for n in inputs]),
            len(attending),
            ((0, len(attending)),) if attending else (),
            as_tensor([n.slot for n in (*attending, *kv_only)]),
            *self._keys(attending, layer),
            _hidden(attending, layer),
            (
                as_tensor([n.slot for n in written]),
                as_tensor([number[n] for n in written]),
                as_tensor([_label(n, "kv", layer) for n in written]),
            ),
            as_tensor([_label(n, "attn_out", layer) for n in adding]),
            _functions(attending, "attn_out", layer),
            _functions([*attending, *kv_only], "kv", layer),
            *_heads(attending, layer),
        )
        return step, [*attending, *adding]

    def _mlp(self, nodes: Sequence[Node], layer: int) -> tuple[MLPStep, list[Node]]:
        """The second half, and the nodes that have an output of it."""
        ordered = [*self.places, *(n for n in nodes if n not in self.places)]
        made = [n for n in ordered if 2 * layer + 2 in self.demand.states[n]]
        computing = [n for n in made if n.given("mlp_out", layer) is None]
        adding = [n for n in made if n.given("mlp_out", layer) is not None]
        source = [self.index(n, 2 * layer + 1) for n in (*computing, *adding)]
        self.mlp_tokens += len(computing)
        step = MLPStep(
            None if source == list(range(self.count)) else as_tensor(source),
            len(computing),
            as_tensor([_label(n, "mlp_out", layer) for n in adding]),
            _functions(computing, "mlp_out", layer),
            _functions([*computing, *adding], "resid_post", layer),
        )
        return step, [*computing, *adding]

    def _keys(self, nodes: Sequence[Node], layer: int) -> tuple[Tensor, Tensor | None]:
        """Slots of the keys and values that each node attends to, and which are meant."""
        chains = [[seen.keys_of(layer).slot for seen in node.attended(layer)] for node in nodes]
        longest = max(map(len, chains), default=0)
        mask = [[True] * len(c) + [False] * (longest - len(c)) for c in chains]
        padded = [c + [0] * (longest - len(c)) for c in chains]
        ragged = any(len(c) < longest for c in chains)
        return as_tensor(padded), as_tensor(mask, torch.bool) if ragged else None


def _hidden(nodes: Sequence[Node], layer: int) -> Tensor | None:
    """Labels of the prompt tokens that each node does not see; None if all see all."""
    labels = [node.hidden(layer) for node in nodes]
    return as_tensor(labels) if any(label >= 0 for label in labels) else None


def _label(node: Node, site: str, layer: int) -> int:
    patch = node.given(site, layer)
    assert patch is not None
    return patch.label


def _heads(nodes: Sequence[Node], layer: int) -> tuple[Heads, HeadFunctions]:
    """What attention heads of some nodes give, by item, head and label."""
    patches = [(i, p) for i, node in enumerate(nodes) for p in node.heads if p.layer == layer]
    given = [(i, p.head, p.label) for i, p in patches if not p.computed]
    places = as_tensor(given).view(-1, 3).unbind(1)
    computed = tuple((i, p.head, p.label) for i, p in patches if p.computed)
    return (places[0], places[1], places[2]), computed


def _functions(nodes: Sequence[Node], site: str, layer: int) -> Functions:
    """Item and label of the nodes with a function at a site."""
    patches = [node.function(site, layer) for node in nodes]
    return tuple((index, patch.label) for index, patch in enumerate(patches) if patch is not None)
