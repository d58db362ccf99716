"""What is asked of the model in each part of training; losses in nats, not yet weighted."""

from __future__ import annotations

import torch
from torch import Tensor

from codi_patching.models.codi import CodiModel
from codi_patching.models.context import Context
from codi_patching.patching.hooks import capture
from codi_patching.training.chains import Chains
from codi_patching.training.data import IGNORE, Batch
from codi_patching.training.losses import (
    after_right_ones,
    calculation_targets,
    code_loss,
    spoken_losses,
    token_loss,
)
from codi_patching.training.tree import codes


def calculation_loss(model: CodiModel, lines: Tensor, equals_id: int) -> Tensor:
    """Cross entropy of the results of bare calculations.

    Args:
        model: The model.
        lines: Token ids `(lines, length)`.
        equals_id: The token that results follow.
    """
    start = Context(cache=None, mask=None, length=0, rows=len(lines))
    states, _ = model.read(start, lines)
    targets = calculation_targets(lines, equals_id)[:, 1:]
    chosen = targets != IGNORE
    return token_loss(model.logits(states[:, :-1][chosen]), targets[chosen])


def chain_losses(model: CodiModel, chains: Chains, made: Tensor) -> dict[str, Tensor]:
    """The losses of given thoughts.

    Args:
        model: The model.
        chains: The chains.
        made: `(rows, K)`, true where a thought is the first with its result.

    Returns:
        `result` and `held`, of what the states that make thoughts say; `code`, of the thoughts that
        prj makes of these states; `answer`; `eos`.
    """
    bot = chains.prompt[:, -1][:, None, None].expand(-1, chains.states.shape[1], 1, -1)
    makers = torch.cat([bot, chains.states[:, :, : model.num_latents - 1]], dim=2)
    result, held = spoken_losses(
        model.logits(makers), chains.said, made[:, None].expand_as(chains.said)
    )
    eos = torch.full_like(chains.answers, model.settings.eos_id)
    return {
        "result": result,
        "held": held,
        "code": code_loss(model.prj(makers), codes(model, chains.said)),
        "answer": token_loss(model.logits(chains.states[:, :, -2]), chains.answers),
        "eos": token_loss(model.logits(chains.states[:, :, -1]), eos),
    }


def own_losses(
    model: CodiModel, batch: Batch, bot: Tensor, context: Context, readout_ids: Tensor
) -> dict[str, Tensor]:
    """The losses of thoughts that the model makes itself, as far as they are right.

    Args:
        model: The model.
        batch: The problems.
        bot: `(rows, hidden)` at bot.
        context: The context that ends with bot.
        readout_ids: Tokens from eot to the end of the answer prefix.

    Returns:
        `result`, `held`, `code` and `answer` as with given thoughts.
    """
    thoughts, states, after = model.think(bot, context)
    final, _ = model.read(after, readout_ids.expand(len(bot), -1))
    logits = model.logits(torch.cat([bot.unsqueeze(1), states[:, :-1]], dim=1))
    said, right = after_right_ones(logits, batch.said[:, 0])
    result, held = spoken_losses(logits, said, batch.made)
    answers = torch.where(right, batch.answers[:, 0], IGNORE)
    return {
        "result": result,
        "held": held,
        "code": code_loss(thoughts[right], codes(model, batch.said[right, 0])),
        "answer": token_loss(model.logits(final[:, -1]), answers),
    }


def teacher_loss(
    model: CodiModel, hidden: Tensor, context: Context, reasoning: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Cross entropy of the steps and the answer in words, and the states at the token before it.

    Args:
        model: The model.
        hidden: `(rows, hidden)` at the question's last token.
        context: The context that ends there.
        reasoning: What the teacher writes `(rows, length)`, padded with `IGNORE`.

    Returns:
        The loss, and for each layer the states `(rows, hidden)`.
    """
    with capture(model.blocks) as records:
        states, _ = model.read(context, reasoning.clamp(min=0))
    states = torch.cat([hidden.unsqueeze(1), states[:, :-1]], dim=1)
    chosen = reasoning != IGNORE
    loss = token_loss(model.logits(states[chosen]), reasoning[chosen])
    before_answer = chosen.sum(1) - 3  # the answer and eos end the sequence
    rows = torch.arange(len(reasoning), device=reasoning.device)
    return loss, [record[0][rows, before_answer] for record in records]
