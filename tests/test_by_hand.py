"""What notebooks ask for beside single patches: each against a slow and obvious twin."""

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import QUESTIONS, random_model
from random_families import CLASSES, family_model

import codi_patching as cp
from codi_patching.errors import InputError
from codi_patching.measuring import own_cache
from codi_patching.measuring.by_hand import (
    NamedValues,
    as_questions,
    as_tensor,
    as_values,
    with_answers,
)
from codi_patching.measuring.engine_choice import build_engine
from codi_patching.measuring.hand_edges import without_edges
from codi_patching.measuring.hand_input import as_subjects, texts_of, value_of_each, with_own_ids
from codi_patching.measuring.hand_patches import HandPatched, HandRequest, HandStart
from codi_patching.measuring.kept_runs import KeptRuns, fingerprint
from codi_patching.measuring.own_cache import SpokenReadout, as_text, said_by
from codi_patching.metrics.functional import compute_kl_divergence
from codi_patching.metrics.table import METRICS
from codi_patching.models.answers import answer_tokens, build_readout
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import Activations, Patch, Site

PAIRS = [
    cp.Pair(f"p{n}", cp.Question(clean, a), cp.Question(corrupted, b))
    for n, (clean, a, corrupted, b) in enumerate(QUESTIONS[:3])
]
PAIR = PAIRS[0]
SITES = [cp.Site("resid_post", layer=1, position=0), cp.Site("thought", position=2)]
EACH = [
    cp.Site("resid_post", layer=1, position=0),
    cp.Site("attn_out", layer=1, position=1),
    cp.Site("mlp_out", layer=0, position=1),
    cp.Site("kv", layer=2, position=1),
    cp.Site("thought", position=1),
]


@pytest.fixture
def hand(model):
    return cp.Model(model)


@pytest.fixture
def exact(monkeypatch):
    """Norms in float64: transformers' own are in float32, whose rounding a difference would see."""

    def norm(self, hidden):
        size = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden * torch.rsqrt(size + self.variance_epsilon)

    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", norm)


def by_hooks(model, text, thought, value, most=20, function=None):
    """Greedy tokens with one thought overwritten, each from one pass over the whole sequence."""
    decoder, head = model.backbone.model, model.backbone.get_output_embeddings()

    def states(embeddings):
        return decoder(inputs_embeds=embeddings[None]).last_hidden_state[0]

    ids = torch.tensor(model.prompt_ids(text))
    sequence = model.embed(ids)
    for position in range(model.num_latents):
        made = model.next_thought(states(sequence)[-1])
        if position == thought:
            made = value if function is None else function(made)
        sequence = torch.cat([sequence, made[None]])
    prefix = model.tokenizer(model.settings.answer_prefix, add_special_tokens=False)["input_ids"]
    start = torch.tensor([*model.settings.eot_ids, *prefix])
    sequence, said = torch.cat([sequence, model.embed(start)]), []
    for _ in range(most):
        token = int(head(states(sequence)[-1]).argmax())
        if token == model.settings.eos_id:
            break
        said.append(token)
        sequence = torch.cat([sequence, model.embed(torch.tensor([token]))])
    return model.tokenizer.decode(said, skip_special_tokens=True).strip(), states(sequence)


# -- gradients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
@pytest.mark.parametrize("site", EACH, ids=lambda site: site.name)
def test_gradients_are_finite_differences(exact, hand, site, latents):
    run = hand.run(PAIR.corrupted)
    own = run.thoughts if site.name == "thought" else run.activations[site.name][site.layer]
    z = own[site.position].clone().requires_grad_()
    torch.manual_seed(1)
    direction = torch.randn_like(z)

    def measured(value):
        effect = hand.patch(PAIR, site, value=value, latents=latents, say=1)
        return effect.metrics["answer_logit_difference"], effect.logits["clean"][0, 18]

    with hand.gradients():
        found = measured(z)
    for place, (value, exact) in enumerate(zip(found, (measured, measured))):
        (gradient,) = torch.autograd.grad(value, z, retain_graph=True)
        step = 1e-5 * direction
        there, back = (exact((z + sign * step).detach())[place] for sign in (1, -1))
        assert float((gradient * direction).sum()) == pytest.approx(
            float(there - back) / 2e-5, rel=1e-6, abs=1e-8
        )
        assert gradient.abs().max() > 1e-9 or (site.layer, latents) == (2, "frozen")


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_both_engines_have_the_same_gradients(exact, latents):
    """Also of functions of what is there, one after the other along the thoughts."""
    gradients = []
    for engine in ("sweep", "reference"):
        hand = cp.Model(random_model(), engine)
        moves = torch.zeros(3, 32, dtype=torch.float64, requires_grad=True)
        sites = [cp.Site("thought", position=p) for p in range(3)]
        with hand.gradients():
            values = [lambda z, d=d: z + d for d in moves]
            effect = hand.patch(PAIR, sites, value=values, latents=latents)
        (gradient,) = torch.autograd.grad(effect.metrics["kl_to_source"], moves)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert (gradients[0].abs().amax(1) > 1e-9).all()


