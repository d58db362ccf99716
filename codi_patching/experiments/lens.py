"""What each thought says: the head on every block's output, and where results of steps stand there.

Nothing is patched. Each pair's clean question is run once; the head is put on the final norm of
`resid_post` at (layer, position), of which the last layer's is the state that the next thought is
made from. For every reasoning step the rank of its result is kept, beside the rank of the result of
the same step of another pair: what of a hit is chance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from random import Random
from typing import Any

import torch
from torch import Tensor

from codi_patching.data.datamodule import PairBatch
from codi_patching.data.pair_files import SHIPPED_PAIRS
from codi_patching.data.pairs import Pair, Question
from codi_patching.errors import InputError
from codi_patching.experiments.base import Experiment
from codi_patching.experiments.describe import describe_config
from codi_patching.experiments.engines import build_engine
from codi_patching.experiments.prompts import Prompts, attention_window
from codi_patching.models.answers import PairError, answer_tokens, format_answer
from codi_patching.models.arithmetic import describe_device
from codi_patching.models.lens import lens_logits, token_text
from codi_patching.patching.engine import Engine
from codi_patching.results.batches import ExcludedPair
from codi_patching.results.code import describe_code
from codi_patching.results.lens import LensRecord, LensRun, StepLens

_RESULT = re.compile(r"=\s*(-?[\d,]*\.?\d+)\s*>>")


class LensExperiment(Experiment):
    """Reads every thought at every layer.

    Args:
        top: How many tokens are kept as text for each cell; hits are counted among them.
        kwargs: All arguments of `Experiment`.
    """

    name = "lens"
    engine: Engine
    runs_of_a_pair = 1
    """Its clean question's."""

    def __init__(self, top: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if top < 1:
            raise InputError(f"expected --model.top of at least 1, got {top}")
        self.save_hyperparameters()
        self.top = top

    def configure_model(self) -> None:
        """Load the checkpoint, and what runs questions."""
        if hasattr(self, "model"):
            return
        super().configure_model()
        self.engine = build_engine(self.model, "sweep", None)

    def forget(self) -> None:
        """Draw partners anew, of the pairs at hand."""
        self.__dict__.pop("partners", None)

    @cached_property
    def prompts(self) -> Prompts:
        """Makes requests for the model."""
        return Prompts(self.model, "denoising", attention_window(self.model))

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

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[LensRecord | ExcludedPair]:
        """Read some pairs; one that cannot be read is named, not dropped."""
        records: list[LensRecord | ExcludedPair] = []
        for pair in batch.pairs:
            try:
                records.append(self.read(pair))
            except PairError as error:
                records.append(ExcludedPair(pair.pair_id, str(error)))
        return records

    def read(self, pair: Pair) -> LensRecord:
        """One pair.

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
        corrupted = theirs if len(theirs) == len(results) else [""] * len(results)
        steps = tuple(
            replace(self._step(request[0], logits, own, other), corrupted_result=twin)
            for own, other, twin in zip(results, others, corrupted)
        )
        best = logits.topk(self.top, dim=-1).indices.tolist()
        text = [[[token_text(self.model, t) for t in cell] for cell in row] for row in best]
        return LensRecord(pair.pair_id, pair.clean.text, steps, text, pair.group)

    def _step(self, prompt: Sequence[int], logits: Tensor, own: str, other: str) -> StepLens:
        """One reasoning step."""
        tokens = self._tokens(own)
        ranks = ranks_of(logits, tokens[0])
        whole = ranks[-1] if len(tokens) == 1 else self._forced(prompt, ranks[-1], tokens)
        chance = ranks_of(logits, self._tokens(other)[0]) if other else torch.empty(0, 0)
        return StepLens(own, tokens, ranks.tolist(), whole.tolist(), other, chance.tolist())

    def _tokens(self, result: str) -> tuple[int, ...]:
        prefix = self.model.settings.answer_prefix
        return tuple(answer_tokens(self.model.tokenizer, prefix, result)[1])

    def _forced(self, prompt: Sequence[int], first: Tensor, tokens: tuple[int, ...]) -> Tensor:
        """The worst rank of a number's tokens after each thought, each given those before it."""
        model = self.model
        hidden, context = model.encode([prompt])
        forced = torch.tensor([tokens[:-1]], device=hidden.device)
        worst = []
        for position in range(model.num_latents):
            thought = model.next_thought(hidden).unsqueeze(1)
            step, context = model.advance(context, thought)
            hidden = step[:, 0]
            states, _ = model.read(context, forced)
            following = model.logits(states[0])
            ranks = [int(ranks_of(row, token)) for row, token in zip(following, tokens[1:])]
            worst.append(max(int(first[position]), *ranks))
        return torch.tensor(worst)

    def describe(self) -> LensRun:
        """All that the ranks depend on; attached to a trainer and loaded."""
        data = self.datamodule
        return LensRun(
            model=self.checkpoint,
            model_type=self.model.backbone.config.model_type,
            num_layers=len(self.model.blocks),
            num_latents=self.model.num_latents,
            checkpoint_sha256=self.report.sha256,
            checkpoint=asdict(self.report),
            data="" if data.path == SHIPPED_PAIRS else str(data.path),
            data_sha256=data.sha256,
            seed=self.seed,
            precision=str(self.trainer.precision),
            device=describe_device(self.device, next(self.model.parameters()).dtype),
            versions={name: version(name) for name in ("torch", "transformers", "lightning")},
            code=describe_code(),
            top=self.top,
            num_pairs=len(data.kept),
            filtered=tuple(data.filtered),
            config=describe_config(self),
        )


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
