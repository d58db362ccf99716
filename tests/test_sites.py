"""Every site, by both engines and by brute force."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from unittest import mock
from unittest.mock import Mock, call

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_families import CLASSES, HIDDEN, VOCABULARY, family_model, usual
from site_twin import run_site_twin
from torch.utils._python_dispatch import TorchDispatchMode

from codi_patching.patching.engine import PatchRequest, Readout
from codi_patching.patching.hooks import PatchNotAppliedError, patch
from codi_patching.patching.interventions import (
    EXTRA_SITES,
    SITE_NAMES,
    Computed,
    Generated,
    Patch,
    Site,
    patches_from,
)
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep import reading
from codi_patching.patching.sweep.lowering import make_plan
from codi_patching.patching.sweep.run import SweepEngine
from codi_patching.patching.sweep.suffix import Suffix
from codi_patching.patching.sweep.unread import unread_rows
from codi_patching.patching.sweep.waves import Sweep

TOKENS = st.integers(0, VOCABULARY - 1)
LATENTS = st.sampled_from(["frozen", "recomputed"])
FAMILIES = sorted(CLASSES)


def twist(present):
    """A function of what is there."""
    return present.roll(1) * 1.5 - 0.25


INNER = ("attn_out", "mlp_out", "kv")
HEADS = tuple(("head", head) for head in range(4))


def site_at(site, layer, position):
    """A site; of heads the name comes with a number."""
    name, head = site if isinstance(site, tuple) else (site, None)
    return Site.at(layer, position, name, head)


def sites_of(layers, latents, heads=HEADS):
    yield from (("thought", -1, p) for p in range(latents))
    yield from (
        (site, layer, p)
        for site in ("resid_post", *INNER, *heads)
        for layer in range(layers)
        for p in range(latents)
    )


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


# -- brute force --------------------------------------------------------------------------------

PROMPTS = [[5, 6, 7, 8], [5, 6, 9, 8]]
READOUT = Readout((2, 4), ((5,), (6, 7)))


def engines(model):
    return ReferenceEngine(model), SweepEngine(model, 100)


@pytest.mark.parametrize("family", FAMILIES)
def test_unpatched_sites_equal_brute_force(family):
    model = family_model(family, 3, 3)
    for engine in engines(model):
        for prompt, start in zip(
            PROMPTS, engine.unpatched([(p, READOUT) for p in PROMPTS], EXTRA_SITES)
        ):
            thoughts, sites, logits = run_site_twin(model, prompt, [], READOUT)
            own = start.run.activations()
            close(own.thoughts, thoughts)
            for site, values in sites.items():
                close(own.of_site(site), values)
            for ours, theirs in zip(start.run.answer_logits, logits, strict=True):
                close(ours[0], theirs)


@pytest.mark.parametrize(
    "latents", [pytest.param("frozen", marks=pytest.mark.thorough), "recomputed"]
)
@pytest.mark.parametrize("family", usual(FAMILIES))
def test_every_site_equals_brute_force(family, latents):
    model = family_model(family, 2, 2)
    source_run = run_site_twin(model, PROMPTS[1], [], READOUT)
    source = {**source_run[1], "thought": source_run[0][None].expand(2, -1, -1)}
    source |= {site: source["head"][:, :, site[1]] for site in HEADS}
    base = run_site_twin(model, PROMPTS[0], [], READOUT)[0]
    cells = [[(s, la, p, source[s][la][p])] for s, la, p in sites_of(2, 2, HEADS[::3])]
    everywhere = [
        [(s, la, p, source[s][la][p]) for p in range(2)] for s in INNER for la in range(2)
    ]
    everywhere += [[(s, 0, p, source[s][0][p]) for s in HEADS[1:3] for p in range(2)]]
    functions = [[(s, la, p, twist)] for s, la, p in sites_of(2, 2, HEADS[2:3])]
    mixed = [
        ("kv", 0, 0, source["kv"][0][0]),
        ("attn_out", 1, 0, twist),
        (HEADS[0], 0, 1, twist),
        (HEADS[3], 0, 1, source["head"][0, 1, 3]),
        ("thought", -1, 1, twist),
        ("mlp_out", 0, 1, source["mlp_out"][0][1]),
        ("kv", 1, 1, twist),
        ("resid_post", 0, 1, twist),
    ]
    rows = [*cells, *everywhere, *functions, mixed]
    expected = [run_site_twin(model, PROMPTS[0], row, READOUT, latents, base)[2] for row in rows]
    patches = [
        [Patch(site_at(s, la, p), Computed(v) if callable(v) else v) for s, la, p, v in row]
        for row in rows
    ]
    for engine in engines(model):
        start = engine.unpatched([(PROMPTS[0], READOUT)], EXTRA_SITES)[0]
        patched = engine.patched(start, patches, latents)
        for answer, logits in enumerate(patched.answer_logits):
            close(logits, torch.stack([logits[answer] for logits in expected]))


# -- both engines, on anything --------------------------------------------------------------------


@st.composite
def models(draw):
    """A model, its layers and latent positions."""
    layers, latents = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return family_model(draw(st.sampled_from(FAMILIES)), layers, latents), layers, latents


@st.composite
def cases(draw, of=None):
    """A model, two prompts, a readout and rows of patches with watched cells."""
    model, layers, latents = draw(models() if of is None else of)
    common = draw(st.lists(TOKENS, max_size=5))
    prompts = [common + draw(st.lists(TOKENS, min_size=1, max_size=6)) for _ in range(2)]
    prefix = tuple(draw(st.lists(TOKENS, min_size=1, max_size=3)))
    answers = st.lists(TOKENS, min_size=1, max_size=3).map(tuple)
    readout = Readout(prefix, (draw(answers), draw(answers)))
    some = st.lists(st.sampled_from(list(sites_of(layers, latents))), unique=True, max_size=6)
    cells = [(layer, p) for layer in range(-1, layers) for p in range(latents)]
    rows, watch = [], []
    for index in range(draw(st.integers(1, 10))):
        row = []
        for site, layer, position in draw(some):
            kinds = ["source", "noise", "function"]
            if index and site in ("resid_post", "thought"):
                kinds.append("generated")
            kind = draw(st.sampled_from(kinds))
            row.append((site, layer, position, kind, draw(st.integers(0, max(index - 1, 0)))))
        rows.append(row)
        watch.append(draw(st.lists(st.sampled_from(cells), unique=True, max_size=3)))
    return model, prompts, readout, rows, watch


def request_of(engine, case):
    """Both unpatched runs, and the rows of a case on the first."""
    _, prompts, readout, rows, watch = case
    base, source = engine.unpatched([(prompt, readout) for prompt in prompts], EXTRA_SITES)
    activations = source.run.activations()
    noise = torch.Generator().manual_seed(0)

    def values(site, layer, position, kind, row):
        there = activations.of(site_at(site, layer, position))
        drawn = torch.randn(there.shape, generator=noise, dtype=torch.float64)
        kinds = {"source": there, "noise": drawn, "function": Computed(twist)}
        return kinds.get(kind, Generated(row))

    patches = [[Patch(site_at(*item[:3]), values(*item)) for item in row] for row in rows]
    return [base, source], PatchRequest(base, patches, watch)


def run(engine, case, latents):
    """All that an engine gives."""
    starts, request = request_of(engine, case)
    return starts, engine.patched(request.start, request.rows, latents, request.watch)


def assert_same(first, second):
    for ours, theirs in zip(first[0], second[0], strict=True):
        close(ours.run.thoughts, theirs.run.thoughts)
        close(ours.run.resid, theirs.run.resid)
        for site in EXTRA_SITES:
            close(ours.run.recorded[site], theirs.run.recorded[site])
    assert_same_patched(first[1], second[1])


def assert_same_patched(ours, theirs):
    for a, b in zip(ours.answer_logits, theirs.answer_logits, strict=True):
        close(a, b)
    for a, b in zip(ours.watched, theirs.watched, strict=True):
        assert len(a) == len(b)
        if len(a):
            close(a, b)


@settings(max_examples=30, deadline=None)
@given(cases(), LATENTS, st.sampled_from([1, 3, 100]))
def test_the_sweep_equals_the_reference_at_all_sites(case, latents, max_rows):
    reference = run(ReferenceEngine(case[0]), case, latents)
    assert_same(run(SweepEngine(case[0], max_rows), case, latents), reference)


@st.composite
def several(draw):
    """Cases of one model, some of them on the same question."""
    of = st.just(draw(models()))
    first = draw(cases(of))
    others = draw(st.lists(cases(of), min_size=1, max_size=3))
    again = [(*first[:3], *case[3:]) for case in others[:1]]
    return [first, *again, *others]


@settings(max_examples=60, deadline=None)
@given(several(), LATENTS, st.sampled_from([12, 20, 100]))
@pytest.mark.thorough
def test_requests_together_equal_the_reference(cases, latents, max_rows):
    model = cases[0][0]
    expected = [run(ReferenceEngine(model), case, latents)[1] for case in cases]
    sweep = SweepEngine(model, max_rows)
    requests = [request_of(sweep, case)[1] for case in cases]
    requests[1] = replace(requests[1], start=requests[0].start)
    together = list(sweep.patched_each(requests, latents))
    for ours, theirs in zip(together, expected, strict=True):
        assert_same_patched(ours, theirs)
    alone = SweepEngine(model, max_rows)
    for request in requests:
        alone.patched(request.start, request.rows, latents, request.watch)
    assert sweep.token_layers <= alone.token_layers


def times(factor):
    """A function of what is there, another for each factor."""
    return lambda present: present.roll(1) * factor


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
@pytest.mark.parametrize("site", ["thought", "resid_post", *INNER, ("head", 1)])
def test_functions_of_requests_together_are_each_their_own(site, latents):
    """Three in a request, each of a run of its own: all runs differ, also from the reference's."""
    model = family_model("llama", 2, 3)
    layer = -1 if site == "thought" else 0
    reference, sweep = engines(model)
    requests, expected = [], []
    for number, ids in enumerate(PROMPTS):
        factors = [2.0 + number + p / 4 for p in range(3)]
        rows = [
            [Patch(site_at(site, layer, p), Computed(times(factor)))]
            for p, factor in enumerate(factors)
        ]
        starts = [e.unpatched([(ids, READOUT)], EXTRA_SITES)[0] for e in (reference, sweep)]
        expected.append(reference.patched(starts[0], rows, latents))
        requests.append(PatchRequest(starts[1], rows))
    for ours, theirs in zip(sweep.patched_each(requests, latents), expected, strict=True):
        assert_same_patched(ours, theirs)
        first = theirs.answer_logits[0][:, 0]
        assert torch.cdist(first, first).fill_diagonal_(1).min() > 1e-6