def test_a_value_and_its_detached_copy_are_two_values(hand):
    z = hand.run(PAIR.clean).thoughts[0].clone().requires_grad_()
    sites = [cp.Site("thought", position=p) for p in (1, 2)]
    with hand.gradients():
        both = hand.patch(PAIR, sites, value=[z, z.detach()], latents="frozen")
        first = hand.patch(PAIR, sites, value=[z, z.detach() + 0.0], latents="frozen")
    gradients = [torch.autograd.grad(e.metrics["kl_divergence"], z)[0] for e in (both, first)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_gradients_are_of_a_block_of_code_and_not_of_weights(model):
    model.requires_grad_(True)
    hand = cp.Model(model)
    z = hand.run(PAIR.clean).thoughts[0].clone().requires_grad_()
    site = cp.Site("thought", position=1)
    with hand.gradients():
        assert not any(p.requires_grad for p in model.parameters())
        effect = hand.patch(PAIR, site, value=z)
    effect.metrics["recovery"].backward()
    assert z.grad.abs().max() > 0
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    plain = hand.patch(PAIR, site, value=z)
    assert isinstance(plain.metrics["recovery"], float)
    assert not plain.logits["clean"].requires_grad
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        hand.gradients().__enter__()


def test_gradients_in_sixteen_bits(model):
    hand = cp.Model(model).to(torch.bfloat16)
    z = hand.run(PAIR.clean).thoughts[0].clone().requires_grad_()
    with hand.gradients():
        effect = hand.patch(PAIR, cp.Site("thought", position=1), value=z)
    (gradient,) = torch.autograd.grad(effect.metrics["kl_divergence"], z)
    exact = cp.Model(random_model())
    wide = z.detach().double().requires_grad_()
    with exact.gradients():
        effect = exact.patch(PAIR, cp.Site("thought", position=1), value=wide)
    (wanted,) = torch.autograd.grad(effect.metrics["kl_divergence"], wide)
    assert torch.cosine_similarity(gradient.double(), wanted, dim=0) > 0.95


# -- metrics of one's own -----------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_a_metric_of_ones_own_is_the_grids(hand, direction):
    grid = hand.grid(PAIR, direction=direction, metric=lambda run: run.metrics["recovery"])
    np.testing.assert_allclose(grid["metric"], grid["recovery"], rtol=1e-12)
    logit = hand.grid(PAIR, direction=direction, metric=lambda run: run.logits["clean"][0, 18])
    told = {"direction": direction, "metric": lambda run: len(run.answer)}
    said = hand.grid(PAIR, site="thought", **told)["metric"]
    for position in (0, 2):
        effect = hand.patch(PAIR, cp.Site("thought", position=position), **told)
        assert said.loc[("thought", position)] == effect.metrics["metric"] > 0
    for layer, position in ((0, 0), (1, 2), (2, 1)):
        site = cp.Site("resid_post", layer=layer, position=position)
        effect = hand.patch(PAIR, site, direction=direction, say=1)
        own = float(effect.logits["clean"][0, 18])
        assert logit.loc[(layer, position), "metric"] == pytest.approx(own, abs=1e-6)


def test_a_metric_of_ones_own_of_one_run(hand):
    effect = hand.patch(PAIR, SITES, metric=lambda run: run.logits["corrupted"].max())
    assert effect.metrics["metric"] == float(effect.logits["corrupted"].max())
    z = torch.zeros(32, dtype=torch.float64, requires_grad=True)
    with hand.gradients():
        effect = hand.patch(PAIR, SITES[1], value=z, metric=lambda run: run.logits["clean"][0, 18])
    assert torch.autograd.grad(effect.metrics["metric"], z)[0].abs().max() > 0


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (3, "expected metric to be a function of a patched run, got 3"),
        (lambda run: run.logits["clean"], "one number, got Tensor of shape"),
        (lambda run: "13", "expected a function that gives one number, got '13'"),
        (lambda run: None, "one number, got None"),
    ],
)
def test_metrics_that_are_none_are_refused(hand, metric, message):
    for call in (
        lambda: hand.patch(PAIR, SITES, metric=metric),
        lambda: hand.grid(PAIR, metric=metric),
    ):
        with pytest.raises(InputError, match=message):
            call()


# -- many ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"latents": "frozen", "direction": "noising"}])
def test_many_pairs_are_one_after_the_other(hand, options):
    many = hand.patch_many(PAIRS, SITES, metric=lambda run: run.logits["clean"].sum(), **options)
    assert list(many.pair.values) == ["p0", "p1", "p2"]
    for pair in PAIRS:
        one = hand.patch(pair, SITES, metric=lambda run: run.logits["clean"].sum(), **options)
        row = many.sel(pair=pair.pair_id)
        for name, value in one.metrics.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-6, abs=1e-6), name
        for run in ("base", "source"):
            for name, value in getattr(one, run).items():
                own = float(row[f"run_{name}"].sel(run=run))
                assert own == pytest.approx(value, abs=1e-6), (run, name)
        assert str(row.said.values) == one.answer


def test_a_mean_is_over_all_pairs_and_a_random_pair_is_another(hand):
    sources = [pair.clean for pair in PAIRS]
    mean = hand.patch_many(PAIRS, SITES, value="mean", say=1)
    other = hand.patch_many(PAIRS, SITES, value="random_pair", say=1)
    givers = []
    for pair in PAIRS:
        one = hand.patch(pair, SITES, value="mean", questions=sources, say=1)
        found = float(mean.kl_divergence.sel(pair=pair.pair_id))
        assert found == pytest.approx(one.metrics["kl_divergence"], abs=1e-6)
        each = {
            p.pair_id: hand.patch(pair, SITES, value=p.clean, say=1).metrics["kl_divergence"]
            for p in PAIRS
        }
        drawn = float(other.kl_divergence.sel(pair=pair.pair_id))
        givers += [name for name, value in each.items() if value == pytest.approx(drawn, abs=1e-6)]
        assert givers[-1] != pair.pair_id
    assert sorted(givers) == ["p0", "p1", "p2"]  # each gives once


def test_another_pair_has_other_answers_also_where_the_model_gives_them(hand, monkeypatch):
    """Of three pairs without answers two have the same ones: neither gives to the other."""
    said = {}
    for number, pair in enumerate(PAIRS):
        said |= {pair.clean.text: str(min(number, 1)), pair.corrupted.text: str(min(number, 1) + 9)}
    tokens = hand.codi.tokenizer
    monkeypatch.setattr(
        hand._calls,
        "said",
        lambda texts: [tokens(said[t], add_special_tokens=False)["input_ids"] for t in texts],
    )
    typed = [cp.Pair.of(pair.clean.text, pair.corrupted.text) for pair in PAIRS]
    many = hand.patch_many(typed, SITES, value="random_pair", say=1)
    assert len(many.pair) == 2
    (left,) = many.attrs["excluded"].values()
    assert left == "no other pair with other answers can be run"
    assert "typed" in many.pair


