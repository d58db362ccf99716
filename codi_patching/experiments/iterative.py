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
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from codi_patching.experiments.base import PatchedRuns, PatchingExperiment, UnpatchedRuns
from codi_patching.metrics.grid import ITERATIVE_METRICS, grid_metrics
from codi_patching.patching.interventions import Activations, Patch, Row
from codi_patching.patching.reference import Run

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
        iterations = range(self.model.num_latents)
        activations = [start.given] * len(self.layers)  # what each layer's row is patched with
        runs, generated, trace = [], [], []
        for iteration in iterations:
            rows = [self._row(layer, iteration, a) for layer, a in zip(self.layers, activations)]
            run = self.run_rows(start, rows, done=iteration * len(rows))
            if start.pair_id == self.trace_pair:
                trace += self._trace(iteration, rows, run)
            runs.append(run)
            made = [run.activations(row) for row in range(len(rows))]
            generated.append(self._at(made, iteration + 1))
            if self.strategy == "relay":
                activations = made
        there = [
            torch.stack([self._at([a] * len(self.layers), i + 1) for i in iterations], dim=1)
            for a in (start.giving.activations(), start.baseline.activations())
        ]
        chain = torch.stack(generated, dim=1)
        return PatchedRuns(
            tuple(_by_layer(logits) for logits in zip(*(run.answer_logits for run in runs))),
            {
                "generated": chain.flatten(0, 1),
                "giving_there": there[0].flatten(0, 1),
                "baseline_there": there[1].flatten(0, 1),
            },
            chain[:, :-1].cpu(),
            trace,
        )

    def _row(self, layer: int, iteration: int, activations: Activations) -> Row:
        """The patches of one layer in one iteration."""
        first = 0 if self.strategy == "cumulative" else iteration
        return [Patch(layer, p, activations.at(layer, p)) for p in range(first, iteration + 1)]

    def _at(self, activations: list[Activations], position: int) -> Tensor:
        """Each layer's activation at a position, `(layers, hidden)`; NaN past the last one."""
        if position == self.model.num_latents:
            return torch.full_like(self._at(activations, 0), torch.nan)
        return torch.stack([a.at(layer, position) for layer, a in zip(self.layers, activations)])

    def _trace(self, iteration: int, rows: list[Row], run: Run) -> list[dict[str, Any]]:
        """A line for each patched cell: what the run really held there, and what it made next."""
        own = "giving run" if self.source == "clean" else f"source {self.source}"
        relayed = self.strategy == "relay" and iteration > 0
        lines = []
        for index, row in enumerate(rows):
            after = run.activations(index)
            following: dict[str, Any] = dict.fromkeys(
                ("next_position", "next_norm", "next_hash"), ""
            )
            if iteration + 1 < self.model.num_latents:
                made = after.at(self.layers[index], iteration + 1)
                following = {"next_position": iteration + 1, **_describe("next_", made)}
            lines += [
                {
                    "layer": self.layer_names[index],
                    "iteration": iteration,
                    "position": patch.position,
                    "source": f"generated in iteration {iteration - 1}" if relayed else own,
                    **_describe("", after.at(patch.layer, patch.position)),
                    **following,
                }
                for patch in row
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


def _by_layer(logits: tuple[Tensor, ...]) -> Tensor:
    """Iterations of `(layers, tokens, vocabulary)` as `(layers * iterations, …)`."""
    return torch.stack(logits, dim=1).flatten(0, 1)