WAITING = [
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "nonzero", "equal", "masked_select", "repeat_interleave"),
        *("_unique2", "unique_dim", "bincount", "lift_fresh"),
    )
]
"""Operations whose value or size a program needs, and for which it must wait for its device; and
`lift_fresh`, which makes a tensor of Python numbers, as an index that is a list does."""


class NothingReadBack(TorchDispatchMode):
    """Refuses what makes a program wait for its device."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op.name().split(".")[0]
        assert name not in WAITING, name
        if name.startswith("aten::index"):
            indices = args[1] if isinstance(args[1], list | tuple) else []
            assert not any(i is not None and i.dtype == torch.bool for i in indices), name
        return op(*args, **(kwargs or {}))


def test_reading_back_is_refused():
    values = torch.tensor([1.0, 2.0])
    for wait in (
        values[0].item,
        values.nonzero,
        lambda: values[values > 1],
        lambda: values[[1, 0]],
        lambda: bool(values[0]),
    ):
        with pytest.raises(AssertionError, match="aten::"), NothingReadBack():
            wait()


@settings(max_examples=10, deadline=None)
@given(cases(models()), LATENTS)
def test_no_wave_reads_values_back(case, latents):
    plain = Sweep.run

    def watched(sweep, *args):
        with NothingReadBack():
            return plain(sweep, *args)

    with mock.patch.object(Sweep, "run", watched):
        run(SweepEngine(case[0], 100), case, latents)


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_layers_are_visited_once_for_all_requests(latents):
    """As often for six requests on three questions as for one."""
    model = family_model("llama", 3, 3)
    engine = SweepEngine(model, 100)
    *bases, source = engine.unpatched([([5, 6, at, 8], READOUT) for at in (7, 9, 10, 11)])
    activations = source.run.activations()
    rows = [patches_from(activations, la, [p]) for la in range(3) for p in range(3)]
    requests = [PatchRequest(base, rows) for base in bases for _ in range(2)]
    read = Counter()
    with ExitStack() as hooks:
        for la, block in enumerate(model.blocks):
            for module in (block.mlp, block.self_attn.k_proj):
                count = partial(_count, read, (la, type(module).__name__))
                hooks.callback(module.register_forward_hook(count).remove)
        head = model.backbone.get_output_embeddings()
        hooks.callback(head.register_forward_hook(partial(_count, read, "head")).remove)
        list(engine.patched_each(requests[:1], latents))
        alone = dict(read)
        read.clear()
        list(engine.patched_each(requests, latents))
    assert dict(read) == alone
    assert alone["head"] == 1


def _count(read, name, *_):
    read[name] += 1


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_is_not_finite_stays_in_its_own_request(order, latents):
    """The longer answer has keys that the shorter one's tokens are padded with."""
    model = family_model("llama", 2, 2)
    engine = SweepEngine(model, 100)
    readouts = [Readout((2, 4), ((5, 9), (6, 7))), Readout((2, 4), ((5,), (6,)))]
    broken, sound = engine.unpatched([(PROMPTS[0], readout) for readout in readouts])
    source = engine.unpatched([(PROMPTS[1], READOUT)])[0].run.activations()
    rows = [patches_from(source, la, [p]) for la in (0, 1) for p in (0, 1)]
    alone = engine.patched(sound, rows, latents)
    state = replace(
        broken.state,
        suffix_kv=torch.full_like(broken.state.suffix_kv, torch.inf),
        stream=torch.full_like(broken.state.stream, torch.nan),
    )
    requests = [PatchRequest(replace(broken, state=state), rows), PatchRequest(sound, rows)]
    together = list(engine.patched_each([requests[place] for place in order], latents))
    assert_same_patched(together[order.index(1)], alone)
    assert not together[order.index(0)].answer_logits[0].isfinite().all()


