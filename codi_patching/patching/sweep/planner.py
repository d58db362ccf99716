"""What a sweep computes, worked out before anything is: which token of which row, at which layer.

A patch at (l, p) changes nothing below layer l + 1 nor before position p. So a row needs tokens of
its own only from there on; all else is the unpatched run's, or that of another row with the same
patches so far. With K = 3 latents, two readout tokens, recomputed latents and one patch at layer 1
of position 1 (`.` the unpatched run's, `P` patched, `o` the row's own):

    layer 3   .  o  o | o  o
    layer 2   .  o  o | o  o
    layer 1   .  P  o | o  o
    layer 0   .  .  o | o  o
    position  0  1  2 | readout

A *node* is one token of one history of patches. It forks off another node above `fork_layer`: that
layer's output and all below are the other's. Nodes that can be computed side by side are a *wave*:
with frozen latents all of them, with recomputed ones a wave for each latent position, then one for
the readout.

Relay at layer 1, worked through. Row 0 patches (1, 0) with the source run's value; row 1 patches
(1, 1) with what row 0 generated there (label -1, "of row 0"); row 2 patches (1, 2) with row 1's:

    wave of position 0   n0  history ((1: v0),)           forks off base 0 above layer 1
    wave of position 1   n1  ((1: v0), ())                row 0; its thought is new, made from n0
                         n2  ((), (1: row 0))             row 1; forks off base 1 above layer 1, its
                                                          value at layer 1 is n1's output there
    wave of position 2   n3  ((1: v0), (), ())            row 0, from n1
                         n4  ((), (1: row 0), ())         row 1, from n2
                         n5  ((), (), (1: row 1))         row 2; its value at layer 1 is n4's
    readout              two nodes for each of n3, n4, n5

n1 and n2 go up together although n2 needs n1's output: n2 needs it only as the input of layer 2,
and n1's output of layer 1 is made one step earlier in the same wave.

Invariants: a node's fork is at the same position, in the same wave or the unpatched run; what a row
generates at (l, p) is used by later rows at (l, p) alone; rows of equal histories share nodes;
after planning nothing of a node changes any more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from codi_patching.patching.interventions import THOUGHT, Latents
from codi_patching.patching.sweep.suffix import Suffix

PatchSetShape = tuple[tuple[int, int, int], ...]
"""Layer, position and label of each patch: label v ≥ 0 is the v-th of the values, -1 - r what row
r generates."""


@dataclass(eq=False)
class Node:
    """A token of a history of patches.

    Attributes:
        token: Its place in the suffix.
        slot: Where its keys and values are in the pool.
        fork: The node whose states it shares up to `fork_layer`; None for the unpatched run's.
        fork_layer: See `fork`; -1 if every block's output is its own.
        top: The highest layer that is needed.
        patches: Label by layer.
        chain: The nodes that it attends to, itself included.
        thought: Number of its new thought in the wave; None if its input is not a new one.
    """

    token: int
    slot: int
    fork: Node | None = None
    fork_layer: int = -1
    top: int = -1
    patches: dict[int, int] = field(default_factory=dict)
    chain: tuple[Node, ...] = ()
    thought: int | None = None


@dataclass
class PlannedWave:
    """Nodes that go up together.

    Attributes:
        nodes: In any order.
        positions: The latent positions among them.
        parents: The nodes, of the wave before, that its new thoughts are made from.
        reading: Whether it is the last one, whose last layer is needed at few tokens only.
    """

    nodes: list[Node]
    positions: Collection[int]
    parents: list[Node] = field(default_factory=list)
    reading: bool = False


@dataclass
class PlannedSweep:
    """What is computed, before it is written down as tensors.

    Attributes:
        base: The unpatched run's nodes, one for each token of the suffix.
        waves: In order.
        row_nodes: For each row its node at each token of the suffix.
        num_slots: Slots for keys and values, the unpatched run's included.
    """

    base: list[Node]
    waves: list[PlannedWave]
    row_nodes: list[list[Node]]
    num_slots: int


_History = tuple[tuple[tuple[int, int], ...], ...]
"""For each latent position so far its patches as (layer, label)."""


def plan_nodes(
    suffix: Suffix, num_layers: int, rows: Sequence[PatchSetShape], latents: Latents
) -> PlannedSweep:
    """The nodes and waves of a batch of rows.

    Args:
        suffix: The tokens after the prompt.
        num_layers: L.
        rows: The patches of each row.
        latents: See `interventions`.
    """
    planner = _Planner(suffix, num_layers, rows)
    return planner.frozen() if latents == "frozen" else planner.recomputed()


class _Planner:
    """Builds the nodes of one batch of rows."""

    def __init__(self, suffix: Suffix, num_layers: int, rows: Sequence[PatchSetShape]) -> None:
        self.suffix, self.last = suffix, num_layers - 1
        self.base = [Node(token, slot=token) for token in range(len(suffix))]
        for node in self.base:
            node.chain = tuple(self.base[t] for t in suffix.path(node.token))
        self.num_slots = len(self.base)
        self.histories: list[_History] = [
            tuple(
                tuple(sorted((layer, label) for layer, at, label in row if at == position))
                for position in range(suffix.num_latents)
            )
            for row in rows
        ]
        self.latents: dict[_History, Node] = {}

    def recomputed(self) -> PlannedSweep:
        """A wave for each latent position, then one for the readout."""
        row_nodes: list[list[Node]] = [[] for _ in self.histories]
        waves = []
        for position in range(self.suffix.num_latents):
            wave: list[Node] = []
            for nodes, history in zip(row_nodes, self.histories):
                nodes.append(self._latent(wave, history[: position + 1]))
                nodes[-1].top = self.last
            waves.append(PlannedWave(wave, [position], _number_new_thoughts(wave)))
        readout: list[Node] = []
        ends: dict[Node, list[Node]] = {}
        for nodes in row_nodes:
            if nodes[-1] not in ends:
                ends[nodes[-1]] = self._readout(readout, nodes[-1])
        waves.append(PlannedWave(readout, [], reading=True))
        rows = [ends[nodes[-1]] for nodes in row_nodes]
        return PlannedSweep(self.base, waves, rows, self.num_slots)

    def frozen(self) -> PlannedSweep:
        """All in one wave: every token of a row from its first patched position on."""
        wave: list[Node] = []
        shared: dict[_History, list[Node]] = {}
        for history in self.histories:
            if history not in shared:
                shared[history] = self._frozen_row(wave, history)
        rows = [shared[history] for history in self.histories]
        positions = range(self.suffix.num_latents)
        only = PlannedWave(wave, positions, reading=True)
        return PlannedSweep(self.base, [only], rows, self.num_slots)

    def _frozen_row(self, wave: list[Node], history: _History) -> list[Node]:
        """A row's nodes, each above the lowest layer patched so far."""
        made = list(self.base)
        lowest = self.last + 1
        for base in self.base:
            patches = dict(history[base.token]) if base.token < len(history) else {}
            lowest = min([lowest, *patches])
            if lowest <= self.last:
                made[base.token] = self._fork(wave, base, lowest, patches)
                self._chain(made, base.token)
        return made

    def _fork(self, wave: list[Node], fork: Node, layer: int, patches: dict[int, int]) -> Node:
        """A new node of a wave, with states of its own above a layer."""
        node = Node(fork.token, self.num_slots, fork, layer, self.last, patches)
        self.num_slots += 1
        wave.append(node)
        return node

    def _chain(self, row: Sequence[Node], token: int) -> None:
        row[token].chain = tuple(row[t] for t in self.suffix.path(token))

    def _latent(self, wave: list[Node], history: _History) -> Node:
        """The node of a history's last position; made if there is none yet."""
        position, patches = len(history) - 1, dict(history[-1])
        if not any(history):
            return self.base[position]
        if history in self.latents:
            return self.latents[history]
        before = self._latent(wave, history[:-1]) if position else None
        base, lowest = self.base[position], min(patches, default=THOUGHT)
        if before is None or before.fork is None:
            node = self._fork(wave, base, lowest, patches)
        elif lowest == THOUGHT:  # patched before this position: nothing is the unpatched run's
            node = self._fork(wave, base, THOUGHT, patches)
        else:
            free = self._latent(wave, (*history[:-1], ()))
            node = self._fork(wave, free, lowest, patches)
        node.top = -1
        if node.fork is not None:
            node.fork.top = max(node.fork.top, lowest)
        node.chain = (*(before.chain if before else ()), node)
        self.latents[history] = node
        return node

    def _readout(self, wave: list[Node], end: Node) -> list[Node]:
        """A row's nodes, by token of the suffix, after its last latent node."""
        made = [*end.chain, *self.base[self.suffix.num_latents :]]
        if end.fork is None:
            return made
        early = any(node.fork is not None for node in end.chain[:-1])
        for base in self.base[self.suffix.num_latents :]:
            layer = THOUGHT if early else end.fork_layer
            made[base.token] = self._fork(wave, base, layer, {})
            self._chain(made, base.token)
        return made


def _number_new_thoughts(wave: Sequence[Node]) -> list[Node]:
    """Number the new thoughts of a wave; the nodes whose states they are made from."""
    parents: dict[Node, int] = {}
    for node in wave:
        before = node.chain[-2] if len(node.chain) > 1 else None
        own = node.fork_layer == THOUGHT and THOUGHT not in node.patches
        if own and before is not None and before.fork is not None:
            node.thought = parents.setdefault(before, len(parents))
    return list(parents)
