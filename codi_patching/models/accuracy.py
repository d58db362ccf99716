"""What a model answers, and whether it needs its thoughts to do so.

Answers are read as the experiments read them: greedily, after the answer prefix. In a padded
batch the mask and the positions are carried through thoughts and answer, so that a batch gives what
single questions give.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from codi_patching.errors import InputError
from codi_patching.models.answers import PairError
from codi_patching.models.codi import CodiModel
from codi_patching.models.context import Context
from codi_patching.models.number_text import first_number

ThoughtSource = Literal["own", "zeroed", "exchanged"]


def is_correct(text: str, answer: float) -> bool:
    """Whether the first number of `text` is `answer`."""
    number = first_number(text)
    return number is not None and abs(float(number) - answer) < 1e-6


def why_not_asked(model: CodiModel, question: str, max_tokens: int) -> str | None:
    """Why a question cannot be answered in so many tokens; None if it can."""
    prefix = len(answer_start(model))
    try:
        model.check_length(
            len(model.prompt_ids(question)) + model.num_latents + prefix + max_tokens - 1
        )
    except PairError as error:
        return str(error)
    return None


@torch.no_grad()
def latent_answers(
    model: CodiModel,
    questions: Sequence[str],
    thoughts: ThoughtSource = "own",
    max_tokens: int = 8,
) -> list[str]:
    """Greedy answers after K latent thoughts.

    Args:
        model: The model.
        questions: Questions, answered as one batch.
        thoughts: `own`; `zeroed`: zero vectors in their place; `exchanged`: those of the next
            question of the batch (so it takes two).
        max_tokens: Longest answer.

    Raises:
        InputError: One question cannot exchange its thoughts.
    """
    hidden, context = _encode(model, questions)
    if thoughts == "own":
        _, _, context = model.think(hidden, context)
    else:
        if thoughts == "exchanged" and len(questions) < 2:
            raise InputError("expected at least 2 questions to exchange thoughts between, got 1")
        given = hidden.new_zeros(len(hidden), model.num_latents, hidden.shape[-1])
        if thoughts == "exchanged":
            given = model.think(hidden, context)[0].roll(-1, dims=0)
        _, context = model.advance(context, given)
    return read_out(model, context, max_tokens)


@torch.no_grad()
def latent_answer_ids(
    model: CodiModel, questions: Sequence[str], max_tokens: int
) -> list[list[int]]:
    """The tokens of greedy answers after the model's own thoughts, as one batch, without eos."""
    hidden, context = _encode(model, questions)
    return read_out_ids(model, model.think(hidden, context)[2], max_tokens)


@torch.no_grad()
def answers_by_thoughts(
    model: CodiModel, questions: Sequence[str], max_tokens: int = 8
) -> dict[str, list[str]]:
    """Greedy answers with every kind of thoughts; questions are read, and thought about, once.

    Args:
        model: The model.
        questions: At least 2, as one batch. For `exchanged` each is given the thoughts of the
            next; the last only gives, and is not answered.
        max_tokens: Longest answer.

    Returns:
        The answers to all questions but the last: `own`, `zeroed` and `exchanged` as
        `latent_answers` gives them, `thoughts_N` after the first N of their own, 0..K.
    """
    hidden, context = _encode(model, questions)
    asked = torch.arange(len(questions) - 1, device=hidden.device)
    start, thoughts = context.take(asked), []
    texts = {"thoughts_0": read_out(model, start, max_tokens)}
    for number in range(1, model.num_latents + 1):
        thoughts.append(model.next_thought(hidden, number - 1))
        step, context = model.advance(context, thoughts[-1].unsqueeze(1))
        hidden = step[:, 0]
        texts[f"thoughts_{number}"] = read_out(model, context.take(asked), max_tokens)
    own = torch.stack(thoughts, dim=1)
    others = {}
    for name, given in (("zeroed", torch.zeros_like(own[1:])), ("exchanged", own[1:])):
        _, context = model.advance(start, given)
        others[name] = read_out(model, context, max_tokens)
    return {"own": texts[f"thoughts_{model.num_latents}"], **others, **texts}