def test_a_request_that_recorded_less_goes_with_one_that_recorded_more():
    model = family_model("llama", 2, 2)
    engine = SweepEngine(model, 100)
    (less,) = engine.unpatched([(PROMPTS[0], READOUT)])
    more, source = engine.unpatched([(prompt, READOUT) for prompt in PROMPTS], ["mlp_out"])
    activations = source.run.activations()
    requests = [
        PatchRequest(less, [patches_from(activations, 0, [1])]),
        PatchRequest(more, [patches_from(activations, 1, [0], "mlp_out")]),
    ]
    for request, patched in zip(requests, engine.patched_each(requests), strict=True):
        assert_same_patched(patched, engine.patched(request.start, request.rows))


def test_a_request_without_rows_is_refused():
    engine = SweepEngine(family_model("llama", 2, 2), 100)
    (start,) = engine.unpatched([(PROMPTS[0], READOUT)])
    with pytest.raises(ValueError, match="expected at least one row of patches, got none"):
        PatchRequest(start, [])


def test_the_sweep_has_gradients():
    model = family_model("llama", 2, 2)
    engine = SweepEngine(model, 100)
    base, source = engine.unpatched([(prompt, READOUT) for prompt in PROMPTS])
    value = source.run.activations().at(0, 0).clone().requires_grad_()
    requests = [PatchRequest(base, [[Patch(Site.at(0, 0), value)]]), PatchRequest(source, [[]])]
    loss = sum(found.answer_logits[0].square().sum() for found in engine.patched_each(requests))
    loss.backward()
    assert value.grad.abs().max() > 0


