"""Reading a batch's chains of given thoughts, two of which exchange their states."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from codi_patching.models.codi import CodiModel
from codi_patching.patching.hooks import capture
from codi_patching.training.data import Batch
from codi_patching.training.exchange import exchange_targets, exchanged
from codi_patching.training.tree import Layout, codes, read_tree


@dataclass(frozen=True)
class Chains:
    """A batch's chains, read.

    Attributes:
        prompt: States of the prompt `(rows, prompt, hidden)`; the last is bot's.
        states: States of the chains `(rows, chains, K + readout, hidden)`.
        said: Tokens that thoughts should be `(rows, chains, K)`, after any exchange.
        answers: Answer tokens `(rows, chains)`, likewise.
        before_answer: For each layer the states `(rows, hidden)` at the token before the answer
            of each problem's own chain.
        cache: Keys and values of all columns.
    """

    prompt: Tensor
    states: Tensor
    said: Tensor
    answers: Tensor
    before_answer: list[Tensor]
    cache: DynamicCache


def read_chains(
    model: CodiModel, batch: Batch, readout_ids: Tensor, noise: float, exchange_layers: int
) -> Chains:
    """Read all chains of a batch in one pass.

    Args:
        model: The model.
        batch: The problems.
        readout_ids: Tokens from eot to the end of the answer prefix.
        noise: Standard deviation of the noise on the thoughts, over that of their codes.
        exchange_layers: The last two chains exchange their states after one of so many blocks from
            below; 0 for no exchange.
    """
    rows, chains, num_latents = batch.thoughts.shape
    readout = readout_ids.expand(rows, chains, -1)
    end = torch.cat([readout, batch.answers.unsqueeze(-1)], dim=2)
    layout = Layout(batch.prompts.shape[1], chains, num_latents, end.shape[2])
    exchange, said, answers = _exchange(model, batch, layout, exchange_layers)
    thoughts = codes(model, batch.thoughts)
    thoughts = thoughts + noise * thoughts.detach().std() * torch.randn_like(thoughts)
    with exchange, capture(model.blocks) as records:
        states, cache = read_tree(model, layout, batch.prompts, batch.real, thoughts, end)
    return Chains(
        prompt=states[:, : layout.prompt],
        states=states[:, layout.prompt :].unflatten(1, (chains, layout.chain)),
        said=said,
        answers=answers,
        before_answer=[record[0][:, layout.colon(0)] for record in records],
        cache=cache,
    )


def _exchange(
    model: CodiModel, batch: Batch, layout: Layout, layers: int
) -> tuple[AbstractContextManager[None], Tensor, Tensor]:
    """Draw the block and the thoughts of an exchange; what must then be said and answered.

    Half of the rows exchange their states at all thoughts, the others at each with probability 1/2.
    """
    if layout.chains < 3 or not layers:
        return nullcontext(), batch.said, batch.answers
    device = batch.said.device
    everywhere = torch.rand(len(batch.said), 1, device=device) < 0.5
    where = everywhere | (torch.rand(len(batch.said), layout.num_latents, device=device) < 0.5)
    block = model.blocks[int(torch.randint(layers, ()))]
    columns = tuple(layout.thought_columns(layout.chains - back) for back in (2, 1))
    said, answers = exchange_targets(
        batch.said[:, -2:], batch.answers[:, -2:], where, batch.last_thought
    )
    return (
        exchanged(block, (columns[0], columns[1]), where),
        torch.cat([batch.said[:, :-2], said], dim=1),
        torch.cat([batch.answers[:, :-2], answers], dim=1),
    )
