"""Iterative patching: patch a position, let the model generate the next one from it, go on.

For each layer l a chain of K iterations; each is a run of the base question on recomputed
latents. With K = 3, `c_p` the source run's activation at (l, p) and `g_p` a generated one:

    relay        iteration 0 patches position 0 with c_0          and generates g_1
                 iteration 1 patches position 1 alone, with g_1   and generates g_2
                 iteration 2 patches position 2 alone, with g_2
    cumulative   iteration 0 patches 0 with c_0
                 iteration 1 patches 0, 1 with c_0, c_1
                 iteration 2 patches 0, 1, 2 with c_0, c_1, c_2

Relay asks how far one injected thought carries along the chain through a single position of one
layer; cumulative, what each further clean position adds. The last cumulative iteration is layer
patching with recomputed latents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from codi_patching.errors import InputError
from codi_patching.experiments.pair_runs import Extras, PairStart
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.experiments.prompts import check_choice
from codi_patching.metrics.grid import ITERATIVE_METRICS
from codi_patching.metrics.inputs import GeneratedActivations
from codi_patching.patching.interventions import (
    Activations,
    Cell,
    Generated,
    Patch,
    PatchSet,
    patches_from,
)

Strategy = Literal["relay", "cumulative"]


class IterativePatching(PatchingExperiment):
    """A chain of K patched runs for each layer.

    Args:
        strategy: `relay`, each patch being what the iteration before generated, or `cumulative`,
            positions 0..N held at the source run's activations.
        trace_pair: Id of a pair whose every patch is written to a table.
        kwargs: All arguments of `PatchingExperiment`, but `latents` is always `recomputed` here and
            `site` always `resid_post`.
    """

    name = "iterative"
    column = "iteration"
    metric_classes = ITERATIVE_METRICS

    def __init__(
        self, strategy: Strategy = "relay", trace_pair: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(latents="recomputed", **kwargs)
        check_choice("strategy", strategy, Strategy)
        if self.site != "resid_post":
            raise InputError(
                "expected --model.site resid_post in iterative patching, which patches what was "
                f"generated, got {self.site!r}"
            )
        self.strategy, self.trace_pair = strategy, trace_pair

    @property
    def columns(self) -> tuple[str, ...]:
        """Iterations 0..K-1."""
        return tuple(str(iteration) for iteration in range(self.model.num_latents))

    @property
    def structural_zeros(self) -> list[tuple[int, int]]:
        """Relay's last iteration at the last layer: nothing reads the only state it patches."""
        last = (len(self.layers) - 1, self.model.num_latents - 1)
        return [last] if self.strategy == "relay" or self.model.num_latents == 1 else []

    def on_predict_start(self) -> None:
        """Check that the traced pair exists.

        Raises:
            InputError: It does not.
        """
        if self.trace_pair is not None and self.trace_pair not in {p.pair_id for p in self.pairs}:
            raise InputError(
                f"expected --model.trace_pair to be one of the {len(self.pairs)} pairs that run, "
                f"got {self.trace_pair!r}"
            )

    # -- the chains -----------------------------------------------------------------------------

    @property
    def run_order(self) -> list[int]:
        """Iteration by iteration, all layers of one together."""
        iterations, layers = range(self.model.num_latents), range(len(self.layers))
        return [row * len(iterations) + iteration for iteration in iterations for row in layers]

    def patch_sets(self, activations: Activations) -> list[PatchSet]:
        """All layers' chains, iteration by iteration."""
        return [
            self._patch_set(activations, iteration, row)
            for iteration in range(self.model.num_latents)
            for row in range(len(self.layers))
        ]

    def _patch_set(self, activations: Activations, iteration: int, row: int) -> list[Patch]:
        """The patches of one layer, the row-th of the grid, in one iteration."""
        layer = self.layers[row]
        if self.strategy == "cumulative":
            return patches_from(activations, layer, range(iteration + 1))
        if iteration == 0:
            return patches_from(activations, layer, [0])
        before = (iteration - 1) * len(self.layers) + row
        return [Patch(layer, iteration, Generated(before))]

    def watch(self, patch_sets: Sequence[PatchSet]) -> list[list[Cell]]:
        """What each iteration patched, then what it generates next, if there is a next position."""
        watched = []
        for patch_set in patch_sets:
            cells = [(patch.layer, patch.position) for patch in patch_set]
            layer, position = cells[-1][0], cells[-1][1] + 1
            watched.append(cells + [(layer, position)] * (position < self.model.num_latents))
        return watched

    def extras(
        self, start: PairStart, patch_sets: Sequence[PatchSet], watched: Sequence[Tensor]
    ) -> Extras:
        """The generated activations, in the grid's order; the trace; whether the chain holds."""
        rows, steps = len(self.layers), self.model.num_latents
        absent = torch.full_like(start.source_activations.thoughts[0], torch.nan)
        generated = [
            held[-1] if len(held) > len(patch_set) else absent
            for patch_set, held in zip(patch_sets, watched)
        ]
        chain = torch.stack(generated).view(steps, rows, -1).transpose(0, 1)
        there = [
            torch.stack(
                [
                    activations.at(layer, step + 1) if step + 1 < steps else absent
                    for layer in self.layers
                    for step in range(steps)
                ]
            )
            for activations in (start.base.run.activations(), start.source.run.activations())
        ]
        links, broken = self._check_links(patch_sets, watched)
        traced = start.pair.pair_id == self.trace_pair
        return Extras(
            GeneratedActivations(chain.flatten(0, 1), *there),
            chain[:, :-1].cpu(),
            self.trace(patch_sets, watched) if traced else [],
            links,
            broken,
        )

    def _check_links(
        self, patch_sets: Sequence[PatchSet], watched: Sequence[Tensor]
    ) -> tuple[int, int]:
        """Cells patched with what an iteration before generated; how many held anything else."""
        rows = len(self.layers)
        links = [run for run, patches in enumerate(patch_sets) if _is_generated(patches[0])]
        broken = [run for run in links if not torch.equal(watched[run][0], watched[run - rows][-1])]
        return len(links), len(broken)

    def trace(
        self, patch_sets: Sequence[PatchSet], watched: Sequence[Tensor]
    ) -> list[dict[str, Any]]:
        """A line for each patched cell: what the run really held there, and what it made next."""
        source = "source run" if self.source == "clean" else f"source {self.source}"
        lines = []
        for patch_set, held in zip(patch_sets, watched):
            layer, iteration = patch_set[-1].layer, patch_set[-1].position
            following: dict[str, Any] = dict.fromkeys(
                ("next_position", "next_norm", "next_hash"), ""
            )
            if len(held) > len(patch_set):
                following = {"next_position": iteration + 1, **_describe("next_", held[-1])}
            lines += [
                {
                    "layer": self.grid.layers[self.layers.index(layer)],
                    "iteration": iteration,
                    "position": patch.position,
                    "source": f"generated in iteration {iteration - 1}"
                    if _is_generated(patch)
                    else source,
                    **_describe("", value),
                    **following,
                }
                for patch, value in zip(patch_set, held)
            ]
        return lines


def _is_generated(patch: Patch) -> bool:
    return isinstance(patch.values, Generated)


def _describe(prefix: str, activation: Tensor) -> dict[str, str]:
    """Norm and hash of an activation."""
    norm = f"{activation.cpu().double().norm().item():.6g}"
    return {f"{prefix}norm": norm, f"{prefix}hash": short_hash(activation)}


def short_hash(activation: Tensor) -> str:
    """First ten hexadecimal digits of the SHA-256 of an activation's bytes."""
    content = activation.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:10]