def test_requests_in_small_parts_of_logits_are_the_same(monkeypatch):
    model = family_model("llama", 2, 2)
    engine = SweepEngine(model, 100)
    base, source = engine.unpatched([(prompt, READOUT) for prompt in PROMPTS])
    rows = [patches_from(source.run.activations(), la, [p]) for la in (0, 1) for p in (0, 1)]
    requests = [PatchRequest(base, rows), PatchRequest(source, rows), PatchRequest(base, [[]])]
    whole = list(engine.patched_each(requests))
    monkeypatch.setattr(reading, "_LOGITS", 1)
    for ours, theirs in zip(engine.patched_each(requests), whole, strict=True):
        assert_same_patched(ours, theirs)


def test_progress_is_told_request_by_request():
    model = family_model("llama", 2, 2)
    source = ReferenceEngine(model).unpatched([(PROMPTS[1], READOUT)])[0].run.activations()
    row = patches_from(source, 0, [0])
    expected = [call(0, 2), call(1, 1), call(2, 4), call(2, 5), call(3, 1)]
    for engine in (SweepEngine(model, 4), ReferenceEngine(model, 4)):
        start = engine.unpatched([(PROMPTS[0], READOUT)])[0]
        requests = [PatchRequest(start, [row] * rows) for rows in (2, 1, 5, 1)]
        told = Mock()
        list(engine.patched_each(requests, on_rows_done=told))
        assert [told_of for told_of in told.mock_calls if told_of in expected] == expected
        assert told.mock_calls == sorted(told.mock_calls, key=lambda told_of: told_of.args)


