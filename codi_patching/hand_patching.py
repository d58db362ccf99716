"""A patch of one's own, of any pairs or questions: its rows, its effects, and them as a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr

from codi_patching.data.pairs import Pair, Question
from codi_patching.errors import InputError
from codi_patching.hand_calls import Calls, groups, say_unknown
from codi_patching.hand_runs import METRIC, Effect, QuestionRun, one_number
from codi_patching.measuring.by_hand import as_values, with_answers
from codi_patching.measuring.hand_edges import cuts_of
from codi_patching.measuring.hand_input import Subject, check_metric, texts_of, with_own_ids
from codi_patching.measuring.hand_patches import CutsOf, HandPatched, HandRequest, HandStart, Words
from codi_patching.measuring.own_cache import as_text
from codi_patching.measuring.patch_grid import all_positions
from codi_patching.measuring.places import typical_places
from codi_patching.measuring.preparation import Preparation
from codi_patching.measuring.prompts import Direction, roles
from codi_patching.models.families import head_shape
from codi_patching.patching.edges import Edge
from codi_patching.patching.interventions import (
    EXTRA_SITES,
    Activations,
    Latents,
    Patch,
    PlaceError,
    Site,
    extra_sites,
    on_tokens,
)

RunMetric = Callable[[Effect], Any]
"""A metric of one's own: from a patched run to one number."""


