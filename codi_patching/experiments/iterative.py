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

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from codi_patching.errors import InputError
from codi_patching.experiments.base import check_choice
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.measuring.generated import WatchedChains, watch_chains
from codi_patching.measuring.patch_grid import Extras
from codi_patching.measuring.preparation import PairStart
from codi_patching.metrics.table import ITERATIVE_METRICS
from codi_patching.patching.interventions import (
    Activations,
    Cell,
    Generated,
    Patch,
    PatchSet,
    Site,
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

    Example:
        >>> import codi_patching as cp
        >>> experiment = cp.IterativePatching(strategy="cumulative")
        >>> experiment.strategy, experiment.latents, experiment.site
        ('cumulative', 'recomputed', 'resid_post')
    """

    name = "iterative"
    column = "iteration"
    metric_table = ITERATIVE_METRICS

    def __init__(
        self, strategy: Strategy = "relay", trace_pair: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(latents="recomputed", **kwargs)
        check_choice("strategy", strategy, Strategy)
        if self.site != "resid_post":
            raise InputError(
                "expected site resid_post in iterative patching, which patches what was "
                f"generated, got {self.site!r}: set [[model.site]]"
            )
        self.strategy, self.trace_pair = strategy, trace_pair

    @property
    def columns(self) -> tuple[str, ...]:
        """Iterations 0..K-1."""
        return tuple(str(iteration) for iteration in range(self.model.num_latents))

    def on_predict_start(self) -> None:
        """Check that the traced pair exists.

        Raises:
            InputError: It does not.
        """
        if self.trace_pair is not None and self.trace_pair not in {p.pair_id for p in self.pairs}:
            raise InputError(
                f"expected trace_pair to be one of the {len(self.pairs)} pairs that run, "
                f"got {self.trace_pair!r}: set [[model.trace_pair]]"
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
        return [Patch(Site.at(layer, iteration), Generated(before))]

    def watch(self, patch_sets: Sequence[PatchSet]) -> list[list[Cell]]:
        """What each iteration patched, then what it generates next."""
        return watch_chains(patch_sets, self.model.num_latents)

    def extras(
        self, start: PairStart, patch_sets: Sequence[PatchSet], watched: Sequence[Tensor]
    ) -> Extras:
        """The generated activations, the trace, and whether the chain holds."""
        chains = WatchedChains(
            self.layers, self.grid.layers, self.model.num_latents, patch_sets, watched
        )
        source = "source run" if self.source == "clean" else f"source {self.source}"
        traced = start.pair.pair_id == self.trace_pair
        return chains.extras(start, source if traced else None)
