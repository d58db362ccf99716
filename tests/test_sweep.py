"""The sweep against the reference engine, cell by cell, on random models of every family."""

from unittest.mock import patch

import pytest
import torch
from conftest import random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from random_families import CLASSES, HIDDEN, VOCABULARY, family_model
from twin import cells_of, run_twin

from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import Generated, Patch, Site, patches_from
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.lowering import make_plan
from codi_patching.patching.sweep.nodes import Node
from codi_patching.patching.sweep.padded_rows import with_padded_rows
from codi_patching.patching.sweep.patch_shape import PatchShape
from codi_patching.patching.sweep.run import SweepEngine
from codi_patching.patching.sweep.suffix import Suffix
from codi_patching.patching.sweep.transfer import moved, on_device

TOKENS = st.integers(0, VOCABULARY - 1)


@st.composite
def cases(draw):
    """A model, two prompts, a readout and rows of patches with watched cells."""
    layers, latents = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    model = family_model(draw(st.sampled_from(sorted(CLASSES))), layers, latents)
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
            source = draw(st.integers(-index, 1))  # an earlier row, a run, or noise
            row.append((cell, source))
        rows.append(row)
        watch.append(draw(some))
    return model, prompts, readout, rows, watch


def run(engine, case, latents):
    """All that an engine gives."""
    _, prompts, readout, rows, watch = case
    corrupted, clean = engine.unpatched([(prompt, readout) for prompt in prompts])
    source_run = clean.run.activations()
    noise = torch.Generator().manual_seed(0)

    def values(cell, source):
        if source < 0:
            return Generated(-1 - source)
        drawn = torch.randn(HIDDEN, generator=noise, dtype=torch.float64)
        return source_run.at(*cell) if source == 0 else drawn

    patches = [
        [Patch(Site.at(*cell), values(cell, source)) for cell, source in row] for row in rows
    ]
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


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    cases(),
    st.sampled_from(["frozen", "recomputed"]),
    st.sampled_from([1, 3, 100]),
    st.sampled_from([800, 2**23]),
)
def test_equals_the_reference_on_anything(case, latents, max_rows, piece):
    reference = run(ReferenceEngine(case[0]), case, latents)
    with patch("codi_patching.patching.cache_pieces._BYTES", piece):
        assert_same(run(SweepEngine(case[0], max_rows), case, latents), reference)


@settings(max_examples=10, deadline=None)
@given(cases(), st.sampled_from(["frozen", "recomputed"]))
def test_gives_the_same_bits_again(case, latents):
    first, second = (run(SweepEngine(case[0], 100), case, latents)[1] for _ in range(2))
    for a, b in zip(first.answer_logits, second.answer_logits, strict=True):
        assert torch.equal(a, b)


@settings(max_examples=10, deadline=None)
@given(cases(), st.sampled_from(["frozen", "recomputed"]))
def test_a_moved_plan_gives_the_same_bits(case, latents):
    """As a plan on another device is a copy, in one piece, of the one that is worked out."""
    plain = run(SweepEngine(case[0], 100), case, latents)[1]
    with patch("codi_patching.patching.sweep.run.on_device", moved):
        copied = run(SweepEngine(case[0], 100), case, latents)[1]
    for a, b in zip(plain.answer_logits, copied.answer_logits, strict=True):
        assert torch.equal(a, b)


@settings(max_examples=20, deadline=None)
@given(cases(), st.sampled_from(["frozen", "recomputed"]))
def test_all_prompts_in_one_product_give_the_same(case, latents):
    """As on devices on which each operation is a launch."""
    plain = run(SweepEngine(case[0], 100), case, latents)
    with patch("codi_patching.patching.sweep.run.on_device", lambda p, _: with_padded_rows(p)):
        padded = run(SweepEngine(case[0], 100), case, latents)
    assert_same(plain, padded)


def test_all_of_a_plan_is_moved():
    rows = (((1, 0, 0),), ((0, 1, 1), (2, 0, 2)))
    plan = make_plan(Suffix.of(2, (2, 4), ((7,),)), 3, rows, (((2, 1),), ()), "recomputed")
    found = repr(moved(plan, torch.device("meta")))
    assert found.count("device='meta'") == found.count("tensor(") > 50
    assert on_device(plan, torch.device("cpu")) is plan


@pytest.mark.parametrize("family", sorted(CLASSES))
def test_float32_agrees_to_its_rounding(family):
    model = family_model(family, 3, 3)
    case = (model.float(), [[5, 6, 7, 8], [5, 6, 9, 8]], Readout((2, 4), ((5,), (6, 7))), [], [])
    results = []
    for engine in (ReferenceEngine(model), SweepEngine(model, 100)):
        corrupted, clean = engine.unpatched([(prompt, case[2]) for prompt in case[1]])
        given = clean.run.activations()
        rows = [patches_from(given, layer, [p]) for layer in (-1, 0, 1, 2) for p in range(3)]
        results.append(engine.patched(corrupted, rows).answer_logits)
    model.double()
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * a.abs().max().item())


def token_layers(shapes, latents, layers=16, watch=()):
    suffix = Suffix.of(5, (2, 4, 4, 4, 4), ((7,), (8,)))
    cells = tuple(watch) or ((),) * len(shapes)
    plan = make_plan(suffix, layers, tuple(shapes), cells, latents)
    return plan.token_layers