def test_progress_goes_from_layer_to_layer():
    """Above the patched one there are three, then all is done."""
    model = family_model("llama", 4, 2)
    engine = SweepEngine(model, 100)
    start = engine.unpatched([(PROMPTS[0], READOUT)])[0]
    row = patches_from(start.run.activations(), 0, [0])
    told = []
    requests = [PatchRequest(start, [row] * 40)]
    list(engine.patched_each(requests, on_rows_done=lambda _, done: told.append(done)))
    assert told == sorted(set(told))
    assert len(told) >= 3
    assert told[0] < 20 < told[-1] == 40


def test_what_is_patched_late_alone_is_read_where_something_is_above_it():
    """A patch changes nothing in the last layer, frozen, however late its position."""
    nothing = torch.zeros(1)
    for position in range(3):
        rows = [[Patch(Site.at(layer, position), nothing)] for layer in range(2)]
        assert [unread_rows([row], 2, 3, "frozen") for row in rows] == [[False], [True]]
        assert unread_rows(rows, 2, 3, "frozen", readout=3) == [False, True]
        again = unread_rows(rows, 2, 3, "recomputed")  # the next thought is made from that layer
        assert again == [False, position == 2]


# -- what is computed -----------------------------------------------------------------------------

LAYERS, THOUGHTS, READ = 16, 5, 5  # of the readout's five tokens the last is read
SUFFIX = Suffix.of(THOUGHTS, (2, 4, 4, 4, 4), ((7,), (8,)))
WHOLE_READOUT = 15 * READ + 1


def counts(rows, latents):
    """Tokens through attention and through MLPs."""
    plan = make_plan(SUFFIX, LAYERS, rows, ((),) * len(rows), latents)
    return plan.attention_tokens, plan.mlp_tokens


def grid(site):
    """Each cell alone."""
    layers = range(-1, 0) if site == "thought" else range(LAYERS)
    return tuple(((layer, p, 5 * layer + p + 5, site),) for layer in layers for p in range(5))


def whole_layers(site):
    """All positions of a layer."""
    return tuple(tuple((la, p, 5 * la + p, site) for p in range(5)) for la in range(LAYERS))


def test_frozen_grids_take_the_least_work():
    """From the patched position on, above the patch; of the last layer one token."""
    tokens = 10 + 9 + 8 + 7 + 6
    after = sum(14 - la for la in range(15)) * tokens + 15 * 5
    assert counts(grid("resid_post"), "frozen") == (after, after)
    assert counts(grid("mlp_out"), "frozen") == (after, after)
    assert counts(grid("attn_out"), "frozen") == (after, after + 15 * 5)  # its own MLP
    at_once = sum(15 - la for la in range(15)) * tokens + 16 * 5  # the patched layer too
    assert counts(grid("kv"), "frozen") == (at_once, at_once)
    assert counts(grid("thought"), "frozen") == (15 * tokens + 5, 15 * tokens + 5)


def test_recomputed_grids_take_the_least_work():
    """Later thoughts in all layers, the last one in all but the last."""
    later = sum(16 * (4 - p) - 1 + WHOLE_READOUT for p in range(4))
    last = sum((14 - la) * 6 + 1 for la in range(15))
    after = 16 * later + 4 * sum(15 - la for la in range(16)) + last
    assert counts(grid("resid_post"), "recomputed") == (after, after)
    assert counts(grid("mlp_out"), "recomputed") == (after, after)
    assert counts(grid("attn_out"), "recomputed") == (after, after + 16 * 4 + 15)
    last = sum((15 - la) * 6 for la in range(15)) + 16
    at_once = 16 * later + 4 * sum(16 - la for la in range(16)) + last
    assert counts(grid("kv"), "recomputed") == (at_once, at_once)
    thoughts = later + 4 * 16 + 15 * 6 + 1
    assert counts(grid("thought"), "recomputed") == (thoughts, thoughts)


