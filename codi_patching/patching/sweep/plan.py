"""What a sweep computes, worked out before anything is: which token of which row, at which layer.

A patch at (l, p) changes nothing below layer l + 1 nor before position p. So a row of patches needs
tokens of its own only from there on; all else is the unpatched run's, or that of another row with
the same patches so far. With K = 3 latents, two readout tokens, recomputed latents and one patch at
layer 1 of position 1 (`.` the unpatched run's, `P` patched, `o` the row's own):

    layer 3   .  o  o | o  o
    layer 2   .  o  o | o  o
    layer 1   .  P  o | o  o
    layer 0   .  .  o | o  o
    position  0  1  2 | readout

A *node* is one token of one history of patches. It forks off another node above `fork_layer`: that
layer's output and all below are the other's. Nodes that can be computed side by side are a *wave*:
with frozen latents all of them, with recomputed ones a wave for each latent position, then one for
the readout.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from codi_patching.patching.interventions import THOUGHT, Cell, Latents

RowShape = tuple[tuple[int, int, int], ...]
"""Layer, position and label of each patch: label v ≥ 0 is the v-th of the values, -1 - r what row
r generates."""


@dataclass(frozen=True)
class Suffix:
    """The tokens after the prompt: K latents, then the readout of all answers as a tree.

    Attributes:
        num_latents: K.
        tokens: Token ids of the readout.
        parents: For each token of the suffix the one before it, -1 for the first latent.
        reads: For each answer the tokens of the suffix whose logits are its tokens'.
    """

    num_latents: int
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls, num_latents: int, prefix: Sequence[int], answers: Sequence[Sequence[int]]
    ) -> Suffix:
        """The suffix that forces each answer, common beginnings once."""
        tokens: list[int] = []
        parents = list(range(-1, num_latents - 1))
        children: dict[tuple[int, int], int] = {}
        reads = []
        for answer in answers:
            path = [num_latents - 1]
            for token in (*prefix, *answer[:-1]):
                if (path[-1], token) not in children:
                    children[path[-1], token] = len(parents)
                    parents.append(path[-1])
                    tokens.append(token)
                path.append(children[path[-1], token])
            reads.append(tuple(path[len(path) - len(answer) :]))
        return cls(num_latents, tuple(tokens), tuple(parents), tuple(reads))

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.parents)

    def path(self, token: int) -> list[int]:
        """The tokens up to and with one."""
        before = self.parents[token]
        return [*(self.path(before) if before >= 0 else []), token]

    @property
    def depths(self) -> list[int]:
        """Position of each token after the prompt."""
        return [len(self.path(token)) - 1 for token in range(len(self))]

    @property
    def read_tokens(self) -> list[int]:
        """The tokens whose logits are read for any answer."""
        return sorted({token for tokens in self.reads for token in tokens})


@dataclass(frozen=True)
class Step:
    """One layer of a wave.

    Attributes:
        source: Where each node's input comes from, `(nodes,)`: the wave's outputs of the layer
            before (at layer 0 its new thoughts), then the unpatched run's, then the values.
        nodes: Number of each node in the wave, `(nodes,)`; those that attend come first.
        attending: How many of them attend; of the others only keys and values are needed.
        ids: Where each node's keys and values are kept, `(nodes,)`.
        keys: Kept keys and values that each attending node attends to, `(attending, longest)`.
        mask: Which of `keys` are meant, `(attending, longest)`; None for all.
    """

    source: Tensor
    nodes: Tensor
    attending: int
    ids: Tensor
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
        heads: The last wave's outputs that logits are made from.
        reads: For each answer which logits are its tokens', `(rows, tokens)`: those of `heads`,
            then the unpatched run's of `Suffix.read_tokens`.
        kept: Number of places for keys and values, the unpatched run's included.
        watched: Number of watched cells.
        constant: Watched cells that are not computed: `(place, layer or -1, source)`, sources being
            the unpatched run's tokens, then the values.
        token_layers: Tokens through a layer, all waves; without those that do not attend.
    """

    waves: tuple[Wave, ...]
    heads: Tensor
    reads: tuple[Tensor, ...]
    kept: int
    watched: int
    constant: tuple[tuple[int, int, int], ...]
    token_layers: int


@lru_cache(maxsize=16)
def make_plan(
    suffix: Suffix,
    num_layers: int,
    rows: tuple[RowShape, ...],
    watch: tuple[tuple[Cell, ...], ...],
    latents: Latents,
    device: torch.device,
) -> Plan:
    """The least work that gives every readout; the same for all pairs of an experiment.

    Args:
        suffix: The tokens after the prompt.
        num_layers: L.
        rows: The patches of each row.
        watch: For each row the cells whose activations are wanted.
        latents: See `interventions`.
        device: Of the plan's tensors.
    """
    planner = _Planner(suffix, num_layers, rows, watch, device)
    return planner.frozen() if latents == "frozen" else planner.recomputed()


