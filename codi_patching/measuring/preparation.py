"""What a pair's patched runs start from: its unpatched runs, and whose activations go in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from codi_patching.data.pairs import Pair, Question
from codi_patching.measuring.controls import ControlKind, find_control, match_pairs
from codi_patching.measuring.places import PlaceFinder, readout_ids, spread, typical_places
from codi_patching.measuring.prompts import NOTHING, Direction, PromptRequest, Prompts, roles
from codi_patching.measuring.sources import Source, mean_activations
from codi_patching.metrics.inputs import AnswerLogits, MetricInputs
from codi_patching.models.answers import PairError
from codi_patching.patching.engine import Engine, Readout, Unpatched
from codi_patching.patching.interventions import Activations, PlaceTokens, SiteName
from codi_patching.results.pair_descriptions import Control


@dataclass(frozen=True)
class PairRequests:
    """The unpatched runs that a pair needs.

    Attributes:
        base: The run that is patched.
        source: The run that the activations come from.
        donor: The other pair's run that they come from instead, if they do.
        control: The run that the control's activations come from.
        donor_pair: The other pair.
        control_used: What the control is.
        places: Of all of them, in the order of `all`, the tokens outside the thoughts that are
            recorded and may be patched; empty if none are.
    """

    base: PromptRequest
    source: PromptRequest
    donor: PromptRequest | None = None
    control: PromptRequest | None = None
    donor_pair: Pair | None = None
    control_used: Control | None = None
    places: Sequence[PlaceTokens] = ()

    def all(self) -> list[PromptRequest]:
        """Those that there are, in this order."""
        wanted = (self.base, self.source, self.donor, self.control)
        return [request for request in wanted if request is not None]


@dataclass(frozen=True)
class PairStart:
    """Where a pair's patched runs start from.

    Attributes:
        pair: The pair.
        direction: Which question is patched.
        requests: The unpatched runs that were asked for.
        base: The base run.
        source: The source run.
        source_activations: What is patched in.
        control_activations: What is patched in for the control; None without one.
    """

    pair: Pair
    direction: Direction
    requests: PairRequests
    base: Unpatched
    source: Unpatched
    source_activations: Activations
    control_activations: Activations | None = None

    @cached_property
    def metric_inputs(self) -> MetricInputs:
        """What the metrics compare patched runs with; the patched runs are still missing."""
        base, source = (
            AnswerLogits(*(logits[0] for logits in run.run.answer_logits))
            for run in (self.base, self.source)
        )
        device = self.source_activations.thoughts.device
        ids = [torch.tensor(answer, device=device) for answer in self.base.readout.answers]
        denoising = self.direction == "denoising"
        return MetricInputs(base, base, source, ids[0], ids[1], denoising)


@dataclass(kw_only=True)
class Preparation:
    """Prepares pairs.

    Attributes:
        engine: Runs questions.
        prompts: Makes requests for the model.
        pairs: All that could be run: random pairs and means are taken over them.
        source: What is patched in.
        control: What it is compared with.
        seed: Of the draw of other pairs.
        record: Sites that runs record beside `resid_post`.
        places: Whether they record places outside the thoughts too.
    """

    engine: Engine
    prompts: Prompts
    pairs: Sequence[Pair] = ()
    source: Source = "clean"
    control: ControlKind = "none"
    seed: int = 0
    record: Sequence[SiteName] = ()
    places: bool = False

    def requests(self, pair: Pair) -> PairRequests:
        """The unpatched runs that a pair needs.

        Raises:
            PairError: One cannot be made.
        """
        base, source = self.prompts.of_pair(pair)
        donor = None
        if self.source == "random_pair":
            donor = self.partners.get(pair.pair_id)
            if donor is None:
                raise PairError("no other pair with other answers can be run, to patch from")
        found = find_control(
            pair,
            self.control,
            self.prompts.direction,
            self.prompts.fits,
            lambda: self.partners.get(pair.pair_id),
        )
        read = Readout(base[1].prefix, ()) if self.places else NOTHING
        requests = PairRequests(
            base=base,
            source=source,
            donor=self.prompts.of_question(self._source_question(donor), read) if donor else None,
            control=self.prompts.of_question(found[1], read) if found else None,
            donor_pair=donor,
            control_used=found[0] if found else None,
        )
        if not self.places:
            return requests
        return replace(requests, places=self._places(pair, requests, found and found[1]))

    def _places(
        self, pair: Pair, requests: PairRequests, control: Question | None
    ) -> list[PlaceTokens]:
        """The places of a pair's runs; a sibling's number is where the base question's is."""
        base, source = roles(pair, self.prompts.direction)
        twins = [(base, source), (source, base)]
        if requests.donor_pair is not None:
            twins.append(roles(requests.donor_pair, self.prompts.direction)[::-1])
        if control is not None:
            assert requests.control_used is not None
            other = base
            if requests.control_used.kind != "sibling":
                other = roles(self.partners[pair.pair_id], self.prompts.direction)[0]
            twins.append((control, other))
        finder = PlaceFinder(self.prompts.model)
        return [finder.of(r, *twin) for r, twin in zip(requests.all(), twins, strict=True)]

    def start(self, pair: Pair, requests: PairRequests, runs: Sequence[Unpatched]) -> PairStart:
        """Where a pair's patched runs start from.

        Args:
            pair: The pair.
            requests: Its requests.
            runs: The runs of `requests.all()`.
        """
        base, source, *others = runs
        control = others.pop().run.activations() if requests.control is not None else None
        activations = self._source_activations(others[0] if others else source)
        if self.source in ("zero", "mean"):
            activations = spread(activations, base.places)
        return PairStart(
            pair=pair,
            direction=self.prompts.direction,
            requests=requests,
            base=base,
            source=source,
            source_activations=activations,
            control_activations=control,
        )

    @cached_property
    def partners(self) -> dict[str, Pair]:
        """For each pair another one, matched to be alike; see `match_pairs`."""
        fitting = [p for p in self.pairs if self.prompts.fits(self._source_question(p))]
        requests = [self.prompts.of_question(self._source_question(pair)) for pair in fitting]
        return match_pairs(fitting, [len(ids) for ids, _ in requests], self.seed)

    def _source_question(self, pair: Pair) -> Question:
        return roles(pair, self.prompts.direction)[1]

    def _source_activations(self, source: Unpatched) -> Activations:
        """The activations to patch in, where the run is the pair's own or another pair's."""
        if self.source == "zero":
            return Activations.zeros_like(source.run.activations())
        return self._mean if self.source == "mean" else source.run.activations()

    @cached_property
    def _mean(self) -> Activations:
        """The mean over the source runs of all pairs that can be run."""
        twins = (roles(pair, self.prompts.direction) for pair in self.pairs)
        runs = (
            self.activations_of(question, other)
            for other, question in twins
            if self.prompts.fits(question)
        )
        if self.places:
            wanted = dict.fromkeys(typical_places(self.prompts.model), (0,))
            runs = (spread(own, wanted) for own in runs if wanted.keys() == own.places.keys())
        return mean_activations(runs)

    def activations_of(self, question: Question, other: Question | None = None) -> Activations:
        """What a question's run has, on its own.

        Args:
            question: The question.
            other: That differs from it in the changed number, if there is one.
        """
        if not self.places:
            request = self.prompts.of_question(question)
            return self.engine.unpatched([request], self.record)[0].run.activations()
        readout = Readout(tuple(readout_ids(self.prompts.model)), ())
        request = self.prompts.of_question(question, readout)
        places = PlaceFinder(self.prompts.model).of(request, question, other)
        start = self.engine.unpatched([request], self.record, [places])[0]
        return start.run.activations()
