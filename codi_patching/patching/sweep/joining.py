"""One plan of several: requests that go through the model together.

Each request's plan is worked out alone, once for all requests of its shape; here its indices are
moved to where things are when all are side by side. In each list what is of the first kind comes
first, request by request, then what is of the second kind: inputs of a layer as in `AttentionStep`,
outputs likewise. So a layer is visited once for all requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from codi_patching.patching.sweep.kinds import padded, places_of, put
from codi_patching.patching.sweep.plan import (
    AttentionStep,
    Functions,
    HeadFunctions,
    Heads,
    MLPStep,
    Plan,
    Step,
    Watched,
    Wave,
)


@dataclass(frozen=True)
class Part:
    """A request's plan, and what it brings along.

    Attributes:
        plan: Of the request alone.
        start: Number of its start; requests of the same start follow one another.
        vectors: How many vectors are among its values.
        kvs: How many keys and values are.
        heads: How many are what heads give.
        functions: How many functions are.
        hidden: How many sets of prompt tokens are.
    """

    plan: Plan
    start: int
    vectors: int
    kvs: int
    heads: int
    functions: int
    hidden: int


@lru_cache(maxsize=16)
def join(parts: tuple[Part, ...]) -> Plan:
    """One plan of the plans of several requests, all of one model and the same `latents`."""
    return parts[0].plan if len(parts) == 1 else _Joining(parts).plan()


@dataclass
class _Placed:
    """A part, and where its things begin among those of all.

    Attributes:
        part: The part.
        tokens: Its unpatched run's tokens, among those of all starts.
        slots: Its own slots.
        vectors: Its vectors among the values.
        kvs: Its keys and values.
        heads: What its heads give.
        functions: Its functions.
        hidden: Its sets of prompt tokens.
        watched: Its watched cells.
        nodes: Its nodes in the present wave.
        outputs: Its present outputs, one by one.
    """

    part: Part
    tokens: int
    slots: int
    vectors: int
    kvs: int
    heads: int
    functions: int
    hidden: int
    watched: int
    nodes: int
    outputs: Tensor


class _Joining:
    """Follows the outputs of all parts from state to state."""

    def __init__(self, parts: Sequence[Part]) -> None:
        tokens_of = {part.start: part.plan.tokens for part in parts}
        self.tokens = sum(tokens_of.values())
        self.slots, self.watched, self.count = self.tokens, 0, 0
        self.placed: list[_Placed] = []
        vectors = kvs = heads = functions = hidden = 0
        for part in parts:
            first = sum(count for start, count in tokens_of.items() if start < part.start)
            self.placed.append(
                _Placed(
                    part=part,
                    tokens=first,
                    slots=self.slots,
                    vectors=vectors,
                    kvs=kvs,
                    heads=heads,
                    functions=functions,
                    hidden=hidden,
                    watched=self.watched,
                    nodes=0,
                    outputs=torch.arange(0),
                )
            )
            self.slots += part.plan.num_slots - part.plan.tokens
            self.watched += part.plan.watched
            vectors += part.vectors
            kvs += part.kvs
            heads += part.heads
            functions += part.functions
            hidden += part.hidden

    def plan(self) -> Plan:
        """All waves, and where the logits of all requests are."""
        plans = [placed.part.plan for placed in self.placed]
        waves = [self._wave(waves) for waves in zip(*(plan.waves for plan in plans), strict=True)]
        logit_outputs = [self._ends(p, plan.logit_outputs) for p, plan in zip(self.placed, plans)]
        constant = [
            (placed.watched + place, layer, int(self._given(placed, torch.tensor(source))))
            for placed, plan in zip(self.placed, plans)
            for place, layer, source in plan.constant
        ]
        return Plan(
            tuple(waves),
            torch.cat(logit_outputs),
            tuple(reads for plan in plans for reads in plan.reads),
            self.tokens,
            self.slots,
            self.watched,
            tuple(constant),
            sum(plan.attention_tokens for plan in plans),
            sum(plan.mlp_tokens for plan in plans),
        )

    # -- where things are -----------------------------------------------------------------------

    def _given(self, placed: _Placed, index: Tensor) -> Tensor:
        """Where an unpatched run's token is, or a vector, which come after all tokens."""
        own = placed.part.plan.tokens
        vectors = self.tokens + placed.vectors - own
        return torch.where(index < own, placed.tokens, vectors) + index

    def _sources(self, placed: _Placed, index: Tensor) -> Tensor:
        """Where an output is, or what is given, which comes after all outputs."""
        count = len(placed.outputs)
        given = self.count + self._given(placed, index - count)
        if not count:
            return given
        return torch.where(index < count, placed.outputs[index.clamp(max=count - 1)], given)

    def _ends(self, placed: _Placed, index: Tensor) -> Tensor:
        """Where an output is, or a vector, which come after all outputs."""
        count = len(placed.outputs)
        vectors = self.count + placed.vectors + index - count
        if not count:
            return vectors
        return torch.where(index < count, placed.outputs[index.clamp(max=count - 1)], vectors)

    def _slots(self, placed: _Placed, slots: Tensor) -> Tensor:
        own = placed.part.plan.tokens
        return torch.where(slots < own, placed.tokens, placed.slots - own) + slots

    def _functions(self, functions: Sequence[Functions], places: Sequence[Tensor]) -> Functions:
        """Each part's functions by their numbers among all, for items that are at these places."""
        return tuple(
            (int(place[item]), placed.functions + number)
            for placed, own, place in zip(self.placed, functions, places, strict=True)
            for item, number in own
        )

    def _made(self, kinds: Sequence[Sequence[int]]) -> None:
        """Each part has new outputs, so many of each kind."""
        for placed, places in zip(self.placed, places_of(kinds), strict=True):
            placed.outputs = places
        self.count = sum(map(sum, kinds))

    def _watch(self, watched: Sequence[Watched]) -> Watched:
        parts = list(zip(self.placed, watched, strict=True))
        outputs = [placed.outputs[mine] for placed, (mine, _) in parts]
        return torch.cat(outputs), torch.cat([placed.watched + at for placed, (_, at) in parts])

    # -- waves and layers -----------------------------------------------------------------------

    def _wave(self, waves: Sequence[Wave]) -> Wave:
        parts = list(zip(self.placed, waves, strict=True))
        parents = torch.cat([self._sources(placed, wave.parents) for placed, wave in parts])
        self._made([(len(wave.parents), len(wave.computed_thoughts)) for wave in waves])
        present = []
        nodes = 0
        for placed, wave in parts:
            placed.nodes = nodes
            nodes += len(wave.depths)
            tokens = torch.arange(placed.part.plan.tokens) + placed.tokens
            made = placed.outputs[: len(wave.parents)]
            present.append(torch.cat([made, len(parents) + tokens]))
        return Wave(
            parents,
            self._functions([wave.computed_thoughts for wave in waves], present),
            self._watch([wave.watched for wave in waves]),
            torch.cat([wave.starts + placed.part.start for placed, wave in parts]),
            torch.cat([wave.depths for wave in waves]),
            tuple(self._step(steps) for steps in zip(*(w.steps for w in waves), strict=True)),
        )

    def _step(self, steps: Sequence[Step]) -> Step:
        attention = self._attention([step.attention for step in steps])
        self._made([(step.attention.attending, len(step.attention.added)) for step in steps])
        mlp = self._mlp([step.mlp for step in steps])
        self._made([(step.mlp.computed, len(step.mlp.added)) for step in steps])
        return Step(attention, mlp, self._watch([step.watched for step in steps]))

    def _attention(self, steps: Sequence[AttentionStep]) -> AttentionStep:
        parts = list(zip(self.placed, steps, strict=True))
        kinds = [(s.attending, len(s.slots) - s.attending, len(s.added)) for s in steps]
        places = places_of(kinds)
        projected = [place[: len(step.slots)] for place, step in zip(places, steps)]
        written = [
            (self._slots(p, slots), p.nodes + nodes, p.kvs + labels)
            for p, (slots, nodes, labels) in ((p, step.written) for p, step in parts)
        ]
        return AttentionStep(
            put([self._sources(p, step.source) for p, step in parts], places),
            put([p.nodes + step.nodes for p, step in parts], places),
            sum(step.attending for step in steps),
            self._segments(steps),
            put([self._slots(p, step.slots) for p, step in parts], projected),
            *padded([(self._slots(p, step.keys), step.mask, p.tokens) for p, step in parts]),
            self._hidden(steps),
            (
                torch.cat([slots for slots, _, _ in written]),
                torch.cat([nodes for _, nodes, _ in written]),
                torch.cat([labels for _, _, labels in written]),
            ),
            torch.cat([p.vectors + step.added for p, step in parts]),
            self._functions([step.functions for step in steps], places),
            self._functions([step.key_functions for step in steps], places),
            *self._heads(steps, places),
        )

    def _hidden(self, steps: Sequence[AttentionStep]) -> Tensor | None:
        """The labels of all attending nodes; None if all see all."""
        if all(step.hidden is None for step in steps):
            return None
        labels = []
        for placed, step in zip(self.placed, steps, strict=True):
            own = torch.full((step.attending,), -1) if step.hidden is None else step.hidden
            labels.append(torch.where(own < 0, own, own + placed.hidden))
        return torch.cat(labels)

    def _heads(
        self, steps: Sequence[AttentionStep], places: Sequence[Tensor]
    ) -> tuple[Heads, HeadFunctions]:
        """Each part's heads, of nodes that are at these places."""
        parts = list(zip(self.placed, steps, places, strict=True))
        given = (
            torch.cat([at[step.heads[0]] for _, step, at in parts]),
            torch.cat([step.heads[1] for step in steps]),
            torch.cat([placed.heads + step.heads[2] for placed, step, _ in parts]),
        )
        computed = tuple(
            (int(at[item]), head, placed.functions + number)
            for placed, step, at in parts
            for item, head, number in step.head_functions
        )
        return given, computed

    def _segments(self, steps: Sequence[AttentionStep]) -> tuple[tuple[int, int], ...]:
        """How many attend to each start's prompt, whichever requests they are of."""
        attending = [(p.part.start, step.attending) for p, step in zip(self.placed, steps)]
        sums = [
            (start, sum(count for _, count in same))
            for start, same in groupby(attending, lambda one: one[0])
        ]
        return tuple((start, count) for start, count in sums if count)

    def _mlp(self, steps: Sequence[MLPStep]) -> MLPStep:
        parts = list(zip(self.placed, steps, strict=True))
        places = places_of([(step.computed, len(step.added)) for step in steps])
        sources = [
            placed.outputs if step.source is None else self._sources(placed, step.source)
            for placed, step in parts
        ]
        source = put(sources, places)
        as_they_are = torch.equal(source, torch.arange(self.count))
        return MLPStep(
            None if as_they_are else source,
            sum(step.computed for step in steps),
            torch.cat([p.vectors + step.added for p, step in parts]),
            self._functions([step.functions for step in steps], places),
            self._functions([step.output_functions for step in steps], places),
        )
