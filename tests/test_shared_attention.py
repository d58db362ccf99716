"""Attention of packed tokens, and work in pieces, against every token by itself."""

import math
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from random_families import CLASSES, HIDDEN, family_model
from torch.nn.functional import pad

from codi_patching.patching.cache_pieces import cache_pieces
from codi_patching.patching.sweep.padded_rows import _rows
from codi_patching.patching.sweep.shared_attention import (
    OwnKeys,
    PaddedPrompts,
    Segments,
    attention_in_pieces,
    shared_attention,
)

BYTES = "codi_patching.patching.cache_pieces._BYTES"


def one_by_one(query, segments, own, scaling):
    """Each token's attention to its prompt and then to its own keys."""
    each = query.shape[0] // own.pool.shape[1]
    prompts = [prompt for prompt, count in segments for _ in range(count)]
    answers = []
    for token, prompt in enumerate(prompts):
        slots = own.slots[token]
        if own.mask is not None:
            slots = slots[own.mask[token]]
        keys, values = (
            part.repeat_interleave(each, dim=0)
            for part in torch.cat([prompt, own.pool[:, :, slots]], dim=2)
        )
        weights = (keys @ query[:, token, :, None] * scaling).softmax(dim=1)
        answers.append((weights * values).sum(1))
    return torch.stack(answers)


@pytest.mark.parametrize("piece", [1, 1600, 3000, 2**23])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_every_token_by_itself(piece, masked):
    drawn = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=drawn, dtype=torch.float64)

    segments = [(normal(2, 2, length, 8), count) for length, count in ((5, 3), (9, 1), (2, 4))]
    slots = torch.randint(7, (8, 3), generator=drawn)
    mask = None
    if masked:
        mask = torch.rand(8, 3, generator=drawn) < 0.7
    own, query = OwnKeys(normal(2, 2, 7, 8), slots, mask), normal(6, 8, 8)
    with patch(BYTES, piece):
        found = attention_in_pieces(query, Segments(segments), own, 0.3)
    torch.testing.assert_close(found, one_by_one(query, segments, own, 0.3), rtol=0, atol=1e-12)
    lengths = torch.tensor([prompt.shape[2] for prompt, _ in segments])
    kv = torch.stack([pad(prompt, (0, 0, 0, 9 - prompt.shape[2])) for prompt, _ in segments], dim=2)
    rows = torch.tensor([[0, 1, 2, 0], [3, 0, 0, 0], [4, 5, 6, 7]])
    padded = PaddedPrompts(kv, lengths, rows, torch.tensor([0, 1, 2, 4, 8, 9, 10, 11]))
    together = shared_attention(query, padded, own, 0.3)
    torch.testing.assert_close(together, found, rtol=0, atol=1e-12)


def test_rows_of_starts_of_which_one_has_no_token_and_one_has_fewer():
    step = SimpleNamespace(segments=((0, 1), (2, 3)), attending=4)
    rows, places = _rows(step)
    assert rows.tolist() == [[0, 0, 0], [0, 0, 0], [1, 2, 3]]
    assert places.tolist() == [0, 6, 7, 8]
    assert _rows(SimpleNamespace(segments=(), attending=0)) is None


@pytest.mark.parametrize("family", sorted(CLASSES))
def test_an_mlp_in_pieces_is_the_mlp(family):
    model, hidden = family_model(family, 2, 2), torch.randn(7, HIDDEN).double()
    whole = model.mlp(1, hidden)
    with patch(BYTES, 1000):
        torch.testing.assert_close(model.mlp(1, hidden), whole, rtol=0, atol=1e-12)


def test_pieces_hold_all_tokens_and_as_many_bytes_as_meant():
    with patch(BYTES, 100):
        for tokens in range(30):
            sizes = cache_pieces(tokens, 30, torch.device("cpu"))
            assert sum(sizes) == tokens
            assert max(sizes) - min(sizes) <= 1
            assert len(sizes) == min(max(1, tokens), max(1, math.ceil(tokens * 30 / 100)))
