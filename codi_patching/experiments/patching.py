"""What every patching experiment shares: its options, and a run's life in Lightning.

What is measured of a pair stands in `measuring.measurement`; an experiment says which cells its
grid has and which patches each cell.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.base import Experiment, check_choice, check_least
from codi_patching.measuring.controls import ControlKind
from codi_patching.measuring.engine_choice import EngineName, build_engine
from codi_patching.measuring.measurement import Measurement
from codi_patching.measuring.patch_grid import Extras, PatchGrid, grid_layers
from codi_patching.measuring.preparation import PairStart, Preparation
from codi_patching.measuring.prompts import Direction, Prompts
from codi_patching.measuring.sources import Source
from codi_patching.measuring.verification import draw_cells
from codi_patching.metrics.functional import widest_float
from codi_patching.metrics.mean_map import mean_maps
from codi_patching.metrics.table import METRICS, Metric
from codi_patching.models.codi import CodiModel
from codi_patching.patching.engine import Engine
from codi_patching.patching.interventions import Activations, Cell, Latents, PatchSet, SiteName
from codi_patching.results.description import Grid
from codi_patching.results.records import ExcludedPair, PairRecord


class PatchingExperiment(Experiment):
    """Base of the patching experiments.

    Args:
        latents: Whether the thoughts after a patch stay the base run's (`frozen`, the direct
            effect) or are generated anew (`recomputed`, the total effect).
        direction: `denoising` patches clean activations into the corrupted run, `noising` the
            other way round.
        source: The activations that are patched in: `clean`, the pair's source run; `zero`; `mean`,
            of that cell over the source runs of all pairs; `random_pair`, of another pair.
        control: With source `clean`, what each patched run is repeated with: the activations of the
            pair's `sibling` (of a `random_pair` where it has none), of a `random_pair`, or `none`.
        site: What is overwritten: `resid_post`, a block's output; `attn_out` or `mlp_out`, what a
            sublayer adds to the stream; `kv`, what later tokens can read there; `head`, what one
            attention head hands to the output projection (`HeadPatching`); `thought`, the latent
            thought itself, a grid of one row.
        include_thought: Whether to patch the latent thoughts themselves too, as an extra row.
        engine: `sweep`, which computes what a patch changes and nothing else, or `reference`, whole
            forward passes with hooks.
        max_rows: Patched runs that go through the model together, of one pair or of several; as
            many as `rows_at_once` says if not given.
        self_patch_pairs: The first so many pairs are run once more with their own activations,
            which must change nothing.
        verify_pairs: Of the first so many pairs a few runs are made again by the reference engine,
            their metrics by independent code.
        kwargs: All arguments of `Experiment`.
    """

    column: ClassVar[str] = "position"
    """What the grid's columns are."""

    metric_table: ClassVar[Mapping[str, Metric]] = METRICS

    metrics: MetricCollection
    """The mean map of each metric, `(arms, layers, columns)`, arms being own and control."""

    def __init__(
        self,
        latents: Latents = "recomputed",
        direction: Direction = "denoising",
        source: Source = "clean",
        control: ControlKind = "sibling",
        site: SiteName = "resid_post",
        include_thought: bool = False,
        engine: EngineName = "sweep",
        max_rows: int | None = None,
        self_patch_pairs: int = 8,
        verify_pairs: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("latents", latents, Latents)
        check_choice("direction", direction, Direction)
        check_choice("source", source, Source)
        check_choice("control", control, ControlKind)
        check_choice("site", site, SiteName)
        check_choice("engine", engine, EngineName)
        check_least("max_rows", max_rows, 1)
        check_least("self_patch_pairs", self_patch_pairs, 0)
        check_least("verify_pairs", verify_pairs, 0)
        self.latents: Latents = latents
        self.direction: Direction = direction
        self.source: Source = source
        self.control: ControlKind = control if source == "clean" else "none"
        self.site: SiteName = site
        self.include_thought, self.engine_name, self.max_rows = include_thought, engine, max_rows
        self.self_patch_pairs, self.verify_pairs = self_patch_pairs, verify_pairs

    # -- what an experiment says ----------------------------------------------------------------

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the grid's columns in results."""

    @abstractmethod
    def patch_sets(self, activations: Activations) -> list[PatchSet]:
        """The patches of every cell with the activations of a run, in the order of `run_order`."""

    @property
    def layers(self) -> list[int]:
        """The grid's rows."""
        return grid_layers(self.model, self.site, self.include_thought)

    @property
    def run_order(self) -> list[int]:
        """The cell, counted row by row, of each of `patch_sets`."""
        return list(range(len(self.layers) * len(self.columns)))

    def watch(self, patch_sets: Sequence[PatchSet]) -> list[list[Cell]]:
        """For each of `patch_sets` the cells whose activations are wanted."""
        return [[] for _ in patch_sets]

    def extras(
        self, start: PairStart, patch_sets: Sequence[PatchSet], watched: Sequence[Tensor]
    ) -> Extras:
        """What is made of the watched activations."""
        return Extras()

    # -- Lightning, in the order of a run's life ------------------------------------------------

    def configure_model(self) -> None:
        """Load the checkpoint, strictly, and make engine and metrics for its grid."""
        super().configure_model()
        if not hasattr(self, "engine"):
            self.use(self.model)

    def use(self, model: CodiModel, engine: Engine | None = None) -> None:
        """Measure with a model that is there already.

        Args:
            model: The model.
            engine: What runs it; made as was asked for if not given.
        """
        self.model = model
        self.engine = engine or build_engine(
            model, self.engine_name, self.max_rows, self.device_of_run
        )
        self.metrics = mean_maps(self.metric_table, (self._arms, *self.grid.shape))

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[PairRecord | ExcludedPair]:
        """Measure some pairs side by side; one that cannot be run is named, not dropped."""
        checked = batch.pairs[: max(0, self.self_patch_pairs - batch.first)]
        verified = min(self.verify_pairs, len(self.pairs))
        cells = {
            pair.pair_id: draw_cells(self.grid.shape, place, verified, self.seed)
            for place, pair in enumerate(batch.pairs, batch.first)
            if place < verified
        }
        self.measurement.on_runs_done = self.on_runs_done
        results = self.measurement.pairs(batch.pairs, {p.pair_id for p in checked}, cells)
        self.count(result for result in results if isinstance(result, PairRecord))
        return results

    # -- around it ------------------------------------------------------------------------------

    def count(self, records: Iterable[PairRecord]) -> None:
        """Count pairs in the metrics, those measured by an earlier start too."""
        missing = np.full(self.grid.shape, np.nan)
        for record in records:
            arms = [
                [record.values[name], record.control.get(name, missing)][: self._arms]
                for name in self.metrics
            ]
            values = torch.from_numpy(np.array(arms))
            values = values.to(widest_float(self.device)).to(self.device)  # one transfer
            for metric, own in zip(self.metrics.values(), values, strict=True):
                metric.update(own)

    def forget(self) -> None:
        """Start the metrics over, and draw what is of other pairs anew."""
        self.metrics.reset()
        self.__dict__.pop("measurement", None)

    @property
    def _arms(self) -> int:
        return 1 if self.control == "none" else 2

    @property
    def metric_names(self) -> Sequence[str]:
        """Names of the metrics."""
        return tuple(self.metric_table)

    @property
    def mean_runs(self) -> int | None:
        """With the source `mean`, over how many source runs it is taken."""
        if self.source != "mean":
            return None
        return len(self.prompts.sources(self.datamodule.usable))

    @property
    def runs_of_a_pair(self) -> int:
        """Patched runs of a pair that has a control, ceilings included."""
        return (self.grid.size + 1) * self._arms

    @property
    def grid(self) -> Grid:
        """The cells."""
        return self.patch_grid.grid

    @cached_property
    def patch_grid(self) -> PatchGrid:
        """The cells and their patches, as `measuring` takes them."""
        return PatchGrid.of(
            self.model,
            self.patch_sets,
            layers=self.layers,
            columns=self.columns,
            latents=self.latents,
            site=self.site,
            column=self.column,
            run_order=self.run_order,
            metrics=self.metric_table,
            watch=self.watch,
            extras=self.extras,
        )

    @cached_property
    def prompts(self) -> Prompts:
        """Makes requests for the model."""
        return Prompts.of(self.model, self.direction, self.engine)

    @cached_property
    def measurement(self) -> Measurement:
        """Measures the pairs at hand."""
        preparation = Preparation(
            engine=self.engine,
            prompts=self.prompts,
            pairs=self.datamodule.usable,
            source=self.source,
            control=self.control,
            seed=self.seed,
            record=self.patch_grid.record,
            places=self.patch_grid.places,
        )
        return Measurement(model=self.model, preparation=preparation, cells=self.patch_grid)
