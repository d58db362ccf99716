"""One patched run of each of some pairs, or of questions alone, as a notebook asks for it.

The engines, the readout and the metrics are those of the experiments; a readout also tells what is
said (`own_cache`). Of a question alone there is no source run: it is read at its own answer, or at
what the model says to it, and its metrics compare with its run without patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codi_patching.data.pairs import Pair, Question
from codi_patching.measuring.measurement import check_finite
from codi_patching.measuring.own_cache import SpokenReadout, as_text, said_by
from codi_patching.measuring.places import PlaceFinder
from codi_patching.measuring.prompts import PromptRequest, Prompts, roles
from codi_patching.metrics import functional as F
from codi_patching.metrics.inputs import AnswerLogits, MetricInputs
from codi_patching.metrics.table import METRICS, Metric, metric_rows
from codi_patching.models.accuracy import answer_start
from codi_patching.models.answers import build_readout
from codi_patching.models.codi import CodiModel
from codi_patching.patching.cuts import CutSet
from codi_patching.patching.engine import Engine, PatchRequest, Readout, Unpatched
from codi_patching.patching.interventions import Latents, Patch, PlaceTokens, SiteName
from codi_patching.patching.reference import ReferenceEngine

QUESTION_METRICS: dict[str, Metric] = {
    **{m: METRICS[m] for m in ("kl_divergence", "l2_difference", "prediction_change_rate")},
    "answer_probability": lambda i: F.compute_answer_probability(i.patched.base, i.base_ids),
}
"""Of a question alone: against its run without patches, and how probable its answer is."""


CutsOf = Callable[[Readout], Sequence[CutSet]]
"""The edges that a run is without, from what is read of it; nothing if none is cut."""


def no_cuts(_readout: Readout) -> Sequence[CutSet]:
    """No edge is cut."""
    return ()


@dataclass(frozen=True)
class HandRequest:
    """The unpatched runs of a pair, or of a question alone.

    Attributes:
        prompts: Of the base run, then of the source run, if there is one.
        spoken: What is read of each.
        names: Of the answers that are read, as logits are named.
        outside: Whether places outside the thoughts are recorded and may be patched.
        places: Of each prompt the tokens of these places; they follow from the rest.
    """

    prompts: tuple[tuple[int, ...], ...]
    spoken: SpokenReadout
    names: tuple[str, ...]
    outside: bool = False
    places: tuple[PlaceTokens, ...] = field(default=(), compare=False)

    @property
    def asked(self) -> list[PromptRequest]:
        """What an engine is asked."""
        return [(list(ids), self.spoken.readout) for ids in self.prompts]


@dataclass(frozen=True)
class HandStart:
    """Unpatched runs, where a patched one starts from.

    Attributes:
        request: What was asked.
        runs: The base run, then the source run, if there is one.
    """

    request: HandRequest
    runs: Sequence[Unpatched]

    @property
    def inputs(self) -> MetricInputs:
        """What the metrics compare a patched run with, which is still missing."""
        spoken = self.request.spoken
        read = [AnswerLogits(*self.both(run.run.answer_logits, 0)) for run in self.runs]
        ids = [torch.tensor(a, device=read[0].base.device) for a in spoken.answers]
        clean_is_source = self.request.names[-1] == "clean"
        return MetricInputs(read[0], read[0], read[-1], ids[0], ids[-1], clean_is_source)

    def both(self, answer_logits: Sequence[Tensor], row: int) -> tuple[Tensor, Tensor]:
        """Logits of the base and the source answer, of a question alone the same twice."""
        read = self.request.spoken.for_metrics(answer_logits)
        return read[0][row], read[-1][row]


@dataclass(frozen=True)
class HandPatched:
    """A patched run.

    Attributes:
        start: The unpatched runs.
        row: Its patches.
        latents: See `interventions`.
        answer_logits: As the engine gave them.
        cuts: The edges that it is without.
    """

    start: HandStart
    row: Sequence[Patch]
    latents: Latents
    answer_logits: Sequence[Tensor]
    cuts: CutsOf = no_cuts

    @property
    def logits(self) -> dict[str, Tensor]:
        """Before each token of the answers, by their names, `(tokens, vocabulary)`."""
        read = self.start.request.spoken.for_metrics(self.answer_logits)
        return {name: own[0] for name, own in zip(self.start.request.names, read)}

    def measured(self) -> dict[str, Tensor]:
        """Each metric of the patched run, the base run and, if there is one, the source run."""
        start = self.start
        inputs, patched = start.inputs, start.both(self.answer_logits, 0)
        runs = [AnswerLogits(*patched), inputs.base_run, inputs.source_run][: 1 + len(start.runs)]
        rows = AnswerLogits(
            torch.stack([run.base for run in runs]), torch.stack([run.source for run in runs])
        )
        metrics = METRICS if len(start.runs) > 1 else QUESTION_METRICS
        return metric_rows(inputs.of(rows), metrics)


@dataclass(frozen=True, kw_only=True)
class HandPatching:
    """Runs patches by hand.

    Attributes:
        model: The model.
        engine: Runs it.
        prompts: Makes requests for it.
        latents: Whether thoughts after a patch are generated anew.
        record: Sites that unpatched runs record beside `resid_post`.
        outside: Whether places outside the thoughts are recorded and may be patched.
    """

    model: CodiModel
    engine: Engine
    prompts: Prompts
    latents: Latents
    record: Sequence[SiteName] = ()
    outside: bool = False

    def of_pair(self, pair: Pair) -> HandRequest:
        """A pair with its answers.

        Raises:
            PairError: It cannot be run.
        """
        base, source = self.prompts.of_pair(pair)
        names = ("corrupted", "clean") if self.prompts.direction == "denoising" else ()
        spoken = self._spoken(base[1], max(len(base[0]), len(source[0])))
        both = tuple(base[0]), tuple(source[0])
        twins = roles(pair, self.prompts.direction)
        places = self._places([(base, *twins), (source, *twins[::-1])])
        return HandRequest(both, spoken, names or ("clean", "corrupted"), self.outside, places)

    def of_question(self, question: Question, said: Sequence[int]) -> HandRequest:
        """A question alone.

        Args:
            question: The question.
            said: Tokens that the model says to it, which are read if it has no answer.

        Raises:
            PairError: It cannot be run.
        """
        settings, start = self.model.settings, answer_start(self.model)
        readout = Readout(tuple(start), (tuple(said) or (settings.eos_id,),))
        if not math.isnan(question.answer):
            readout = build_readout(
                self.model.tokenizer, settings.eot_ids, settings.answer_prefix, (question.answer,)
            )
        ids, _ = self.prompts.of_question(question, readout)
        spoken, places = (
            self._spoken(readout, len(ids)),
            self._places([((ids, readout), question, None)]),
        )
        return HandRequest((tuple(ids),), spoken, ("answer",), self.outside, places)

    def _places(
        self, asked: Sequence[tuple[PromptRequest, Question, Question | None]]
    ) -> tuple[PlaceTokens, ...]:
        """The places of some runs, each of a question and its twin; none if none are wanted."""
        finder = PlaceFinder(self.model)
        return tuple(finder.of(*each) for each in asked) if self.outside else ()

    def _spoken(self, readout: Readout, prompt: int) -> SpokenReadout:
        """A readout that tells what is said, where the eos after an answer still fits.

        Where its own tokens may be patched, it is read as metrics read it, and tells nothing else.
        """
        if self.outside:
            return SpokenReadout(readout, readout.answers, 0, from_prefix=False)
        answers = max(len(answer) for answer in readout.answers)
        length = prompt + self.model.num_latents + len(readout.prefix) + answers
        most = min(self.model.context_length, self.prompts.limit or self.model.context_length)
        return SpokenReadout.of(self.model, readout, length <= most)

    @torch.no_grad()
    def start(self, requests: Sequence[HandRequest]) -> list[HandStart]:
        """The unpatched runs of some pairs or questions, side by side."""
        asked = [each for request in requests for each in request.asked]
        places = [each for request in requests for each in request.places]
        runs = iter(self.engine.unpatched(asked, self.record, places))
        return [HandStart(request, [next(runs) for _ in request.prompts]) for request in requests]

    def patched(
        self,
        starts: Sequence[HandStart],
        rows: Sequence[Sequence[Patch]],
        cuts: Sequence[CutsOf],
    ) -> Iterator[HandPatched]:
        """One patched run of each base run.

        Args:
            starts: The base runs.
            rows: The patches of each.
            cuts: The edges that each is without.

        Raises:
            PairError: Logits are not finite.
            ValueError: A place does not exist, or is patched twice.
        """
        asked = [
            PatchRequest(start.runs[0], [row], cuts=cut(start.request.spoken.readout))
            for start, row, cut in zip(starts, rows, cuts, strict=True)
        ]
        every = self.engine.patched_each(asked, self.latents)
        for start, row, cut, found in zip(starts, rows, cuts, every, strict=True):
            check_finite(found.answer_logits, lambda _: "the patched run")
            yield HandPatched(start, row, self.latents, found.answer_logits, cut)


def words_of(model: CodiModel, runs: Sequence[HandPatched], most: int) -> list[str]:
    """What patched runs say, up to so many tokens; only where it must a run is gone on with."""
    eos = model.settings.eos_id
    said = [run.start.request.spoken.forced(run.answer_logits, eos, most) for run in runs]
    for place, run in enumerate(runs):
        request = run.start.request
        if said[place] is None and (request.outside or run.cuts(request.spoken.readout)):
            said[place] = _said_anew(model, run, most)
    left = [run for run, tokens in zip(runs, said) if tokens is None]
    if left:
        starts = [run.start.runs[0] for run in left]
        rest = iter(said_by(model, starts, [run.row for run in left], left[0].latents, most))
        said = [next(rest) if tokens is None else tokens for tokens in said]
    return [as_text(model, tokens or ()) for tokens in said]


def _said_anew(model: CodiModel, run: HandPatched, most: int) -> list[int]:
    """What a run says whose own readout is patched, or without some edges: each word read anew."""
    request, prefix = run.start.request, tuple(answer_start(model))
    engine, said = ReferenceEngine(model, 1), list[int]()
    prompt, places = list(request.prompts[0]), request.places[:1]
    read = len(prompt) + model.num_latents + len(prefix)
    while len(said) < min(most, model.context_length - read + 1):
        readout = Readout((*prefix, *said), ((model.settings.eos_id,),))
        end = model.num_latents + len(readout.prefix)  # a place may be a token not yet said
        there = [{k: tuple(t for t in v if t < end) for k, v in own.items()} for own in places]
        start = engine.unpatched([(prompt, readout)], (), there)[0]
        row = [patch for patch in run.row if patch.site.token < end]
        found = engine.patched(start, [row], run.latents, cuts=run.cuts(readout))
        token = int(found.answer_logits[0][0, -1].argmax())
        if token == model.settings.eos_id:
            break
        said.append(token)
    return said


class Words:
    """What patched runs say, made together when one is asked for the first time."""

    def __init__(self, codi: CodiModel, runs: Sequence[HandPatched], most: int) -> None:
        self.codi, self.most = codi, most
        self.runs: Sequence[HandPatched] = runs
        self.words: list[str] = []

    def of(self, number: int) -> str:
        """What one of them says."""
        if not self.words:  # then the runs, with all that they hold, can go
            self.words, self.runs = words_of(self.codi, self.runs, self.most), ()
        return self.words[number]
