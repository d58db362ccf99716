"""The experiment in docs/own_experiment.md, as it stands there."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from codi_patching.patching.interventions import patches_from

PAGE = (Path(__file__).parents[1] / "docs" / "own_experiment.md").read_text(encoding="utf-8")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The module of the page, where Python finds it."""
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "class " in block
    ]
    (tmp_path / "my_patching.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_patching

    yield my_patching.NeighbourPatching
    sys.modules.pop("my_patching")


def test_an_experiment_of_a_users_own_runs(mine, predict, checkpoint):
    for latents in ("frozen", "recomputed"):
        results = predict(mine(checkpoint=checkpoint, latents=latents, site="attn_out"))
        assert results.run.experiment == "neighbours"
        assert results.run.grid.shape == (3, 2)
        kl, structural = results.values["kl_divergence"], results.run.grid.structural
        assert np.abs(kl[:, structural]).max(initial=0) < 1e-9
        assert structural.any() == (latents == "frozen")
        assert kl[:, ~structural].max() > 1e-6


def test_its_cells_are_two_positions(mine, model):
    experiment = mine(site="resid_post")
    experiment.use(model)
    start = experiment.engine.unpatched([experiment.prompts.of_question(_Question)])[0]
    given = start.run.activations()
    expected = patches_from(given, 1, [0, 1])
    for ours, theirs in zip(experiment.patch_sets(given)[2], expected, strict=True):
        assert ours.where == theirs.where


class _Question:
    text = "Tom has 16 pears."
