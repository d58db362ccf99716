"""The calls of a notebook, against the engines, the experiments and the model itself."""

import math

import pytest
import torch

import codi_patching as cp
from codi_patching.errors import InputError
from codi_patching.experiments.position import PositionPatching
from codi_patching.models.accuracy import latent_answers

CLEAN, CORRUPTED = "Tom has 16 pears. He eats 3.", "Tom has 18 pears. He eats 3."
PAIR = cp.Pair.of(CLEAN, CORRUPTED, 13, 15)
SITES = [
    cp.Site("resid_post", layer=1, position=0),
    cp.Site("attn_out", layer=1, position=1),
    cp.Site("mlp_out", layer=0, position=2),
    cp.Site("kv", layer=2, position=2),
    cp.Site("thought", position=1),
]


@pytest.fixture
def hand(model):
    return cp.Model(model)


def same(first, second, tolerance=1e-9):
    for name, value in first.metrics.items():
        assert second.metrics[name] == pytest.approx(value, abs=tolerance), name


def test_a_run_gives_what_the_model_has(hand, model):
    run = hand.run(CLEAN)
    thoughts, _, _ = model.think(*model.encode([model.prompt_ids(CLEAN)]))
    torch.testing.assert_close(run.thoughts, thoughts[0], rtol=0, atol=1e-9)
    assert run.answer == latent_answers(model, [CLEAN])[0].strip()
    assert {site: tuple(values.shape) for site, values in run.activations.items()} == {
        "resid_post": (3, 3, 32),
        "attn_out": (3, 3, 32),
        "mlp_out": (3, 3, 32),
        "kv": (3, 3, 2, 2, 8),
    }


def test_the_lens_is_the_head_on_the_final_norm(hand, model):
    run = hand.run(CLEAN)
    lens = run.lens(k=2)
    assert lens.shape == (3, 3)
    state = run.activations["resid_post"][1, 2]
    best = model.logits(model.backbone.model.norm(state)).topk(2).indices.tolist()
    words = [model.tokenizer.decode([token]).strip() for token in best]
    assert lens.loc[1, 2].split() == " ".join(words).split()
    # The last layer's row reads the state that the next thought is made from.
    made = model.prj(model.backbone.model.norm(run.activations["resid_post"][2, 0]))
    torch.testing.assert_close(made, run.thoughts[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_a_patched_run_is_a_cell_of_the_experiments(hand, latents):
    grid = hand.grid(PAIR, site="kv", latents=latents)
    assert list(grid.index.names) == ["layer", "position"]
    effect = hand.patch(PAIR, cp.Site("kv", layer=1, position=2), latents=latents)
    for name, value in effect.metrics.items():
        assert grid.loc[(1, 2), name] == pytest.approx(value, abs=1e-9)
    assert effect.base["kl_divergence"] == 0


def test_grids_equal_what_predict_writes(predict, checkpoint):
    results = predict(PositionPatching(checkpoint=checkpoint, site="attn_out", control="none"))
    hand = cp.load(checkpoint)
    grid = hand.grid(PAIR, site="attn_out")
    ours = torch.tensor(grid["kl_divergence"].unstack().to_numpy())
    theirs = torch.tensor(results.values["kl_divergence"][0])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert grid["structural_zero"].to_numpy().sum() == results.run.grid.structural.sum() == 1


def test_whole_layers_and_thoughts_have_grids(hand):
    layers = hand.grid(PAIR, latents="frozen", whole_layers=True)
    assert list(layers.index) == [(layer, "all") for layer in range(3)]
    thoughts = hand.grid(PAIR, site="thought")
    assert list(thoughts.index) == [("thought", position) for position in range(3)]
    assert not thoughts["structural_zero"].any()


def test_every_kind_of_value(hand):
    run = hand.run(CLEAN)
    given = [
        run.thoughts[1] if site.name == "thought" else run.activations[site.name][site.layer]
        for site in SITES
    ]
    given = [v if site.name == "thought" else v[site.position] for v, site in zip(given, SITES)]
    source = hand.patch(PAIR, SITES)
    same(source, hand.patch(PAIR, SITES, value=given))
    same(source, hand.patch(PAIR, SITES, value=CLEAN))
    same(source, hand.patch(PAIR, SITES, value="mean", questions=[CLEAN, CLEAN]))
    same(source, hand.patch(PAIR, SITES, value=[lambda _, v=v: v for v in given]))
    zero = hand.patch(PAIR, SITES, value="zero")
    same(zero, hand.patch(PAIR, SITES, value=lambda x: x * 0))
    assert zero.metrics["kl_divergence"] > 1e-6


def test_a_function_of_the_present_value_may_leave_it(hand):
    effect = hand.patch(PAIR, SITES, value=lambda x: x)
    assert effect.metrics["kl_divergence"] == pytest.approx(0, abs=1e-12)
    assert effect.answer == hand.run(CORRUPTED).answer


def test_functions_see_heads_of_keys_and_values(hand):
    shapes = []
    site = cp.Site("kv", layer=0, position=0)
    hand.patch(PAIR, site, value=lambda x: (shapes.append(tuple(x.shape)), x)[1])
    assert set(shapes) == {(2, 2, 8)}


def test_noising_changes_the_roles(hand):
    effect = hand.patch(PAIR, SITES[0], direction="noising")
    back = hand.patch(cp.Pair.of(CORRUPTED, CLEAN, 15, 13), SITES[0])
    assert effect.metrics["kl_divergence"] == pytest.approx(back.metrics["kl_divergence"])
    torch.testing.assert_close(effect.logits["clean"], back.logits["corrupted"])


def test_answers_come_from_the_model_where_they_are_not_given(hand, model, monkeypatch):
    assert math.isnan(cp.Pair.of(CLEAN, CORRUPTED).clean.answer)
    said = {CLEAN: "13", CORRUPTED: "15 pears"}
    monkeypatch.setattr(
        "codi_patching.api.latent_answers", lambda _, questions: [said[q] for q in questions]
    )
    pair = hand.pair(CLEAN, CORRUPTED)
    assert (pair.clean.answer, pair.corrupted.answer) == (13, 15)
    said[CORRUPTED] = "pears"
    with pytest.raises(InputError, match=r"a number as the answer to 'Tom has 18.*'pears'"):
        hand.pair(CLEAN, CORRUPTED)
    said[CORRUPTED] = "13"
    with pytest.raises(InputError, match="expected two different answers, got 13 for both"):
        hand.pair(CLEAN, CORRUPTED)


@pytest.mark.parametrize(
    ("sites", "options", "message"),
    [
        (SITES, {"value": ["zero"]}, "expected a value for each of 5 sites, got 1"),
        (SITES[0], {"value": torch.zeros(3)}, "expected 32 numbers for Site"),
        (SITES[0], {"value": 3}, "expected text, a tensor or a function as a value, got 3"),
        (SITES[0], {"value": lambda x: x[:2]}, r"that gives 32 numbers.*got \(2,\)"),
        (SITES[0], {"value": "mean"}, "expected questions to take the mean over"),
        (SITES[0], {"value": "  "}, "expected a question with text"),
        (cp.Site("kv", layer=9, position=0), {}, "expected a layer under 3"),
        ([SITES[0], SITES[0]], {}, "expected each cell once in a row"),
    ],
)
def test_errors_say_what_was_expected(hand, sites, options, message):
    with pytest.raises(InputError, match=message):
        hand.patch(PAIR, sites, **options)


def test_public_names_are_there():
    for name in cp.__all__:
        assert getattr(cp, name) is not None
    assert "load" in dir(cp)