@dataclass(kw_only=True)
class Patching:
    """The same patch, of any pairs or questions.

    Attributes:
        calls: Runs questions.
        sites: All that is overwritten.
        edges: Of attention, that are cut in the base run.
        values: What with, one for each.
        latents: See `Model.patch`.
        direction: See `Model.patch`.
        questions: See `Model.patch`.
        metric: See `Model.patch`.
        say: See `Model.patch`.
    """

    calls: Calls
    sites: Sequence[Site]
    edges: Sequence[Edge]
    values: Sequence[Any]
    latents: Latents
    direction: Direction
    questions: Sequence[Question]
    metric: RunMetric | None
    say: int
    donors: dict[str, Question] | None = None
    made: dict[str, Activations] = field(default_factory=dict)
    twins: dict[str, Question] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse sites that the model does not have."""
        codi = self.calls.codi
        heads, positions = head_shape(codi.backbone)[0], all_positions(codi)
        for site in self.sites:
            if not (site.layer < len(codi.blocks) and site.position in positions):
                raise InputError(
                    f"expected a layer under {len(codi.blocks)} and a position under "
                    f"{codi.num_latents} or of {', '.join(typical_places(codi))}, got {site}"
                )
            if site.head is not None and site.head >= heads:
                raise InputError(f"expected a head under {heads}, got {site}")
        check_metric(self.metric)
        record = extra_sites({site.name for site in self.sites})
        self.outside = any(isinstance(site.position, str) for site in self.sites)
        self.hand = self.calls.hand(self.latents, self.direction, record, self.outside)

    def effects(self, subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Effect | InputError]]:
        """The effect on each, or why it cannot be run; pairs with their answers."""
        for group in groups(subjects):
            answered = self._answered(group)
            runs = iter(self._run([each for each in answered if isinstance(each[1], HandRequest)]))
            for subject, request in answered:
                yield subject, next(runs) if isinstance(request, HandRequest) else request

    def _answered(
        self, subjects: Sequence[Subject]
    ) -> list[tuple[Subject, HandRequest | InputError]]:
        """What is asked of each, with the model's answers where there are none."""
        both = [[s] if isinstance(s, Question) else [s.clean, s.corrupted] for s in subjects]
        missing = dict.fromkeys(q.text for each in both for q in each if math.isnan(q.answer))
        said = dict(zip(missing, self.calls.said(list(missing))))
        texts = {text: as_text(self.calls.codi, tokens) for text, tokens in said.items()}
        found: list[tuple[Subject, HandRequest | InputError]] = []
        for subject in subjects:
            try:
                if isinstance(subject, Pair):
                    subject = with_answers(subject, lambda asked: [texts[t] for t in asked])
                    if self.donors is not None and subject.pair_id not in self.donors:
                        raise InputError("no other pair with other answers can be run")
                    request = self.hand.of_pair(subject)
                else:
                    request = self.hand.of_question(subject, said.get(subject.text, ()))
                found.append((subject, request))
            except InputError as error:
                found.append((subject, error))
        return found

    def _run(self, asked: Sequence[tuple[Subject, Any]]) -> list[Effect | InputError]:
        """The effects on some that can be run, side by side."""
        if not asked:
            return []
        starts = self.calls.starts(self.hand, [request for _, request in asked])
        donated = self._donated([subject for subject, _ in asked])
        with torch.set_grad_enabled(self.calls.differentiable):
            try:
                rows = [
                    self._row(subject, start, donor)
                    for (subject, _), start, donor in zip(asked, starts, donated, strict=True)
                ]
                cuts = [self._cuts(subject) for subject, _ in asked]
                runs = list(self.hand.patched(starts, rows, cuts))
            except (InputError, PlaceError) as error:
                if len(asked) == 1:
                    return [InputError(str(error))]
                return [found for each in asked for found in self._run([each])]
            except ValueError as error:
                raise InputError(str(error)) from None
            for subject, _ in asked:
                say_unknown(self.calls.codi, *texts_of(subject))
            words = Words(self.calls.codi, runs, self.say)
            return [self._effect(run, partial(words.of, i)) for i, run in enumerate(runs)]

    def _donated(self, subjects: Sequence[Subject]) -> list[Activations | None]:
        """The activations of the other pair that each takes from, where one is drawn."""
        drawn = self.donors or {}
        wanted = [drawn.get(s.pair_id) if isinstance(s, Pair) else None for s in subjects]
        twin = partial(self._twin, None) if self.outside else None
        asked = [question for question in wanted if question is not None]
        runs = self.calls.activations(asked, self.hand.record, twin)
        return [None if question is None else next(runs) for question in wanted]

    def _twin(self, subject: Subject | None, question: Question) -> Question | None:
        """The question from which one differs in its number: its pair's, else the base question."""
        if question.text in self.twins or subject is None:
            return self.twins.get(question.text)
        return roles(subject, self.direction)[0] if isinstance(subject, Pair) else None

    def _row(self, subject: Subject, start: HandStart, donor: Activations | None) -> list[Patch]:
        """The patches of one run."""
        places, own = start.runs[0].places, [run.run.activations() for run in start.runs]
        named = self.calls.named(
            own,
            self.direction,
            self.hand.record,
            self.questions,
            places,
            partial(self._twin, subject) if self.outside else None,
        )
        drawn = {} if donor is None else {"random_pair": donor}
        made = {} if self.outside else self.made  # a number's place depends on the twin
        named = replace(named, own={**named.own, **drawn}, made=made)
        row = [
            Patch(site, as_values(self.calls.codi, site, plain(value), named))
            for site, value in zip(self.sites, self.values)
        ]
        return on_tokens(row, places)

    def _cuts(self, subject: Subject) -> CutsOf:
        """What is cut in the run that is patched, once it is known what is read."""
        base = roles(subject, self.direction)[0] if isinstance(subject, Pair) else subject
        return partial(cuts_of, self.calls.codi, self.edges, base.text)

    def _effect(self, run: HandPatched, say: Callable[[], str]) -> Effect:
        """What a patched run gave, with the metric of one's own."""
        measured = run.measured()
        each = [{n: v[row] for n, v in measured.items()} for row in range(1 + len(run.start.runs))]
        base, source = as_floats(each[1]), as_floats(each[2]) if len(each) > 2 else {}
        own = each[0] if self.calls.differentiable else as_floats(each[0])
        effect = Effect(dict(own), run.logits, base, source, say)
        if self.metric is None:
            return effect
        value = one_number(self.metric(effect))
        if not self.calls.differentiable:
            value = as_floats({METRIC: value})[METRIC]
        return replace(effect, metrics={**own, METRIC: value})

    def dataset(self, subjects: Sequence[Subject], seed: int) -> xr.Dataset:
        """See `Model.patch_many`."""
        pairs = [subject for subject in subjects if isinstance(subject, Pair)]
        if pairs:
            subjects = pairs = with_own_ids(pairs)
            both = (roles(pair, self.direction) for pair in pairs)
            self.twins = {source.text: base for base, source in both}
        sources = [roles(p, self.direction)[1] for p in pairs] or [
            subject for subject in subjects if isinstance(subject, Question)
        ]
        names = {value for value in self.values if isinstance(value, str)}
        if not self.questions and "mean" in names:
            self.questions = [q for q in sources if self.hand.prompts.fits(q)]
        if not self.questions and "random_pair" in names and pairs:
            able = {
                p.pair_id: p
                for p, asked in self._answered(pairs)
                if isinstance(p, Pair) and isinstance(asked, HandRequest)
            }
            subjects = [able.get(pair.pair_id, pair) for pair in pairs]
            self.donors = self._drawn(list(able.values()), seed)
        effects: dict[str, Effect] = {}
        excluded: dict[str, str] = {}
        answered: dict[str, Subject] = {}
        for number, (subject, found) in enumerate(self.effects(subjects)):
            name = subject.pair_id if isinstance(subject, Pair) else f"{number} {subject.text}"
            if isinstance(found, InputError):
                excluded[name] = str(found)
            else:
                effects[name], answered[name] = found, subject
        if not effects:
            raise InputError(f"expected something that can be run: {next(iter(excluded.values()))}")
        return as_dataset(list(answered.values()), list(effects.values()), excluded)

    def _drawn(self, pairs: Sequence[Pair], seed: int) -> dict[str, Question]:
        """The source question of the pair that each takes from."""
        prompts = self.hand.prompts
        preparation = Preparation(engine=self.calls.engine, prompts=prompts, pairs=pairs, seed=seed)
        partners = preparation.partners
        return {name: roles(other, self.direction)[1] for name, other in partners.items()}


