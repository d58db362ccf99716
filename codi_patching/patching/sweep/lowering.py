"""Writes a planned sweep down as tensors of indices, once for all pairs of an experiment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from codi_patching.patching.interventions import THOUGHT, Cell, Latents
from codi_patching.patching.sweep.plan import Plan, Step, Wave
from codi_patching.patching.sweep.planner import Node, PatchSetShape, PlannedWave, plan_nodes
from codi_patching.patching.sweep.suffix import Suffix


@lru_cache(maxsize=16)
def make_plan(
    suffix: Suffix,
    num_layers: int,
    rows: tuple[PatchSetShape, ...],
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
    return _Lowering(suffix, num_layers, rows, watch, latents, device).plan()


class _Lowering:
    """Turns nodes into indices, wave by wave and layer by layer."""

    def __init__(
        self,
        suffix: Suffix,
        num_layers: int,
        rows: Sequence[PatchSetShape],
        watch: Sequence[Sequence[Cell]],
        latents: Latents,
        device: torch.device,
    ) -> None:
        self.suffix, self.last, self.watch, self.device = suffix, num_layers - 1, watch, device
        self.sweep = plan_nodes(suffix, num_layers, rows, latents)
        self.waves: list[Wave] = []
        self.constant: list[tuple[int, int, int]] = []
        self.token_layers = 0
        self.places: dict[Node, int] = {}
        self.count = 0

    def plan(self) -> Plan:
        """All waves, and where the logits of all rows are."""
        for wave in self.sweep.waves:
            self._add(wave)
        outputs, reads = self._reads()
        return Plan(
            tuple(self.waves),
            self._tensor(outputs),
            tuple(self._tensor(indices) for indices in reads),
            self.sweep.num_slots,
            sum(map(len, self.watch)),
            tuple(self.constant),
            self.token_layers,
        )

    # -- where states are -----------------------------------------------------------------------

    def _source(self, node: Node, layer: int) -> tuple[Literal["own", "base", "value"], Any]:
        """The node, token or value that has a node's output at a layer (-1: its input)."""
        label = node.patches.get(layer)
        if label is not None and label >= 0:
            return "value", label
        if label is not None:
            return self._source(self.sweep.row_nodes[-1 - label][node.token], layer)
        if node.fork is None:
            return "base", node.token
        if layer > node.fork_layer or (layer == THOUGHT and node.thought is not None):
            return "own", node
        return self._source(node.fork, layer)

    def _index(self, node: Node, layer: int) -> int:
        """`_source` as an index into outputs of the wave, of the unpatched run, and values."""
        kind, where = self._source(node, layer)
        if kind == "own":
            return self.places[where]
        return self.count + where + (len(self.sweep.base) if kind == "value" else 0)

    def _keys(self, nodes: Sequence[Node], layer: int) -> tuple[Tensor, Tensor | None]:
        """Slots of the keys and values that each node attends to, and which are meant."""
        chains = []
        for node in nodes:
            slots = []
            for seen in node.chain:
                while seen.fork is not None and layer <= seen.fork_layer:
                    seen = seen.fork
                slots.append(seen.slot)
            chains.append(slots)
        longest = max(map(len, chains), default=0)
        mask = [[True] * len(c) + [False] * (longest - len(c)) for c in chains]
        padded = [c + [0] * (longest - len(c)) for c in chains]
        ragged = any(len(c) < longest for c in chains)
        return self._tensor(padded), self._tensor(mask, torch.bool) if ragged else None

    # -- waves ----------------------------------------------------------------------------------

    def _add(self, wave: PlannedWave) -> None:
        """Work out a wave's layers."""
        if self.waves:
            sources = self._tensor([self._index(node, self.last) for node in wave.parents])
            self.waves[-1] = replace(self.waves[-1], parents=sources)
        nodes = sorted(wave.nodes, key=lambda node: node.fork_layer)
        number = {node: index for index, node in enumerate(nodes)}
        self.places = {node: node.thought for node in nodes if node.thought is not None}
        self.count = len(wave.parents)
        cells = self._watched(wave.positions)
        attending_at_last = {node for layer, _, node in cells if layer == self.last}
        read = set(self.suffix.read_tokens)
        attending_at_last |= {node for node in nodes if node.token in read}
        steps, watched = [], [self._watched_here(cells, THOUGHT)]
        for layer in range(self.last + 1):
            active = [node for node in nodes if node.fork_layer < layer <= node.top]
            kv_only = wave.reading and layer == self.last
            attending = [node for node in active if not kv_only or node in attending_at_last]
            rest = [node for node in active if kv_only and node not in attending_at_last]
            steps.append(self._step(number, attending, rest, layer))
            self.token_layers += len(attending)
            self.places = {node: index for index, node in enumerate(attending)}
            self.count = len(attending)
            watched.append(self._watched_here(cells, layer))
        depths = self._tensor([len(node.chain) - 1 for node in nodes])
        self.waves.append(Wave(depths, tuple(steps), tuple(watched), self._tensor([])))

    def _step(
        self,
        number: dict[Node, int],
        attending: Sequence[Node],
        kv_only: Sequence[Node],
        layer: int,
    ) -> Step:
        """A layer of a wave, whose nodes have these numbers."""
        nodes = [*attending, *kv_only]
        return Step(
            self._tensor([self._index(node, layer - 1) for node in nodes]),
            self._tensor([number[node] for node in nodes]),
            len(attending),
            self._tensor([node.slot for node in nodes]),
            *self._keys(attending, layer),
        )

    def _watched(self, positions: Collection[int]) -> list[tuple[int, int, Node]]:
        """Layer, place and node of the watched cells of a wave; others are constant."""
        cells, place = [], -1
        for nodes, watch in zip(self.sweep.row_nodes, self.watch):
            for layer, position in watch:
                place += 1
                if position not in positions:
                    continue
                kind, where = self._source(nodes[position], layer)
                if kind == "own":
                    cells.append((layer, place, where))
                else:
                    offset = len(self.sweep.base) if kind == "value" else 0
                    self.constant.append((place, layer, offset + where))
        return cells

    def _watched_here(
        self, cells: Sequence[tuple[int, int, Node]], layer: int
    ) -> tuple[Tensor, Tensor]:
        """The outputs of a layer that are watched, and their places."""
        here = [(self.places[node], place) for at, place, node in cells if at == layer]
        outputs, places = zip(*here) if here else ((), ())
        return self._tensor(outputs), self._tensor(places)

    def _reads(self) -> tuple[list[int], list[list[list[int]]]]:
        """The last wave's outputs that are read; for each answer and row, which of them."""
        own: dict[int, int] = {}
        answers = []
        for tokens in self.suffix.reads:
            sources = [
                [self._source(nodes[t], self.last) for t in tokens]
                for nodes in self.sweep.row_nodes
            ]
            answers.append(sources)
            for kind, where in chain.from_iterable(sources):
                if kind == "own":
                    own.setdefault(self.places[where], len(own))
        base = {token: len(own) + i for i, token in enumerate(self.suffix.read_tokens)}
        reads = [
            [[own[self.places[w]] if kind == "own" else base[w] for kind, w in row] for row in rows]
            for rows in answers
        ]
        return list(own), reads

    def _tensor(self, values: Any, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)
