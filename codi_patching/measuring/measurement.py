"""The patched runs of pairs, and their metrics.

For each pair the base question (corrupted, with denoising) and the source question (clean) are
encoded once and run without patches. Then every cell of a grid is a patched run of the base
question, once with the source run's activations (own) and once with those of a third question
(control); two more runs, the ceilings, have all thoughts of the source run, or of the control. The
metrics compare each with the two unpatched runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from codi_patching.data.pairs import Pair
from codi_patching.measuring.pair_description import describe_pair, numbers
from codi_patching.measuring.patch_grid import Extras, PatchGrid
from codi_patching.measuring.places import at_places
from codi_patching.measuring.preparation import PairRequests, PairStart, Preparation
from codi_patching.measuring.verification import Cells, VerifiedGrid, VerifiedPair, verify_pairs
from codi_patching.metrics import functional as F
from codi_patching.metrics.inputs import AnswerLogits, MetricInputs
from codi_patching.metrics.table import METRICS, metric_rows
from codi_patching.models.answers import PairError
from codi_patching.models.codi import CodiModel
from codi_patching.patching.engine import Patched, PatchRequest
from codi_patching.patching.interventions import Activations, all_patches
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.results.description import Array
from codi_patching.results.pair_descriptions import PairDescription
from codi_patching.results.records import ExcludedPair, PairRecord

OnRunsDone = Callable[[str, int, int, str], None]
"""Told a pair's id, how many of its patched runs are done, of how many, and the last one's cell."""


@dataclass(frozen=True)
class PatchedRuns:
    """A pair's patched runs with the activations of one run.

    Attributes:
        kind: `own`, of the source run; `control`; `self`, of the base run, which changes nothing.
        request: A row for each cell, in `run_order`; then, but for `self`, the ceiling's.
        left_out: By number of a row why it is patched with nothing.
    """

    kind: Literal["own", "control", "self"]
    request: PatchRequest
    left_out: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasuredGrid:
    """What patched runs with the activations of one run gave.

    Attributes:
        values: For each metric a value for each cell, in the grid's shape.
        ceiling: Each metric of the run with all thoughts of that run.
        extras: What was made of watched activations.
    """

    values: dict[str, Array]
    ceiling: dict[str, float | None]
    extras: Extras


@dataclass(kw_only=True)
class Measurement:
    """Measures pairs.

    Attributes:
        model: The model.
        preparation: Makes the unpatched runs.
        cells: What is patched.
        on_runs_done: Follows patched runs; those of the self-patch are not counted.
    """

    model: CodiModel
    preparation: Preparation
    cells: PatchGrid
    on_runs_done: OnRunsDone | None = None

    def pairs(
        self,
        pairs: Sequence[Pair],
        self_patch: Collection[str] = (),
        verify: Mapping[str, Cells] | None = None,
    ) -> list[PairRecord | ExcludedPair]:
        """Measure some pairs side by side; one that cannot be run is named, not dropped.

        Args:
            pairs: The pairs.
            self_patch: Ids of those whose grid is run once more with the base run's own
                activations.
            verify: By id the cells that are run again by the reference engine.
        """
        results: dict[str, PairRecord | ExcludedPair] = {}
        asked: dict[str, PairRequests] = {}
        for pair in pairs:
            try:
                asked[pair.pair_id] = self.preparation.requests(pair)
            except PairError as error:
                results[pair.pair_id] = ExcludedPair(pair.pair_id, str(error))
        requests = [request for own in asked.values() for request in own.all()]
        places = [own_places for own in asked.values() for own_places in own.places]
        runs = iter(self.preparation.engine.unpatched(requests, self.preparation.record, places))
        starts = [
            self.preparation.start(pair, own, list(islice(runs, len(own.all()))))
            for pair in pairs
            if (own := asked.get(pair.pair_id)) is not None
        ]
        for result in self.started(starts, self_patch):
            results[result.pair_id] = result
        for record in self._verify(starts, results, verify or {}):
            results[record.pair_id] = record
        return [results[pair.pair_id] for pair in pairs]

    def started(
        self,
        starts: Sequence[PairStart],
        self_patch: Collection[str] = (),
    ) -> Iterator[PairRecord | ExcludedPair]:
        """Measure pairs whose unpatched runs are there; see `pairs`."""
        asked = [self._patched_runs(start, start.pair.pair_id in self_patch) for start in starts]
        flat = [(s.pair.pair_id, own, runs) for s, own in zip(starts, asked) for runs in own]
        every = self.preparation.engine.patched_each(
            [runs.request for *_, runs in flat],
            self.cells.latents,
            lambda place, done: self._report(*flat[place], done),
        )
        for start, own in zip(starts, asked):
            patched = islice(every, len(own))
            try:
                yield self._record(start, own, patched)
            except PairError as error:
                deque(patched, maxlen=0)  # the rest of this pair's
                yield ExcludedPair(start.pair.pair_id, str(error))

    def _patched_runs(self, start: PairStart, self_patch: bool) -> list[PatchedRuns]:
        """The patched runs of a pair."""
        sources: dict[Literal["own", "control"], tuple[Activations, Activations]] = {
            "own": (start.source_activations, start.source.run.activations())
        }
        if start.control_activations is not None:
            sources["control"] = (start.control_activations, start.control_activations)
        asked, left_out = list[PatchedRuns](), dict[int, str]()
        for kind, (activations, ceiling) in sources.items():
            sets, own = at_places(self.cells.patch_sets(activations), start.base.places)
            left_out = own | left_out  # what has no own value has no control's either
            rows, watch = [*sets, all_patches(ceiling)], [*self.cells.watch(sets), []]
            asked.append(PatchedRuns(kind, PatchRequest(start.base, rows, watch), left_out))
        if self_patch:
            sets = self.cells.patch_sets(start.base.run.activations())
            sets, _ = at_places(sets, start.base.places)
            asked.append(PatchedRuns("self", PatchRequest(start.base, sets)))
        return asked

    # -- what they gave -------------------------------------------------------------------------

    def _record(
        self,
        start: PairStart,
        asked: Sequence[PatchedRuns],
        patched: Iterator[Patched],
    ) -> PairRecord:
        """Metrics of a pair's patched runs, and the pair.

        Raises:
            PairError: Logits are not finite.
        """
        check_finite(start.base.run.answer_logits, lambda _: "the base run")
        check_finite(start.source.run.answer_logits, lambda _: "the source run")
        inputs, grids, self_patch = start.metric_inputs, list[MeasuredGrid](), None
        for runs, found in zip(asked, patched, strict=True):
            check_finite(found.answer_logits, partial(self.cells.run_name, runs.kind))
            if runs.kind == "self":
                base = start.base.run.answer_logits[0]
                moved = F.compute_kl_divergence(found.answer_logits[0], base[0])
                self_patch = moved.abs().max().item()
            else:
                grids.append(self._measure_grid(start, runs, found, inputs))
        own, control = grids[0], grids[1] if len(grids) > 1 else None
        description = describe_pair(
            start,
            self.model.tokenizer,
            ceiling=own.ceiling,
            ceiling_control=control.ceiling if control else {},
            self_patch=self_patch,
            chain_links=own.extras.chain_links,
            chain_broken=own.extras.chain_broken,
            left_out=self._left_out(asked),
        )
        return PairRecord(
            pair_id=start.pair.pair_id,
            description=description,
            values=own.values,
            control=control.values if control else {},
            activations=own.extras.activations,
            trace=own.extras.trace,
        )

    def _left_out(self, asked: Sequence[PatchedRuns]) -> dict[str, str]:
        """By column why it has no values of a pair, or no control's."""
        columns, reasons = self.cells.grid.columns, dict[str, str]()
        for runs in asked:
            for run, reason in runs.left_out.items():
                said = reason if runs.kind == "own" else f"{runs.kind}: {reason}"
                reasons.setdefault(columns[self.cells.run_order[run] % len(columns)], said)
        return reasons

    def _measure_grid(
        self, start: PairStart, runs: PatchedRuns, patched: Patched, inputs: MetricInputs
    ) -> MeasuredGrid:
        """Metrics of every cell and of the ceiling, which is the last row."""
        shape, size = self.cells.grid.shape, self.cells.grid.size
        logits = AnswerLogits(*patched.answer_logits)
        extras = self.cells.extras(start, runs.request.rows[:-1], patched.watched[:-1])
        if list(self.cells.run_order) != list(range(size)):
            order = torch.tensor([*self.cells.run_order, size]).argsort()
            logits = logits.take(order.to(inputs.base_ids.device))
        asked = self.cells.metrics
        of_all = {name: METRICS[name] for name in asked if METRICS.get(name) == asked[name]}
        of_cells = {name: metric for name, metric in asked.items() if name not in of_all}
        of_ceiling = {name: metric for name, metric in METRICS.items() if name not in of_all}
        found = metric_rows(inputs.of(logits), of_all)
        last = metric_rows(inputs.of(logits.take(slice(size, None))), of_ceiling)
        ceiling = {name: (found | last)[name][-1].item() for name in METRICS}
        found |= metric_rows(inputs.of(logits.take(slice(size)), extras.generated), of_cells)
        measured = {name: found[name][:size].double().numpy() for name in asked}
        left_out = [self.cells.run_order[run] for run in runs.left_out]
        for values in measured.values():
            values[left_out] = np.nan
        return MeasuredGrid(
            {name: values.reshape(shape) for name, values in measured.items()},
            numbers(ceiling),
            extras,
        )

    def _verify(
        self,
        starts: Sequence[PairStart],
        results: Mapping[str, PairRecord | ExcludedPair],
        verify: Mapping[str, Cells],
    ) -> Iterator[PairRecord]:
        """The records of some pairs, with some of their runs made again by the reference engine."""
        found = [(start, results[start.pair.pair_id]) for start in starts]
        chosen = [
            (record, self._verified_pair(start, verify[record.pair_id]))
            for start, record in found
            if isinstance(record, PairRecord) and verify.get(record.pair_id)
        ]
        wanted = VerifiedGrid(
            grid=self.cells.grid,
            patch_sets=self.cells.patch_sets,
            run_order=self.cells.run_order,
            latents=self.cells.latents,
            record=self.cells.record,
            longest=self.model.context_length,
        )
        engine = ReferenceEngine(self.model, self.preparation.engine.max_rows)
        again = verify_pairs(engine, [pair for _, pair in chosen], wanted)
        for (record, _), verified in zip(chosen, again, strict=True):
            assert isinstance(record.description, PairDescription)
            yield replace(record, description=replace(record.description, verified=verified))

    def _verified_pair(self, start: PairStart, cells: Cells) -> VerifiedPair:
        """What is run again of a pair."""
        requests = start.requests
        own = requests.donor or requests.source
        averaged = self.preparation.source in ("zero", "mean")
        given = {"own": start.source_activations if averaged else own}
        if requests.control is not None:
            given["control"] = requests.control
        return VerifiedPair(
            requests.base,
            requests.source,
            given,
            start.direction == "denoising",
            cells,
            requests.places,
        )

    def _report(
        self, pair_id: str, asked: Sequence[PatchedRuns], runs: PatchedRuns, done: int
    ) -> None:
        """Tell who follows."""
        if runs.kind == "self" or self.on_runs_done is None:
            return
        counted = [len(each.request.rows) for each in asked if each.kind != "self"]
        before = counted[0] if runs.kind == "control" else 0
        name = self.cells.run_name(runs.kind, done - 1)
        self.on_runs_done(pair_id, before + done, sum(counted), name)


def check_finite(answer_logits: Sequence[Tensor], name: Callable[[int], str]) -> None:
    """Refuse NaN and infinity in logits, in float32 at least, naming the first rows that have them.

    Raises:
        PairError: There are some.
    """
    for logits in {id(logits): logits for logits in answer_logits}.values():
        wrong = logits.flatten(1).sum(1).isfinite().cpu().logical_not().nonzero().flatten().tolist()
        if wrong:
            where = ", ".join(name(row) for row in wrong[:3])
            raise PairError(f"logits are not finite at {where}")
