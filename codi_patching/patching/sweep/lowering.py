"""Writes a planned sweep down as tensors of indices, once for all requests of the same shape."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from codi_patching.patching.interventions import Cell, Latents
from codi_patching.patching.sweep.demand import Demand
from codi_patching.patching.sweep.layer_steps import LayerSteps, as_tensor
from codi_patching.patching.sweep.nodes import Node, PlannedWave
from codi_patching.patching.sweep.patch_shape import PatchSetShape
from codi_patching.patching.sweep.plan import Functions, Plan, Reads, Watched, Wave
from codi_patching.patching.sweep.planner import plan_nodes
from codi_patching.patching.sweep.suffix import Suffix


@lru_cache(maxsize=16)
def make_plan(
    suffix: Suffix,
    num_layers: int,
    rows: tuple[PatchSetShape, ...],
    watch: tuple[tuple[Cell, ...], ...],
    latents: Latents,
) -> Plan:
    """The least work that gives every readout; the same for all requests that differ in values.

    Args:
        suffix: The tokens after the prompt; which tokens they are makes no difference.
        num_layers: L.
        rows: The patches of each row.
        watch: For each row the cells whose activations are wanted.
        latents: See `interventions`.

    Returns:
        The plan, its tensors on the CPU.
    """
    return _Lowering(suffix, num_layers, rows, watch, latents).plan()


class _Lowering:
    """Turns nodes into indices, wave by wave and layer by layer."""

    def __init__(
        self,
        suffix: Suffix,
        num_layers: int,
        rows: Sequence[PatchSetShape],
        watch: Sequence[Sequence[Cell]],
        latents: Latents,
    ) -> None:
        self.suffix, self.top, self.watch = suffix, 2 * num_layers, watch
        self.sweep = plan_nodes(suffix, num_layers, rows, latents)
        self.demand = Demand(self.sweep, self.top)
        for nodes, cells in zip(self.sweep.row_nodes, watch):
            for token in suffix.read_tokens:
                self.demand.add(nodes[token], self.top)
            for layer, position in cells:
                self.demand.add(nodes[position + suffix.lead], 2 * layer + 2)
        self.steps = LayerSteps(self.sweep, self.demand)
        self.constant: list[tuple[int, int, int]] = []

    def plan(self) -> Plan:
        """All waves, and where the logits of all rows are."""
        waves = [self._wave(wave) for wave in self.sweep.waves]
        outputs, reads = self._reads()
        return Plan(
            tuple(waves),
            as_tensor(outputs),
            (Reads.of(len(outputs), reads),),
            len(self.suffix),
            self.sweep.num_slots,
            sum(map(len, self.watch)),
            tuple(self.constant),
            self.steps.attention_tokens,
            self.steps.mlp_tokens,
        )

    def _wave(self, wave: PlannedWave) -> Wave:
        """Work out a wave's layers."""
        steps, demand = self.steps, self.demand
        nodes = [n for n in wave.nodes if demand.states.get(n) or demand.layers.get(n)]
        nodes.sort(key=lambda node: node.fork_state)
        parents, functions = self._thoughts(nodes)
        cells = self._watched(wave.positions)
        watched = self._watched_here(cells, 0)
        number = {node: index for index, node in enumerate(nodes)}
        layers = []
        for layer in range(self.top // 2):
            make = steps.layer(nodes, number, layer)
            layers.append(make(self._watched_here(cells, 2 * layer + 2)))
        depths = as_tensor([len(node.chain) - 1 for node in nodes])
        return Wave(parents, functions, watched, torch.zeros_like(depths), depths, tuple(layers))

    def _thoughts(self, nodes: Sequence[Node]) -> tuple[Tensor, Functions]:
        """Sources of the new thoughts of a wave, and functions of these or the unpatched run's."""
        new = [node for node in nodes if 0 in self.demand.states[node]]
        parents: dict[Node, int] = {}
        computed: list[Node] = []
        for node in new:
            parent = self.sweep.parent(node)
            if parent is not None:
                node.thought = parents.setdefault(parent, len(parents))
            if node.function("thought", -1) is not None:
                computed.append(node)
        sources = [self.steps.index(parent, self.top) for parent in parents]
        functions = []
        for place, node in enumerate(computed, len(parents)):
            patch = node.function("thought", -1)
            assert patch is not None
            source = node.thought if node.thought is not None else len(parents) + node.token
            functions.append((source, patch.label))
            node.thought = place
        places = {node: node.thought for node in new if node.thought is not None}
        self.steps.begin(places, len(parents) + len(computed))
        return as_tensor(sources), tuple(functions)

    def _watched(self, positions: Collection[int]) -> list[tuple[int, int, Node]]:
        """State, place and node of the watched cells of a wave; others are constant."""
        cells, place = [], -1
        for nodes, watch in zip(self.sweep.row_nodes, self.watch):
            for layer, position in watch:
                place += 1
                if position not in positions:
                    continue
                node = nodes[position + self.suffix.lead]
                kind, where = self.sweep.source(node, 2 * layer + 2)
                if kind == "own":
                    cells.append((2 * layer + 2, place, where))
                else:
                    offset = len(self.sweep.base) if kind == "value" else 0
                    self.constant.append((place, layer, offset + where))
        return cells

    def _watched_here(self, cells: Sequence[tuple[int, int, Node]], state: int) -> Watched:
        """The outputs of a state that are watched, and their places."""
        here = [(self.steps.places[node], place) for at, place, node in cells if at == state]
        outputs, places = zip(*here) if here else ((), ())
        return as_tensor(outputs), as_tensor(places)

    def _made(self, kind: str, where: Any) -> int:
        """Where a last state is that is not the unpatched run's: outputs, then values."""
        return self.steps.places[where] if kind == "own" else self.steps.count + where

    def _reads(self) -> tuple[list[int], list[list[list[int]]]]:
        """What is read of the last outputs and the values; for each answer and row, which of it."""
        own: dict[int, int] = {}
        answers = []
        for tokens in self.suffix.reads:
            sources = [
                [self.sweep.source(nodes[t], self.top) for t in tokens]
                for nodes in self.sweep.row_nodes
            ]
            answers.append(sources)
            for source in chain.from_iterable(sources):
                if source[0] != "base":
                    own.setdefault(self._made(*source), len(own))
        base = {token: len(own) + i for i, token in enumerate(self.suffix.read_tokens)}
        reads = [
            [
                [base[w] if kind == "base" else own[self._made(kind, w)] for kind, w in row]
                for row in rows
            ]
            for rows in answers
        ]
        return list(own), reads
