"""Decides, before running anything, which token states of which row a sweep computes.

The stream of a token goes through 2 L + 1 *states*: 0 is its input, 2 l + 1 what it is after layer
l's attention, 2 l + 2 the layer's output. A patch changes nothing below it nor before its position.
So a row needs tokens of its own only from there on; all else is the unpatched run's, or that of
another row with the same patches so far. With K = 3 latents, two readout tokens, recomputed latents
and one patch at layer 1 of position 1 (`.` the unpatched run's, `P` patched, `o` the row's own):

    layer 3   .  o  o | o  o
    layer 2   .  o  o | o  o
    layer 1   .  P  o | o  o
    layer 0   .  .  o | o  o
    position  0  1  2 | readout

A *node* is one token of one history of patches. It forks off another node above `fork_state`: that
state and all below are the other's. Where a patch forks:

    site        own from state        later tokens read a change from layer
    thought     0                     0
    kv          2 l + 1 (attention)   l, at once
    attn_out    2 l + 1, by adding    l + 1
    head        2 l + 1 (attention)   l + 1
    mlp_out     2 l + 2, by adding    l + 1
    resid_post  2 l + 2, as it is     l + 1

A value that is a function of the present one needs that made, so the node then owns its block.
Nodes that can be computed side by side are a *wave*: with frozen latents all of them, with
recomputed ones a wave for each latent position, then one for the readout.

Relay at layer 1, worked through. Row 0 patches (1, 0) with the source run's value; row 1 patches
(1, 1) with what row 0 generated there (label -1, "of row 0"); row 2 patches (1, 2) with row 1's:

    wave of position 0   n0  history ((1: v0),)           forks off base 0 below its output at 1
    wave of position 1   n1  ((1: v0), ())                row 0; its thought is new, made from n0
                         n2  ((), (1: row 0))             row 1; forks off base 1, its output of
                                                          layer 1 is n1's
    wave of position 2   n3  ((1: v0), (), ())            row 0, from n1
                         n4  ((), (1: row 0), ())         row 1, from n2
                         n5  ((), (), (1: row 1))         row 2; its output of layer 1 is n4's
    readout              two nodes for each of n3, n4, n5

n1 and n2 go up together although n2 needs n1's output: n2 needs it only as the input of layer 2,
and n1's output of layer 1 is made one step earlier in the same wave.

Invariants: a node's fork is at the same position, in the same wave or the unpatched run; what a row
generates at (l, p) is used by later rows at (l, p) alone; rows of equal histories share nodes. Of
what a node could compute, `demand` says what is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

from codi_patching.patching.interventions import Latents
from codi_patching.patching.sweep.nodes import Node, PlannedSweep, PlannedWave
from codi_patching.patching.sweep.patch_shape import PatchSetShape, PatchShape
from codi_patching.patching.sweep.suffix import Suffix

_History = tuple[tuple[PatchShape, ...], ...]
"""For each latent position so far its patches."""


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
        self.suffix, self.top = suffix, 2 * num_layers
        self.base = [Node(token, slot=token) for token in range(len(suffix))]
        for node in self.base:
            node.chain = tuple(self.base[t] for t in suffix.path(node.token))
        self.num_slots = len(self.base)
        shapes = [[PatchShape.of(patch) for patch in row] for row in rows]
        self.histories: list[_History] = [
            tuple(
                tuple(sorted(patch for patch in row if patch.position == position))
                for position in range(suffix.num_latents)
            )
            for row in shapes
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
            waves.append(PlannedWave(wave, [position]))
        readout: list[Node] = []
        ends: dict[Node, list[Node]] = {}
        for nodes in row_nodes:
            if nodes[-1] not in ends:
                ends[nodes[-1]] = self._readout(readout, nodes[-1])
        waves.append(PlannedWave(readout, []))
        rows = [ends[nodes[-1]] for nodes in row_nodes]
        return PlannedSweep(self.base, waves, rows, self.num_slots, True)

    def frozen(self) -> PlannedSweep:
        """All in one wave: every token of a row from its first patched position on."""
        wave: list[Node] = []
        shared: dict[_History, list[Node]] = {}
        for history in self.histories:
            if history not in shared:
                shared[history] = self._frozen_row(wave, history)
        rows = [shared[history] for history in self.histories]
        only = PlannedWave(wave, range(self.suffix.num_latents))
        return PlannedSweep(self.base, [only], rows, self.num_slots, False)

    def _frozen_row(self, wave: list[Node], history: _History) -> list[Node]:
        """A row's nodes, each above the lowest state that differs."""
        made = list(self.base)
        seen = self.top
        """The state above which a change at an earlier token is read."""
        for base in self.base:
            patches = history[base.token] if base.token < len(history) else ()
            lowest = min([seen, *(patch.shared for patch in patches)])
            if lowest < self.top:
                made[base.token] = self._fork(wave, base, lowest, patches)
                made[base.token].chain = tuple(made[t] for t in self.suffix.path(base.token))
            seen = min([seen, *(2 * patch.read_from for patch in patches)])
        return made

    def _fork(
        self, wave: list[Node], fork: Node, state: int, patches: Sequence[PatchShape] = ()
    ) -> Node:
        """A new node of a wave, with states of its own above one."""
        by_place = {(p.site, p.layer): p for p in patches if p.site != "head"}
        heads = [p for p in patches if p.site == "head"]
        node = Node(fork.token, self.num_slots, fork, state, by_place, heads)
        self.num_slots += 1
        wave.append(node)
        return node

    def _latent(self, wave: list[Node], history: _History) -> Node:
        """The node of a history's last position; made if there is none yet."""
        position, patches = len(history) - 1, history[-1]
        if not any(history):
            return self.base[position]
        if history in self.latents:
            return self.latents[history]
        before = self._latent(wave, history[:-1]) if position else None
        base, lowest = self.base[position], min((p.shared for p in patches), default=-1)
        if before is None or before.fork is None:
            node = self._fork(wave, base, lowest, patches)
        elif lowest == -1:  # patched before this position: nothing is the unpatched run's
            node = self._fork(wave, base, -1, patches)
        else:
            free = self._latent(wave, (*history[:-1], ()))
            node = self._fork(wave, free, lowest, patches)
        node.chain = (*(before.chain if before else ()), node)
        self.latents[history] = node
        return node

    def _readout(self, wave: list[Node], end: Node) -> list[Node]:
        """A row's nodes, by token of the suffix, after its last latent node."""
        made = [*end.chain, *self.base[self.suffix.num_latents :]]
        if end.fork is None:
            return made
        early = any(node.fork is not None for node in end.chain[:-1])
        patches = [*end.patches.values(), *end.heads]
        state = 0 if early else 2 * min(patch.read_from for patch in patches)
        for base in self.base[self.suffix.num_latents :]:
            made[base.token] = self._fork(wave, base, state)
            made[base.token].chain = tuple(made[t] for t in self.suffix.path(base.token))
        return made
