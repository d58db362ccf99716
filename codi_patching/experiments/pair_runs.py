"""A pair on its way through an experiment: what is asked for, what is at hand, what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from codi_patching.data.pairs import Pair
from codi_patching.experiments.prompts import Direction, PromptRequest, roles
from codi_patching.metrics.grid import row_values
from codi_patching.metrics.inputs import AnswerLogits, GeneratedActivations, MetricInputs
from codi_patching.models.answers import PairError, format_answer
from codi_patching.models.vocabulary import unknown_words
from codi_patching.patching.engine import PatchRequest, Unpatched
from codi_patching.patching.interventions import Activations
from codi_patching.results.schema import Array, Control, PairDescription


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
    """

    base: PromptRequest
    source: PromptRequest
    donor: PromptRequest | None = None
    control: PromptRequest | None = None
    donor_pair: Pair | None = None
    control_used: Control | None = None

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
        base: Its run without patches.
        source: The source run.
        source_activations: What is patched in.
        control_activations: What is patched in for the control; None without one.
        donor_pair: The other pair that `source_activations` are of, if they are.
        control_used: What the control is.
    """

    pair: Pair
    direction: Direction
    base: Unpatched
    source: Unpatched
    source_activations: Activations
    control_activations: Activations | None = None
    donor_pair: Pair | None = None
    control_used: Control | None = None

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


@dataclass(frozen=True)
class Extras:
    """What an experiment makes of the activations that it watched.

    Attributes:
        generated: Further input of its metrics.
        activations: As in `PairResult`.
        trace: As in `PairResult`.
        chain_links: As in `PairDescription`.
        chain_broken: As in `PairDescription`.
    """

    generated: GeneratedActivations | None = None
    activations: Tensor | None = None
    trace: list[dict[str, Any]] = field(default_factory=list)
    chain_links: int = 0
    chain_broken: int = 0


@dataclass(frozen=True)
class PatchedRuns:
    """A pair's patched runs with the activations of one run.

    Attributes:
        kind: `own`, of the source run; `control`; `self`, of the base run, which changes nothing.
        request: A row for each cell, in the order of `run_order`; then, but for `self`, the
            ceiling's.
    """

    kind: Literal["own", "control", "self"]
    request: PatchRequest


@dataclass(frozen=True)
class MeasuredGrid:
    """What patched runs with the activations of one run gave.

    Attributes:
        values: For each metric a value for each cell, in the grid's shape.
        ceiling: Each metric of the run with all thoughts of that run.
        extras: What was made of watched activations.
    """

    values: dict[str, Array]
    ceiling: dict[str, float]
    extras: Extras


@dataclass(frozen=True)
class Measured:
    """What a pair's patched runs gave.

    Attributes:
        grids: Of the own patches, then of the control's if there is one.
        self_patch: As in `PairDescription`.
    """

    grids: list[MeasuredGrid]
    self_patch: float | None = None


def describe_pair(
    start: PairStart, tokenizer: PreTrainedTokenizerFast, measured: Measured
) -> PairDescription:
    """A pair as the results have it.

    Args:
        start: Its unpatched runs.
        tokenizer: Of the model.
        measured: What its patched runs gave.
    """
    base, source = roles(start.pair, start.direction)
    answers = start.base.readout.answers
    unpatched = row_values(start.metric_inputs().unpatched())
    own, *control = measured.grids
    words = [*unknown_words(tokenizer, base.text), *unknown_words(tokenizer, source.text)]
    return PairDescription(
        base_question=base.text,
        source_question=source.text,
        base_answer=format_answer(base.answer),
        source_answer=format_answer(source.answer),
        base_answer_tokens=tuple(answers[0]),
        source_answer_tokens=tuple(answers[1]),
        group=start.pair.group,
        base={name: values[0].item() for name, values in unpatched.items()},
        source={name: values[1].item() for name, values in unpatched.items()},
        ceiling=own.ceiling,
        ceiling_control=control[0].ceiling if control else {},
        control=start.control_used,
        source_pair=start.donor_pair.pair_id if start.donor_pair else None,
        num_steps=len(base.reasoning_steps) or None,
        changed_step=start.pair.changed_step,
        unknown_words=tuple(dict.fromkeys(words)),
        self_patch=measured.self_patch,
        chain_links=own.extras.chain_links,
        chain_broken=own.extras.chain_broken,
    )


def check_finite(answer_logits: Sequence[Tensor], name: Callable[[int], str]) -> None:
    """Refuse NaN and infinity in logits, in float32 at least, naming the first rows that have them.

    Raises:
        PairError: There are some.
    """
    for logits in {id(logits): logits for logits in answer_logits}.values():
        wrong = (~logits.flatten(1).sum(1).isfinite()).nonzero().flatten().tolist()
        if wrong:
            where = ", ".join(name(row) for row in wrong[:3])
            raise PairError(f"logits are not finite at {where}")
