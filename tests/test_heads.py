"""Head patching: its experiment, its grid in Python, its names."""

import sys

import numpy as np
import pytest
import torch
import yaml

import codi_patching as cp
from codi_patching import cli
from codi_patching.analysis.levels import label_of
from codi_patching.errors import InputError
from codi_patching.experiments.head import HeadPatching
from codi_patching.reporting.names import title
from codi_patching.results.tables import cell_columns

PAIR = cp.Pair.of("Tom has 16 pears. He eats 3.", "Tom has 18 pears. He eats 3.", 13, 15)


@pytest.mark.parametrize("position", [None, 1])
def test_both_engines_agree_and_a_few_runs_are_made_again(predict, checkpoint, position):
    ours, theirs = (
        predict(
            HeadPatching(position, checkpoint=checkpoint, engine=engine, self_patch_pairs=1),
            precision="64-true",
            max_pairs=2,
        )
        for engine in ("sweep", "reference")
    )
    assert ours.run.grid.shape == (3, 4)
    assert ours.run.label((2, 3)) == "layer 2, head 3"
    assert cell_columns(ours.data)[:3] == ["pair_id", "layer", "head"]
    for metric, values in ours.values.items():
        np.testing.assert_allclose(values, theirs.values[metric], rtol=1e-6, atol=1e-8)
    assert (ours.values["kl_divergence"] > 1e-9).all()
    again = [run for pair in ours.pairs for run in pair.verified if run.layer is not None]
    assert {run.layer for run in again} == {"0", "1", "2"}
    assert {run.column for run in again} == {"0", "1", "2", "3"}
    for pair, kl, control in zip(
        ours.pairs, ours.values["kl_divergence"], ours.control["kl_divergence"]
    ):
        for run in pair.verified:
            if run.layer is not None:
                measured = (kl if run.arm == "own" else control)[int(run.layer), int(run.column)]
                assert measured == pytest.approx(run.metrics["kl_divergence"], rel=1e-6)
    assert ours.pairs[0].self_patch < 1e-9


def test_runs_are_told_apart_by_their_position(predict, checkpoint):
    options = {"checkpoint": checkpoint, "self_patch_pairs": 0, "verify_pairs": 0}
    everywhere = predict(HeadPatching(**options), max_pairs=1).run
    one = predict(HeadPatching(position=1, latents="frozen", **options), max_pairs=1).run
    assert (everywhere.positions, one.positions) == ("thoughts", "1")
    assert label_of(everywhere) == "head, recomputed"
    assert label_of(one) == "head, frozen, position 1"
    assert title(everywhere).startswith("Head patching of model on pairs")
    assert title(one).endswith(", frozen, position 1")


def test_a_grid_of_heads_has_single_patches(model):
    hand = cp.Model(model)
    grid = hand.grid(PAIR, site="head")
    assert grid.index.names == ["layer", "head"]
    assert len(grid) == 12
    sites = [cp.Site("head", layer=1, head=2, position=p) for p in range(3)]
    effect = hand.patch(PAIR, sites)
    assert grid.loc[(1, 2), "kl_divergence"] == pytest.approx(effect.metrics["kl_divergence"])
    every = [cp.Site("head", layer=1, head=h, position=p) for h in range(4) for p in range(3)]
    added = hand.patch(PAIR, [cp.Site("attn_out", layer=1, position=p) for p in range(3)])
    for name, value in hand.patch(PAIR, every).metrics.items():
        assert value == pytest.approx(added.metrics[name], abs=1e-9)


def test_a_head_takes_a_value_of_its_own_size(model):
    hand, site = cp.Model(model), cp.Site("head", layer=1, head=2, position=0)
    run = hand.run(PAIR.clean)
    given = hand.patch(PAIR, site, value=run.activations["head"][1, 0, 2])
    same = hand.patch(PAIR, site)
    torch.testing.assert_close(given.logits["clean"], same.logits["clean"], rtol=0, atol=1e-9)
    with pytest.raises(InputError, match=r"expected numbers of \(8,\) for Site\('head', layer=1"):
        hand.patch(PAIR, site, value=torch.zeros(32))
    with pytest.raises(InputError, match="expected a head under 4, got Site"):
        hand.patch(PAIR, cp.Site("head", layer=1, head=4, position=0))


def test_what_is_no_grid_of_heads_is_refused(attached, checkpoint):
    with pytest.raises(InputError, match="expected site head in head patching, got 'kv'"):
        HeadPatching(site="kv")
    with pytest.raises(InputError, match="no row of thoughts beside heads"):
        HeadPatching(include_thought=True)
    with pytest.raises(InputError, match=r"expected a position under 3, .* got 3: set position"):
        attached(HeadPatching(position=3, checkpoint=checkpoint))
    with pytest.raises(InputError, match="expected site resid_post in iterative"):
        cp.IterativePatching(site="head")


@pytest.mark.thorough
def test_of_the_shipped_model_one_head_does_what_its_layer_does():
    """Where attention of a layer carries the first step's number, a single head of it does."""
    hand = cp.load("codi-tiny")
    data = cp.PairsDataModule(max_pairs=1)
    data.setup("predict")
    heads = hand.grid(data.kept[0], site="head")["kl_divergence"].unstack()
    added = hand.grid(data.kept[0], "attn_out", whole_layers=True, latents="recomputed")
    whole = added["kl_divergence"].to_numpy()
    assert whole[0] > 1
    assert heads.loc[0].max() == pytest.approx(whole[0], rel=1e-2)
    others = heads.to_numpy().flatten()
    assert np.sort(others)[-2] < 0.01


@pytest.mark.parametrize(("given", "kept"), [("1", 1), ("bot", "bot"), ("null", None)])
def test_a_position_is_a_number_a_place_or_all(given, kept, capsys, monkeypatch):
    command = ["codi-patching", "predict", "--config=head", f"--model.position={given}"]
    monkeypatch.setattr(sys, "argv", [*command, "--print_config"])
    with pytest.raises(SystemExit):
        cli.main()
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["position"] == kept
