"""Places outside the thoughts, by both engines and by brute force."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_families import CLASSES, VOCABULARY, family_model
from site_twin import run_site_twin

from codi_patching.patching.engine import PatchRequest, Readout
from codi_patching.patching.interventions import (
    EXTRA_SITES,
    Activations,
    Computed,
    Patch,
    PlaceError,
    Site,
    on_tokens,
)
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine

K = 2
PROMPTS = [[5, 6, 7, 9, 8], [5, 11, 12, 9, 8]]
READOUT = Readout((2, 4, 9), ((5,), (6, 7)))
PLACES = {"number": (-4, -3), "question end": (-2,), "bot": (-1,), "eot": (2,), "readout 2": (4,)}
HEADS = tuple(("head", head) for head in (0, 3))
SITES = ("resid_post", "attn_out", "mlp_out", "kv", *HEADS)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def twist(present):
    """A function of what is there."""
    return present.roll(1) * 1.5 - 0.25


def site_at(site, layer, position):
    """A site; of heads the name comes with a number."""
    name, head = site if isinstance(site, tuple) else (site, None)
    return Site.at(layer, position, name, head)


def engines(model):
    return ReferenceEngine(model), SweepEngine(model, 100)


def starts(engine, record=EXTRA_SITES, prompts=PROMPTS):
    requests = [(prompt, READOUT) for prompt in prompts]
    return engine.unpatched(requests, record, [PLACES] * len(prompts))


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_what_is_recorded_at_places_equals_brute_force(family):
    model = family_model(family, 3, K)
    for engine in engines(model):
        for prompt, start in zip(PROMPTS, starts(engine)):
            own = start.run.activations()
            _, _, logits, whole = run_site_twin(model, prompt, [], READOUT, everything=True)
            for name, tokens in PLACES.items():
                for site, values in whole.items():
                    close(own.places[name][site], values[:, [len(prompt) + t for t in tokens]])
            for ours, theirs in zip(start.run.answer_logits, logits, strict=True):
                close(ours[0], theirs)


def test_readouts_of_unlike_lengths_are_recorded_as_each_alone():
    engine = ReferenceEngine(family_model("llama", 3, K))
    prefixes = [(2, 4, 9), (2,)]
    both = engine.everywhere(engine.read(PROMPTS), [[], []], prefixes=prefixes)
    for row, (prompt, prefix) in enumerate(zip(PROMPTS, prefixes)):
        alone = engine.everywhere(engine.read([prompt]), [[]], prefixes=[prefix])
        for site in (Site.at(2, -1), *(Site.at(1, K + token) for token in range(len(prefix)))):
            close(both.of(row, site), alone.of(0, site))


@pytest.mark.parametrize(
    "latents", [pytest.param("frozen", marks=pytest.mark.thorough), "recomputed"]
)
@pytest.mark.parametrize(
    "family", ["gpt2", "llama", pytest.param("qwen3", marks=pytest.mark.thorough)]
)
def test_every_place_equals_brute_force(family, latents):
    model = family_model(family, 2, K)
    base = run_site_twin(model, PROMPTS[0], [], READOUT)[0]
    _, _, _, source = run_site_twin(model, PROMPTS[1], [], READOUT, everything=True)
    source |= {site: source["head"][:, :, site[1]] for site in HEADS}
    length = len(PROMPTS[1])
    rows = [
        [(s, la, t, source[s][la, length + t]) for t in tokens]
        for place, tokens in enumerate(PLACES.values())
        for number, s in enumerate(SITES)
        for la in [(place + number) % 2]
    ]
    rows += [
        [(site, layer, tokens[0], twist)]
        for tokens, site in zip(PLACES.values(), ("kv", "resid_post", HEADS[1], "mlp_out", "kv"))
        for layer in range(2)
    ]
    rows.append([("resid_post", 0, 1, twist)])  # a thought's, beside those at places
    rows.append(
        [
            ("resid_post", 0, -4, source["resid_post"][0, 1]),
            ("kv", 1, -2, twist),
            ("mlp_out", 0, -1, twist),
            ("thought", -1, 0, twist),
            ("resid_post", 1, 1, source["resid_post"][1, 6]),
            ("attn_out", 1, 2, source["attn_out"][1, 7]),
            (HEADS[0], 1, 4, twist),
        ]
    )
    expected = [run_site_twin(model, PROMPTS[0], row, READOUT, latents, base)[2] for row in rows]
    patches = [
        [Patch(site_at(s, la, p), Computed(v) if callable(v) else v) for s, la, p, v in row]
        for row in rows
    ]
    for engine in engines(model):
        patched = engine.patched(starts(engine)[0], patches, latents)
        for answer, logits in enumerate(patched.answer_logits):
            close(logits, torch.stack([logits[answer] for logits in expected]))


TOKENS = st.integers(0, VOCABULARY - 1)


@st.composite
def cases(draw):
    """A model, prompts with places of their own, and rows of patches at any token."""
    layers, latents = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    model = family_model(draw(st.sampled_from(sorted(CLASSES))), layers, latents)
    common = draw(st.lists(TOKENS, max_size=4))
    prompts = [common + draw(st.lists(TOKENS, min_size=1, max_size=5)) for _ in range(2)]
    prefix = tuple(draw(st.lists(TOKENS, min_size=1, max_size=3)))
    answers = st.lists(TOKENS, min_size=1, max_size=3).map(tuple)
    readout = Readout(prefix, (draw(answers), draw(answers)))
    requests = []
    for prompt in prompts:
        prompt_tokens = st.integers(-len(prompt), -1)
        some = draw(st.lists(prompt_tokens, unique=True, max_size=3))
        places = {f"p{token}": (token,) for token in some}
        places |= {f"r{i}": (latents + i,) for i in range(len(prefix))}
        tokens = [*some, *range(latents + len(prefix))]
        cells = [(site, la, t) for site in SITES for la in range(layers) for t in tokens]
        rows = draw(
            st.lists(
                st.lists(st.sampled_from(cells), unique=True, max_size=5), min_size=1, max_size=6
            )
        )
        computed = draw(st.booleans())
        watch = draw(st.lists(st.integers(0, latents - 1), unique=True, max_size=1))
        requests.append((prompt, readout, places, rows, computed, [(layers - 1, w) for w in watch]))
    return model, requests


def patched_all(engine, requests, latents):
    """Each request's rows on its own prompt, all requests together."""
    noise = torch.Generator().manual_seed(0)
    begun = engine.unpatched(
        [(prompt, readout) for prompt, readout, *_ in requests],
        EXTRA_SITES,
        [places for _, _, places, *_ in requests],
    )
    asked = []
    for start, (*_, rows, computed, watch) in zip(begun, requests):
        own = start.run.activations()
        patches = []
        for row in rows:
            patches.append([])
            for site, layer, token in row:
                like = own.of(site_at(site, layer, 0))
                drawn = torch.randn(like.shape, generator=noise, dtype=torch.float64)
                value = Computed(twist) if computed and token % 2 else drawn
                patches[-1].append(Patch(site_at(site, layer, token), value))
        asked.append(PatchRequest(start, patches, [watch] * len(patches)))
    return begun, list(engine.patched_each(asked, latents))


