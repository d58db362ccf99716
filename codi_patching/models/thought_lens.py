"""What thoughts say: the head on the states that make them.

The state that makes z_0 is bot's, the one that makes z_p is that of z_{p-1}'s step. What can be
read there need not be used: `codi_patching.models.interchange` tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from codi_patching.models.codi import CodiModel


@torch.no_grad()
def spoken_thoughts(model: CodiModel, questions: Sequence[str]) -> list[list[str]]:
    """The likeliest token of each state that makes a thought.

    Args:
        model: The model.
        questions: Questions, read as one batch.

    Returns:
        K tokens a question, of z_0 to z_{K-1}.
    """
    hidden, context = model.encode([model.prompt_ids(q) for q in questions])
    _, states, _ = model.think(hidden, context)
    makers = torch.cat([hidden.unsqueeze(1), states[:, :-1]], dim=1)
    likeliest = model.logits(makers).argmax(dim=-1)
    return [model.tokenizer.convert_ids_to_tokens(row.tolist()) for row in likeliest]
