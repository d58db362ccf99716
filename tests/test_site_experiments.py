"""Layer and position patching at every site."""

import numpy as np
import pytest

from codi_patching.errors import InputError
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.patching.interventions import SITE_NAMES
from codi_patching.results.schema import Grid, cell_label

INNER = ("attn_out", "mlp_out", "kv", "thought")


@pytest.mark.parametrize("site", SITE_NAMES)
@pytest.mark.parametrize("experiment", [LayerPatching, PositionPatching])
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


@pytest.mark.parametrize("site", INNER)
def test_chains_are_of_outputs_alone(site):
    with pytest.raises(InputError, match=f"resid_post in iterative patching.*got '{site}'"):
        IterativePatching(site=site)


def test_only_an_output_of_the_last_layer_makes_a_thought():
    grid = Grid(("0", "1"), "position", ("0", "1"))
    assert cell_label(grid, (1, 0), True) == "layer 1, position 0 (makes thought 1)"
    assert cell_label(grid, (1, 0), True, "kv") == "layer 1, position 0"
