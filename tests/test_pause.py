"""A model that feeds nothing back: learned vectors in the place of thoughts."""

import numpy as np
import pytest
import torch
from conftest import random_model

from codi_patching.analysis.report import build_report
from codi_patching.errors import InputError
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import load_checkpoint, save_checkpoint
from codi_patching.models.loading.files import CheckpointError
from codi_patching.models.projections import PauseVectors
from codi_patching.reporting.methods import NOT_FED_BACK, methods
from codi_patching.reporting.sentences import headline

DOUBLE = "64-true"


@pytest.fixture
def pausing() -> CodiModel:
    """A random model with three vectors in the place of thoughts."""
    model = random_model()
    vectors = PauseVectors(3, 32)
    torch.nn.init.normal_(vectors.pause, 0, 0.5)
    return CodiModel(model.backbone, vectors.double(), model.tokenizer, model.settings).eval()


@pytest.fixture
def checkpoint(pausing, tmp_path) -> str:
    save_checkpoint(pausing.float(), tmp_path / "pause")
    return str(tmp_path / "pause")


def test_thoughts_are_the_vectors_whatever_is_asked(pausing):
    hidden, context = pausing.encode([pausing.prompt_ids(q) for q in ("Tom has 16.", "He eats 3.")])
    thoughts, _, _ = pausing.think(hidden, context)
    assert torch.equal(thoughts[0], pausing.prj.pause)
    assert torch.equal(thoughts[1], pausing.prj.pause)


def test_a_checkpoint_says_that_nothing_is_fed_back(checkpoint, pausing):
    model, report = load_checkpoint(checkpoint)
    assert not model.feeds_back
    assert not report.feeds_back
    assert "nothing is fed back" in str(report)
    assert torch.equal(model.prj.pause, pausing.prj.pause)


def test_more_thoughts_than_vectors_are_refused(checkpoint):
    with pytest.raises(InputError, match=r"at most 3 latent thoughts.*got 4.*num_latents"):
        load_checkpoint(checkpoint, num_latents=4)
    assert load_checkpoint(checkpoint, num_latents=2)[0].num_latents == 2


@pytest.mark.parametrize("shape", [(), (3,), (3, 31)])
def test_vectors_of_another_shape_are_refused(checkpoint, shape):
    from safetensors.torch import load_file, save_file

    path = f"{checkpoint}/model.safetensors"
    save_file({**load_file(path), "prj.pause": torch.zeros(shape)}, path)
    with pytest.raises(CheckpointError, match=r"prj\."):
        load_checkpoint(checkpoint)


def test_recomputed_equals_frozen(predict, checkpoint):
    """Every number of every cell, the last layer's structural zeros too."""
    found = [
        predict(PositionPatching(checkpoint=checkpoint, latents=latents), DOUBLE)
        for latents in ("frozen", "recomputed")
    ]
    np.testing.assert_array_equal(found[0].structural, found[1].structural)
    assert found[0].structural[-1].all()
    for metric, values in found[0].values.items():
        np.testing.assert_array_equal(values, found[1].values[metric])


@pytest.mark.parametrize(
    "experiment",
    [
        lambda c: PositionPatching(checkpoint=c, site="kv"),
        lambda c: LayerPatching(checkpoint=c, latents="recomputed"),
        pytest.param(
            lambda c: IterativePatching(checkpoint=c, strategy="relay"), marks=pytest.mark.thorough
        ),
    ],
)
def test_the_sweep_agrees_with_whole_passes(predict, checkpoint, experiment, monkeypatch):
    """The reference engine is told to recompute, and the vectors come out as they were."""
    from codi_patching.measuring import engine_choice

    fast = predict(experiment(checkpoint), DOUBLE)
    monkeypatch.setattr(engine_choice, "sweep_unsupported_reason", lambda _: "to compare")
    with pytest.warns(UserWarning, match="reference engine"):
        slow = predict(experiment(checkpoint), DOUBLE)
    for metric, values in fast.values.items():
        np.testing.assert_allclose(values, slow.values[metric], rtol=1e-9, atol=1e-12)


def test_reports_say_so(predict, checkpoint):
    found = predict(PositionPatching(checkpoint=checkpoint))
    assert any(NOT_FED_BACK in said for said in methods(found.data))
    first, second, *_ = headline(build_report([found.data]))
    assert "learned vectors" in second  # what was found stands first
    assert "learned vectors" not in first
    assert not found.run.makes_thoughts(2)
