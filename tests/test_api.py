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
    cp.Site("head", layer=0, head=3, position=1),
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
        "head": (3, 3, 4, 8),
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
    assert grid["structural_zero"].to_numpy().sum() == results.structural.sum() == 1


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
    given = [v if site.head is None else v[site.head] for v, site in zip(given, SITES)]
    source = hand.patch(PAIR, SITES)
    same(source, hand.patch(PAIR, SITES, value=given))
    same(source, hand.patch(PAIR, SITES, value="clean"))
    same(source, hand.patch(PAIR, SITES, value=cp.Question(CLEAN)))
    same(source, hand.patch(PAIR, SITES, value=run))
    same(source, hand.patch(PAIR, SITES, value="mean", questions=[CLEAN, CLEAN]))
    same(source, hand.patch(PAIR, SITES, value=[lambda _, v=v: v for v in given]))
    unchanged = hand.patch(PAIR, SITES, value="corrupted")
    assert unchanged.metrics["kl_divergence"] == pytest.approx(0, abs=1e-12)
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


def test_a_grid_takes_another_question_too(hand):
    other = "Tom has 9 pears. He eats 3."
    for value in (cp.Question(other), hand.run(other)):
        grid = hand.grid(PAIR, site="kv", value=value)
        effect = hand.patch(PAIR, cp.Site("kv", layer=1, position=2), value=value)
        assert grid.loc[(1, 2), "l2_difference"] == pytest.approx(effect.metrics["l2_difference"])


def test_python_users_are_told_of_arguments_and_never_of_options(hand):
    with pytest.raises(InputError) as raised:
        hand.grid(PAIR, site="resid")
    assert "--" not in str(raised.value)
    assert str(raised.value).startswith("expected site of resid_post")


def test_noising_changes_the_roles(hand):
    effect = hand.patch(PAIR, SITES[0], direction="noising")
    back = hand.patch(cp.Pair.of(CORRUPTED, CLEAN, 15, 13), SITES[0])
    assert effect.metrics["kl_divergence"] == pytest.approx(back.metrics["kl_divergence"])
    torch.testing.assert_close(effect.logits["clean"], back.logits["corrupted"])


def test_answers_come_from_the_model_where_they_are_not_given(hand, model, monkeypatch):
    assert math.isnan(cp.Pair.of(CLEAN, CORRUPTED).clean.answer)
    said = {CLEAN: "13", CORRUPTED: "15 pears"}
    monkeypatch.setattr(hand._calls, "texts", lambda questions: [said[q] for q in questions])
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
        (SITES, {"value": ["zero"]}, "expected a value for each of 6 sites, got 1"),
        (SITES[0], {"value": torch.zeros(3)}, "expected numbers of \\(32,\\) for Site"),
        (SITES[0], {"value": 3}, "expected a name, a question, a tensor or a function as a value"),
        (SITES[0], {"value": lambda x: x[:2]}, r"that gives numbers of .*got \(2,\)"),
        (SITES[0], {"value": "mean"}, "to take the mean over: set questions$"),
        (SITES[0], {"value": "sorce"}, "got 'sorce': did you mean 'source'"),
        (SITES[0], {"value": cp.Question("  ")}, "expected a question with text"),
        (SITES[0], {"latents": "frosen"}, "expected latents of frozen, recomputed, got 'frosen'"),
        (SITES[0], {"direction": "back"}, "expected direction of denoising, noising"),
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


# -- models that were changed after they were loaded ------------------------------------------

CHANGES = {
    "hook on a block": lambda m: m.blocks[1].register_forward_hook(lambda _m, _a, out: out + 1.0),
    "hook before a block": lambda m: m.blocks[1].register_forward_pre_hook(
        lambda _m, args: (args[0] + 1.0, *args[1:])
    ),
    "hook on the stack": lambda m: m.backbone.model.register_forward_hook(
        lambda _m, _a, out: type(out)(**{**out, "last_hidden_state": out.last_hidden_state + 1.0})
    ),
    "hook on the norm": lambda m: m.backbone.model.norm.register_forward_hook(
        lambda _m, _a, out: out * 1.5
    ),
    "block of another class": lambda m: m.blocks.__setitem__(1, Shifting(m.blocks[1])),
    "forward of its own": lambda m: setattr(m.blocks[0], "forward", shifted(m.blocks[0].forward)),
}


def shifted(forward):
    return lambda *args, **kwargs: forward(*args, **kwargs) + 1.0


class Shifting(torch.nn.Module):
    """A block that is wrapped, as libraries of sparse autoencoders do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs) + 1.0


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_user_hangs_on_a_model_is_followed(pair, change):
    from conftest import random_model

    site, effects = cp.Site("resid_post", layer=0, position=1), []
    for engine in ("sweep", "reference"):
        model = cp.Model(random_model(), engine)
        before = model.patch(pair, site)
        CHANGES[change](model.codi)
        if engine == "sweep":
            with pytest.warns(UserWarning, match="reference engine is used in place of the sweep"):
                effects.append(model.patch(pair, site))
        else:
            effects.append(model.patch(pair, site))
    swept, reference = effects
    assert swept.base == pytest.approx(reference.base, rel=1e-9)
    assert swept.metrics == pytest.approx(reference.metrics, rel=1e-9, nan_ok=True)
    assert swept.base["clean_probability"] != pytest.approx(
        before.base["clean_probability"], rel=0.05
    )


def test_a_hook_that_is_removed_gives_the_sweep_back(hand, model, pair):
    site = cp.Site("resid_post", layer=0, position=1)
    before = hand.patch(pair, site)
    handle = CHANGES["hook on a block"](model)
    with pytest.warns(UserWarning, match=r"model.layers.1 has a hook"):
        hand.patch(pair, site)
    handle.remove()
    assert hand.patch(pair, site).metrics == before.metrics


def test_other_attention_is_left_to_the_reference(hand, model, pair):
    site = cp.Site("resid_post", layer=0, position=1)
    before = hand.patch(pair, site)
    model.backbone.set_attn_implementation("eager")
    with pytest.warns(UserWarning, match="its attention was set to 'eager' after it was loaded"):
        after = hand.patch(pair, site)
    assert after.metrics == pytest.approx(before.metrics, rel=1e-3)  # softmax in float32


def test_a_model_that_remembers_nothing_is_refused(hand, model, pair):
    model.train()
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
    with pytest.raises(InputError, match=r"gradient checkpointing .* call eval\(\)"):
        hand.patch(pair, cp.Site("resid_post", layer=0, position=1))


def test_words_that_the_tokenizer_does_not_know_are_said(hand):
    with pytest.warns(UserWarning, match="does not know Zorblax: "):
        hand.run("Zorblax has 5 pears.")
    with pytest.raises(InputError, match="got control tokens: <bot>"):
        hand.run("Tom has <bot> 5 pears.")
