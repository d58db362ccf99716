"""What the results say of a pair that was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerFast

from codi_patching.measuring.preparation import PairStart
from codi_patching.measuring.prompts import roles
from codi_patching.metrics.table import metric_rows
from codi_patching.models.answers import format_answer
from codi_patching.models.vocabulary import unknown_words
from codi_patching.results.pair_descriptions import PairDescription


def describe_pair(
    start: PairStart, tokenizer: PreTrainedTokenizerFast, **measured: Any
) -> PairDescription:
    """A pair as the results have it.

    Args:
        start: Its unpatched runs.
        tokenizer: Of the model.
        measured: What its patched runs gave, as attributes of `PairDescription`.
    """
    pair, requests = start.pair, start.requests
    base, source = roles(pair, start.direction)
    answers = start.base.readout.answers
    unpatched = metric_rows(start.metric_inputs.unpatched())
    words = [*unknown_words(tokenizer, base.text), *unknown_words(tokenizer, source.text)]
    return PairDescription(
        base_question=base.text,
        source_question=source.text,
        base_answer=format_answer(base.answer),
        source_answer=format_answer(source.answer),
        base_answer_tokens=tuple(answers[0]),
        source_answer_tokens=tuple(answers[1]),
        group=pair.group,
        base=numbers({name: values[0].item() for name, values in unpatched.items()}),
        source=numbers({name: values[1].item() for name, values in unpatched.items()}),
        control=requests.control_used,
        source_pair=requests.donor_pair.pair_id if requests.donor_pair else None,
        num_steps=pair.num_steps,
        changed_step=pair.changed_step,
        changed_path=pair.changed_path,
        fields=dict(pair.fields),
        base_tokens=len(requests.base[0]),
        source_tokens=len(requests.source[0]),
        unknown_words=tuple(dict.fromkeys(words)),
        **measured,
    )


def numbers(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics of a run, None where one is undefined."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}
