"""What every patching experiment shares: two unpatched runs of a pair, then the patched ones.

For each pair the base question (corrupted, with denoising) and the source question (clean) are
encoded once and run without patches. Then every cell of the experiment's grid is a patched run of
the base question, once with the source run's activations (own) and once with those of a third
question (control); two more runs, the ceilings, have all thoughts of the source run, or of the
control. The metrics compare each with the two unpatched runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from codi_patching.data.datamodule import PairBatch
from codi_patching.errors import InputError
from codi_patching.experiments.base import Experiment
from codi_patching.experiments.controls import ControlKind
from codi_patching.experiments.engines import EngineName, build_engine
from codi_patching.experiments.pair_runs import (
    Extras,
    Measured,
    MeasuredGrid,
    PairRequests,
    PairStart,
    PatchedRuns,
    check_finite,
    describe_pair,
)
from codi_patching.experiments.preparation import Preparation
from codi_patching.experiments.progress import FollowsPatchedRuns
from codi_patching.experiments.prompts import Direction, Prompts, attention_window, check_choice
from codi_patching.experiments.sources import Source
from codi_patching.metrics import functional as F
from codi_patching.metrics.grid import GRID_METRICS, GridMetric, grid_metrics, row_values
from codi_patching.metrics.inputs import AnswerLogits, MetricInputs
from codi_patching.models.answers import PairError
from codi_patching.models.codi import CodiModel
from codi_patching.patching.engine import Engine, Patched, PatchRequest
from codi_patching.patching.interventions import (
    THOUGHT,
    Activations,
    Cell,
    Latents,
    PatchSet,
    SiteName,
    all_patches,
    extra_sites,
)
from codi_patching.patching.sweep.run import SweepEngine
from codi_patching.results.batches import ExcludedPair
from codi_patching.results.records import PairResult
from codi_patching.results.schema import Array, Grid, cell_label


class PatchingExperiment(Experiment, ABC):
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
        site: What is overwritten in a cell: `resid_post`, a block's output; `attn_out` or
            `mlp_out`, what a sublayer adds to the stream; `kv`, what later tokens can read there;
            `thought`, the latent thought itself, a grid of one row.
        include_thought: Whether to patch the latent thoughts themselves too, as an extra row.
        engine: `sweep`, which computes what a patch changes and nothing else, or `reference`, whole
            forward passes with hooks.
        max_rows: Patched runs that go through the model together, of one pair or of several; as
            many as `rows_at_once` says if not given.
        self_patch_pairs: The first so many pairs are run once more with their own activations,
            which must change nothing.
        kwargs: All arguments of `Experiment`.
    """

    column: ClassVar[str] = "position"
    """What the grid's columns are."""

    metric_classes: ClassVar[Mapping[str, type[GridMetric]]] = GRID_METRICS

    strategy: str | None = None
    """How an iterative experiment goes along the chain."""

    engine: Engine
    metrics: MetricCollection

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.save_hyperparameters()
        check_choice("latents", latents, Latents)
        check_choice("direction", direction, Direction)
        check_choice("source", source, Source)
        check_choice("control", control, ControlKind)
        check_choice("site", site, SiteName)
        check_choice("engine", engine, EngineName)
        for name, value, least in (
            ("max_rows", max_rows, 1),
            ("self_patch_pairs", self_patch_pairs, 0),
        ):
            if value is not None and value < least:
                raise InputError(f"expected --model.{name} of at least {least}, got {value}")
        self.latents, self.direction, self.source = latents, direction, source
        self.control: ControlKind = control if source == "clean" else "none"
        self.site: SiteName = site
        self.include_thought, self.engine_name, self.max_rows = include_thought, engine, max_rows
        self.self_patch_pairs = self_patch_pairs

    # -- the grid: what the subclasses say ------------------------------------------------------

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the grid's columns in results."""

    @property
    @abstractmethod
    def structural_zeros(self) -> list[tuple[int, int]]:
        """Row and column of cells that cannot have an effect, whatever the model."""

    @abstractmethod
    def patch_sets(self, activations: Activations) -> list[PatchSet]:
        """The patches of every cell with the activations of a run, in the order of `run_order`."""

    @property
    def run_order(self) -> list[int]:
        """The cell, counted row by row, of each of `patch_sets`."""
        return list(range(self.grid.size))

    def watch(self, patch_sets: Sequence[PatchSet]) -> list[list[Cell]]:
        """For each of `patch_sets` the cells whose activations are wanted."""
        return [[] for _ in patch_sets]

    def extras(
        self, start: PairStart, patch_sets: Sequence[PatchSet], watched: Sequence[Tensor]
    ) -> Extras:
        """What is made of the watched activations."""
        return Extras()

    @property
    def layers(self) -> list[int]:
        """The grid's rows: `THOUGHT` first if included, then layers 0..L-1; thoughts alone."""
        if self.site == "thought":
            return [THOUGHT]
        return [THOUGHT] * self.include_thought + list(range(len(self.model.blocks)))

    @property
    def only_next_thought_reads_last_layer(self) -> bool:
        """Whether what the site changes in the last layer is read by the next thought alone."""
        return self.site not in ("kv", "thought")

    @property
    def record(self) -> tuple[SiteName, ...]:
        """The sites that unpatched runs must record."""
        return extra_sites([self.site])

    @property
    def grid(self) -> Grid:
        """The cells."""
        names = tuple("thought" if layer == THOUGHT else str(layer) for layer in self.layers)
        return Grid(names, self.column, self.columns, tuple(self.structural_zeros))

    # -- Lightning, in the order of a run's life ------------------------------------------------

    def configure_model(self) -> None:
        """Load the checkpoint, strictly, and make engine and metrics for its grid."""
        if hasattr(self, "model"):
            return
        super().configure_model()
        self.use(self.model)

    def use(self, model: CodiModel, engine: Engine | None = None) -> None:
        """Measure with a model that is there already, in a Trainer or without one.

        Args:
            model: The model.
            engine: What runs it; made as was asked for if not given.
        """
        self.model = model
        self.engine = engine or build_engine(model, self.engine_name, self.max_rows)
        self.metrics = grid_metrics(self.grid.shape, self.metric_classes)

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[PairResult | ExcludedPair]:
        """Run some pairs side by side; one that cannot be run is named, not dropped."""
        results: dict[str, PairResult | ExcludedPair] = {}
        asked: dict[str, PairRequests] = {}
        for pair in batch.pairs:
            try:
                asked[pair.pair_id] = self.preparation.requests(pair)
            except PairError as error:
                results[pair.pair_id] = ExcludedPair(pair.pair_id, str(error))
        requests = [request for own in asked.values() for request in own.all()]
        runs = iter(self.engine.unpatched(requests, self.record))
        starts = [
            self.preparation.start(pair, own, list(islice(runs, len(own.all()))))
            for pair in batch.pairs
            if (own := asked.get(pair.pair_id)) is not None
        ]
        checked = {p.pair_id for p in batch.pairs[: max(0, self.self_patch_pairs - batch.first)]}
        results |= {result.pair_id: result for result in self.run_pairs(starts, checked)}
        return [results[pair.pair_id] for pair in batch.pairs]

    def forget(self) -> None:
        """Start the metrics over, and draw what is of other pairs anew."""
        self.metrics.reset()
        self.__dict__.pop("preparation", None)

    def load_cached(self, result: PairResult) -> None:
        """Count a pair that an earlier run of the same command measured in the metrics."""
        self._count(result.values)

    # -- some pairs --------------------------------------------------------------------------------

    @cached_property
    def prompts(self) -> Prompts:
        """Makes requests for the model."""
        swept = isinstance(self.engine, SweepEngine)
        window = attention_window(self.model) if swept else None
        return Prompts(self.model, self.direction, window, ": set --model.engine reference")

    @cached_property
    def preparation(self) -> Preparation:
        """What each pair's patched runs start from."""
        return Preparation(
            self.engine,
            self.prompts,
            self.datamodule,
            self.source,
            self.control,
            self.seed,
            self.record,
        )

    def run_pairs(
        self, starts: Sequence[PairStart], self_patch: Container[str] = ()
    ) -> Iterator[PairResult | ExcludedPair]:
        """Run the patched runs of several pairs together, measure them and describe the pairs.

        Args:
            starts: Their unpatched runs.
            self_patch: Ids of the pairs whose grid is run once more with the base run's own
                activations.
        """
        for start, found in zip(starts, self.measure_pairs(starts, self_patch), strict=True):
            if isinstance(found, PairError):
                yield ExcludedPair(start.pair.pair_id, str(found))
                continue
            own, *control = found.grids
            yield PairResult(
                start.pair.pair_id,
                describe_pair(start, self.model.tokenizer, found),
                own.values,
                control[0].values if control else {},
                own.extras.activations,
                own.extras.trace,
            )

    def measure_pairs(
        self, starts: Sequence[PairStart], self_patch: Container[str] = ()
    ) -> Iterator[Measured | PairError]:
        """All patched runs of pairs, own, control and ceilings, and their metrics.

        Args:
            starts: See `run_pairs`.
            self_patch: See `run_pairs`.

        Yields:
            For each pair what was measured, or why it could not be.
        """
        asked = [self._patched_runs(start, start.pair.pair_id in self_patch) for start in starts]
        flat = [(s.pair.pair_id, own, runs) for s, own in zip(starts, asked) for runs in own]

        def report(place: int, done: int) -> None:
            pair, own, runs = flat[place]
            self._report_progress(pair, own, runs, done)

        every = self.engine.patched_each([runs.request for *_, runs in flat], self.latents, report)
        for start, own in zip(starts, asked):
            patched = islice(every, len(own))
            try:
                found: Measured | PairError = self._measure_pair(start, own, patched)
            except PairError as error:
                found = error
                deque(patched, maxlen=0)  # the rest of this pair's
            yield found

    def _patched_runs(self, start: PairStart, self_patch: bool) -> list[PatchedRuns]:
        """The patched runs of a pair."""
        sources: dict[Literal["own", "control"], tuple[Activations, Activations]] = {
            "own": (start.source_activations, start.source.run.activations())
        }
        if start.control_activations is not None:
            sources["control"] = (start.control_activations, start.control_activations)
        asked = []
        for kind, (activations, ceiling) in sources.items():
            sets = self.patch_sets(activations)
            request = PatchRequest(
                start.base, [*sets, all_patches(ceiling)], [*self.watch(sets), []]
            )
            asked.append(PatchedRuns(kind, request))
        if self_patch:
            sets = self.patch_sets(start.base.run.activations())
            asked.append(PatchedRuns("self", PatchRequest(start.base, sets)))
        return asked

    def _measure_pair(
        self, start: PairStart, asked: Sequence[PatchedRuns], patched: Iterator[Patched]
    ) -> Measured:
        """Metrics of a pair's patched runs.

        Raises:
            PairError: Logits are not finite.
        """
        check_finite(start.base.run.answer_logits, lambda _: "the base run")
        check_finite(start.source.run.answer_logits, lambda _: "the source run")
        inputs, grids, self_patch = start.metric_inputs(), [], None
        for runs, found in zip(asked, patched, strict=True):
            check_finite(found.answer_logits, partial(self._run_name, runs.kind))
            if runs.kind == "self":
                base = start.base.run.answer_logits[0]
                moved = F.compute_kl_divergence(found.answer_logits[0], base[0])
                self_patch = moved.abs().max().item()
            else:
                grids.append(self._measure_grid(start, runs, found, inputs))
        self._count(grids[0].values)  # only now: what is not finite leaves the whole pair out
        return Measured(grids, self_patch)

    def _measure_grid(
        self, start: PairStart, runs: PatchedRuns, patched: Patched, inputs: MetricInputs
    ) -> MeasuredGrid:
        """Metrics of every cell and of the ceiling, which is the last row."""
        order: Tensor | slice = slice(self.grid.size)
        if self.run_order != list(range(self.grid.size)):
            order = torch.tensor(self.run_order, device=inputs.base_ids.device).argsort()
        logits = AnswerLogits(*patched.answer_logits)
        extras = self.extras(start, runs.request.rows[:-1], patched.watched[:-1])
        cells = inputs.of(logits.take(order), extras.generated)
        values = row_values(cells, self.metric_classes)
        ceiling = row_values(inputs.of(logits.take(slice(self.grid.size, None))))
        return MeasuredGrid(
            {name: self._as_map(value) for name, value in values.items()},
            {name: value.item() for name, value in ceiling.items()},
            extras,
        )

    def _count(self, values: Mapping[str, Array]) -> None:
        """Count a pair's own values in the metrics."""
        for name, metric in self.metrics.items():
            assert isinstance(metric, GridMetric)
            metric.load_cached(torch.from_numpy(values[name]).to(metric.device))

    def _as_map(self, values: Tensor) -> Array:
        """Values of all cells in the grid's shape."""
        return values.double().cpu().reshape(self.grid.shape).numpy()

    # -- around it ------------------------------------------------------------------------------

    def _report_progress(
        self, pair_id: str, asked: Sequence[PatchedRuns], runs: PatchedRuns, done: int
    ) -> None:
        """Tell the callbacks that follow patched runs; those of the self-patch are not counted."""
        if runs.kind == "self":
            return
        counted = [len(each.request.rows) for each in asked if each.kind != "self"]
        before = counted[0] if runs.kind == "control" else 0
        trainer = self._trainer
        for callback in trainer.callbacks if trainer else ():
            if isinstance(callback, FollowsPatchedRuns):
                name = self._run_name(runs.kind, done - 1)
                callback.on_patched_runs_end(pair_id, before + done, sum(counted), name)

    @property
    def runs_of_a_pair(self) -> int:
        """Patched runs of a pair that has a control, ceilings included."""
        return (self.grid.size + 1) * (1 if self.control == "none" else 2)

    def _run_name(self, kind: str, run: int) -> str:
        """The cell of a pair's run-th patched run of a kind."""
        name = "all thoughts at all layers"
        if run < self.grid.size:
            cell = divmod(self.run_order[run], len(self.columns))
            name = cell_label(self.grid, cell, self.latents == "recomputed", self.site)
        return name if kind == "own" else f"{kind}, {name}"