@settings(max_examples=15, deadline=None)
@given(cases(), st.sampled_from(["frozen", "recomputed"]), st.sampled_from([1, 4, 100]))
def test_the_sweep_equals_the_reference_at_any_token(case, latents, max_rows):
    model, requests = case
    theirs = patched_all(ReferenceEngine(model), requests, latents)
    ours = patched_all(SweepEngine(model, max_rows), requests, latents)
    for a, b in zip(ours[0], theirs[0], strict=True):
        for name, sites in b.run.places.items():
            for site, values in sites.items():
                close(a.run.places[name][site], values)
        close(a.run.resid, b.run.resid)
    for a, b in zip(ours[1], theirs[1], strict=True):
        for mine, other in zip(a.answer_logits, b.answer_logits, strict=True):
            close(mine, other)
        for mine, other in zip(a.watched, b.watched, strict=True):
            close(mine.flatten(), other.flatten())


def test_requests_with_and_without_places_go_through_one_call():
    model = family_model("llama", 2, K)
    engine = SweepEngine(model, 100)
    (with_places,) = starts(engine, prompts=PROMPTS[:1])
    (without,) = engine.unpatched([(PROMPTS[1], READOUT)])
    row = [Patch(Site.at(0, 1), torch.ones(32).double())]
    requests = [PatchRequest(start, [row]) for start in (with_places, without, with_places)]
    found = list(engine.patched_each(requests))
    for request, together in zip(requests, found, strict=True):
        close(together.answer_logits[0], engine.patched(request.start, [row]).answer_logits[0])


