"""Runs of the clean question with an edge of attention cut, in a layer, a window, or all layers.

Each edge is cut twice: as it is, and as a control, in which the same readers do not see, in the
same layers, as many tokens of the question that carry no number, drawn by the seed. Where the whole
question is cut there are not as many: these edges have no control. What is measured is how far the
probability of the run's own answer falls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from random import Random

import numpy as np
import torch
from torch import Tensor

from codi_patching.data.pairs import Pair
from codi_patching.errors import InputError
from codi_patching.measuring.knockout_again import edges_again
from codi_patching.measuring.measurement import OnRunsDone, check_finite
from codi_patching.measuring.pair_description import numbers
from codi_patching.measuring.prompts import PromptRequest, Prompts
from codi_patching.measuring.question_tokens import QuestionTokens
from codi_patching.measuring.verification import Cells
from codi_patching.metrics.inputs import AnswerLogits, MetricInputs
from codi_patching.metrics.table import METRICS, metric_rows
from codi_patching.models.answers import PairError, format_answer
from codi_patching.models.codi import CodiModel
from codi_patching.patching.cuts import Cut
from codi_patching.patching.edges import NUMBERS, QUESTION, Edge, every_edge
from codi_patching.patching.engine import Engine, Patched, PatchRequest, Unpatched
from codi_patching.patching.sweep.unread import unread_rows
from codi_patching.results.description import ALL, Array, Grid
from codi_patching.results.pair_descriptions import KnockoutPair
from codi_patching.results.records import ExcludedPair, PairRecord

KNOCKOUT_METRICS = {
    name: metric for name, metric in METRICS.items() if name not in ("kl_to_source", "recovery")
}
"""Those that need no source run: nothing is brought in from one."""


@dataclass(frozen=True)
class EdgeGrid:
    """Which edge is cut in which layers.

    Attributes:
        num_layers: L.
        num_latents: K.
        window: Layers that are cut together.

    Raises:
        InputError: The window is larger than the model.
    """

    num_layers: int
    num_latents: int
    window: int = 1

    def __post_init__(self) -> None:
        """Check the window."""
        if not 1 <= self.window <= self.num_layers:
            raise InputError(
                f"expected a window of 1 to {self.num_layers} layers, got {self.window}: "
                "set [[model.window]]"
            )

    @cached_property
    def rows(self) -> dict[str, tuple[int, ...]]:
        """Layers that are cut together, by name: all, then each window by its first and last."""
        whole = tuple(range(self.num_layers))
        rows = {ALL: whole}
        if self.window < self.num_layers:
            for first in range(self.num_layers - self.window + 1):
                last = first + self.window - 1
                rows[str(first) if first == last else f"{first}-{last}"] = whole[first : last + 1]
        return rows

    @cached_property
    def edges(self) -> list[Edge]:
        """All edges, in all layers."""
        return list(every_edge(self.num_latents))

    @cached_property
    def cells(self) -> list[tuple[Edge, tuple[int, ...]]]:
        """Edge and layers of every cell, row by row."""
        return [(edge, layers) for layers in self.rows.values() for edge in self.edges]

    @cached_property
    def grid(self) -> Grid:
        """Layers × edges; cells whose cut nothing can come of are structural zeros."""
        names = tuple(edge.name for edge in self.edges)
        prompt = {QUESTION: (-1,), NUMBERS: (-1,)}
        cuts = [(self.cut(edge, layers, prompt, 1),) for edge, layers in self.cells]
        none = [()] * len(cuts)
        unread = unread_rows(none, self.num_layers, self.num_latents, "recomputed", cuts=cuts)
        zeros = [divmod(cell, len(names)) for cell, zero in enumerate(unread) if zero]
        return Grid(tuple(self.rows), "edge", names, tuple(zeros))

    @cached_property
    def controlled(self) -> list[int]:
        """The cells, counted row by row, that have a control."""
        return [cell for cell, (edge, _) in enumerate(self.cells) if edge.read != QUESTION]

    def cut(
        self,
        edge: Edge,
        layers: tuple[int, ...],
        prompt: Mapping[str, Sequence[int]],
        readout: int,
    ) -> Cut:
        """One cell's cut."""
        own = replace(edge, layers=layers)
        return own.cut(self.num_layers, self.num_latents, prompt, readout)


