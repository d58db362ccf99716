"""The fast engine: the tokens that a patch changes, at the layers it changes, and no others.

`planner` decides which; here they are computed. All tokens of a wave go through a decoder block
side by side, whatever run of whatever question they belong to, on a CPU in pieces that fit its
caches. Each attends to its prompt's keys and values, which all runs of a question share, and to
those of the tokens before it in its own run, by their slots in one pool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise

import torch

from codi_patching.patching.engine import Engine, Patched, PatchRequest, Readout, Unpatched
from codi_patching.patching.interventions import Latents, PlaceTokens, SiteName, extra_sites
from codi_patching.patching.latent_model import LatentModel
from codi_patching.patching.sweep.joining import Part, join
from codi_patching.patching.sweep.lowering import make_plan
from codi_patching.patching.sweep.reading import answer_logits, groups_within
from codi_patching.patching.sweep.starts import Starts
from codi_patching.patching.sweep.suffix import Suffix
from codi_patching.patching.sweep.transfer import on_device
from codi_patching.patching.sweep.unpatched import UnpatchedBatch, UnpatchedState
from codi_patching.patching.sweep.values import Values
from codi_patching.patching.sweep.waves import Sweep


class SweepEngine(Engine):
    """Runs patched rows with the least work.

    Args:
        model: The model.
        max_rows: Rows that go through the model together, of one request or of several; the
            results do not depend on it beyond rounding.
    """

    def __init__(self, model: LatentModel, max_rows: int) -> None:
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
        rows = [len(request.rows) for request in requests]
        for first, last in _alike(requests, groups_within(rows, self.max_rows)):
            if rows[first] > self.max_rows:
                asked, told = requests[first], partial(on_rows_done, first)
                start, cuts = asked.start, asked.cuts
                yield self.patched(start, asked.rows, latents, asked.watch, told, cuts)
            else:
                told_share = _spread(on_rows_done, first, rows[first:last])
                yield from self._together(requests[first:last], latents, told_share)

    def _run_rows(self, request: PatchRequest, latents: Latents) -> Patched:
        return next(self._together([request], latents, lambda _: None))

    def _together(
        self,
        requests: Sequence[PatchRequest],
        latents: Latents,
        on_share_done: Callable[[float], None],
    ) -> Iterator[Patched]:
        """Run the rows of several requests as one batch; their logits follow one by one."""
        parts, values, states = [], [], list[UnpatchedState]()
        for request in requests:
            if not states or states[-1] is not request.start.state:
                states.append(request.start.state)
            state = states[-1]
            values.append(Values.of(request.rows, state.stream, request.cuts, state.length))
            parts.append(self._part(request, values[-1], len(states) - 1, latents))
        plan = on_device(join(tuple(parts)), states[0].stream.device)
        starts, given = Starts.of(states), Values.joined(values)
        self.token_layers += plan.token_layers
        watched = starts.stream.new_empty(plan.watched, starts.stream.shape[-1])
        for place, layer, source in plan.constant:
            watched[place] = torch.cat([starts.stream[layer + 1], given.vectors])[source]
        sweep = Sweep(self.model, starts, plan, given, watched)
        hidden = self.model.final_norm(sweep.run(on_share_done))
        counts = [[len(cells) for cells in request.cells] for request in requests]
        own = watched.split([sum(of_rows) for of_rows in counts])
        each_state = [request.start.state for request in requests]
        logits = answer_logits(self.model, each_state, plan.reads, hidden)
        for answers, cells, of_rows in zip(logits, own, counts, strict=True):
            yield Patched(answers, list(cells.split(of_rows)))

    def _part(self, request: PatchRequest, values: Values, start: int, latents: Latents) -> Part:
        """A request's plan, and what it brings along."""
        state = request.start.state
        if state.mid is None and any(p.site.name == "mlp_out" for row in request.rows for p in row):
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
        )
        kvs = 0 if values.kv is None else len(values.kv)
        heads = 0 if values.heads is None else len(values.heads)
        hidden, functions = len(values.hidden) - 1, len(values.functions)
        return Part(plan, start, len(values.vectors), kvs, heads, functions, hidden)

    # -- unpatched runs -------------------------------------------------------------------------

    def unpatched(
        self,
        requests: Sequence[tuple[Sequence[int], Readout]],
        record: Collection[SiteName] = (),
        places: Sequence[PlaceTokens] = (),
    ) -> list[Unpatched]:
        """Run prompts without patches, side by side."""
        if not requests:
            return []
        latents = self.model.num_latents
        leads = [_lead(own) for own in places] if places else [0] * len(requests)
        suffixes = [
            Suffix.of(latents, r.prefix, r.answers, lead)
            for (_, r), lead in zip(requests, leads, strict=True)
        ]
        prompts = [ids for ids, _ in requests]
        batch = UnpatchedBatch(self.model, prompts, suffixes, extra_sites(record), places)
        return batch.run([readout for _, readout in requests])


def _alike(
    requests: Sequence[PatchRequest], groups: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """The groups, cut where requests with places outside the thoughts meet others."""
    for first, last in groups:
        leads = [bool(request.start.state.suffix.lead) for request in requests[first:last]]
        cuts = [i for i in range(1, len(leads)) if leads[i] != leads[i - 1]]
        yield from pairwise([first, *(first + cut for cut in cuts), last])


def _lead(places: PlaceTokens) -> int:
    """How many of a prompt's last tokens are from the first place on; bot at least."""
    return max([1, *(-token for tokens in places.values() for token in tokens)])


def _spread(
    told: Callable[[int, int], None], first: int, rows: Sequence[int]
) -> Callable[[float], None]:
    """Converts batch progress to per-request row counts, one request after the other.

    Args:
        told: Told the number of a request and how many of its rows are done.
        first: Number of the first request.
        rows: How many rows each has.
    """
    ends, before = list(accumulate(rows)), 0

    def tell(share: float) -> None:
        nonlocal before
        done = int(share * ends[-1])
        for place, (end, count) in enumerate(zip(ends, rows), first):
            if before < min(done, end) and done > end - count:
                told(place, min(done, end) - (end - count))
        before = max(before, done)

    return tell