GRID = [((layer, p, 16 * p + layer),) for layer in range(16) for p in range(5)]
FORKS = sum(range(16))  # blocks above each layer


def test_a_frozen_grid_takes_the_least_token_layers():
    """Above the patch, from its position on; of the last layer's ten tokens one is read."""
    below_last = sum(14 - layer for layer in range(15)) * (10 + 9 + 8 + 7 + 6)
    assert token_layers(GRID, "frozen") == below_last + 15 * 5


PATCHED = 4 * FORKS + sum(14 - layer for layer in range(15))
"""Of the last position's output nothing is read."""


def test_a_recomputed_grid_takes_the_least_token_layers():
    """The patched position above the patch, later ones and the readout in every layer."""
    later = 16 * (16 * (4 + 3 + 2 + 1) - 4)
    readout = 16 * 4 * (15 * 5 + 1)
    last_position = sum(14 - layer for layer in range(15)) * 5 + 15
    assert token_layers(GRID, "recomputed") == PATCHED + later + readout + last_position


def test_chains_share_what_they_have_in_common():
    """Relay and cumulative cost what single positions do; a whole layer at once far less."""
    relay = [
        ((layer, p, layer if p == 0 else -1 - (16 * (p - 1) + layer)),)
        for p in range(5)
        for layer in range(16)
    ]
    held = [
        tuple((layer, q, 16 * q + layer) for q in range(p + 1))
        for p in range(5)
        for layer in range(16)
    ]
    single = token_layers(GRID, "recomputed")
    assert token_layers(relay, "recomputed") == single
    # The last iteration's readout follows a patched chain: all layers of it are its own.
    extra = 16 * (15 * 5 + 1) - (sum(14 - layer for layer in range(15)) * 5 + 15)
    assert token_layers(held, "recomputed") == single + extra
    whole = held[-16:]
    free = 4 * sum(range(16))  # below the layer that is patched
    assert token_layers(whole, "recomputed") == PATCHED + free + 16 * (15 * 5 + 1)


def test_what_is_watched_in_the_last_layer_is_computed():
    row = (((0, 0, 0),),)
    assert token_layers(row, "frozen", layers=2, watch=[((1, 3),)]) == 2
    assert token_layers(row, "frozen", layers=2) == 1


def test_answers_share_the_beginnings_of_their_readout():
    suffix = Suffix.of(2, (9, 8), ((1, 2, 3), (1, 2, 4), (5,)))
    assert suffix.tokens == (9, 8, 1, 2)
    assert suffix.parents == (-1, 0, 1, 2, 3, 4)
    assert suffix.reads == ((3, 4, 5), (3, 4, 5), (3,))
    assert suffix.depths == [0, 1, 2, 3, 4, 5]


def test_logits_of_a_bf16_model_are_not_rounded_to_bf16():
    model = random_model().bfloat16()
    hidden = torch.randn(4, 32).bfloat16() * 8
    weight = model.backbone.get_output_embeddings().weight
    exact = hidden.double() @ weight.double().T
    before = torch.backends.mkldnn.matmul.fp32_precision
    logits = model.logits(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), exact, rtol=0, atol=1e-5 * exact.abs().max())
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_an_answer_without_tokens_is_refused():
    with pytest.raises(ValueError, match=r"expected answers of one token at least, got .*\(\)"):
        Readout((2,), ((5,), ()))


def test_a_sweep_equals_whole_sequences_without_any_cache():
    model = random_model(num_layers=3, num_latents=3)
    readout = Readout((4, 9), ((11, 12), (13,)))
    question = "Tom has 18 pears. He eats 3."
    engine = SweepEngine(model, 10)
    start = engine.unpatched([(model.prompt_ids(question), readout)])[0]
    row = [Patch(Site.at(*cell), torch.randn(32).double()) for cell in ((1, 0), (0, 2))]
    for latents in ("frozen", "recomputed"):
        patched = engine.patched(start, [row], latents)
        _, _, logits = run_twin(
            model, question, cells_of(row), readout, latents, start.run.thoughts[0]
        )
        for ours, theirs in zip(patched.answer_logits, logits, strict=True):
            torch.testing.assert_close(ours[0], theirs, rtol=0, atol=1e-9)


def test_keys_up_to_a_fork_are_not_made_again():
    """A layer reads the state of its number doubled: keys are own where that is above the fork."""
    base = Node(token=0, slot=0)
    first = Node(token=0, slot=1, fork=base, fork_state=4)
    second = Node(token=0, slot=2, fork=first, fork_state=8)
    patched = Node(0, 3, first, 8, patches={("kv", 1): PatchShape(1, 0, 0, "kv")})
    own = Node(token=0, slot=4, fork=base)  # of a new thought: from the beginning
    found = {n.slot: [n.keys_of(la).slot for la in range(6)] for n in (first, second, patched, own)}
    assert found == {
        1: [0, 0, 0, 1, 1, 1],
        2: [0, 0, 0, 1, 1, 2],
        3: [0, 3, 0, 1, 1, 3],
        4: [4, 4, 4, 4, 4, 4],
    }
    assert [base.keys_of(la) for la in range(6)] == [base] * 6
