"""What a pair's patched runs start from: which runs are asked for, and whose activations go in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pairs import Pair, Question
from codi_patching.experiments.controls import ControlKind, match_pairs
from codi_patching.experiments.pair_runs import PairRequests, PairStart
from codi_patching.experiments.prompts import Prompts, roles
from codi_patching.experiments.sources import Source, mean_activations
from codi_patching.models.answers import PairError, format_answer
from codi_patching.patching.engine import Engine, Unpatched
from codi_patching.patching.interventions import Activations, SiteName
from codi_patching.results.schema import Control


@dataclass
class Preparation:
    """Prepares the pairs of a run.

    Args:
        engine: Runs questions.
        prompts: Makes requests for the model.
        data: The pairs.
        source: What is patched in.
        control: What it is compared with.
        seed: Of the draw of other pairs.
        record: Sites that runs record beside `resid_post`.
    """

    engine: Engine
    prompts: Prompts
    data: PairsDataModule
    source: Source
    control: ControlKind
    seed: int
    record: Sequence[SiteName] = ()

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
        found = self._find_control(pair)
        return PairRequests(
            base,
            source,
            self.prompts.of_question(self._source_question(donor)) if donor else None,
            self.prompts.of_question(found[1]) if found else None,
            donor,
            found[0] if found else None,
        )

    def start(self, pair: Pair, asked: PairRequests, runs: Sequence[Unpatched]) -> PairStart:
        """Where a pair's patched runs start from.

        Args:
            pair: The pair.
            asked: Its requests.
            runs: The runs of `asked.all()`.
        """
        base, source, *others = runs
        control = others.pop().run.activations() if asked.control is not None else None
        return PairStart(
            pair,
            self.prompts.direction,
            base,
            source,
            self._source_activations(others[0] if others else source),
            control,
            asked.donor_pair,
            asked.control_used,
        )

    @cached_property
    def partners(self) -> dict[str, Pair]:
        """For each pair another one, matched to be alike; see `match_pairs`."""
        fitting = [p for p in self.data.usable if self.prompts.fits(self._source_question(p))]
        requests = [self.prompts.of_question(self._source_question(pair)) for pair in fitting]
        return match_pairs(fitting, [len(ids) for ids, _ in requests], self.seed)

    def _source_question(self, pair: Pair) -> Question:
        return roles(pair, self.prompts.direction)[1]

    def _find_control(self, pair: Pair) -> tuple[Control, Question] | None:
        """The control and the question it comes from; None without one."""
        if self.control == "none":
            return None
        if self.control == "sibling" and pair.sibling and self.prompts.fits(pair.sibling):
            kind, question, owner = "sibling", pair.sibling, pair
        else:
            partner = self.partners.get(pair.pair_id)
            if partner is None:
                return None
            kind, question, owner = "random_pair", self._source_question(partner), partner
        answer = format_answer(question.answer)
        return Control(kind, question.text, answer, owner.pair_id), question

    def _source_activations(self, source: Unpatched) -> Activations:
        """The activations to patch in, where the run is the pair's own or another pair's."""
        if self.source == "zero":
            return Activations.zeros_like(source.run.activations())
        return self._mean if self.source == "mean" else source.run.activations()

    @cached_property
    def _mean(self) -> Activations:
        """The mean over the source runs of all pairs of the run that can be run."""
        questions = (self._source_question(pair) for pair in self.data.kept)
        return mean_activations(
            self.activations_of(question) for question in questions if self.prompts.fits(question)
        )

    def activations_of(self, question: Question) -> Activations:
        """What a question's run has, on its own."""
        request = self.prompts.of_question(question)
        return self.engine.unpatched([request], self.record)[0].run.activations()
