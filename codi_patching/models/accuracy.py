"""How often a model answers right, and whether it needs its thoughts to do so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from codi_patching.models.codi import CodiModel, Context

ThoughtSource = Literal["own", "zeroed", "exchanged"]


def read_number(text: str) -> float | None:
    """The first number of a text; thousands separators are dropped. None if there is none."""
    match = re.search(r"-?\d+(\.\d+)?", text.replace(",", ""))
    return float(match.group()) if match else None


def is_correct(text: str, answer: float) -> bool:
    """Whether the first number of `text` is `answer`."""
    number = read_number(text)
    return number is not None and abs(number - answer) < 1e-6


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
        ValueError: One question cannot exchange its thoughts.
    """
    hidden, context = model.encode([model.prompt_ids(q) for q in questions])
    if thoughts == "own":
        _, _, context = model.think(hidden, context)
    else:
        if thoughts == "exchanged" and len(questions) < 2:
            raise ValueError("expected at least 2 questions to exchange thoughts between, got 1")
        own, _, _ = model.think(hidden, context)
        given = torch.zeros_like(own) if thoughts == "zeroed" else own.roll(-1, dims=0)
        _, context = model.advance(context, given)
    return read_out(model, context, max_tokens)


@torch.no_grad()
def read_out(model: CodiModel, context: Context, max_tokens: int = 8) -> list[str]:
    """Greedy answers after a context that ends with the last thought."""
    prefix = model.tokenizer(model.settings.answer_prefix, add_special_tokens=False)["input_ids"]
    readout = torch.tensor([[model.settings.eot_id, *prefix]] * context.rows)
    return _generate(model, context, readout.to(model.device), max_tokens)


@torch.no_grad()
def reasoned_answers(model: CodiModel, questions: Sequence[str], max_tokens: int = 48) -> list[str]:
    """Greedy answers of the teacher, which writes its reasoning steps in words first."""
    prompts = [model.question_ids(q) for q in questions]
    last = torch.tensor([[ids[-1]] for ids in prompts], device=model.device)
    _, context = model.encode([ids[:-1] for ids in prompts])
    texts = _generate(model, context, last, max_tokens)
    prefix = re.sub(r"\s", "", model.settings.answer_prefix)
    return [re.sub(r"\s", "", text).rpartition(prefix)[2] for text in texts]


def _generate(model: CodiModel, context: Context, ids: Tensor, max_tokens: int) -> list[str]:
    """Greedy continuation of `context` and `ids`, up to eos."""
    rows = ids.shape[0]
    generated = torch.empty(rows, 0, dtype=torch.long, device=ids.device)
    done = torch.zeros(rows, dtype=torch.bool, device=ids.device)
    while generated.shape[1] < max_tokens and not done.all():
        hidden, context = model.read(context, ids)
        ids = model.logits(hidden[:, -1]).argmax(dim=-1, keepdim=True)
        done |= ids[:, 0] == model.settings.eos_id
        ids = torch.where(done.unsqueeze(1), model.settings.eos_id, ids)
        generated = torch.cat([generated, ids], dim=1)
    return model.tokenizer.batch_decode(generated, skip_special_tokens=True)