@dataclass(kw_only=True)
class Knockout:
    """Measures pairs.

    Attributes:
        model: The model.
        engine: Runs questions.
        cells: What is cut.
        seed: Of the draw of the control's tokens.
        on_runs_done: Follows runs.
    """

    model: CodiModel
    engine: Engine
    cells: EdgeGrid
    seed: int
    on_runs_done: OnRunsDone | None = None

    def pairs(
        self, pairs: Sequence[Pair], verify: Mapping[str, Cells] | None = None
    ) -> list[PairRecord | ExcludedPair]:
        """Measure some pairs side by side; one that cannot be run is named, not dropped.

        Args:
            pairs: The pairs.
            verify: By id the cells that are run again by the reference engine.
        """
        prompts = Prompts.of(self.model, "noising", self.engine)
        results: dict[str, PairRecord | ExcludedPair] = {}
        asked: dict[str, tuple[PromptRequest, QuestionTokens]] = {}
        for pair in pairs:
            try:
                tokens = QuestionTokens.of(self.model, pair.clean.text)
                asked[pair.pair_id] = prompts.of_pair(pair)[0], tokens
            except PairError as error:
                results[pair.pair_id] = ExcludedPair(pair.pair_id, str(error))
        by_id = {pair.pair_id: pair for pair in pairs}
        runs = self.engine.unpatched([request for request, _ in asked.values()])
        starts = [
            CutPair.of(by_id[name], request, tokens, run, self)
            for (name, (request, tokens)), run in zip(asked.items(), runs, strict=True)
        ]
        for start, record in zip(starts, self._records(starts), strict=True):
            cells = (verify or {}).get(record.pair_id)
            if isinstance(record, PairRecord) and cells:
                assert isinstance(record.description, KnockoutPair)
                again = edges_again(
                    self.model, start.request, record.description, self.cells.grid, cells
                )
                record.description = replace(record.description, verified=again)
            results[record.pair_id] = record
        return [results[pair.pair_id] for pair in pairs]

    def _records(self, starts: Sequence[CutPair]) -> Iterator[PairRecord | ExcludedPair]:
        """Measure pairs whose uncut runs are there."""
        flat = [(start, arm) for start in starts for arm in start.cuts]
        requests = [
            PatchRequest(start.run, [()] * len(start.cuts[arm]), (), start.cuts[arm])
            for start, arm in flat
        ]
        every = self.engine.patched_each(
            requests, "recomputed", lambda place, done: self._report(*flat[place], done)
        )
        for start in starts:
            found = {arm: next(every) for arm in start.cuts}
            try:
                yield self._record(start, found)
            except PairError as error:
                yield ExcludedPair(start.pair.pair_id, str(error))

    def _record(self, start: CutPair, found: Mapping[str, Patched]) -> PairRecord:
        """Metrics of a pair's cut runs, and the pair.

        Raises:
            PairError: Logits are not finite.
        """
        check_finite(start.run.run.answer_logits, lambda _: "the uncut run")
        values: dict[str, dict[str, Array]] = {}
        inputs = start.metric_inputs
        for arm, patched in found.items():
            check_finite(patched.answer_logits, partial(self._name, arm))
            rows = metric_rows(inputs.of(AnswerLogits(*patched.answer_logits)), KNOCKOUT_METRICS)
            values[arm] = {name: self._placed(arm, of_all) for name, of_all in rows.items()}
        return PairRecord(
            pair_id=start.pair.pair_id,
            description=start.description(),
            values=values["own"],
            control=values.get("control", {}),
        )

    def _placed(self, arm: str, values: Tensor) -> Array:
        """Values of runs in the grid's shape, NaN where there is no control."""
        found = np.full(self.cells.grid.size, np.nan)
        found[self._cells_of(arm)] = values.double().numpy()
        return found.reshape(self.cells.grid.shape)

    def _cells_of(self, arm: str) -> list[int]:
        """The cell of each run, counted row by row."""
        return self.cells.controlled if arm == "control" else list(range(self.cells.grid.size))

    def _name(self, arm: str, run: int) -> str:
        """A cut run in words."""
        cell = self._cells_of(arm)[run]
        name = self.cells.grid.label(divmod(cell, len(self.cells.edges)))
        return name if arm == "own" else f"{arm}, {name}"

    def _report(self, start: CutPair, arm: str, done: int) -> None:
        if self.on_runs_done is not None:
            before = len(start.cuts["own"]) if arm == "control" else 0
            total, name = sum(map(len, start.cuts.values())), self._name(arm, done - 1)
            self.on_runs_done(start.pair.pair_id, before + done, total, name)