def test_pairs_that_cannot_be_run_are_named(hand):
    bad = cp.Pair("bad", cp.Question("  ", 3), cp.Question("Tom has 5.", 4))
    equal = cp.Pair("equal", cp.Question("Tom has 5.", 4), cp.Question("Tom has 7.", 4))
    many = hand.patch_many([PAIR, bad, PAIR, equal], SITES)
    assert list(many.pair.values) == ["p0", "p0_2"]
    assert float(np.ptp(many.kl_divergence.values)) == pytest.approx(0, abs=1e-6)
    assert many.attrs["excluded"]["bad"].startswith("expected a question with text")
    assert many.attrs["excluded"]["equal"].startswith("expected two different answers")
    with pytest.raises(InputError, match="can be run: expected a question with text"):
        hand.patch_many([bad], SITES)


def test_many_questions_are_steered_like_one(hand, model):
    texts = [pair.clean.text for pair in PAIRS]
    torch.manual_seed(2)
    vector, site = 3 * torch.randn(32, dtype=torch.float64), cp.Site("thought", position=1)
    many = hand.patch_many(texts, site, value=lambda z: z + vector, say=6)
    assert list(many.question.values) == texts
    for place, text in enumerate(texts):
        one = hand.patch(text, site, value=lambda z: z + vector, say=6)
        words, _ = by_hooks(model, text, 1, None, 6, lambda z: z + vector)
        assert one.answer == words == many.said.values[place]
        assert one.source == {}
        for name, value in one.metrics.items():
            assert float(many[name][place]) == pytest.approx(value, abs=1e-6)


def test_a_question_alone_is_read_at_what_the_model_says_or_at_its_answer(hand, model):
    site, text = cp.Site("thought", position=1), PAIR.clean.text
    value = torch.zeros(32, dtype=torch.float64)
    effect = hand.patch(text, site, value=value)
    said = hand._calls.said([text])[0]
    same = hand.patch(text, site, value="base")
    assert same.metrics["kl_divergence"] == pytest.approx(0, abs=1e-12)
    assert same.metrics["answer_probability"] == pytest.approx(effect.base["answer_probability"])
    assert effect.metrics["kl_divergence"] > 1e-6
    assert len(effect.logits["answer"]) == max(1, len(said))
    given = hand.patch(cp.Question(text, 13), site, value=value)
    pair = hand.patch(cp.Pair.of(CORRUPTED := PAIR.corrupted.text, text, 15, 13), site, value=value)
    _, ids = answer_tokens(model.tokenizer, model.settings.answer_prefix, "13")
    torch.testing.assert_close(given.logits["answer"], pair.logits["corrupted"])
    own = given.logits["answer"].softmax(-1)[range(len(ids)), ids].prod()
    assert given.metrics["answer_probability"] == pytest.approx(float(own))
    assert text != CORRUPTED


def test_thoughts_held_at_the_base_runs_are_frozen_ones(hand):
    site, later = cp.Site("resid_post", layer=0, position=0), [1, 2]
    sites = [site, *(cp.Site("thought", position=p) for p in later)]
    held = hand.patch(PAIR, sites, value=["source", "base", "base"])
    frozen = hand.patch(PAIR, site, latents="frozen")
    assert held.metrics == pytest.approx(frozen.metrics, abs=1e-6)
    assert held.metrics["kl_divergence"] > 1e-4


def test_lists_of_questions_run_as_one_by_one(hand):
    texts = [text for pair in PAIRS for text in (pair.clean.text, pair.corrupted.text)]
    together = hand.run(texts)
    for text, run in zip(texts, together, strict=True):
        alone = hand.run(text)
        assert (run.question, run.answer) == (text, alone.answer)
        assert repr(run) == f"QuestionRun({text!r}, answer={alone.answer!r})"
        for site, values in alone.activations.items():
            torch.testing.assert_close(run.activations[site], values, rtol=0, atol=1e-6)
    assert hand.run([]) == []


# -- what is said -------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["sweep", "reference"])
@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_a_patched_run_goes_on_as_whole_sequences_do(model, engine, latents):
    """Frozen and recomputed say the same where the last thought is the one that is patched."""
    hand, last = cp.Model(model, engine), model.num_latents - 1
    torch.manual_seed(3)
    for _ in range(2):
        value = 4 * torch.randn(32, dtype=torch.float64)
        effect = hand.patch(
            PAIR, cp.Site("thought", position=last), value=value, latents=latents, say=20
        )
        words, _ = by_hooks(model, PAIR.corrupted.text, last, value)
        assert effect.answer == words
        assert len(words) > 8


def test_a_frozen_run_goes_on_from_the_thoughts_of_the_unpatched_one(hand, model):
    hands = hand._calls.hand("recomputed", "denoising", ())
    start = hand._calls.starts(hands, [hands.of_pair(PAIR)])[0].runs[0]
    own = start.run.thoughts[0]
    first = Patch(Site("thought", position=0), -9 * own[0])
    held = [Patch(Site("thought", position=p), own[p]) for p in range(1, model.num_latents)]

    def said(row, latents):
        return said_by(model, [start], [row], latents, 12)

    assert said([first], "frozen") == said([first, *held], "recomputed")
    assert said([first], "frozen") != said([first], "recomputed")


