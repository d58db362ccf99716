"""Iterative patching: patch a position, let the model generate the next one from it, go on.

For each layer l a chain of K iterations; each is a run of the patched question on recomputed
latents. With K = 3, `c_p` the giving run's activation at (l, p) and `g_p` a generated one:

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
from torchmetrics import MetricCollection

from codi_patching.data.pairs import Pair
from codi_patching.experiments.base import PatchedRuns, PatchingExperiment, UnpatchedRuns
from codi_patching.metrics.grid import ITERATIVE_METRICS, grid_metrics
from codi_patching.patching.interventions import (
    Activations,
    Cell,
    Generated,
    Patch,
    Row,
    patches_from,
)

Strategy = Literal["relay", "cumulative"]


class IterativePatching(PatchingExperiment):
    """A chain of K patched runs for each layer.

    Args:
        strategy: `relay` or `cumulative`, see the module.
        trace_pair: Id of a pair whose every patch is written to a table.
        kwargs: All arguments of `PatchingExperiment` but `latents`, always `recomputed` here.
    """

    name = "iterative"
    column = "iteration"

    def __init__(
        self, strategy: Strategy = "relay", trace_pair: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(latents="recomputed", **kwargs)
        self.strategy, self.trace_pair = strategy, trace_pair

    @property
    def positions(self) -> list[str]:
        """Iterations 0..K-1."""
        return [str(iteration) for iteration in range(self.model.num_latents)]

    @property
    def structural_zeros(self) -> list[tuple[int, ...]]:
        """Relay's last iteration at the last layer: nothing reads the only state it patches."""
        last = (len(self.layers) - 1, self.model.num_latents - 1)
        return [last] if self.strategy == "relay" or self.model.num_latents == 1 else []

    def build_metrics(self) -> MetricCollection:
        """With the cosines of the generated activations."""
        return grid_metrics(self.shape, ITERATIVE_METRICS)

    def on_predict_start(self) -> None:
        """Check that the traced pair exists.

        Raises:
            ValueError: It does not.
        """
        super().on_predict_start()
        if self.trace_pair is not None and self.trace_pair not in {p.pair_id for p in self.pairs}:
            raise ValueError(
                f"expected --model.trace_pair to be one of the {len(self.pairs)} pairs that run, "
                f"got {self.trace_pair!r}"
            )

    def run_name(self, run: int) -> str:
        """Runs go iteration by iteration, all layers of one together."""
        iteration, layer = divmod(run, len(self.layers))
        return self.cell_name(layer * len(self.positions) + iteration)

    def patched_runs(self, start: UnpatchedRuns) -> PatchedRuns:
        """All layers' chains, iteration by iteration."""
        return self._chains(start, traced=start.pair_id == self.trace_pair)

    def trace(self, pair: Pair) -> list[dict[str, Any]]:
        """Every patch of a pair's chains, as `trace_pair` writes it.

        Raises:
            PairError: The pair cannot be run.
        """
        baseline, giving, *donor = self.engine.unpatched(self._requests(pair))
        given = self._given([baseline, giving, *donor])
        return self._chains(UnpatchedRuns(pair.pair_id, baseline, giving, given), True).trace

    def _chains(self, start: UnpatchedRuns, traced: bool) -> PatchedRuns:
        iterations, count = range(self.model.num_latents), len(self.layers)
        rows = [
            self._row(start.given, iteration, index)
            for iteration in iterations
            for index in range(count)
        ]
        watch = [self._watch(row, traced) for row in rows]
        run = self.run_rows(start, rows, watch)
        hidden = start.given.thoughts.shape[-1]
        absent = start.given.thoughts.new_full((hidden,), torch.nan)
        made = [
            kept[-1] if row[-1].position + 1 in iterations else absent
            for row, kept in zip(rows, run.watched)
        ]
        chain = torch.stack(made).view(len(iterations), count, hidden).transpose(0, 1)
        metric_inputs = {"generated": chain.flatten(0, 1)}
        for name, question in (("giving", start.giving), ("baseline", start.baseline)):
            activations = question.run.activations()
            metric_inputs[f"{name}_there"] = torch.stack(
                [
                    activations.at(layer, i + 1) if i + 1 in iterations else absent
                    for layer in self.layers
                    for i in iterations
                ]
            )
        logits = (part.unflatten(0, (-1, count)).transpose(0, 1) for part in run.answer_logits)
        return PatchedRuns(
            tuple(part.flatten(0, 1) for part in logits),
            metric_inputs,
            chain[:, :-1].cpu(),
            self._trace(rows, run.watched) if traced else [],
        )

    def _row(self, given: Activations, iteration: int, index: int) -> list[Patch]:
        """The patches of one layer, the index-th, in one iteration."""
        layer = self.layers[index]
        if self.strategy == "cumulative":
            return patches_from(given, layer, range(iteration + 1))
        if iteration == 0:
            return patches_from(given, layer, [0])
        before = (iteration - 1) * len(self.layers) + index
        return [Patch(layer, iteration, Generated(before))]

    def _watch(self, row: Sequence[Patch], traced: bool) -> list[Cell]:
        """What the iteration generates next; before it, for the trace, what it patched."""
        patched = [(p.layer, p.position) for p in row] if traced else []
        layer, position = row[-1].layer, row[-1].position + 1
        return [*patched, *([(layer, position)] if position < self.model.num_latents else [])]

    def _trace(self, rows: Sequence[Row], watched: Sequence[Tensor]) -> list[dict[str, Any]]:
        """A line for each patched cell: what the run really held there, and what it made next."""
        given = "giving run" if self.source == "clean" else f"source {self.source}"
        lines = []
        for row, kept in zip(rows, watched):
            layer, iteration = row[-1].layer, row[-1].position
            following: dict[str, Any] = dict.fromkeys(
                ("next_position", "next_norm", "next_hash"), ""
            )
            if len(kept) > len(row):
                following = {"next_position": iteration + 1, **_describe("next_", kept[-1])}
            lines += [
                {
                    "layer": self.layer_names[self.layers.index(layer)],
                    "iteration": iteration,
                    "position": patch.position,
                    "source": given
                    if isinstance(patch.values, Tensor)
                    else f"generated in iteration {iteration - 1}",
                    **_describe("", held),
                    **following,
                }
                for patch, held in zip(row, kept)
            ]
        return lines


def _describe(prefix: str, activation: Tensor) -> dict[str, str]:
    """Norm and hash of an activation."""
    norm = f"{activation.double().norm().item():.6g}"
    return {f"{prefix}norm": norm, f"{prefix}hash": short_hash(activation)}


def short_hash(activation: Tensor) -> str:
    """First ten hexadecimal digits of the SHA-256 of an activation's bytes."""
    content = activation.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:10]