@dataclass(frozen=True, kw_only=True)
class CutPair:
    """A pair's uncut run, and what is cut of it.

    Attributes:
        pair: The pair.
        request: Its clean question's prompt, read at its own and at the corrupted answer.
        tokens: What the prompt's tokens are.
        run: The uncut run.
        drawn: By name of an edge the tokens that its control cuts.
        cuts: `own` of every cell, `control` of those that have one; none where no token of the
            question is plain.
    """

    pair: Pair
    request: PromptRequest
    tokens: QuestionTokens
    run: Unpatched
    drawn: Mapping[str, tuple[int, ...]]
    cuts: Mapping[str, list[tuple[Cut]]]

    @classmethod
    def of(
        cls,
        pair: Pair,
        request: PromptRequest,
        tokens: QuestionTokens,
        run: Unpatched,
        knockout: Knockout,
    ) -> CutPair:
        """Work out all cuts of a pair."""
        grid, readout = knockout.cells, run.readout.length
        places = tokens.before_thoughts
        own = [(grid.cut(edge, layers, places, readout),) for edge, layers in grid.cells]
        drawn, cuts = dict[str, tuple[int, ...]](), {"own": own}
        if tokens.plain:
            for edge, (cut,) in zip(grid.edges, own, strict=False):  # the first row has them all
                if edge.read != QUESTION:
                    draw = Random(f"{knockout.seed} {pair.pair_id} {edge.name}")
                    count = min(len(cut.read), len(tokens.plain))
                    drawn[edge.name] = tuple(sorted(draw.sample(tokens.plain, count)))
            hidden = {name: tokens.from_end(places) for name, places in drawn.items()}
            cuts["control"] = [
                (replace(own[cell][0], read=hidden[grid.cells[cell][0].name]),)
                for cell in grid.controlled
            ]
        return cls(pair=pair, request=request, tokens=tokens, run=run, drawn=drawn, cuts=cuts)

    @cached_property
    def metric_inputs(self) -> MetricInputs:
        """What the metrics compare cut runs with; the cut runs are still missing."""
        uncut = AnswerLogits(*(logits[0] for logits in self.run.run.answer_logits))
        device = uncut.base.device
        ids = [torch.tensor(answer, device=device) for answer in self.run.readout.answers]
        return MetricInputs(uncut, uncut, uncut, ids[0], ids[1], clean_is_source=False)

    def description(self) -> KnockoutPair:
        """The pair as the results have it."""
        pair, inputs = self.pair, self.metric_inputs
        one = AnswerLogits(inputs.base_run.base[None], inputs.base_run.source[None])
        uncut = metric_rows(inputs.of(one), KNOCKOUT_METRICS)
        return KnockoutPair(
            question=pair.clean.text,
            answer=format_answer(pair.clean.answer),
            corrupted_answer=format_answer(pair.corrupted.answer),
            uncut=numbers({name: values[0].item() for name, values in uncut.items()}),
            prompt_tokens=self.tokens.length,
            question_tokens=self.tokens.question,
            number_tokens=self.tokens.numbers,
            plain_tokens=self.tokens.plain,
            control_tokens=dict(self.drawn),
            group=pair.group,
            num_steps=pair.num_steps,
            changed_step=pair.changed_step,
        )