def test_what_forced_answers_tell_is_what_is_generated(hand, model):
    """Each answer is forced to be said by reading the run at it: then nothing is generated."""
    text, site = PAIR.corrupted.text, cp.Site("thought", position=1)
    value = torch.ones(32, dtype=torch.float64)
    words, _ = by_hooks(model, text, 1, value, 1)
    number = words.split()[0] if words and words.split()[0].isdigit() else None
    pair = cp.Pair.of(PAIR.clean.text, text, 13, float(number or 15))
    asked = hand.patch(pair, site, value=value, say=1).answer
    start = hand._calls.starts(
        hand._calls.hand("recomputed", "denoising", ()),
        [hand._calls.hand("recomputed", "denoising", ()).of_pair(pair)],
    )[0]
    generated = said_by(model, [start.runs[0]], [[Patch(site, value)]], "recomputed", 1)
    assert model.tokenizer.decode(generated[0]).strip() == asked == words


def test_where_forced_answers_tell_what_is_said_nothing_is_run_for_it(hand, monkeypatch):
    """Read at what the model says, an unpatched run tells all of it."""
    text = PAIR.clean.text
    words = hand.run(text).answer
    monkeypatch.setattr("codi_patching.measuring.hand_patches.said_by", None)
    effect = hand.patch(text, cp.Site("thought", position=1), value="base")
    assert effect.answer == words != ""
    with pytest.raises(TypeError):
        hand.patch(text, cp.Site("thought", position=1), value="base", say=20)


@pytest.mark.parametrize("family", CLASSES)
def test_every_family_goes_on_from_the_keys_and_values_of_its_prompts(family, monkeypatch):
    model = family_model(family, 2, 3)
    monkeypatch.setattr(model, "settings", replace(model.settings, answer_prefix="", eos_id=39))
    site, value = cp.Site("thought", position=1), torch.randn(32, dtype=torch.float64)
    prompts = [[0, 11, 12, 13, 1], [0, 14, 15, 1], [0, 21, 22, 23, 24, 25, 26, 1]]
    engine = build_engine(model, "sweep", None)
    starts = engine.unpatched([(ids, Readout((2,), ((7,),))) for ids in prompts])
    found = said_by(model, starts, [[Patch(site, value)]] * 3, "recomputed", 5)
    decoder = model.backbone.base_model
    for ids, said in zip(prompts, found, strict=True):
        sequence = model.embed(torch.tensor(ids))
        for position in range(3):
            made = model.next_thought(decoder(inputs_embeds=sequence[None])[0][0, -1])
            sequence = torch.cat([sequence, (value if position == 1 else made)[None]])
        tokens = [2]
        for _ in range(5):
            sequence = torch.cat([sequence, model.embed(torch.tensor(tokens[-1:]))])
            state = decoder(inputs_embeds=sequence[None])[0][0, -1]
            tokens.append(int(model.logits(state[None])[0].argmax()))
            if tokens[-1] == 39:
                break
        assert said == [token for token in tokens[1:] if token != 39]


def test_runs_of_prompts_of_many_lengths_go_on_side_by_side(hand, model, monkeypatch):
    hands = hand._calls.hand("recomputed", "denoising", ())
    starts = hand._calls.starts(hands, [hands.of_pair(pair) for pair in PAIRS])
    base = [start.runs[0] for start in starts]
    together = said_by(model, base, [[]] * 3, "recomputed", 12)
    with monkeypatch.context() as fewer:
        fewer.setattr(own_cache, "_ROWS", 2)
        assert said_by(model, base, [[]] * 3, "recomputed", 12) == together
    assert together == [said_by(model, [one], [[]], "recomputed", 12)[0] for one in base]
    words = [by_hooks(model, pair.corrupted.text, None, None, 12)[0] for pair in PAIRS]
    assert [model.tokenizer.decode(tokens).strip() for tokens in together] == words


def test_nothing_is_said_beyond_the_context(model):
    length = len(model.prompt_ids(PAIR.corrupted.text)) + model.num_latents
    length += len(model.settings.eot_ids) + 4 + 2  # the prefix; two tokens more
    model.backbone.config.max_position_embeddings = length
    hand = cp.Model(model)
    effect = hand.patch(PAIR, cp.Site("thought", position=1), value="base", say=20)
    assert effect.answer == by_hooks(model, PAIR.corrupted.text, None, None, 3)[0]


def test_where_the_context_ends_each_run_says_as_much_as_it_could_alone(hand, model):
    """Prompts of 11 and 12 tokens; beside the longer one the shorter is no shorter of words."""
    hands = hand._calls.hand("recomputed", "denoising", ())
    starts = [s.runs[0] for s in hands.start([hands.of_pair(pair) for pair in PAIRS[:2]])]
    begun = 12 + model.num_latents + len(model.settings.eot_ids) + 4
    whole = said_by(model, starts, [[], []], "recomputed", 12)
    assert [len(tokens) for tokens in whole] == [12, 12]
    for more, lengths in ((2, [4, 3]), (0, [2, 1]), (-1, [1, 0]), (-2, [0, 0])):
        model.backbone.config.max_position_embeddings = begun + more
        for most in (12, lengths[0]):  # no more than the shorter one has room for
            said = said_by(model, starts, [[], []], "recomputed", most)
            assert [len(tokens) for tokens in said] == lengths
            assert said == [tokens[:n] for tokens, n in zip(whole, lengths, strict=True)]


EOS, OTHER = 9, 7


def spoken(answers, skip=0, from_prefix=True):
    readout = Readout((1,), tuple((*answer, EOS) for answer in answers))
    return SpokenReadout(readout, tuple(answers), skip, from_prefix)


def says(*tokens):
    """Logits of one run that says a token after each beginning of an answer."""
    return torch.nn.functional.one_hot(torch.tensor([tokens]), 10).float()