def head_grid(positions):
    """Each of four heads of a layer at some positions at once."""
    return tuple(
        tuple((la, p, 4 * la + head, "head", False, head) for p in positions)
        for la in range(LAYERS)
        for head in range(4)
    )


@pytest.mark.parametrize(
    "latents", [pytest.param("frozen", marks=pytest.mark.thorough), "recomputed"]
)
def test_a_head_takes_the_attention_of_its_layer_more_than_all_of_them(latents):
    """Where what all heads add is given, the patched layer's attention is not computed."""
    for p in range(5):
        given = tuple(((la, p, at, "attn_out"),) for at, la in enumerate(4 * [*range(LAYERS)]))
        attention, mlp = counts(head_grid([p]), latents)
        read = LAYERS - (latents == "frozen" or p == 4)  # of the last layer nothing is read
        before = counts(given, latents)
        assert (attention, mlp) == (before[0] + 4 * read, before[1])
        assert attention + mlp <= 1.5 * sum(before)


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_all_heads_of_a_layer_are_what_its_attention_adds(family, latents):
    model = family_model(family, 3, 3)
    for engine in engines(model):
        base, source = engine.unpatched([(p, READOUT) for p in PROMPTS], EXTRA_SITES)
        given = source.run.activations()
        for site, rows in {"one": [[1]], "all": [range(3)]}.items():
            heads, added = (
                engine.patched(
                    base, [patches_from(given, la, p, s) for p in rows for la in range(3)], latents
                )
                for s in ("head", "attn_out")
            )
            for ours, theirs in zip(heads.answer_logits, added.answer_logits, strict=True):
                close(ours, theirs)
                assert (ours[:1] - base.run.answer_logits[0][:, -1:]).abs().max() > 1e-6, site


def test_whole_layers_take_the_least_work():
    after = sum((14 - la) * 10 + 1 for la in range(15))
    assert counts(whole_layers("resid_post"), "frozen") == (after, after)
    assert counts(whole_layers("mlp_out"), "frozen") == (after, after)
    assert counts(whole_layers("attn_out"), "frozen") == (after, after + 15 * 5)
    at_once = sum((15 - la) * 10 + 1 for la in range(16))
    assert counts(whole_layers("kv"), "frozen") == (at_once, at_once)

    # Up to the patched layer the thoughts after the first, above it all five; the last thought's
    # output is read by nothing.
    after = sum(4 * la + 4 * (15 - la) + WHOLE_READOUT for la in range(16))
    after += sum(14 - la for la in range(15))
    assert counts(whole_layers("resid_post"), "recomputed") == (after, after)
    assert counts(whole_layers("attn_out"), "recomputed") == (after, after + 15 * 5 + 4)
    assert counts(whole_layers("mlp_out"), "recomputed") == (after + 15 * 4 + 3, after)
    # Where its keys of the last layer are given, the last thought needs no output below either.
    at_once = sum(16 - la + 3 * 16 + 15 + WHOLE_READOUT for la in range(16)) - 1
    assert counts(whole_layers("kv"), "recomputed") == (at_once, at_once)


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_of_a_run_with_all_thoughts_given_only_the_readout_is_computed(latents):
    row = tuple((la, p, 5 * la + p + 5) for la in range(-1, LAYERS) for p in range(5))
    assert counts((row,), latents) == (WHOLE_READOUT, WHOLE_READOUT)


def test_a_function_of_an_untouched_cell_takes_the_patched_layer_more():
    computed = tuple(((la, 2, 0, "resid_post", True),) for la in range(LAYERS - 1))
    plain = tuple(((la, 2, la),) for la in range(LAYERS - 1))
    extra = counts(computed, "frozen")[0] - counts(plain, "frozen")[0]
    assert extra == LAYERS - 1


