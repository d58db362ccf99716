"""Attention read again another way, so that a run's shares are checked and not only their sums.

Of the first pairs transformers' own eager attention goes over prompt, thoughts and readout in one
pass without a cache. Its thoughts are made from its own states, so that thoughts which do not
follow from each other are seen too. What it gave is kept beside the pair;
`analysis.made_again` compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from codi_patching.measuring.prompts import PromptRequest
from codi_patching.measuring.verification import draw_cells
from codi_patching.models.attention import NAME
from codi_patching.models.codi import CodiModel
from codi_patching.models.families import part_of
from codi_patching.results.description import Array
from codi_patching.results.pair_descriptions import VerifiedLook

PAIRS = 8
"""The first so many pairs are read again."""

_DIGITS = 7
"""Decimals of a share, as in the files: what float32 has."""


def draw_looks(
    shape: tuple[int, int, int], place: int, pairs: int, seed: int
) -> list[tuple[int, int, int]]:
    """The layer, reader and head of what is read again of one pair.

    Over all pairs together every layer, reader and head comes at least once where there are as many
    looks; see `draw_cells`.

    Args:
        shape: Layers, readers and heads.
        place: Of the pair, from 0.
        pairs: How many are read again.
        seed: Of the draw.
    """
    cells = draw_cells(shape[:2], place, pairs, seed)
    first = place * len(cells)
    heads = np.arange(first, first + len(cells)) % shape[2]
    drawn = np.random.default_rng([seed, place]).permutation(heads)
    return [(layer, reader, int(head)) for (layer, reader), head in zip(cells, drawn, strict=True)]


def look_again(
    model: CodiModel,
    request: PromptRequest,
    counts: Sequence[int],
    readers: Sequence[str],
    looks: Sequence[tuple[int, int, int]],
) -> tuple[VerifiedLook, ...]:
    """Read some heads again.

    Args:
        model: The model.
        request: The prompt, and what is read after the thoughts.
        counts: Tokens of each group that is attended to, in the order of the sequence.
        readers: Names of those who attend: bot, the thoughts, the readout, of which the last one is
            the last token.
        looks: Layer, reader and head of each.
    """
    attention = eager_attention(model, request)
    bot, last = len(request[0]) - 1, attention.shape[-1] - 1
    found = []
    for layer, reader, head in looks:
        token = last if reader == len(readers) - 1 else bot + reader
        shares = _by_group(attention[layer, :, token], counts)
        found.append(
            VerifiedLook(
                readers[reader],
                str(layer),
                head,
                *map(_rounded, (shares[head], shares.mean(axis=0), shares.max(axis=0))),
            )
        )
    return tuple(found)


@torch.no_grad()
def eager_attention(model: CodiModel, request: PromptRequest) -> Array:
    """Attention of all tokens of a run, `(L, heads, tokens, tokens)`.

    The first pass reads the run's own thoughts and makes each anew from the state before it; the
    second reads those.
    """
    ids, readout = request
    hidden, context = model.encode([ids])
    thoughts, _, _ = model.think(hidden, context)
    before, after = (
        model.embed(torch.tensor([list(tokens)], device=model.device))
        for tokens in (ids, readout.prefix)
    )
    decoder, bot = part_of(model.backbone, model.family.decoder), len(ids) - 1
    with _eager(model):
        for _ in range(2):
            embeddings = torch.cat([before, thoughts, after], dim=1)
            done = decoder(inputs_embeds=embeddings, output_attentions=True, use_cache=False)
            states = done.last_hidden_state[0, bot : bot + model.num_latents]
            made = [model.next_thought(state, place) for place, state in enumerate(states)]
            thoughts = torch.stack(made)[None]
    return torch.cat(done.attentions).double().cpu().numpy()


@contextmanager
def _eager(model: CodiModel) -> Iterator[None]:
    """Within, the model attends by transformers' plainest code, which gives its attention."""
    model.backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.backbone.set_attn_implementation(NAME)


def _by_group(attention: Array, counts: Sequence[int]) -> Array:
    """`(heads, groups)` of `(heads, tokens)`."""
    groups = np.split(attention, np.cumsum(counts)[:-1], axis=1)
    return np.stack([group.sum(axis=1) for group in groups], axis=1)


def _rounded(shares: Array) -> tuple[float, ...]:
    return tuple(np.round(shares, _DIGITS).tolist())
