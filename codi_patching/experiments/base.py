"""What every patching experiment shares: two runs of a pair, the patched runs, their metrics.

For each pair the patched question (corrupted, with denoising) and the giving question (clean) are
encoded once and run without patches. Then every cell of the experiment's grid is a patched run of
the patched question, and the metrics compare it to the two unpatched runs.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torchmetrics import MetricCollection

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pairs import Pair, Question
from codi_patching.data.records import ExcludedPair, PairResult
from codi_patching.metrics import functional as F
from codi_patching.metrics.grid import GridMetric, grid_metrics
from codi_patching.models.answers import PairError, build_readout, format_answer
from codi_patching.models.loading.checkpoint import LoadReport, load_checkpoint
from codi_patching.models.codi import CodiModel
from codi_patching.models.families import why_not_swept
from codi_patching.models.memory import rows_in_memory
from codi_patching.patching.engine import Engine, Patched, Readout, Unpatched
from codi_patching.patching.interventions import THOUGHT, Activations, Cell, Latents, Row
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.engine import SweepEngine

Direction = Literal["denoising", "noising"]
Source = Literal["clean", "zero", "mean", "random_pair"]
EngineName = Literal["sweep", "reference"]

_CHOICES = {"latents": Latents, "direction": Direction, "source": Source, "engine": EngineName}

Request = tuple[list[int], Readout]
"""A prompt and what is read after the thoughts."""

_NOTHING = Readout((), ())


@dataclass(frozen=True)
class UnpatchedRuns:
    """Where a pair's patched runs start from.

    Attributes:
        pair_id: The pair.
        baseline: The patched question without patches.
        giving: The giving question.
        given: The activations to patch in, by `source`.
    """

    pair_id: str
    baseline: Unpatched
    giving: Unpatched
    given: Activations

    def metric_inputs(self) -> dict[str, Tensor]:
        """What the metrics compare patched runs to; see `metrics.grid`."""
        logits = {
            "baseline": self.baseline.run.answer_logits,
            "giving": self.giving.run.answer_logits,
        }
        inputs = {
            f"{run}_{answer}": both[index][0]
            for run, both in logits.items()
            for index, answer in enumerate(("own", "other"))
        }
        for answer, ids in zip(("own", "other"), self.baseline.readout.answers):
            inputs[f"{answer}_ids"] = torch.tensor(ids, device=self.given.thoughts.device)
        return inputs


@dataclass(frozen=True)
class PatchedRuns:
    """The patched runs of a pair.

    Attributes:
        answer_logits: As in `Run`, with a row for each cell in the grid's order.
        metric_inputs: Further arguments for the experiment's own metrics.
        activations: As in `PairResult`.
        trace: As in `PairResult`.
    """

    answer_logits: tuple[Tensor, ...]
    metric_inputs: dict[str, Tensor] = field(default_factory=dict)
    activations: Tensor | None = None
    trace: list[dict[str, Any]] = field(default_factory=list)


class PatchingExperiment(pl.LightningModule, ABC):
    """Base of the experiments; `predict_step` takes a `Pair`.

    Args:
        checkpoint: Name of a shipped model, a folder in the package's own layout, or a file in the
            layout of the published CODI code.
        base_model: Hugging Face id or folder with config and tokenizer, for the published layout.
        num_latents: K; the checkpoint's own if not given, else 5.
        lora_alpha: Of the published layout; by the checkpoint's own record if not given, else 32.
        prompt_eos: Whether the prompt ends with eos and bot, not bot alone; published layout.
        latents: Whether the thoughts after a patch stay the baseline's (`frozen`) or are generated
            anew (`recomputed`).
        direction: `denoising` patches clean activations into the corrupted run, `noising` the
            other way round.
        source: The activations that are patched in: `clean`, the pair's other run; `zero`; `mean`,
            of that cell over the giving runs of all pairs; `random_pair`, of another pair.
        include_thought: Whether to patch the latent thoughts themselves too, as an extra row.
        engine: `sweep`, which computes what a patch changes and nothing else, or `reference`, whole
            forward passes with hooks.
        max_rows: Patched runs a batch; as many as fit the memory if not given.
    """

    name: ClassVar[str]
    """Names the results folder and file."""

    column: ClassVar[str] = "position"
    """What the grid's columns are."""

    strategy: str | None = None
    """How an iterative experiment goes along the chain."""

    def __init__(
        self,
        checkpoint: str = "codi-tiny",
        base_model: str | None = None,
        num_latents: int | None = None,
        lora_alpha: float | None = None,
        prompt_eos: bool = False,
        latents: Latents = "recomputed",
        direction: Direction = "denoising",
        source: Source = "clean",
        include_thought: bool = False,
        engine: EngineName = "sweep",
        max_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.latents, self.direction, self.source = latents, direction, source
        self.include_thought, self.engine_name, self.max_rows = include_thought, engine, max_rows
        chosen = {"latents": latents, "direction": direction, "source": source, "engine": engine}
        for name, value in chosen.items():
            if value not in get_args(_CHOICES[name]):
                raise ValueError(
                    f"expected --model.{name} to be one of {', '.join(get_args(_CHOICES[name]))}, "
                    f"got {value!r}"
                )
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"expected --model.max_rows of at least 1, got {max_rows}")
        self.on_progress: Callable[[str, int, str], None] = lambda _pair, _count, _name: None
        self.recall: Callable[[list[Pair]], list[PairResult | ExcludedPair] | None] = lambda _: None
        self.maps: dict[str, Tensor] = {}
        self._mean: Activations | None = None

    model: CodiModel
    report: LoadReport
    engine: Engine
    metrics: MetricCollection

    # -- the grid: what the subclasses say ------------------------------------------------------

    @property
    @abstractmethod
    def positions(self) -> list[str]:
        """Names of the grid's columns in results; empty if a layer is one cell."""

    @abstractmethod
    def patched_runs(self, start: UnpatchedRuns) -> PatchedRuns:
        """Run every cell of the grid for one pair."""

    @property
    @abstractmethod
    def structural_zeros(self) -> list[tuple[int, ...]]:
        """Grid indices of cells that cannot have an effect, whatever the model."""

    def build_metrics(self) -> MetricCollection:
        """The metrics over the grid."""
        return grid_metrics(self.shape)

    @property
    def layers(self) -> list[int]:
        """The grid's rows: `THOUGHT` first if included, then layers 0..L-1."""
        return [THOUGHT] * self.include_thought + list(range(len(self.model.blocks)))

    @property
    def layer_names(self) -> list[str]:
        """The grid's rows as they are keyed in results."""
        return ["thought" if layer == THOUGHT else str(layer) for layer in self.layers]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid."""
        return (len(self.layers), len(self.positions)) if self.positions else (len(self.layers),)

    # -- Lightning, in the order of a run's life ------------------------------------------------

    def configure_model(self) -> None:
        """Load the checkpoint, strictly, and make the metrics for its grid."""
        if hasattr(self, "model"):
            return
        loading = ("checkpoint", "num_latents", "base_model", "lora_alpha", "prompt_eos")
        self.model, self.report = load_checkpoint(**{key: self.hparams[key] for key in loading})
        self.engine = self._build_engine()
        self.metrics = self.build_metrics()
        rank_zero_info(str(self.report))

    def on_predict_start(self) -> None:
        """Check that there is another pair to patch from, where that is the source.

        Raises:
            ValueError: There is not.
        """
        if self.source == "random_pair" and len(self.pairs) < 2:
            raise ValueError(
                "expected at least 2 pairs with source random_pair, got 1: "
                "set --data.max_pairs or --model.source"
            )

    def predict_step(self, batch: list[Pair], batch_idx: int) -> list[PairResult | ExcludedPair]:
        """Run some pairs; one that cannot be run is named, not dropped.

        Their unpatched runs are made side by side, then each pair's patched runs. Pairs that
        `recall` knows are not run again, but count in the metrics.
        """
        known = self.recall(batch)
        if known is not None:
            for result in known:
                if isinstance(result, PairResult):
                    self._count(result)
            return known
        results: dict[str, PairResult | ExcludedPair] = {}
        requests: dict[str, list[Request]] = {}
        for pair in batch:
            try:
                requests[pair.pair_id] = self._requests(pair)
            except PairError as error:
                results[pair.pair_id] = ExcludedPair(pair.pair_id, str(error))
        runs = iter(self.engine.unpatched([r for own in requests.values() for r in own]))
        for pair in batch:
            if pair.pair_id in requests:
                own = [next(runs) for _ in requests[pair.pair_id]]
                try:
                    results[pair.pair_id] = self.run_pair(pair, own)
                except PairError as error:
                    results[pair.pair_id] = ExcludedPair(pair.pair_id, str(error))
        return [results[pair.pair_id] for pair in batch]

    def on_predict_epoch_end(self) -> None:
        """Reduce the metrics to mean maps."""
        self.maps = {name: value.cpu() for name, value in self.metrics.compute().items()}

    # -- one pair -------------------------------------------------------------------------------

    def run_pair(self, pair: Pair, unpatched: Sequence[Unpatched]) -> PairResult:
        """Run a pair's patched runs.

        Args:
            pair: The pair.
            unpatched: Its runs as `_requests` asks for them.

        Raises:
            PairError: Its logits are not finite.
        """
        baseline, giving = unpatched[:2]
        _check_finite(baseline.run.answer_logits, lambda _: "the unpatched run")
        _check_finite(giving.run.answer_logits, lambda _: "the giving run")
        start = UnpatchedRuns(pair.pair_id, baseline, giving, self._given(unpatched))
        runs = self.patched_runs(start)
        _check_finite(runs.answer_logits, self.cell_name)
        values = {name: value.numpy() for name, value in self.measure(start, runs).items()}
        patched, other = self._roles(pair)
        donor = self._donor(pair) if self.source == "random_pair" else None
        own, others = baseline.readout.answers
        summary = {
            "patched_question": patched.text,
            "giving_question": other.text,
            "patched_answer": format_answer(patched.answer),
            "giving_answer": format_answer(other.answer),
            "patched_answer_tokens": list(own),
            "giving_answer_tokens": list(others),
            "source_pair": donor.pair_id if donor else None,
            **_describe_unpatched(start.metric_inputs()),
        }
        return PairResult(pair.pair_id, summary, values, runs.activations, runs.trace)

    def measure(
        self, start: UnpatchedRuns, runs: PatchedRuns, metrics: MetricCollection | None = None
    ) -> dict[str, Tensor]:
        """A pair's value of each metric in each cell, in the grid's shape.

        Adds to `metrics`, the experiment's own if not given.
        """
        own, other = runs.answer_logits
        inputs = {"patched_own": own, "patched_other": other, **runs.metric_inputs}
        values = (metrics or self.metrics)(**inputs, **start.metric_inputs())
        return {name: value.cpu() for name, value in values.items()}

    def _count(self, result: PairResult) -> None:
        """Add a pair's values to the metrics, without running it."""
        for name, metric in self.metrics.items():
            assert isinstance(metric, GridMetric)
            metric.recall(torch.from_numpy(result.values[name]))

    def probe(self, pair: Pair) -> dict[str, Tensor]:
        """Run a pair's grid with activations that are not the clean run's, for validity.

        Returns:
            `self_patch`: KL with the patched question's own activations, which change nothing.
            `control`: KL to clean with another pair's activations; absent if there is none.
            Both in the grid's shape; nothing is added to the experiment's metrics.

        Raises:
            PairError: It cannot be run.
        """
        requests = self._requests(pair)[:2]
        with suppress(PairError):
            requests.append(self._request(self._roles(self._donor(pair))[1], _NOTHING))
        baseline, giving, *donors = self.engine.unpatched(requests)
        sources = {"self_patch": (baseline, "kl_divergence")}
        if donors:
            sources["control"] = (donors[0], "kl_to_clean")
        found = {}
        for name, (source, metric) in sources.items():
            given = source.run.activations()
            start = UnpatchedRuns(pair.pair_id, baseline, giving, given)
            values = self.measure(start, self.patched_runs(start), self.build_metrics())
            found[name] = values[metric]
        return found

    def run_rows(
        self, start: UnpatchedRuns, rows: Sequence[Row], watch: Sequence[Sequence[Cell]] = ()
    ) -> Patched:
        """Run rows of patches on a pair, with the experiment's latents; see `Engine.patched`."""
        return self.engine.patched(
            start.baseline,
            rows,
            self.latents,
            watch,
            lambda done: self.on_progress(start.pair_id, done, self.run_name(done - 1)),
        )

    @property
    def pairs(self) -> list[Pair]:
        """All pairs of the run."""
        datamodule = self.trainer.datamodule
        if not isinstance(datamodule, PairsDataModule):
            raise TypeError(f"expected a PairsDataModule, got {type(datamodule).__name__}")
        return datamodule.kept

    def _roles(self, pair: Pair) -> tuple[Question, Question]:
        """The question that is patched, and the one that gives the activations."""
        if self.direction == "denoising":
            return pair.corrupted, pair.clean
        return pair.clean, pair.corrupted

    def _requests(self, pair: Pair) -> list[Request]:
        """The unpatched runs that a pair needs: patched question, giving question, any donor.

        Raises:
            PairError: One does not fit the model's context, or the answers cannot be read at the
                same place.
        """
        patched, giving = self._roles(pair)
        settings = self.model.settings
        readout = build_readout(
            self.model.tokenizer,
            settings.eot_id,
            settings.answer_prefix,
            (patched.answer, giving.answer),
        )
        requests = [self._request(question, readout) for question in (patched, giving)]
        if requests[0][0] == requests[1][0]:
            raise PairError("expected two different questions, got the same tokens for both")
        if self.source == "random_pair":
            requests.append(self._request(self._roles(self._donor(pair))[1], _NOTHING))
        return requests

    def _request(self, question: Question, readout: Readout) -> Request:
        ids = self.model.prompt_ids(question.text)
        length = len(ids) + self.model.num_latents + len(readout.prefix)
        length += max((len(a) - 1 for a in readout.answers), default=0)
        config = self.model.backbone.config
        limit, kind, advice = config.max_position_embeddings, "context", ""
        window = getattr(config, "sliding_window", None)
        if isinstance(self.engine, SweepEngine) and window is not None and window < limit:
            limit, kind, advice = window, "attention window", ": set --model.engine reference"
        if length > limit:
            raise PairError(
                f"expected at most {limit} tokens from prompt to answer, the model's {kind}, got "
                f"{length}{advice}"
            )
        return ids, readout

    def _donor(self, pair: Pair) -> Pair:
        """Another pair, drawn from the seed among those whose giving run can be made."""
        rng, pairs = Random(f"{self.seed}/{pair.pair_id}"), self.pairs
        tried: set[int] = set()
        while len(tried) < len(pairs):
            index = rng.randrange(len(pairs))
            other = pairs[index]
            if index not in tried and other.pair_id != pair.pair_id and self._fits(other):
                return other
            tried.add(index)
        raise PairError("no other pair can be run, to patch from")

    def _fits(self, pair: Pair) -> bool:
        """Whether the giving run of a pair can be made."""
        try:
            self._request(self._roles(pair)[1], _NOTHING)
        except PairError:  # named when its turn comes
            return False
        return True

    def _given(self, unpatched: Sequence[Unpatched]) -> Activations:
        """The activations to patch in."""
        own = unpatched[1].run.activations()
        if self.source == "zero":
            return Activations.zeros_like(own)
        if self.source == "mean":
            if self._mean is None:
                self._mean = self._mean_activations(self.pairs)
            return self._mean
        return unpatched[-1].run.activations()  # the donor's, or the giving question's own

    def _mean_activations(self, pairs: Sequence[Pair]) -> Activations:
        """The mean of each cell over the giving runs of all pairs that can be run."""
        requests = [self._request(self._roles(p)[1], _NOTHING) for p in pairs if self._fits(p)]
        if not requests:
            raise ValueError("no pair can be run, to take the mean of: set --data.pairs")
        first, *others = (self.engine.unpatched([r])[0].run.activations() for r in requests)
        total = first
        for activations in others:
            total = total.plus(activations)
        return Activations(total.thoughts / len(requests), total.resid / len(requests))

    def _build_engine(self) -> Engine:
        """The engine that was asked for; the reference where a model cannot be swept."""
        reason = why_not_swept(self.model.backbone) if self.engine_name == "sweep" else None
        if reason is not None:
            rank_zero_warn(f"the reference engine is used in place of the sweep: {reason}")
        rows = self.max_rows or rows_in_memory(self.model)
        swept = self.engine_name == "sweep" and reason is None
        return SweepEngine(self.model, rows) if swept else ReferenceEngine(self.model, rows)

    @property
    def seed(self) -> int:
        """The seed of the run, as `seed_everything` left it."""
        return int(os.environ.get("PL_GLOBAL_SEED", "42"))

    def cell_name(self, cell: int) -> str:
        """A cell in words: `layer 3, position 2`."""
        width = max(len(self.positions), 1)
        layer = self.layer_names[cell // width]
        layer = layer if layer == "thought" else f"layer {layer}"
        return f"{layer}, {self.column} {self.positions[cell % width]}" if self.positions else layer

    def run_name(self, run: int) -> str:
        """The cell of a pair's run-th patched run; cells run in the grid's order."""
        return self.cell_name(run)


def _check_finite(answer_logits: Sequence[Tensor], name: Callable[[int], str]) -> None:
    """Refuse NaN and infinity, naming the first rows that have them."""
    for logits in {id(logits): logits for logits in answer_logits}.values():
        extremes = torch.stack(logits.flatten(1).aminmax(dim=1))
        wrong = (~extremes.isfinite()).any(0).nonzero().flatten().tolist()
        if wrong:
            where = ", ".join(name(row) for row in wrong[:3])
            raise PairError(f"logits are not finite at {where}")


def _describe_unpatched(inputs: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Metrics of the baseline and of the giving run, for the results' `baseline`."""
    own_ids, other_ids = inputs["own_ids"], inputs["other_ids"]
    described = {}
    for run in ("baseline", "giving"):
        own, other = inputs[f"{run}_own"], inputs[f"{run}_other"]
        difference = F.compute_answer_logit_difference(other, other_ids, own, own_ids)
        baseline = inputs["baseline_own"]
        described[run] = {
            "kl_divergence": F.compute_kl_divergence(own, baseline).item(),
            "l2_difference": F.compute_l2_difference(own, baseline).item(),
            "prediction_change_rate": F.compute_prediction_change_rate(own, baseline).item(),
            "answer_logit_difference": difference.item(),
            "kl_to_clean": F.compute_kl_divergence(inputs["giving_other"], other).item(),
            "predicts_clean": F.compute_predicts(other, other_ids).item(),
            "predicts_corrupted": F.compute_predicts(own, own_ids).item(),
        }
    return described
