"""One forward pass over a question and several chains of given thoughts.

The columns of a row, for two chains; each chain sees the prompt and itself, not its neighbours:

    | question .. bot | t_0 .. t_4 eot The answer is : a | t_0 .. t_4 eot The answer is : a |
    | prompt          | chain 0                          | chain 1                          |

Positions go on from bot in every chain, so that a chain reads exactly what the model would read
after that prompt. A given thought is the *code* of a token: its embedding, put through the layer
norm that ends prj, so that prj can make the same vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from codi_patching.models.codi import CodiModel
from codi_patching.models.context import Context
from codi_patching.models.families import cache_argument, part_of


@dataclass(frozen=True)
class Layout:
    """Where the columns of a row are.

    Attributes:
        prompt: Columns of the prompt, bot being the last.
        chains: Chains after it.
        num_latents: Columns of thoughts that a chain starts with.
        readout: Columns after the thoughts: eot, the answer prefix, the answer.
    """

    prompt: int
    chains: int
    num_latents: int
    readout: int

    @property
    def chain(self) -> int:
        """Columns of a chain."""
        return self.num_latents + self.readout

    @property
    def length(self) -> int:
        """Columns of a row."""
        return self.prompt + self.chains * self.chain

    def thought_columns(self, chain: int) -> range:
        """Columns of a chain's thoughts."""
        start = self.prompt + chain * self.chain
        return range(start, start + self.num_latents)

    def colon(self, chain: int) -> int:
        """The column whose logits are the answer's."""
        return self.prompt + (chain + 1) * self.chain - 2


def tree_mask(layout: Layout, real: Tensor) -> Tensor:
    """Who sees whom: `(rows, 1, length, length)`, true where a column sees another.

    Args:
        layout: The columns.
        real: `(rows, prompt)`, 0 at padding; padding sees itself only, so that no row is empty.
    """
    segment = torch.zeros(layout.length, dtype=torch.long)
    segment[layout.prompt :] = 1 + torch.arange(layout.chains).repeat_interleave(layout.chain)
    causal = torch.ones(layout.length, layout.length, dtype=torch.bool).tril()
    related = (segment[None, :] == 0) | (segment[:, None] == segment[None, :])
    visible = torch.ones(len(real), layout.length, dtype=torch.bool)
    visible[:, : layout.prompt] = real.bool()
    itself = torch.eye(layout.length, dtype=torch.bool)
    return ((causal & related) & visible[:, None, :] | itself)[:, None]


def tree_positions(layout: Layout, real: Tensor) -> Tensor:
    """Absolute positions `(rows, length)`; every chain goes on from bot."""
    prompt = (real.cumsum(1) - 1).clamp(min=0)
    chain = torch.arange(1, layout.chain + 1).repeat(layout.chains)
    return torch.cat([prompt, prompt[:, -1:] + chain], dim=1)


def codes(model: CodiModel, ids: Tensor) -> Tensor:
    """The thoughts `(…, hidden)` that say the tokens `ids`."""
    norm = model.prj.get_submodule("ln")
    return norm(model.embed(ids))


def read_tree(
    model: CodiModel, layout: Layout, prompts: Tensor, real: Tensor, thoughts: Tensor, end: Tensor
) -> tuple[Tensor, DynamicCache]:
    """Run a tree.

    Args:
        model: The model.
        layout: The columns.
        prompts: Token ids `(rows, prompt)`.
        real: `(rows, prompt)`, 0 at padding.
        thoughts: Vectors `(rows, chains, K, hidden)`.
        end: Token ids of the readout `(rows, chains, readout)`.

    Returns:
        States after the final norm `(rows, length, hidden)`, and the keys and values.
    """
    chains = torch.cat([thoughts, model.embed(end)], dim=2).flatten(1, 2)
    cache = DynamicCache()
    decoder = part_of(model.backbone, model.family.decoder)
    states = decoder(
        inputs_embeds=torch.cat([model.embed(prompts), chains], dim=1),
        attention_mask=tree_mask(layout, real).to(prompts.device),
        position_ids=tree_positions(layout, real),
        use_cache=True,
        **{cache_argument(type(decoder)): cache},
    ).last_hidden_state
    return states, cache


def prompt_context(cache: DynamicCache, real: Tensor, rows: int, columns: int) -> Context:
    """The context of the first rows' first columns, to go on from."""
    part = DynamicCache()
    for layer, entry in enumerate(cache.layers):
        part.update(entry.keys[:rows, :, :columns], entry.values[:rows, :, :columns], layer)
    mask = real[:rows, :columns]
    return Context(part, None if mask.all() else mask, columns, rows)