def reasons_in_words(model: CodiModel) -> bool:
    """Whether a model was also trained to write its reasoning after the question alone.

    CODI's teacher was, where no eos divides question and reasoning; Coconut was not.
    """
    settings = model.settings
    return len(settings.bot_ids) == 1 and not settings.raw_question and bool(settings.answer_prefix)


@torch.no_grad()
def reasoned_answers(model: CodiModel, questions: Sequence[str], max_tokens: int = 48) -> list[str]:
    """Greedy answers of the teacher, which writes its reasoning steps in words first.

    An answer is what follows the answer prefix; where the prefix is missing there is none, whatever
    numbers the reasoning has.

    Raises:
        InputError: The model has no answer prefix.
    """
    if not model.settings.answer_prefix:
        raise InputError("expected a model with an answer prefix, to find its answers by")
    prompts = [model.question_ids(q) for q in questions]
    last = torch.tensor([[ids[-1]] for ids in prompts], device=model.device)
    _, context = model.encode([ids[:-1] for ids in prompts])
    texts = _generate(model, context, last, min(max_tokens, model.context_length - context.length))
    prefix = re.sub(r"\s", "", model.settings.answer_prefix)
    found = [re.sub(r"\s", "", text).rpartition(prefix) for text in texts]
    return [answer if separator else "" for _, separator, answer in found]


def _encode(model: CodiModel, questions: Sequence[str]) -> tuple[Tensor, Context]:
    return model.encode([model.prompt_ids(question) for question in questions])


def read_out(model: CodiModel, context: Context, max_tokens: int) -> list[str]:
    """Greedy answers after the thoughts of `context`: eot, the prefix, then the model's own."""
    readout = torch.tensor([answer_start(model)] * context.rows, device=model.device)
    return _generate(model, context, readout, max_tokens)


def read_out_ids(model: CodiModel, context: Context, max_tokens: int) -> list[list[int]]:
    """The token ids of these answers, without the eos that ends them."""
    readout = torch.tensor([answer_start(model)] * context.rows, device=model.device)
    rows, eos = _generate_ids(model, context, readout, max_tokens).tolist(), model.settings.eos_id
    return [row[: row.index(eos)] if eos in row else row for row in rows]


def answer_start(model: CodiModel) -> list[int]:
    """Tokens from eot to the end of the answer prefix."""
    prefix = model.settings.answer_prefix
    ids = model.tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []
    return [*model.settings.eot_ids, *ids]


def _generate(model: CodiModel, context: Context, ids: Tensor, max_tokens: int) -> list[str]:
    """Greedy continuation of `context` and `ids`, as text."""
    generated = _generate_ids(model, context, ids, max_tokens)
    return model.tokenizer.batch_decode(generated, skip_special_tokens=True)


def _generate_ids(model: CodiModel, context: Context, ids: Tensor, max_tokens: int) -> Tensor:
    """Greedy continuation of `context` and `ids`; a row is left out once it has said eos.

    Returns:
        `(rows, tokens)`, filled up with eos.

    Raises:
        PairError: An answer is longer than the model's context has room for.
    """
    eos, rows = model.settings.eos_id, torch.arange(context.rows, device=ids.device)
    generated = torch.full((context.rows, max_tokens), eos, device=ids.device)
    for place in range(max_tokens):
        hidden, context = model.read(context, ids)
        ids = model.logits(hidden[:, -1]).argmax(dim=-1, keepdim=True)
        generated[rows, place] = ids[:, 0]
        going = ids[:, 0] != eos
        if not going.any():
            break
        if not going.all():
            rows, ids, context = rows[going], ids[going], context.take(going.nonzero()[:, 0])
    return generated[:, : place + 1]