@pytest.mark.parametrize(
    ("said", "most", "expected"),
    [
        ((says(3, 4, EOS), says(3, EOS)), 5, [3, 4]),  # the first answer, and its end
        ((says(5, 1, 1), says(5, EOS)), 5, [5]),  # the second one
        ((says(3, OTHER, 1), says(3, 1)), 5, None),  # what comes after 7 is not known
        ((says(3, OTHER, 1), says(3, 1)), 2, [3, OTHER]),
        ((says(OTHER, 1, 1), says(OTHER, 1)), 1, [OTHER]),
        ((says(EOS, 1, 1), says(EOS, 1)), 5, []),
    ],
)
def test_forced_answers_tell_what_is_said_as_long_as_it_is_theirs(said, most, expected):
    assert spoken(((3, 4), (5,))).forced(said, EOS, most) == expected


def test_what_is_said_is_without_tokens_that_say_nothing():
    model = random_model()
    word = model.tokenizer("7", add_special_tokens=False)["input_ids"]
    assert as_text(model, [*model.settings.bot_ids, *word, model.settings.eos_id]) == "7"


def test_forced_answers_after_another_prefix_tell_nothing():
    given = says(3, 4, EOS), says(3, EOS)
    assert spoken(((3, 4), (5,)), from_prefix=False).forced(given, EOS, 5) is None


def test_metrics_read_an_answer_without_what_stands_before_it_and_its_end():
    logits = torch.arange(5.0).view(1, 5, 1)
    first, second = spoken(((3, 4), (5,)), skip=2).for_metrics((logits, logits[:, :4]))
    assert (first.flatten().tolist(), second.flatten().tolist()) == ([2, 3], [2])


def test_a_readout_that_tells_what_is_said_begins_at_the_models_own_prefix(model):
    """What both answers begin with is forced with them, and eos where it fits."""
    settings = model.settings
    prefix = build_readout(model.tokenizer, settings.eot_ids, settings.answer_prefix, (6, 2)).prefix
    readout = Readout((*prefix, 30), ((31,), (32, 33)))
    eos = model.settings.eos_id
    found = SpokenReadout.of(model, readout, True)
    assert found.readout == Readout(prefix, ((30, 31, eos), (30, 32, 33, eos)))
    assert (found.answers, found.skip, found.from_prefix) == (readout.answers, 1, True)
    assert SpokenReadout.of(model, readout, False).readout.answers == ((30, 31), (30, 32, 33))
    other = Readout((5, 6) * len(prefix), ((31,), (32,)))
    found = SpokenReadout.of(model, other, True)
    assert found.readout == Readout(other.prefix, ((31, eos), (32, eos)))
    assert (found.skip, found.from_prefix) == (0, False)


def read_as(base, source):
    """A run of one row, read before a token of either answer and before eos; of few words."""
    logits = tuple(torch.tensor([[row, [0.0] * 8]]) for row in (base, source))
    return SimpleNamespace(run=SimpleNamespace(answer_logits=logits))


def test_what_a_patched_run_is_compared_with_by_hand():
    """Of a pair the base run and the source run, each read at both answers; here 1 and 2."""
    request = HandRequest(((5,), (6,)), spoken(((1,), (2,))), ("corrupted", "clean"))
    rows = [torch.eye(8)[place].tolist() for place in range(6)]
    start = HandStart(request, [read_as(rows[0], rows[1]), read_as(rows[2], rows[3])])
    found = start.inputs
    assert (found.base_run.base[0].argmax(), found.base_run.source[0].argmax()) == (0, 1)
    assert (found.source_run.base[0].argmax(), found.source_run.source[0].argmax()) == (2, 3)
    assert (found.base_ids.tolist(), found.source_ids.tolist()) == ([1], [2])
    assert found.clean_is_source
    noising = replace(request, names=("clean", "corrupted"))
    assert not HandStart(noising, start.runs).inputs.clean_is_source
    patched = HandPatched(start, [], "frozen", read_as(rows[4], rows[5]).run.answer_logits)
    assert {name: int(own[0].argmax()) for name, own in patched.logits.items()} == {
        "corrupted": 4, "clean": 5,
    }  # fmt: skip
    measured = patched.measured()
    assert set(measured) == set(METRICS)
    # before the clean answer its token's logit; minus the same of the corrupted one
    assert measured["answer_logit_difference"].tolist() == [0, 0, 0]
    assert measured["prediction_change_rate"].tolist() == [1, 0, 1]
    assert measured["predicts_corrupted"].tolist() == [0, 0, 0]


def test_of_a_question_alone_there_are_other_metrics():
    request = HandRequest(((5,),), spoken(((1,),)), ("answer",))
    row = torch.eye(8)[1] * math.log(3)
    run = SimpleNamespace(run=SimpleNamespace(answer_logits=(row.view(1, 1, 8),)))
    patched = HandPatched(HandStart(request, [run]), [], "frozen", (torch.zeros(1, 1, 8),))
    measured = patched.measured()
    assert set(measured) == {
        "kl_divergence", "l2_difference", "prediction_change_rate", "answer_probability",
    }  # fmt: skip
    assert measured["answer_probability"].tolist() == pytest.approx([1 / 8, 3 / 10])
    assert measured["l2_difference"].tolist() == pytest.approx([math.log(3), 0])
    assert patched.logits.keys() == {"answer"}


@pytest.mark.parametrize("limit", [None, 20])
def test_eos_is_read_after_an_answer_where_it_fits(hand, model, limit):
    """Prompt, three thoughts, a prefix of five and an answer of one token, and eos."""
    hands = replace(
        hand._calls.hand("recomputed", "denoising", ()),
        prompts=replace(hand._calls.hand("recomputed", "denoising", ()).prompts, limit=limit),
    )
    readout = build_readout(model.tokenizer, model.settings.eot_ids, "The answer is:", (6, 2))
    most = limit or model.context_length
    longest = most - 3 - len(readout.prefix) - 1
    lengths = [
        len(hands._spoken(readout, prompt).readout.answers[0]) for prompt in (longest, longest + 1)
    ]
    assert lengths == [2, 1]


