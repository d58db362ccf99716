"""The fast engine: the tokens that a patch changes, at the layers it changes, and no others.

`planner` decides which; here they are computed. All tokens of a wave go through a decoder block
side by side, as one batch of the linear layers' rows, whatever run of whatever question they belong
to. Each attends to its prompt's keys and values, which all runs of a question share, and to those
of the tokens before it in its own run, by their slots in one pool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from codi_patching.patching.engine import Engine, Patched, PatchRequest, Readout, Unpatched
from codi_patching.patching.interventions import Latents, SiteName, extra_sites
from codi_patching.patching.sweep.joining import Part, join
from codi_patching.patching.sweep.lowering import make_plan
from codi_patching.patching.sweep.packed_model import PackedModel
from codi_patching.patching.sweep.plan import Reads
from codi_patching.patching.sweep.starts import Starts
from codi_patching.patching.sweep.suffix import Suffix
from codi_patching.patching.sweep.unpatched import UnpatchedBatch, UnpatchedState
from codi_patching.patching.sweep.values import Values
from codi_patching.patching.sweep.waves import Sweep

_LOGITS = 2**29
"""Bytes of logits that are made at a time, from one reading of the head."""


class SweepEngine(Engine):
    """Runs patched rows with the least work.

    Args:
        model: The model.
        max_rows: Rows that go through the model together, of one request or of several; the
            results do not depend on it beyond rounding.
    """

    def __init__(self, model: PackedModel, max_rows: int) -> None:
        self.model, self.max_rows = model, max_rows
        self.token_layers = 0.0

    # -- rows of patches ------------------------------------------------------------------------

    def patched_each(
        self,
        requests: Sequence[PatchRequest],
        latents: Latents = "recomputed",
        on_rows_done: Callable[[int, int], None] = lambda *_: None,
    ) -> Iterator[Patched]:
        """Run the rows of several requests, as many requests together as `max_rows` allows."""
        for first, last in _runs([len(request.rows) for request in requests], self.max_rows):
            group, report = requests[first:last], partial(_report, on_rows_done, first)
            if len(group) == 1:  # it may have more rows than go together
                yield from super().patched_each(group, latents, report)
                continue
            for place, patched in enumerate(self._together(group, latents)):
                report(place, len(group[place].rows))
                yield patched

    def _run_rows(self, request: PatchRequest, latents: Latents) -> Patched:
        return next(self._together([request], latents))

    def _together(self, requests: Sequence[PatchRequest], latents: Latents) -> Iterator[Patched]:
        """Run the rows of several requests as one batch; their logits follow one by one."""
        parts, values, states = [], [], list[UnpatchedState]()
        for request in requests:
            if not states or states[-1] is not request.start.state:
                states.append(request.start.state)
            values.append(Values.of(request.rows, states[-1].stream))
            parts.append(self._part(request, values[-1], len(states) - 1, latents))
        plan, starts, given = join(tuple(parts)), Starts.of(states), Values.joined(values)
        self.token_layers += plan.token_layers
        watched = starts.stream.new_empty(plan.watched, starts.stream.shape[-1])
        for place, layer, source in plan.constant:
            watched[place] = torch.cat([starts.stream[layer + 1], given.vectors])[source]
        hidden = self.model.final_norm(Sweep(self.model, starts, plan, given, watched).run())
        counts = [[len(cells) for cells in request.cells] for request in requests]
        own = watched.split([sum(of_rows) for of_rows in counts])
        logits = self._answer_logits([r.start.state for r in requests], plan.reads, hidden)
        for answers, cells, of_rows in zip(logits, own, counts, strict=True):
            yield Patched(answers, list(cells.split(of_rows)))

    def _part(self, request: PatchRequest, values: Values, start: int, latents: Latents) -> Part:
        """A request's plan, and what it brings along."""
        state = request.start.state
        if state.mid is None and any(p.site == "mlp_out" for row in request.rows for p in row):
            raise ValueError(
                "expected a run to patch at mlp_out that recorded it: "
                "engine.unpatched(requests, record=['mlp_out'])"
            )
        plan = make_plan(
            state.suffix.structure,
            len(self.model.blocks),
            values.shapes,
            tuple(tuple(cells) for cells in request.cells),
            latents,
            state.stream.device,
        )
        kvs = 0 if values.kv is None else len(values.kv)
        return Part(plan, start, len(values.vectors), kvs, len(values.functions))

    def _answer_logits(
        self, states: Sequence[UnpatchedState], reads: Sequence[Reads], hidden: Tensor
    ) -> Iterator[tuple[Tensor, ...]]:
        """Of each request the logits of its answers, `(rows, tokens, vocabulary)` each.

        Args:
            states: Each request's unpatched run.
            reads: Which of the hidden states are read for each.
            hidden: After the final norm, those of one request after the other, `(outputs, hidden)`.
        """
        # The answers of a pair are often read at the same place: once is enough.
        wanted = [dict(zip(state.suffix.reads, read.answers)) for state, read in zip(states, reads)]
        first_output = [0, *accumulate(read.outputs for read in reads)]
        size = 4 * states[0].logits.shape[-1]
        sizes = [size * sum(places.numel() for places in answers.values()) for answers in wanted]
        for first, last in _runs(sizes, _LOGITS):
            places = [
                torch.where(place < reads[at].outputs, first_output[at] + place, 0).flatten()
                for at in range(first, last)
                for place in wanted[at].values()
            ]
            made = self._logits(hidden, places)
            for at in range(first, last):
                answers = {
                    tokens: _with_unpatched(next(made), place, reads[at].outputs, states[at].logits)
                    for tokens, place in wanted[at].items()
                }
                yield tuple(answers[tokens] for tokens in states[at].suffix.reads)

    def _logits(self, hidden: Tensor, places: Sequence[Tensor]) -> Iterator[Tensor | None]:
        """Logits of hidden states at some places, made together; None if there are no states."""
        if not len(hidden):
            return iter([None] * len(places))
        logits = self.model.logits(hidden[torch.cat(list(places))])
        return iter(logits.split([len(place) for place in places]))

    # -- unpatched runs -------------------------------------------------------------------------

    def unpatched(
        self,
        requests: Sequence[tuple[Sequence[int], Readout]],
        record: Collection[SiteName] = (),
    ) -> list[Unpatched]:
        """Run prompts without patches, side by side."""
        if not requests:
            return []
        latents = self.model.num_latents
        suffixes = [Suffix.of(latents, r.prefix, r.answers) for _, r in requests]
        prompts = [ids for ids, _ in requests]
        batch = UnpatchedBatch(self.model, prompts, suffixes, extra_sites(record))
        return batch.run([readout for _, readout in requests])


def _report(told: Callable[[int, int], None], first: int, place: int, done: int) -> None:
    """Tell of a request by its number among all."""
    told(first + place, done)


def _runs(sizes: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """First and last (excluded) of runs of items that together are within a limit, or single.

    Example:
        >>> list(_runs([2, 3, 4, 9, 1], limit=6))
        [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    first, size = 0, 0
    for place, own in enumerate(sizes):
        if place > first and size + own > limit:
            yield first, place
            first, size = place, 0
        size += own
    if first < len(sizes):
        yield first, len(sizes)


def _with_unpatched(made: Tensor | None, reads: Tensor, own: int, unpatched: Tensor) -> Tensor:
    """Logits `(rows, tokens, vocabulary)`, the unpatched run's where a row changed nothing.

    Args:
        made: Logits by place, `(rows * tokens, vocabulary)`; None if no row changed anything.
        reads: Places, from `own` on in `unpatched`, `(rows, tokens)`.
        own: How many are the request's own.
        unpatched: The unpatched run's logits, `(read tokens, vocabulary)`.
    """
    if made is None:
        return unpatched[reads - own]
    logits, same = made.view(*reads.shape, -1), reads >= own
    logits[same] = unpatched[reads[same] - own]
    return logits