def test_names_become_tokens():
    values = torch.arange(6.0).view(2, 3)
    row = [Patch(Site("kv", layer=1, position="number"), values), Patch(Site.at(0, 1), values[0])]
    first, second, third = on_tokens(row, {"number": (-4, -3)})
    assert [p.site.position for p in (first, second, third)] == [-4, -3, 1]
    assert (first.values.tolist(), second.values.tolist()) == ([0, 1, 2], [3, 4, 5])
    with pytest.raises(PlaceError, match="'number' has 1 tokens and is patched with 2"):
        on_tokens(row, {"number": (-4,)})
    with pytest.raises(PlaceError, match="the patched run has no 'number'"):
        on_tokens(row, {})


def test_tokens_that_were_not_asked_for_are_refused():
    model = family_model("llama", 2, K)
    row = [Patch(Site.at(0, -3), torch.zeros(32).double())]
    for engine in engines(model):
        (start,) = starts(engine, prompts=PROMPTS[:1])
        PatchRequest(start, [row])
        with pytest.raises(ValueError, match=r"a position in 0..1, got layer 0, position -5"):
            PatchRequest(start, [[Patch(Site.at(0, -5), row[0].values)]])
        with pytest.raises(ValueError, match="got layer -1, position -1"):
            PatchRequest(start, [[Patch(Site.at(-1, -1), row[0].values)]])
        with pytest.raises(ValueError, match="recorded 'kv' at 'bot'"):
            starts(engine, [])[0].run.activations().of(Site("kv", layer=0, position="bot"))
    with pytest.raises(ValueError, match="expected a whole number as position, or number"):
        Site("kv", layer=0, position="bott")
    with pytest.raises(ValueError, match="expected a number as the position of a thought"):
        Site("thought", position="bot")


def test_own_activations_at_places_change_nothing():
    model = family_model("gpt2", 3, K)
    for engine in engines(model):
        (start,) = starts(engine, prompts=PROMPTS[:1])
        own = start.run.activations()
        sites = [site_at(s, la, place) for s in SITES for la in range(3) for place in PLACES]
        rows = [on_tokens([Patch(site, own.of(site))], PLACES) for site in sites]
        for latents in ("frozen", "recomputed"):
            logits = engine.patched(start, rows, latents).answer_logits[0]
            close(logits, start.run.answer_logits[0].expand_as(logits))


def test_activations_change_and_add_at_places_too():
    model = family_model("llama", 2, K)
    (start,) = starts(ReferenceEngine(model), prompts=PROMPTS[:1])
    own = start.run.activations()
    twice = own.plus(own)
    site = Site("kv", layer=1, position="number")
    close(twice.of(site), own.map(lambda values: 2 * values).of(site))
    assert Activations.zeros_like(own).of(site).abs().max() == 0
    assert replace(own, places={}).resid is own.resid