def test_a_question_to_which_nothing_is_said_is_read_at_eos(hand, model):
    hands = hand._calls.hand("recomputed", "denoising", ())
    request = hands.of_question(cp.Question("Tom has 5."), ())
    assert request.spoken.answers == ((model.settings.eos_id,),)
    assert hands.of_question(cp.Question("Tom has 5."), (20, 21)).spoken.answers == ((20, 21),)


# -- what is given, made plain --------------------------------------------------------------------


def test_pairs_of_one_name_are_counted():
    asked = cp.Question("a", 1), cp.Question("b", 2)
    given = [cp.Pair(name, *asked, group=group) for name, group in
             (("x", ""), ("x", ""), ("y", "g"), ("x", ""), ("y", "g"))]  # fmt: skip
    found = with_own_ids(given)
    assert [pair.pair_id for pair in found] == ["x", "x_2", "y", "x_3", "y_2"]
    assert [pair.group for pair in found] == ["x", "x_2", "g", "x_3", "g"]


def test_one_value_is_every_sites_and_a_list_is_of_each():
    assert value_of_each("zero", SITES) == ["zero", "zero"]
    assert value_of_each(["zero", "mean"], SITES) == ["zero", "mean"]
    (first, second) = value_of_each([1.0, 2.0, 3.0], SITES)  # numbers are one value
    assert first is second
    assert first.tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="a value for each of 2 sites, got 3"):
        value_of_each(["zero", "mean", "base"], SITES)


def test_what_is_patched_is_pairs_or_questions():
    assert as_subjects(iter(PAIRS)) == PAIRS
    assert as_subjects(["Tom.", cp.Question("He.")]) == [cp.Question("Tom."), cp.Question("He.")]
    assert texts_of(PAIR) == [PAIR.clean.text, PAIR.corrupted.text]
    assert texts_of(PAIR.clean) == [PAIR.clean.text]
    assert as_questions("Tom.") == as_questions(["Tom."]) == [cp.Question("Tom.")]
    assert as_questions(cp.Question("Tom.")) == [cp.Question("Tom.")]
    assert as_questions(("Tom.", "He.")) == [cp.Question("Tom."), cp.Question("He.")]


def test_edges_are_told_from_sites():
    edge, other = cp.Edge("readout", "numbers"), cp.Edge("readout", "question")
    assert without_edges(edge) == ([], [edge])
    assert without_edges([edge, SITES[0], other]) == ([SITES[0]], [edge, other])
    assert without_edges(SITES[0]) == (SITES[0], [])
    assert without_edges("kv") == ("kv", [])
    assert without_edges(iter(SITES)) == (SITES, [])


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ([1, 2.5], [1, 2.5]),
        ((3,), [3]),
        (np.array([1, 2]), [1, 2]),
        (np.array([1, 2], dtype=np.uint8), [1, 2]),
        (np.float32(4), 4),
    ],
)
def test_numbers_are_tensors(given, numbers):
    assert as_tensor(given).tolist() == numbers


def test_what_is_no_number_is_left_as_it_is():
    for given in ([], [True, 1.0], ["a"], "a", None, [1, "a"]):
        assert as_tensor(given) is given
    for wrong in (np.array([True]), np.array(["a"]), np.array([1j])):
        with pytest.raises(InputError, match="an array of real numbers, got one of"):
            as_tensor(wrong)


def test_only_answers_that_are_missing_are_asked_for():
    asked = []

    def said(texts):
        asked.append(list(texts))
        return [{"a": "so 7 pears", "b": "9"}[text] for text in texts]

    nan = math.nan
    for answers, missing, found in (
        ((nan, nan), [["a", "b"]], (7, 9)),
        ((3, nan), [["b"]], (3, 9)),
        ((nan, 4), [["a"]], (7, 4)),
        ((3, 4), [], (3, 4)),
    ):
        asked.clear()
        pair = with_answers(cp.Pair.of("a", "b", *answers), said)
        assert asked == missing
        assert (pair.clean.answer, pair.corrupted.answer) == found
    with pytest.raises(InputError, match="two different answers, got 9 for both"):
        with_answers(cp.Pair.of("a", "b", 9), said)
    with pytest.raises(InputError, match="a number as the answer to 'a', got 'none'"):
        with_answers(cp.Pair.of("a", "b"), lambda texts: ["none", "1"])


def numbered(number, tokens=()):
    """Activations of one layer and two thoughts, all of one number; those of places are others."""
    places = {name: {"kv": torch.tensor([[[float(t)] for t in own]])} for name, own in tokens}
    kv = {"kv": torch.full((1, 2, 1), float(number))}
    thoughts, resid = torch.full((2, 1), float(number)), torch.full((1, 2, 1), float(number))
    return Activations(thoughts, resid, kv, places)


def named_values(own, runs, questions=(), places=()):
    """Names of activations, of which each run of a question is written down."""
    asked = []

    def run(questions):
        for question in questions:
            asked.append(question.text)
            yield runs[question.text]

    given = [cp.Question(text) for text in questions]
    return NamedValues(run, own, given, places=dict(places)), asked


def test_a_question_is_run_once_and_a_mean_over_all_of_them():
    own = {"base": numbered(1), "source": numbered(2)}
    named, asked = named_values(own, {"a": numbered(3), "b": numbered(7)}, ["a", "b"])
    assert named.of("source") is own["source"]
    assert named.of("base") is own["base"]
    assert named.of("zero").resid.abs().max() == 0
    assert asked == []
    for _ in range(2):
        assert named.of("mean").resid.unique().tolist() == [5]
        assert named.of("random_pair").resid.unique().tolist() == [3]
        assert named.of(cp.Question("b")).thoughts.unique().tolist() == [7]
    assert asked == ["a", "b", "a", "b"]  # each once for the mean, and once alone
    with pytest.raises(InputError, match="a pair to take 'clean' activations from"):
        named.of("clean")


