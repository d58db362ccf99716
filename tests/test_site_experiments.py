"""Layer and position patching at every site."""

import numpy as np
import pytest
import torch
from conftest import random_model
from random_families import family_model
from site_twin import run_site_twin

from codi_patching.errors import InputError
from codi_patching.experiments.head import HeadPatching
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import SITE_NAMES, all_patches
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine

INNER = ("attn_out", "mlp_out", "kv", "thought")
SINGLE = tuple(site for site in SITE_NAMES if site != "head")
"""What a cell of layer or position patching may be."""


@pytest.mark.parametrize(
    "site",
    [pytest.param(s, marks=[pytest.mark.thorough] * (s not in ("kv", "mlp_out"))) for s in SINGLE],
)
@pytest.mark.parametrize(
    "experiment", [pytest.param(LayerPatching, marks=pytest.mark.thorough), PositionPatching]
)
def test_both_engines_agree_at_every_site(predict, checkpoint, experiment, site):
    ours, theirs = (
        predict(experiment(checkpoint=checkpoint, site=site, engine=engine, self_patch_pairs=1))
        for engine in ("sweep", "reference")
    )
    assert ours.run.site == site
    for metric, values in ours.values.items():
        np.testing.assert_allclose(values, theirs.values[metric], rtol=1e-3, atol=1e-3)
    kl, structural = ours.values["kl_divergence"], ours.run.grid.structural
    assert structural.any() == (site not in ("kv", "thought"))
    assert np.abs(kl[:, structural]).max(initial=0) < 1e-9
    assert (kl[:, ~structural].max(0) > 1e-6).all()
    assert ours.run.grid.layers == (("thought",) if site == "thought" else ("0", "1", "2"))


def test_the_row_of_thoughts_joins_any_grid_but_its_own(predict, checkpoint):
    kv = predict(PositionPatching(checkpoint=checkpoint, site="kv", include_thought=True))
    thoughts = predict(PositionPatching(checkpoint=checkpoint, site="thought"))
    both = predict(PositionPatching(checkpoint=checkpoint, site="thought", include_thought=True))
    assert kv.run.grid.layers == ("thought", "0", "1", "2")
    assert both.run.grid.layers == ("thought",)
    for result in (thoughts, both):
        np.testing.assert_allclose(
            result.values["kl_divergence"][:, 0], kv.values["kl_divergence"][:, 0], atol=1e-6
        )


@pytest.mark.parametrize("site", INNER[:3])
def test_means_and_zeros_are_taken_at_the_site(predict, checkpoint, site):
    for source in ("zero", "mean"):
        results = predict(PositionPatching(checkpoint=checkpoint, site=site, source=source))
        assert results.values["kl_divergence"].max() > 1e-6


@pytest.mark.parametrize("experiment", [LayerPatching, PositionPatching])
def test_heads_are_no_cells_of_positions(experiment):
    with pytest.raises(InputError, match="HeadPatching, configuration head; set site"):
        experiment(site="head")


@pytest.mark.parametrize("site", INNER)
def test_chains_are_of_outputs_alone(site):
    with pytest.raises(InputError, match=f"resid_post in iterative patching.*got '{site}'"):
        IterativePatching(site=site)


def test_only_an_output_of_the_last_layer_makes_a_thought(model):
    names = {}
    for site in ("resid_post", "kv"):
        experiment = PositionPatching(site=site)
        experiment.use(model)
        names[site] = experiment.patch_grid.run_name("own", 7)
    assert names == {
        "resid_post": "layer 2, position 1 (makes thought 2)",
        "kv": "layer 2, position 1",
    }


# -- structural zeros ---------------------------------------------------------------------------

L = K = 3
LAST = L - 1
ADDED = ("resid_post", "attn_out", "mlp_out")
"""What these change in the last layer is read by the next thought alone."""


