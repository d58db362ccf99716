"""The sweep against the reference engine, cell by cell, on random models of every family."""

from functools import lru_cache

import pytest
import torch
from conftest import random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_published import MODELS
from twin import run_twin

from codi_patching.model.codi import CodiModel, CodiSettings, build_projection
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import THOUGHT, Generated, Patch, patches_from
from codi_patching.patching.plan import Suffix, make_plan
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep import SweepEngine

VOCABULARY, HIDDEN = 40, 32


@lru_cache
def family_model(family, num_layers, num_latents):
    """A random model of a family, large enough that every activation matters, in float64."""
    model_class, config_class, shape = MODELS[family]
    layers = {"n_layer": num_layers} if family == "gpt2" else {"num_hidden_layers": num_layers}
    torch.manual_seed(num_layers)
    config = config_class(vocab_size=VOCABULARY, **{**shape, **layers})
    model = CodiModel(
        model_class(config),
        build_projection(HIDDEN, 24),
        None,
        CodiSettings(num_latents, bot_ids=(1,), eot_id=2, eos_id=3),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.25)
    return model.double().eval().requires_grad_(False)


TOKENS = st.integers(0, VOCABULARY - 1)


@st.composite
def cases(draw):
    """A model, two prompts, a readout and rows of patches with watched cells."""
    layers, latents = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    model = family_model(draw(st.sampled_from(sorted(MODELS))), layers, latents)
    common = draw(st.lists(TOKENS, max_size=5))
    prompts = [common + draw(st.lists(TOKENS, min_size=1, max_size=6)) for _ in range(2)]
    prefix = tuple(draw(st.lists(TOKENS, min_size=1, max_size=3)))
    answers = st.lists(TOKENS, min_size=1, max_size=3).map(tuple)
    readout = Readout(prefix, (draw(answers), draw(answers)))
    cells = [(layer, p) for layer in range(-1, layers) for p in range(latents)]
    some = st.lists(st.sampled_from(cells), unique=True, max_size=5)
    rows, watch = [], []
    for index in range(draw(st.integers(1, 12))):
        row = []
        for cell in draw(some):
            source = draw(st.integers(-1 - index, 1))  # an earlier row, a run, or noise
            row.append((cell, source))
        rows.append(row)
        watch.append(draw(some))
    return model, prompts, readout, rows, watch


def run(engine, case, latents):
    """All that an engine gives."""
    _, prompts, readout, rows, watch = case
    corrupted, clean = engine.unpatched([(prompt, readout) for prompt in prompts])
    given = clean.run.activations()
    noise = torch.Generator().manual_seed(0)

    def values(cell, source):
        if source < 0 and (THOUGHT, 0) != cell:
            return Generated(-1 - source) if source < -1 else given.at(*cell)
        drawn = torch.randn(HIDDEN, generator=noise, dtype=torch.float64)
        return given.at(*cell) if source == 0 else drawn

    patches = [[Patch(*cell, values(cell, source)) for cell, source in row] for row in rows]
    patched = engine.patched(corrupted, patches, latents, watch)
    return [corrupted, clean], patched


def assert_same(first, second):
    for ours, theirs in zip(first[0], second[0], strict=True):
        torch.testing.assert_close(ours.run.thoughts, theirs.run.thoughts, rtol=0, atol=1e-9)
        torch.testing.assert_close(ours.run.resid, theirs.run.resid, rtol=0, atol=1e-9)
        for a, b in zip(ours.run.answer_logits, theirs.run.answer_logits, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    for a, b in zip(first[1].answer_logits, second[1].answer_logits, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    for a, b in zip(first[1].watched, second[1].watched, strict=True):
        assert len(a) == len(b)
        if len(a):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from(["frozen", "recomputed"]), st.sampled_from([1, 3, 100]))
def test_equals_the_reference_on_anything(case, latents, max_rows):
    reference = run(ReferenceEngine(case[0]), case, latents)
    assert_same(run(SweepEngine(case[0], max_rows), case, latents), reference)