def test_without_questions_there_is_no_mean_and_no_other_one():
    named, _ = named_values({"base": numbered(1)}, {})
    with pytest.raises(InputError, match="expected questions to take the mean over: set"):
        named.of("mean")
    with pytest.raises(InputError, match="expected another question: set"):
        named.of("random_pair")
    with pytest.raises(InputError, match="expected a name"):
        named.of(3)


def test_a_mean_at_a_place_is_over_runs_that_have_it():
    """Of their tokens it is the mean, which each token of the patched run gets."""
    runs = {
        "a": numbered(0, [("number", (1, 3))]),
        "b": numbered(0, [("number", (6,))]),
        "c": numbered(9),
    }
    own = {"base": numbered(0, [("number", (0, 0, 0))])}
    named, _ = named_values(own, runs, "abc", [("number", (-4, -3, -2))])
    mean = named.of("mean")
    assert mean.places["number"]["kv"].flatten().tolist() == [4, 4, 4]
    assert mean.resid.unique().tolist() == [0]
    site = cp.Site("kv", layer=0, position="number")
    assert named.of("zero").of(site).flatten().tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(32,), (1, 32), (1, 1, 32)])
def test_numbers_of_the_sites_size_are_values_however_often_they_are_wrapped(model, shape):
    site = cp.Site("resid_post", layer=1, position=0)
    base = Activations(torch.zeros(3, 32), torch.zeros(3, 3, 32))
    named, _ = named_values({"base": base}, {})
    value = torch.arange(32.0).double()
    found = as_values(model, site, value.view(shape), named)
    assert torch.equal(found, value.float())  # in the run's own precision
    for wrong in (torch.zeros(31), torch.zeros(2, 32), torch.zeros(32, 1)):
        with pytest.raises(InputError, match=r"expected numbers of \(32,\) for Site"):
            as_values(model, site, wrong, named)


# -- runs that are kept -------------------------------------------------------------------------


def test_a_kept_run_is_thrown_away_with_whatever_changes(hand, model, monkeypatch):
    made = []
    run = type(hand.engine).unpatched
    monkeypatch.setattr(
        type(hand.engine), "unpatched", lambda *a, **k: (made.append(1), run(*a, **k))[1]
    )

    def runs(count):
        effect = hand.patch(PAIR, SITES, say=1)
        fresh = cp.Model(model).patch(PAIR, SITES, say=1)
        made.pop()  # the fresh one's
        assert effect.metrics == fresh.metrics
        assert len(made) == count

    runs(1)
    runs(1)
    weight = model.blocks[0].mlp.down_proj.weight
    weight.data[3, 4] += 1e-3  # which no version counter sees
    runs(2)
    weight.data[:] = weight.data.flip(0)  # nor a plain sum
    runs(3)
    model.blocks[1].input_layernorm.variance_epsilon = 1e-2
    runs(4)
    model.settings = replace(model.settings, answer_prefix="The answer")
    runs(5)
    runs(5)


def test_the_last_few_are_kept_and_the_one_unused_for_longest_goes_first(model):
    engine, made = build_engine(model, "sweep", 4), []
    kept = KeptRuns(model, engine, most=2)

    def asked(key):
        return kept.of(key, lambda: (made.append(key), key)[1])

    assert [asked(key) for key in "abab"] == list("abab")
    assert made == ["a", "b"]
    asked("a")
    asked("c")  # b goes
    asked("a")
    assert made == ["a", "b", "c"]
    asked("b")
    assert made == ["a", "b", "c", "b"]
    with torch.inference_mode():
        asked("b")
    assert made[4:] == ["b"]  # such tensors cannot be used outside of it: nothing is kept
    asked("a")
    assert made[5:] == ["a"]
    handle = model.blocks[0].register_forward_hook(lambda *_: None)
    asked("a")
    handle.remove()
    asked("a")
    assert made[6:] == ["a", "a"]
    assert KeptRuns(model, engine).most == 8
    reference = KeptRuns(model, build_engine(model, "reference", 4))
    numbers = iter(range(2))
    assert [reference.of("k", lambda: next(numbers)) for _ in range(2)] == [0, 1]


def test_every_bit_of_a_model_counts(model):
    before = fingerprint(model)
    assert fingerprint(model) == before
    for parameter in [*list(model.parameters())[:4], next(model.buffers())]:
        value = parameter.data.flatten()[0].clone()
        parameter.data.flatten()[0] = torch.nextafter(value, value + 1)
        assert fingerprint(model) != before
        parameter.data.flatten()[0] = value
    assert fingerprint(model) == before
    assert fingerprint(model.float()) != before


# -- tables, pictures, files, devices -----------------------------------------------------------


def test_the_lens_has_probabilities(hand, model):
    table = hand.run(PAIR.clean).lens_table(k=3)
    state = hand.run(PAIR.clean).activations["resid_post"][1, 2]
    best = model.logits(model.backbone.model.norm(state)).softmax(-1).topk(3)
    np.testing.assert_allclose(table.loc[(1, 2), "probability"], best.values, rtol=1e-9)
    words = [model.tokenizer.decode([token]).strip() for token in best.indices.tolist()]
    assert table.loc[(1, 2), "token"].tolist() == words
    assert hand.run(PAIR.clean).lens(3).loc[1, 2] == " ".join(words)


def pictures(html):
    return [ET.fromstring(part + "</svg>") for part in _svgs(html)]


def _svgs(html):
    return ["<svg" + part.split("</svg>")[0] for part in html.split("<svg")[1:]]