def as_dataset(
    subjects: Sequence[Subject], effects: Sequence[Effect], excluded: dict[str, str]
) -> xr.Dataset:
    """Effects along pairs or questions; see `Model.patch_many`."""
    along = "pair" if isinstance(subjects[0], Pair) else "question"
    names = [s.pair_id if isinstance(s, Pair) else s.text for s in subjects]
    table: dict[str, Any] = {
        name: (along, np.array([effect.numbers[name] for effect in effects]))
        for name in effects[0].metrics
    }
    table["said"] = (along, as_array([effect.answer for effect in effects]))
    runs = ["base", "source"] if effects[0].source else ["base"]
    for name in effects[0].base:
        values = [[getattr(effect, run)[name] for run in runs] for effect in effects]
        table[f"run_{name}"] = ((along, "run"), np.array(values))
    coordinates: dict[str, Any] = {along: as_array(names), "run": runs}
    if along == "pair":
        grouped = [subject.group for subject in subjects if isinstance(subject, Pair)]
        coordinates["group"] = (along, as_array(grouped))
    return xr.Dataset(table, coordinates, {"excluded": excluded})


def as_array(words: Sequence[str]) -> np.ndarray[Any, Any]:
    """Texts as an array of any lengths."""
    return np.array(words, dtype=object)


def plain(value: Any) -> Any:
    """A run as the activations that it had, everything else as it is."""
    if not isinstance(value, QuestionRun):
        return value
    sites = value.activations
    recorded = {site: sites[site] for site in EXTRA_SITES}
    recorded["kv"] = recorded["kv"].flatten(2)
    return Activations(value.thoughts, sites["resid_post"], recorded)


def as_floats(values: dict[str, Any]) -> dict[str, float]:
    """Numbers of tensors, of whatever they may be differentiated by."""
    return {name: float(torch.as_tensor(value).detach()) for name, value in values.items()}