@dataclass(eq=False)
class _Node:
    """A token of a history of patches.

    Attributes:
        token: Its place in the suffix.
        id: Where its keys and values are kept.
        fork: The node whose states it shares up to `fork_layer`; None for the unpatched run's.
        fork_layer: See `fork`; -1 if every block's output is its own.
        top: The highest layer that is needed.
        patches: Label by layer.
        chain: The nodes that it attends to, itself included.
        thought: Number of its new thought in the wave; None if its input is not a new one.
    """

    token: int
    id: int
    fork: _Node | None = None
    fork_layer: int = -1
    top: int = -1
    patches: dict[int, int] = field(default_factory=dict)
    chain: tuple[_Node, ...] = ()
    thought: int | None = None


_History = tuple[tuple[tuple[int, int], ...], ...]
"""For each latent position so far its patches as (layer, label)."""


class _Planner:
    """Builds the plan of one batch of rows."""

    def __init__(
        self,
        suffix: Suffix,
        num_layers: int,
        rows: Sequence[RowShape],
        watch: Sequence[Sequence[Cell]],
        device: torch.device,
    ) -> None:
        self.suffix, self.last, self.watch, self.device = suffix, num_layers - 1, watch, device
        self.base = [_Node(token, id=token) for token in range(len(suffix))]
        for node in self.base:
            node.chain = tuple(self.base[t] for t in suffix.path(node.token))
        self.kept = len(self.base)
        self.histories: list[_History] = [
            tuple(
                tuple(sorted((layer, label) for layer, at, label in row if at == position))
                for position in range(suffix.num_latents)
            )
            for row in rows
        ]
        self.found: list[list[_Node]] = [[] for _ in rows]
        self.latents: dict[_History, _Node] = {}
        self.waves: list[Wave] = []
        self.constant: list[tuple[int, int, int]] = []
        self.token_layers = 0

    def recomputed(self) -> Plan:
        """A wave for each latent position, then one for the readout."""
        ends: dict[_Node, list[_Node]] = {}
        for position in range(self.suffix.num_latents):
            wave: list[_Node] = []
            for found, history in zip(self.found, self.histories):
                found.append(self._latent(wave, history[: position + 1]))
                found[-1].top = self.last
            self._add(wave, [position], self._new_thoughts(wave))
        wave = []
        for found in self.found:
            if found[-1] not in ends:
                ends[found[-1]] = self._readout(wave, found[-1])
        rows = [ends[found[-1]] for found in self.found]
        return self._finish(wave, [], rows)

    def frozen(self) -> Plan:
        """All in one wave: every token of a row from its first patched position on."""
        wave: list[_Node] = []
        shared: dict[_History, list[_Node]] = {}
        for row, history in enumerate(self.histories):
            if history not in shared:
                shared[history] = made = list(self.base)
                lowest = self.last + 1
                for base in self.base:
                    patches = dict(history[base.token]) if base.token < len(history) else {}
                    lowest = min([lowest, *patches])
                    if lowest <= self.last:
                        made[base.token] = self._fork(wave, base, lowest, patches)
                        self._chain(made, base.token)
            self.found[row] = shared[history]
        return self._finish(wave, range(self.suffix.num_latents), self.found)

    # -- nodes ----------------------------------------------------------------------------------

    def _fork(self, wave: list[_Node], fork: _Node, layer: int, patches: dict[int, int]) -> _Node:
        """A new node of a wave, with states of its own above a layer."""
        node = _Node(fork.token, self.kept, fork, layer, self.last, patches)
        self.kept += 1
        wave.append(node)
        return node

    def _chain(self, row: Sequence[_Node], token: int) -> None:
        row[token].chain = tuple(row[t] for t in self.suffix.path(token))

    def _latent(self, wave: list[_Node], history: _History) -> _Node:
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

    def _new_thoughts(self, wave: Sequence[_Node]) -> list[_Node]:
        """Number the new thoughts of a wave; the nodes whose states they are made from."""
        parents: dict[_Node, int] = {}
        for node in wave:
            before = node.chain[-2] if len(node.chain) > 1 else None
            own = node.fork_layer == THOUGHT and THOUGHT not in node.patches
            if own and before is not None and before.fork is not None:
                node.thought = parents.setdefault(before, len(parents))
        return list(parents)

    def _readout(self, wave: list[_Node], end: _Node) -> list[_Node]:
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

    # -- where states are -----------------------------------------------------------------------

    def _source(self, node: _Node, layer: int) -> tuple[Literal["own", "base", "value"], Any]:
        """The node, token or value that has a node's output at a layer (-1: its input)."""
        label = node.patches.get(layer)
        if label is not None and label >= 0:
            return "value", label
        if label is not None:
            return self._source(self.found[-1 - label][node.token], layer)
        if node.fork is None:
            return "base", node.token
        if layer > node.fork_layer or (layer == THOUGHT and node.thought is not None):
            return "own", node
        return self._source(node.fork, layer)

    def _index(self, node: _Node, layer: int) -> int:
        """`_source` as an index into outputs of the wave, of the unpatched run, and values."""
        kind, where = self._source(node, layer)
        if kind == "own":
            return self.places[where]
        return self.count + where + (len(self.base) if kind == "value" else 0)

    def _keys(self, nodes: Sequence[_Node], layer: int) -> tuple[Tensor, Tensor | None]:
        """Where the keys and values that each node attends to are kept, and which are meant."""
        chains = []
        for node in nodes:
            ids = []
            for seen in node.chain:
                while seen.fork is not None and layer <= seen.fork_layer:
                    seen = seen.fork
                ids.append(seen.id)
            chains.append(ids)
        longest = max(map(len, chains), default=0)
        mask = [[True] * len(c) + [False] * (longest - len(c)) for c in chains]
        padded = [c + [0] * (longest - len(c)) for c in chains]
        ragged = any(len(c) < longest for c in chains)
        return self._tensor(padded), self._tensor(mask, torch.bool) if ragged else None

    # -- waves ----------------------------------------------------------------------------------

    def _add(
        self,
        wave: list[_Node],
        positions: Collection[int],
        parents: Sequence[_Node] = (),
        reading: bool = False,
    ) -> None:
        """Work out a wave's layers.

        Args:
            wave: Its nodes.
            positions: The latent positions among them.
            parents: The nodes of the wave before that its new thoughts are made from.
            reading: Whether it is the last one, whose last layer is needed at few tokens only.
        """
        if self.waves:
            sources = self._tensor([self._index(node, self.last) for node in parents])
            self.waves[-1] = replace(self.waves[-1], parents=sources)
        wave.sort(key=lambda node: node.fork_layer)
        number = {node: index for index, node in enumerate(wave)}
        self.places = {node: node.thought for node in wave if node.thought is not None}
        self.count = len(parents)
        cells = self._watched(positions)
        wanted = {node for layer, _, node in cells if layer == self.last}
        read = set(self.suffix.read_tokens)
        wanted |= {node for node in wave if node.token in read}
        steps, watched = [], [self._kept(cells, THOUGHT)]
        for layer in range(self.last + 1):
            active = [node for node in wave if node.fork_layer < layer <= node.top]
            quiet = reading and layer == self.last
            attending = [node for node in active if not quiet or node in wanted]
            nodes = attending + [node for node in active if quiet and node not in wanted]
            steps.append(
                Step(
                    self._tensor([self._index(node, layer - 1) for node in nodes]),
                    self._tensor([number[node] for node in nodes]),
                    len(attending),
                    self._tensor([node.id for node in nodes]),
                    *self._keys(attending, layer),
                )
            )
            self.token_layers += len(attending)
            self.places = {node: index for index, node in enumerate(attending)}
            self.count = len(attending)
            watched.append(self._kept(cells, layer))
        depths = self._tensor([len(node.chain) - 1 for node in wave])
        self.waves.append(Wave(depths, tuple(steps), tuple(watched), self._tensor([])))

    def _watched(self, positions: Collection[int]) -> list[tuple[int, int, _Node]]:
        """Layer, place and node of the watched cells of a wave; others are constant."""
        cells, place = [], -1
        for found, watch in zip(self.found, self.watch):
            for layer, position in watch:
                place += 1
                if position not in positions:
                    continue
                kind, where = self._source(found[position], layer)
                if kind == "own":
                    cells.append((layer, place, where))
                else:
                    offset = len(self.base) if kind == "value" else 0
                    self.constant.append((place, layer, offset + where))
        return cells

    def _kept(self, cells: Sequence[tuple[int, int, _Node]], layer: int) -> tuple[Tensor, Tensor]:
        """The outputs of a layer that are watched, and their places."""
        here = [(self.places[node], place) for at, place, node in cells if at == layer]
        outputs, places = zip(*here) if here else ((), ())
        return self._tensor(outputs), self._tensor(places)

    def _finish(
        self, wave: list[_Node], positions: Collection[int], rows: Sequence[Sequence[_Node]]
    ) -> Plan:
        """Add the last wave, and say where the logits of all rows are."""
        self._add(wave, positions, reading=True)
        own: dict[int, int] = {}
        answers = []
        for tokens in self.suffix.reads:
            sources = [[self._source(row[t], self.last) for t in tokens] for row in rows]
            answers.append(sources)
            for kind, where in chain.from_iterable(sources):
                if kind == "own":
                    own.setdefault(self.places[where], len(own))
        base = {token: len(own) + i for i, token in enumerate(self.suffix.read_tokens)}
        reads = [
            [
                [own[self.places[w]] if kind == "own" else base[w] for kind, w in row]
                for row in rows_
            ]
            for rows_ in answers
        ]
        return Plan(
            tuple(self.waves),
            self._tensor(list(own)),
            tuple(self._tensor(indices) for indices in reads),
            self.kept,
            sum(map(len, self.watch)),
            tuple(self.constant),
            self.token_layers,
        )

    def _tensor(self, values: Any, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)