def test_everything_draws_itself_and_escapes_what_was_written(hand):
    from codi_patching.hand_runs import QuestionRun

    text = "<script>alert(1)</script> & 'Tom'"
    run = hand.run(PAIR.clean)
    shown = QuestionRun(text, text, run.thoughts, run.activations, run.codi)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    (lens,) = pictures(shown)
    assert len(lens.findall("{*}rect")) == 9
    effect = hand.patch(PAIR, SITES)
    shown = replace(effect, say=lambda: text)._repr_html_()
    assert "<script>" not in shown
    (bars,) = pictures(shown)
    assert len(bars.findall("{*}rect")) == 12  # two answers of three runs, and what is behind
    names = [name for name in effect.numbers if name.endswith("_probability")]
    ends = {"base": dict.fromkeys(names, 0.25), "source": dict.fromkeys(names, 0.5)}
    (bars,) = pictures(replace(effect, say=lambda: text, **ends)._repr_html_())
    texts = [node.text for node in bars.iter() if node.text]
    widths = [float(rect.get("width")) for rect in bars.findall("{*}rect")]
    for answer, name in enumerate(names):
        at = texts.index(name)
        assert texts[at + 1 : at + 4 : 2] == ["base", "patched"]
        assert [texts[at + 2], texts[at + 6]] == ["0.25", "0.50"]
        own = widths[6 * answer : 6 * answer + 6]
        assert own[1] / own[0] == pytest.approx(0.25)
        assert own[3] / own[2] == pytest.approx(effect.numbers[name], abs=1e-3)
        assert own[5] / own[4] == pytest.approx(0.5)
    grid = hand.grid(PAIR)
    maps = pictures(grid._repr_html_())
    assert [len(m.findall("{*}rect")) for m in maps] == [9, 9, 9]
    assert any(node.text == "–" for node in maps[0].iter())  # (2, 2): nothing reads it
    assert type(grid[grid["recovery"] > 0]).__name__ == "DataFrame"
    assert pictures(hand.patch("Tom has 5.", SITES[1], value="zero")._repr_html_())


def test_pairs_of_a_file_and_those_that_are_shipped(pairs_file, tmp_path):
    assert [pair.pair_id for pair in cp.read_pairs(pairs_file)] == ["p0", "p1", "p2"]
    shipped = cp.read_pairs()
    assert len(shipped) == 57
    assert all(isinstance(pair, cp.Pair) for pair in shipped)
    same = {"question": "Tom has 5.", "answer": 5}
    (tmp_path / "same.json").write_text(
        json.dumps([{"pair_id": "a", "clean": same, "corrupted": same}])
    )
    with pytest.raises(InputError, match="but all 1 have equal answers"):
        cp.read_pairs(tmp_path / "same.json")
    with pytest.raises(InputError, match="cannot be read"):
        cp.read_pairs(tmp_path / "none.json")


def test_a_model_moves(hand):
    before = hand.patch(PAIR, SITES)
    assert hand.to(torch.float32) is hand
    after = hand.patch(PAIR, SITES)
    assert after.logits["clean"].dtype == torch.float32
    assert after.metrics["kl_divergence"] == pytest.approx(
        before.metrics["kl_divergence"], rel=1e-3, abs=1e-5
    )
    assert hand.to("cpu").to(torch.device("cpu")).codi.device.type == "cpu"
    for place in ("gpu", torch.int32, "cuda:99", "meta"):
        with pytest.raises(InputError, match="expected a device of this machine or a floating"):
            hand.to(place)
    with pytest.raises(InputError, match="expected a device or a dtype, got 3"):
        hand.to(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.patch_many("Tom has 5.", SITES), "a list of pairs or of questions, got 'Tom"),
        (lambda m: m.patch_many(PAIR, SITES), "expected a list of pairs or of questions"),
        (lambda m: m.patch_many([], SITES), "expected pairs or questions, got none"),
        (lambda m: m.patch_many([PAIR, "Tom has 5."], SITES), "pairs or questions, got both"),
        (lambda m: m.patch_many([PAIR], SITES, seed=-1), "expected seed"),
        (lambda m: m.patch_many(["Tom has 5."], SITES), "a pair to take 'source' activations from"),
        (lambda m: m.patch_many(["Tom."], SITES, value="random_pair"), "another question"),
        (lambda m: m.patch("Tom has 5.", SITES), "expected a pair to take 'source' activations"),
        (lambda m: m.patch("Tom has 5.", SITES, value="sorce"), "did you mean 'source'"),
        (lambda m: m.patch(5, SITES), "expected a pair, got 5"),
        (lambda m: m.patch(PAIR, SITES, say=0), "expected say of at least 1, got 0"),
        (lambda m: m.patch(PAIR, SITES, say="20"), "expected say to be a whole number"),
        (lambda m: m.patch(PAIR, SITES, say=True), "expected say to be a whole number"),
        (lambda m: m.run(["Tom has 5.", 5]), "expected a question as text, got 5"),
        (lambda m: m.run(5), "expected a question as text, got 5"),
        (lambda m: m.run(["Tom has 5.", " "]), "expected a question with text"),
        (lambda m: m.run("Tom has 5.").lens_table(0), "expected k of at least 1"),
        (lambda m: m.run("Tom has 5.").lens_table(10**6), "expected k of at most"),
    ],
)
def test_errors_are_one_clear_line(hand, call, message):
    with pytest.raises(InputError, match=message) as raised:
        call(hand)
    assert "\n" not in str(raised.value)
    assert "--" not in str(raised.value)


def test_a_metric_by_hand_is_the_tables(hand):
    effect = hand.patch(PAIR, SITES)
    base = hand.patch(PAIR, SITES, value="base")
    kl = compute_kl_divergence(effect.logits["corrupted"], base.logits["corrupted"])
    assert effect.metrics["kl_divergence"] == pytest.approx(float(kl), abs=1e-6)
