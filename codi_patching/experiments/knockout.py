"""Knock-out: an edge of attention is cut, and the run's own answer read; nothing is patched.

Edges are cut in the run of the clean question, in all layers and in each window of layers. What a
cut takes away and what its control takes away stands in `measuring.knockout`, the edges in
`patching.edges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.base import Experiment, check_choice, check_least
from codi_patching.measuring.engine_choice import EngineName, build_engine
from codi_patching.measuring.knockout import KNOCKOUT_METRICS, EdgeGrid, Knockout
from codi_patching.measuring.verification import draw_cells
from codi_patching.results.dataset import KNOCKOUT
from codi_patching.results.description import Grid
from codi_patching.results.records import ExcludedPair, PairRecord


class KnockoutExperiment(Experiment):
    """Every edge of attention cut: from question and thoughts to thoughts and readout.

    Args:
        window: Layers that are cut together, beside all of them at once: 1 for each alone, 3 for
            layers 0 to 2, 1 to 3, ….
        engine: `sweep`, which computes what a cut changes and nothing else, or `reference`, whole
            forward passes with masks.
        max_rows: Cut runs that go through the model together, of one pair or of several; as many
            as `rows_at_once` says if not given.
        verify_pairs: Of the first so many pairs a few runs are made again by the reference engine,
            their metrics by independent code.
        kwargs: All arguments of `Experiment`.

    Example:
        >>> import codi_patching as cp
        >>> experiment = cp.KnockoutExperiment(window=3)
        >>> experiment.name, experiment.window
        ('knockout', 3)
    """

    name = KNOCKOUT
    control = "words"
    """Tokens of the question that carry no number."""

    def __init__(
        self,
        window: int = 1,
        engine: EngineName = "sweep",
        max_rows: int | None = None,
        verify_pairs: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("engine", engine, EngineName)
        check_least("window", window, 1)
        check_least("max_rows", max_rows, 1)
        check_least("verify_pairs", verify_pairs, 0)
        self.window, self.engine_name, self.max_rows = window, engine, max_rows
        self.verify_pairs = verify_pairs

    @property
    def grid(self) -> Grid:
        """Layers × edges."""
        return self.edge_grid.grid

    @property
    def metric_names(self) -> Sequence[str]:
        """Names of the metrics."""
        return tuple(KNOCKOUT_METRICS)

    @property
    def runs_of_a_pair(self) -> int:
        """Cut runs of a pair that has a control."""
        return self.grid.size + len(self.edge_grid.controlled)

    def configure_model(self) -> None:
        """Load the checkpoint, and what runs questions; check the window."""
        super().configure_model()
        if not hasattr(self, "engine"):
            self.engine = build_engine(
                self.model, self.engine_name, self.max_rows, self.device_of_run
            )
            self.edge_grid = EdgeGrid(len(self.model.blocks), self.model.num_latents, self.window)

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[PairRecord | ExcludedPair]:
        """Measure some pairs side by side; one that cannot be run is named, not dropped."""
        verified = min(self.verify_pairs, len(self.pairs))
        cells = {
            pair.pair_id: draw_cells(self.grid.shape, place, verified, self.seed)
            for place, pair in enumerate(batch.pairs, batch.first)
            if place < verified
        }
        self.knockout.on_runs_done = self.on_runs_done
        return self.knockout.pairs(batch.pairs, cells)

    def forget(self) -> None:
        """Nothing is kept between runs but the model."""

    @cached_property
    def knockout(self) -> Knockout:
        """Measures the pairs at hand."""
        return Knockout(model=self.model, engine=self.engine, cells=self.edge_grid, seed=self.seed)
