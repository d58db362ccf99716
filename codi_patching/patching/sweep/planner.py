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

    cut          2 l + 1 (attention)   l + 1

A value that is a function of the present one needs that made, so the node then owns its block. A
cut may be of a reader in the readout: rows of one end of thoughts and the same cuts there share it.
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

Where the prompt is patched too, its lead (see `suffix`) goes up in a wave of its own before the
thoughts; tokens of the lead and of the readout are given and are never made from those before.

Invariants: a node's fork is at the same position, in the same wave or the unpatched run; what a row
generates at (l, p) is used by later rows at (l, p) alone; rows of equal histories share nodes. Of
what a node could compute, `demand` says what is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from codi_patching.patching.interventions import Latents
from codi_patching.patching.sweep.nodes import Node, PlannedSweep, PlannedWave
from codi_patching.patching.sweep.patch_shape import PatchSetShape, PatchShape
from codi_patching.patching.sweep.suffix import Suffix

_History = tuple[tuple[PatchShape, ...], ...]
"""For each place of the suffix so far its patches; answers branch, and share places."""


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
        places = max(len(node.chain) for node in self.base)
        self.histories: list[_History] = [
            tuple(
                tuple(sorted(patch for patch in row if patch.position + suffix.lead == place))
                for place in range(places)
            )
            for row in shapes
        ]
        self.leads: dict[_History, list[Node]] = {}
        self.latents: dict[_History, Node] = {}

    def recomputed(self) -> PlannedSweep:
        """A wave for the lead, if there is one, one for each latent position and the readout."""
        lead, first_read = self.suffix.lead, self.suffix.first_read
        waves = []
        if lead:
            wave: list[Node] = []
            for history in self.histories:
                self._lead(wave, history[:lead])
            waves.append(PlannedWave(wave, []))
        ends: list[Node] = list(self.base[:1]) * len(self.histories)
        for token in range(lead, first_read):
            wave = []
            ends = [self._latent(wave, history[: token + 1]) for history in self.histories]
            waves.append(PlannedWave(wave, [token - lead]))
        readout: list[Node] = []
        shared: dict[tuple[Node, _History, _History], list[Node]] = {}
        rows = []
        for end, history in zip(ends, self.histories):
            key = end, history[:lead], history[first_read:]
            if key not in shared:
                shared[key] = self._readout(readout, end, history)
            rows.append(shared[key])
        waves.append(PlannedWave(readout, []))
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
        self._follow(wave, made, range(len(made)), history, self.top)
        return made

    def _follow(
        self,
        wave: list[Node],
        made: list[Node],
        tokens: Iterable[int],
        history: _History,
        before: int,
    ) -> None:
        """Make a row's nodes of some tokens that do not wait for each other, in place.

        Args:
            wave: Gets the new nodes.
            made: The row's node at each token so far; else the unpatched run's.
            tokens: In order.
            history: Of all places.
            before: The state above which a change at a token before these is read.
        """
        read: dict[int, int] = {}
        for token in tokens:
            base = self.base[token]
            patches = history[len(base.chain) - 1]
            seen = read.get(self.suffix.parents[token], before)
            lowest = min([seen, *(patch.shared for patch in patches)])
            if lowest < self.top:
                made[token] = self._fork(wave, base, lowest, patches)
                made[token].chain = tuple(made[t] for t in self.suffix.path(token))
            read[token] = min([seen, *(2 * patch.read_from for patch in patches)])

    def _lead(self, wave: list[Node], history: _History) -> list[Node]:
        """The nodes of the lead of a history; made if there are none yet."""
        if history not in self.leads:
            made = list(self.base[: self.suffix.lead])
            self._follow(wave, made, range(len(made)), history, self.top)
            self.leads[history] = made
        return self.leads[history]

    def _fork(
        self, wave: list[Node], fork: Node, state: int, patches: Sequence[PatchShape] = ()
    ) -> Node:
        """A new node of a wave, with states of its own above one."""
        heads = [p for p in patches if p.site == "head"]
        node = Node(fork.token, self.num_slots, fork, state, heads=heads)
        node.patches |= {(p.site, p.layer): p for p in patches if p.site != "head"}
        self.num_slots += 1
        wave.append(node)
        return node

    def _latent(self, wave: list[Node], history: _History) -> Node:
        """The node of a history's last position; made if there is none yet."""
        lead, token, patches = self.suffix.lead, len(history) - 1, history[-1]
        if not any(history):
            return self.base[token]
        if history in self.latents:
            return self.latents[history]
        before = None
        if token:
            before = (
                self._latent(wave, history[:-1])
                if token > lead
                else self._lead(wave, history[:-1])[-1]
            )
        base, lowest = self.base[token], min((p.shared for p in patches), default=-1)
        if before is None or before.fork is None:
            if not patches:  # what was patched in the lead is read by nothing
                return base
            node = self._fork(wave, base, lowest, patches)
        elif lowest == -1:  # patched before this position: nothing is the unpatched run's
            node = self._fork(wave, base, -1, patches)
        else:
            free = self._latent(wave, (*history[:-1], ()))
            node = self._fork(wave, free, lowest, patches)
        node.chain = (*(before.chain if before else ()), node)
        self.latents[history] = node
        return node

    def _readout(self, wave: list[Node], end: Node, history: _History) -> list[Node]:
        """A row's nodes, by token of the suffix, after its last latent node."""
        lead, first = self.suffix.lead, self.suffix.first_read
        made = [*end.chain, *self.base[first:]]
        if lead:  # the last of it may be the unpatched run's where earlier ones are not
            made[:lead] = self._lead(wave, history[:lead])
        seen = self.top
        if end.fork is not None:
            early = any(node.fork is not None for node in end.chain[:-1])
            seen = 0 if early else 2 * min(patch.read_from for patch in history[first - 1])
        self._follow(wave, made, range(first, len(made)), history, seen)
        return made
