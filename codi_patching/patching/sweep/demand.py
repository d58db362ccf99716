"""What of a planned sweep is needed: from the logits that are read down to the patches.

Each state of a node that is needed names what it is made from; what nothing names is not computed.
So of the last layer's tokens only those that are read go through it, and of a token whose output is
patched only keys and values are made there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from codi_patching.patching.sweep.nodes import Node, PlannedSweep


class Demand:
    """The states, and the keys and values, that must be made.

    Attributes:
        states: Of each node, those of its own.
        layers: Of each node, the layers whose keys and values of its own are attended to.
    """

    def __init__(self, sweep: PlannedSweep, top: int) -> None:
        self.sweep, self.top = sweep, top
        self.states: dict[Node, set[int]] = defaultdict(set)
        self.layers: dict[Node, set[int]] = defaultdict(set)

    def add(self, node: Node, state: int) -> None:
        """A state is needed, and so is all that it is made from."""
        todo = [(node, state)]
        while todo:
            node, state = todo.pop()
            kind, owner = self.sweep.source(node, state)
            if kind == "own" and state not in self.states[owner]:
                self.states[owner].add(state)
                todo += self._made_from(owner, state)

    def _made_from(self, node: Node, state: int) -> Iterable[tuple[Node, int]]:
        """What a state of a node's own is made from."""
        if state == 0:
            parent = self.sweep.parent(node)
            return [] if parent is None else [(parent, self.top)]
        below = [(node, state - 1)]
        layer = (state - 1) // 2
        if state % 2 and node.given("attn_out", layer) is None:
            for seen in node.attended(layer):
                below += self._keys(seen.keys_of(layer), layer)
        return below

    def _keys(self, owner: Node, layer: int) -> list[tuple[Node, int]]:
        """What keys and values are made from, if they are not there already."""
        if owner.fork is None or layer in self.layers[owner]:
            return []
        self.layers[owner].add(layer)
        return [] if owner.given("kv", layer) is not None else [(owner, 2 * layer)]
