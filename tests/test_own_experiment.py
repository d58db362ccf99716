"""The experiment in docs/howto/experiment.md, as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codi_patching.data.pairs import Question
from codi_patching.patching.interventions import SITE_NAMES, patches_from
from codi_patching.results.layout import FINDINGS, VALIDITY
from codi_patching.results.layout import PAGE as REPORT

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "howto" / "experiment.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize(
    "site",
    [pytest.param(s, marks=[pytest.mark.thorough] * (s not in ("kv", "head"))) for s in SITE_NAMES],
)
def test_it_runs_at_every_site(mine, predict, checkpoint, site):
    results = predict(mine(checkpoint=checkpoint, site=site), precision="64-true")
    rows = 1 if site == "thought" else 3
    assert results.run.experiment == "neighbours"
    assert results.run.grid.shape == (rows, 2)
    assert (results.values["kl_divergence"] > 1e-9).all()  # position 1 makes thought 2
    assert max(pair.self_patch for pair in results.pairs) < 1e-9
    for index, pair in enumerate(results.pairs):
        cells = [run for run in pair.verified if run.layer is not None]
        assert cells
        for run in cells:
            ours = results.data.kl_divergence.sel(layer=run.layer, column=run.column, arm=run.arm)
            assert ours[index] == pytest.approx(run.metrics["kl_divergence"], rel=1e-6, abs=1e-9)


def test_its_structural_zeros_are_known_without_being_named(mine, predict, checkpoint):
    results = predict(mine(checkpoint=checkpoint, latents="frozen", site="attn_out"))
    assert results.run.grid.structural_zeros == ((2, 0), (2, 1))
    kl, structural = results.values["kl_divergence"], results.structural
    assert np.abs(kl[:, structural]).max() < 1e-9
    assert kl[:, ~structural].max() > 1e-6


def test_its_cells_are_two_positions(mine, model):
    experiment = mine(site="resid_post")
    experiment.use(model)
    request = experiment.prompts.of_question(Question("Tom has 16 pears.", 16))
    given = experiment.engine.unpatched([request])[0].run.activations()
    expected = patches_from(given, 1, [0, 1])
    for ours, theirs in zip(experiment.patch_sets(given)[2], expected, strict=True):
        assert ours.site == theirs.site


@pytest.mark.slow
@pytest.mark.thorough
def test_the_pages_command_ends_with_a_report(mine, tmp_path):
    """With the defaults of everything else; its checks hold, or the status would say so."""
    (options,) = re.findall(r"codi-patching (predict --model my_patching.*)", PAGE)
    done = subprocess.run(
        [sys.executable, "-m", "codi_patching", *options.split(), "--trainer.logger=false"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = {path.name for path in (tmp_path / "results" / "neighbours").iterdir()}
    assert written >= {"neighbours_patching_results.json", FINDINGS, REPORT, VALIDITY}