def grids():
    """Experiments, and their structural zeros as DESIGN 4.1 and 4.4 have them."""
    everywhere = {(LAST, p) for p in range(K)}
    for site in SINGLE:
        added = site in ADDED
        yield PositionPatching, {"site": site, "latents": "frozen"}, everywhere if added else set()
        yield PositionPatching, {"site": site}, {(LAST, K - 1)} if added else set()
        yield LayerPatching, {"site": site}, {(LAST, 0)} if added else set()
        yield LayerPatching, {"site": site, "latents": "recomputed"}, set()
    heads = {(LAST, head) for head in range(4)}
    yield HeadPatching, {"latents": "frozen"}, heads
    yield HeadPatching, {}, set()
    yield HeadPatching, {"position": K - 1}, heads
    yield HeadPatching, {"position": 0}, set()
    yield IterativePatching, {}, {(LAST, K - 1)}
    yield IterativePatching, {"strategy": "cumulative"}, set()


@pytest.mark.parametrize(
    ("experiment", "options", "zeros"),
    [pytest.param(*c, id=f"{c[0].name}-{'-'.join(map(str, c[1].values()))}") for c in grids()],
)
def test_structural_zeros_are_derived_and_are_zero(
    model, attached, checkpoint, experiment, options, zeros
):
    whole = attached(
        experiment(
            checkpoint=checkpoint, control="none", self_patch_pairs=0, verify_pairs=0, **options
        ),
        max_pairs=1,
    )
    whole.use(model.double())
    assert set(whole.grid.structural_zeros) == zeros
    (batch,) = whole.datamodule.batches
    (record,) = whole.predict_step(batch, 0)
    kl, structural = record.values["kl_divergence"], whole.grid.structural
    assert np.abs(kl[structural]).max(initial=0) < 1e-9
    assert kl[~structural].min() > 1e-9


def test_rows_of_thoughts_come_before_those_of_layers(model):
    for latents, zeros in (("frozen", ((3, 0), (3, 1), (3, 2))), ("recomputed", ((3, 2),))):
        experiment = PositionPatching(include_thought=True, latents=latents)
        experiment.use(model)
        assert experiment.grid.structural_zeros == zeros


@pytest.mark.parametrize(
    ("experiment", "options", "cell"),
    [
        (LayerPatching, {"latents": "recomputed"}, (2, 0)),
        (PositionPatching, {}, (2, 0)),
        (IterativePatching, {}, (2, 0)),
        (IterativePatching, {"strategy": "cumulative"}, (2, 0)),
        (LayerPatching, {"latents": "recomputed", "site": "kv"}, None),
    ],
)
def test_of_a_single_thought_the_last_layer_makes_no_other(experiment, options, cell):
    single = experiment(**options)
    single.use(random_model(num_layers=3, num_latents=1))
    assert single.grid.structural_zeros == ((cell,) if cell else ())


# -- the ceiling --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_nothing_of_the_ceilings_thoughts_is_the_base_runs(family):
    """Prompts of unequal length: a thought's keys and values are made at another position."""
    model = family_model(family, 3, 3)
    readout = Readout((2, 4), ((5,), (6, 7)))
    prompts = [5, 6, 7, 8], [5, 9, 6, 7, 9, 8, 8]
    base, source = (run_site_twin(model, prompt, [], readout) for prompt in prompts)
    given = [("kv", la, p, source[1]["kv"][la, p]) for la in range(3) for p in range(3)]
    expected = run_site_twin(model, prompts[0], given, readout, "frozen", base[0])[2]
    for engine in (ReferenceEngine(model), SweepEngine(model, 10)):
        starts = engine.unpatched([(prompt, readout) for prompt in prompts], ["kv"])
        row = all_patches(starts[1].run.activations())
        without = [patch for patch in row if patch.site.name != "kv"]
        for latents in ("frozen", "recomputed"):
            ceiling = engine.patched(starts[0], [row, without], latents)
            for ours, theirs in zip(ceiling.answer_logits, expected, strict=True):
                torch.testing.assert_close(ours[0], theirs, rtol=0, atol=1e-9)
                moved = (ours[1] - theirs).abs().max().item()
                assert (moved > 1e-4) if family == "gpt2" else (moved < 1e-9)
