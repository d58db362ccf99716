"""Where the parts of a family's decoder are, and what its configs say."""

from types import SimpleNamespace

import pytest
from random_families import HIDDEN, family_model

from codi_patching.errors import InputError
from codi_patching.models.families import (
    attention_window,
    family_of,
    head_shape,
    outlets_of,
    sweep_unsupported_reason,
)
from codi_patching.patching.hooks import Outlet


def of(**config):
    return SimpleNamespace(config=SimpleNamespace(**config))


@pytest.mark.parametrize(
    ("family", "window", "found"),
    [
        ("mistral", 4, 4),
        ("qwen2", 4, 4),
        ("qwen2", None, None),
        ("qwen3", 4, 4),
        ("llama", 4, None),
        ("gpt2", 4, None),
    ],
)
def test_only_some_families_have_windows(family, window, found):
    assert attention_window(of(model_type=family, sliding_window=window)) == found


def test_a_family_that_is_not_there():
    with pytest.raises(InputError, match=r"model family 'bert' is not supported; .*'gpt2'"):
        family_of(of(model_type="bert"))


@pytest.mark.parametrize(
    ("given", "size"), [({}, 8), ({"head_dim": None}, 8), ({"head_dim": 5}, 5)]
)
def test_heads_are_as_wide_as_is_said_or_share_the_stream(given, size):
    assert head_shape(of(num_attention_heads=4, hidden_size=32, **given)) == (4, size)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, None),
        ({"rope_parameters": None}, None),
        ({"rope_parameters": {"rope_type": "default"}}, None),
        ({"rope_parameters": {"rope_type": "linear"}}, None),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rotary positions (longrope)"),
        ({"reorder_and_upcast_attn": False}, None),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
    ],
)
def test_models_that_cannot_be_run_block_by_block(config, reason):
    found = sweep_unsupported_reason(of(**config))
    assert (found is None) if reason is None else (reason in found)


def test_outlets_of_llama():
    backbone = family_model("llama", 2, 2).backbone
    one, two = backbone.model.layers
    assert outlets_of(backbone, "resid_post") == [[Outlet(one), Outlet(two)]]
    assert outlets_of(backbone, "attn_out") == [[Outlet(one.self_attn), Outlet(two.self_attn)]]
    assert outlets_of(backbone, "mlp_out") == [[Outlet(one.mlp), Outlet(two.mlp)]]
    assert outlets_of(backbone, "kv") == [
        [Outlet(one.self_attn.k_proj), Outlet(two.self_attn.k_proj)],
        [Outlet(one.self_attn.v_proj), Outlet(two.self_attn.v_proj)],
    ]
    ends = [block.self_attn.o_proj for block in (one, two)]
    assert outlets_of(backbone, "head") == [
        [Outlet(end, 8 * head, 8 * head + 8, True) for end in ends] for head in range(4)
    ]
    with pytest.raises(ValueError, match="a site inside a block or after it, got 'thought'"):
        outlets_of(backbone, "thought")


def test_outlets_of_gpt2_whose_keys_and_values_are_of_one_module():
    backbone = family_model("gpt2", 1, 2).backbone
    (block,) = backbone.transformer.h
    assert outlets_of(backbone, "kv") == [
        [Outlet(block.attn.c_attn, HIDDEN, 2 * HIDDEN)],
        [Outlet(block.attn.c_attn, 2 * HIDDEN, 3 * HIDDEN)],
    ]
    assert outlets_of(backbone, "attn_out") == [[Outlet(block.attn)]]


@pytest.mark.parametrize(("family", "width"), [("llama", 48), ("gpt2", 4 * HIDDEN)])
def test_the_width_of_mlps(family, width):
    assert family_model(family, 1, 2).inner_size == width
