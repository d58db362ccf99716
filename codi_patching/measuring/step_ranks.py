"""Where the results of reasoning steps stand among what the lens says of each thought.

Nothing is patched. A pair's clean question is run once; the head is put on the final norm of
`resid_post` at (layer, position), of which the last layer's is the state that the next thought is
made from. For every reasoning step the rank of its result is kept, beside the rank of the result of
the same step of another pair: what of a hit is chance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np
import torch
from torch import Tensor

from codi_patching.data.pairs import Pair, Question
from codi_patching.measuring.prompts import Prompts
from codi_patching.models.answers import PairError, answer_tokens, format_answer
from codi_patching.models.codi import CodiModel
from codi_patching.models.lens import lens_logits, token_text
from codi_patching.patching.engine import Engine
from codi_patching.results.pair_descriptions import LensPair, ReadStep
from codi_patching.results.records import PairRecord

_RESULT = re.compile(r"=\s*(-?[\d,]*\.?\d+)\s*>>")


@dataclass(kw_only=True)
class StepRanks:
    """Reads pairs.

    Attributes:
        model: The model.
        engine: Runs questions.
        prompts: Makes requests for the model.
        pairs: All that could be read: chance is of another of them.
        top: How many tokens are kept as text for each cell.
        seed: Of the draw of other pairs.
    """

    model: CodiModel
    engine: Engine
    prompts: Prompts
    pairs: Sequence[Pair] = ()
    top: int = 5
    seed: int = 0

    @cached_property
    def partners(self) -> dict[str, Pair]:
        """For each pair another one of as many steps, none of whose results is one of its own."""
        pairs = list(self.pairs)
        Random(self.seed).shuffle(pairs)
        found = {}
        for place, pair in enumerate(pairs):
            own = results_of(pair.clean)
            for other in (*pairs[place + 1 :], *pairs[:place]):
                theirs = results_of(other.clean)
                if len(theirs) == len(own) and not set(theirs) & set(own):
                    found[pair.pair_id] = other
                    break
        return found

    def read(self, pair: Pair) -> PairRecord:
        """One pair: `rank` and, of another pair's results, `control`; see `PairRecord`.

        Raises:
            PairError: It has no steps with results, or does not fit the model.
        """
        results = results_of(pair.clean)
        if not results:
            raise PairError("its clean question has no reasoning steps with results")
        request = self.prompts.of_question(pair.clean)
        resid = self.engine.unpatched([request])[0].run.resid[0]
        logits = lens_logits(self.model, resid)
        partner = self.partners.get(pair.pair_id)
        others = results_of(partner.clean) if partner else [""] * len(results)
        theirs = results_of(pair.corrupted)
        twins = theirs if len(theirs) == len(results) else [""] * len(results)
        steps = tuple(
            ReadStep(own, self._tokens(own), other, twin)
            for own, other, twin in zip(results, others, twins)
        )
        ranks = [ranks_of(logits, step.tokens[0]) for step in steps]
        whole = [
            own[-1] if len(step.tokens) == 1 else self._forced(request[0], own[-1], step.tokens)
            for own, step in zip(ranks, steps)
        ]
        return PairRecord(
            pair.pair_id,
            LensPair(pair.clean.text, steps, self._top_tokens(logits), pair.group),
            {"rank": _numbers(ranks), "whole_rank": _numbers(whole)},
            {"rank": _numbers([self._chance(logits, step) for step in steps])},
        )

    def _tokens(self, result: str) -> tuple[int, ...]:
        prefix = self.model.settings.answer_prefix
        return tuple(answer_tokens(self.model.tokenizer, prefix, result)[1])

    def _chance(self, logits: Tensor, step: ReadStep) -> Tensor:
        """Ranks of another pair's result, `(L, K)`; NaN without one."""
        if not step.chance_result:
            return torch.full(logits.shape[:-1], torch.nan)
        return ranks_of(logits, self._tokens(step.chance_result)[0])

    def _top_tokens(self, logits: Tensor) -> list[list[list[str]]]:
        best = logits.topk(self.top, dim=-1).indices.tolist()
        return [[[token_text(self.model, t) for t in cell] for cell in row] for row in best]

    def _forced(self, prompt: Sequence[int], first: Tensor, tokens: tuple[int, ...]) -> Tensor:
        """The worst rank of a number's tokens after each thought, each given those before it."""
        model = self.model
        hidden, context = model.encode([prompt])
        forced = torch.tensor([tokens[:-1]], device=hidden.device)
        worst = []
        for position in range(model.num_latents):
            thought = model.next_thought(hidden, position).unsqueeze(1)
            step, context = model.advance(context, thought)
            hidden = step[:, 0]
            states, _ = model.read(context, forced)
            following = model.logits(states[0])
            ranks = [int(ranks_of(row, token)) for row, token in zip(following, tokens[1:])]
            worst.append(max(int(first[position]), *ranks))
        return torch.tensor(worst)


def results_of(question: Question) -> list[str]:
    """The results of a question's reasoning steps, as text; none if any cannot be read.

    Example:
        >>> results_of(Question("…", 26, ("<<16-3=13>>", "<<13*2=26>>")))
        ['13', '26']
    """
    found = [_RESULT.search(step) for step in question.reasoning_steps]
    if not all(found):
        return []
    return [format_answer(float(match[1].replace(",", ""))) for match in found if match]


def ranks_of(logits: Tensor, token: int) -> Tensor:
    """How many tokens are more probable than one, `(…)` from logits `(…, vocabulary)`.

    Example:
        >>> ranks_of(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.4]]), 2).tolist()
        [1, 1]
    """
    return (logits > logits[..., token, None]).sum(-1)


def _numbers(ranks: Sequence[Tensor]) -> np.ndarray:
    return np.stack([each.double().cpu().numpy() for each in ranks])