# -- identities, structural zeros, errors -------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_structural_zeros_of_every_site(family, latents):
    """Nothing reads what is added to the stream in the last layer but the next thought."""
    model = family_model(family, 3, 3)
    for engine in engines(model):
        base, source = engine.unpatched([(p, READOUT) for p in PROMPTS], EXTRA_SITES)
        activations = source.run.activations()
        for site in SITE_NAMES:
            layer = -1 if site == "thought" else 2
            rows = [patches_from(activations, layer, [p], site) for p in range(3)]
            logits = engine.patched(base, rows, latents).answer_logits[0]
            moved = (logits - base.run.answer_logits[0]).abs().amax(dim=(1, 2)) > 1e-6
            never_read = site not in ("kv", "thought")
            zeros = {0, 1, 2} if latents == "frozen" else {2}
            assert moved.tolist() == [not (never_read and p in zeros) for p in range(3)], site


def test_all_keys_and_values_of_the_source_leave_only_the_prompt():
    """With frozen thoughts: `kv` at every cell equals all activations at every cell."""
    model = family_model("qwen3", 3, 3)
    for engine in engines(model):
        base, source = engine.unpatched([(p, READOUT) for p in PROMPTS], EXTRA_SITES)
        given = source.run.activations()
        keys = [p for la in range(3) for p in patches_from(given, la, range(3), "kv")]
        states = [p for la in range(-1, 3) for p in patches_from(given, la, range(3))]
        for logits in engine.patched(base, [keys, states], "frozen").answer_logits:
            close(logits[0], logits[1])


def test_own_activations_change_nothing_and_inputs_stay_as_they_are():
    model = family_model("gpt2", 3, 3)
    for engine in engines(model):
        start = engine.unpatched([(PROMPTS[0], READOUT)], EXTRA_SITES)[0]
        own = start.run.activations()
        before = own.map(torch.clone)
        rows = [patches_from(own, la, range(3), s) for s in EXTRA_SITES for la in range(3)]
        rows += [
            [Patch(site_at(s, la, 1), Computed(lambda x: x))]
            for s in (*INNER, *HEADS)
            for la in range(3)
        ]
        logits = engine.patched(start, rows).answer_logits[0]
        close(logits, start.run.answer_logits[0].expand_as(logits))
        for site in SITE_NAMES:
            assert torch.equal(own.of_site(site), before.of_site(site))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_was_not_recorded_is_refused():
    model = family_model("llama", 2, 2)
    engine = SweepEngine(model, 10)
    start = engine.unpatched([(PROMPTS[0], READOUT)])[0]
    with pytest.raises(ValueError, match="recorded at 'kv', got those at thought, resid_post"):
        start.run.activations().at(0, 0, "kv")
    with pytest.raises(ValueError, match=r"record=\['mlp_out'\]"):
        engine.patched(start, [[Patch(Site.at(0, 0, "mlp_out"), torch.zeros(HIDDEN))]])


def test_generated_values_of_inner_sites_are_refused():
    model = family_model("llama", 2, 2)
    start = ReferenceEngine(model).unpatched([(PROMPTS[0], READOUT)])[0]
    rows = [[], [Patch(Site.at(0, 0, "kv"), Generated(0))]]
    with pytest.raises(ValueError, match="resid_post or thought alone, got 'kv'"):
        ReferenceEngine(model).patched(start, rows)


def test_sites_name_what_is_wrong():
    with pytest.raises(ValueError, match="expected a layer for the site 'kv', got -1"):
        Site("kv", position=0)
    with pytest.raises(ValueError, match="expected no layer for the site 'thought', got 2"):
        Site("thought", layer=2, position=0)
    with pytest.raises(ValueError, match="expected a site of resid_post, attn_out"):
        Site("attention", layer=2, position=0)
    with pytest.raises(ValueError, match="expected a head for the site 'head', got None"):
        Site("head", layer=2, position=0)
    with pytest.raises(ValueError, match="expected no head for the site 'kv', got 1"):
        Site("kv", layer=2, position=0, head=1)
    with pytest.raises(ValueError, match="expected head of at least 0, got -1"):
        Site("head", layer=2, position=0, head=-1)


def test_a_patch_hook_of_an_inner_site_that_does_not_fire_raises():
    model = family_model("gpt2", 2, 2)
    keys = model.outlets("kv")[0]
    edit = (torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, HIDDEN))
    with pytest.raises(PatchNotAppliedError), patch(keys, {0: edit}):
        pass
    assert not any(module._forward_hooks for module in model.modules())
