"""Other libraries give the same logits on frozen grids, each in the form that is timed."""

from itertools import product

import benchmark
import pytest
import torch
from peers import (
    PEERS,
    SITES,
    arguments,
    copy_sharing_weights,
    engine_logits,
    frozen_grid,
    package_of,
    read_prompt,
    site_module,
    unpatched_runs,
)
from random_families import VOCABULARY, family_model

from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import Patch, Site
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine

PROMPTS = [[5, 6, 7, 8, 11], [5, 6, 9, 8, 11]]
READOUT = Readout((2, 4, 3), ((5,), (6,)))
LAYERS, LATENTS = 3, 2

WIDE, ROUNDED = 1e-9, 1e-5
"""Tolerances in float64, and where one side rounds to float32 on the way."""


def tolerance(peer, family):
    """On Llama the norm of transformers is in float32, HookedTransformer's is not; the bridge has
    eager attention, whose softmax is in float32, where the others have that of PyTorch."""
    lens = package_of(peer) == "transformer_lens"
    return ROUNDED if lens and family == "llama" else WIDE


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("peer", PEERS)
@torch.inference_mode()
def test_a_peer_gives_the_logits_of_both_engines(peer, family, site):
    if package_of(peer):
        pytest.importorskip(package_of(peer))
    model = family_model(family, LAYERS, LATENTS)
    engines = (ReferenceEngine(model), SweepEngine(model, 100))
    runs = [unpatched_runs(engine, PROMPTS, READOUT, site) for engine in engines]
    grid = frozen_grid(model, PROMPTS[0], *runs[0], site)
    try:
        run = PEERS[peer](model.backbone)
    except ImportError as error:  # TransformerLens 4 has no HookedTransformer
        pytest.skip(str(error))
    theirs = run(grid)
    assert theirs.shape == (LAYERS, LATENTS, VOCABULARY)
    effects = (theirs - runs[0][0].run.answer_logits[0][0, 0]).abs().amax(-1)
    assert (effects[:-1] > 0.01).all(), "every patch below the last layer matters"
    for engine, (base, source) in zip(engines, runs):
        ours = engine_logits(engine, base, source, site)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance(peer, family))
    for module in model.backbone.modules():
        hooks = module._forward_hooks.values()
        assert all(hook.__module__.startswith("transformers.") for hook in hooks)  # its own stay
        assert "forward" not in vars(module)


@pytest.mark.parametrize(("rounding", "timed"), [(1e-3, True), (3e-2, False)])
@torch.inference_mode()
def test_a_peer_with_other_logits_is_named_and_not_timed(monkeypatch, capsys, rounding, timed):
    """TransformerLens' bridge drops keys and values where transformers calls them `cache`."""
    hooks = PEERS["plain hooks, one batch"]
    other = lambda backbone: lambda grid: hooks(backbone)(grid) + rounding  # noqa: E731
    peers = {"plain hooks, one batch": hooks, "plain hooks, rounded": other}
    monkeypatch.setattr(benchmark, "PEERS", peers)
    bench = benchmark.Bench(benchmark.parse(["--pairs=1", "--prompt=8", "--shared=4"]))
    arms = bench._peers(report := benchmark.Report())
    assert list(arms) == list(report.largest_difference) == list(peers)[: 1 + timed]
    said = capsys.readouterr().err
    assert timed or said.startswith("plain hooks, rounded: left out, logits differ by up to 3.0e")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_copies_of_modules_share_the_weights(family):
    backbone = family_model(family, LAYERS, LATENTS).backbone
    copied = copy_sharing_weights(backbone)
    for (name, ours), (other, theirs) in zip(
        backbone.named_parameters(), copied.named_parameters(), strict=True
    ):
        assert name == other
        assert ours is theirs
    assert not set(backbone.modules()) & set(copied.modules())
    assert backbone.config._attn_implementation != copied.config._attn_implementation


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.inference_mode()
def test_nnsight_gives_the_logits_of_single_heads(family):
    """What a head hands to the output projection is set there, one trace for each head and cell."""
    nnsight = pytest.importorskip("nnsight")
    model = family_model(family, LAYERS, LATENTS)
    engines = (ReferenceEngine(model), SweepEngine(model, 100))
    runs = [engine.unpatched([(ids, READOUT) for ids in PROMPTS], ["head"]) for engine in engines]
    base, source = runs[0]
    given = source.run.activations().of_site("head")
    layers, size = given.shape[0], given.shape[-1]
    grid = frozen_grid(model, PROMPTS[0], base, source, "resid_post")
    traced = nnsight.NNsight(copy_sharing_weights(model.backbone))
    cache, cells = read_prompt(traced._module, grid), list(product(*map(range, given.shape[:3])))
    theirs = []
    for layer, position, head in cells:
        with traced.trace(**arguments(traced._module, grid, cache, 1)):
            attention = site_module(traced, layer, "attn_out")
            projection = attention.c_proj if family == "gpt2" else attention.o_proj
            entering = projection.input.clone()
            columns = slice(head * size, (head + 1) * size)
            entering[0, position, columns] = given[layer, position, head]
            projection.input = entering
            logits = traced.lm_head.output.save()
        theirs.append(logits[0, -1])
    effects = (torch.stack(theirs) - base.run.answer_logits[0][0, 0]).abs().amax(-1)
    assert (effects.view(layers, -1)[:-1] > 1e-4).all(), "heads below the last layer matter"
    for engine, (own, other) in zip(engines, runs, strict=True):
        activations = other.run.activations()
        sites = [Site("head", layer=la, position=p, head=h) for la, p, h in cells]
        rows = [[Patch(site, activations.of(site))] for site in sites]
        ours = engine.patched(own, rows, "frozen").answer_logits[0][:, 0]
        torch.testing.assert_close(ours, torch.stack(theirs), rtol=0, atol=WIDE)
