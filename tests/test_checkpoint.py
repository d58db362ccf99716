import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi_patching.models.loading.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from codi_patching.models.loading.files import file_sha256


def edit(folder, change):
    """Rewrite the weights after `change(weights)`."""
    weights = load_file(f"{folder}/model.safetensors")
    change(weights)
    save_file(weights, f"{folder}/model.safetensors")


def test_what_is_saved_is_what_is_loaded(model, checkpoint):
    loaded, report = load_checkpoint(checkpoint)
    assert loaded.settings == model.settings
    saved = model.float().state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, saved[name]), name
    assert loaded.prompt_ids("Tom has 5.") == model.prompt_ids("Tom has 5.")
    assert report.tensors == len(load_file(f"{checkpoint}/model.safetensors"))
    assert report.dtypes == {"model": "float32", "prj": "float32"}
    assert "35 of 35 tensors used" in str(report)
    assert "every parameter filled" in str(report)


def test_loaded_models_are_for_evaluation(checkpoint):
    loaded, _ = load_checkpoint(checkpoint)
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_head_is_tied_and_not_in_the_file(checkpoint):
    loaded, _ = load_checkpoint(checkpoint)
    assert "lm_head.weight" not in load_file(f"{checkpoint}/model.safetensors")
    head, embeddings = (
        loaded.backbone.get_output_embeddings(),
        loaded.backbone.get_input_embeddings(),
    )
    assert head.weight is embeddings.weight


def test_num_latents_can_be_chosen(checkpoint):
    assert load_checkpoint(checkpoint)[0].num_latents == 3
    assert load_checkpoint(checkpoint, num_latents=6)[0].num_latents == 6
    with pytest.raises(ValueError, match="at least 1 latent"):
        load_checkpoint(checkpoint, num_latents=0)


def test_options_of_other_layouts_are_refused_each(checkpoint):
    message = "lora_alpha and prompt_eos only with a checkpoint in the published layout"
    for wrong in ({"base_model": checkpoint}, {"lora_alpha": 16.0}, {"prompt_eos": True}):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(checkpoint, **wrong)
    assert len(load_checkpoint(checkpoint, prompt_eos=False)[0].settings.bot_ids) == 1


def test_constants_are_counted_and_named_and_not_loaded(checkpoint):
    name = "model.rotary_emb.inv_freq"
    edit(checkpoint, lambda weights: weights.update({name: torch.full((4,), 7.0)}))
    loaded, report = load_checkpoint(checkpoint)
    assert (report.tensors, report.dropped) == (36, [name])
    assert "35 of 36 tensors used" in str(report)
    assert loaded.backbone.model.rotary_emb.inv_freq.max() == 1


def test_a_projection_without_its_norm_and_none_at_all(tmp_path, model):
    del model.prj.ln
    save_checkpoint(model.float(), tmp_path / "plain")
    loaded, _ = load_checkpoint(tmp_path / "plain")
    assert not hasattr(loaded.prj, "ln")
    model.prj = torch.nn.Identity()
    save_checkpoint(model, tmp_path / "none")
    loaded, _ = load_checkpoint(tmp_path / "none")
    assert loaded.prj(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda w: w.pop("prj.3.bias"), "prj.3.bias is missing"),
        (lambda w: w.update({"extra": torch.zeros(1)}), "extra is unexpected"),
        (lambda w: w.update({"prj.7.weight": torch.zeros(1)}), "prj.7.weight is unexpected"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(7)}),
            r"model.norm.weight has shape \(7,\), expected \(32,\)",
        ),
        (lambda w: w["model.norm.weight"].fill_(torch.nan), "model.norm.weight is not finite"),
        (
            lambda w: [w.pop(k) for k in list(w) if "layers.0" in k and "norm" not in k],
            r"model\.layers\.0.* is missing; .* and 2 more",
        ),
        (
            lambda w: [w.pop(k) for k in list(w) if "layers.0" in k],
            r"weights of 3 layers \(model\.layers\.…\), by the config, got those of 2$",
        ),
    ],
)
def test_weights_that_do_not_fit_exactly_are_refused(checkpoint, change, message):
    edit(checkpoint, change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint)


def test_a_truncated_file_is_refused(checkpoint):
    path = f"{checkpoint}/model.safetensors"
    with open(path, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_checkpoint(checkpoint)


def test_a_missing_file_is_named(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=r"codi-tiny.*set checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
    shutil.move(f"{checkpoint}/codi.json", tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"has no codi\.json"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("content", ["{", "{}", json.dumps({"bot_ids": [1], "unknown": 2})])
def test_settings_that_cannot_be_read_are_refused(checkpoint, content):
    with open(f"{checkpoint}/codi.json", "w") as file:
        file.write(content)
    with pytest.raises(CheckpointError, match="does not hold CODI's settings"):
        load_checkpoint(checkpoint)


def test_the_report_says_where_a_model_came_from(checkpoint):
    report = load_checkpoint(checkpoint)[1]
    weights = Path(checkpoint) / "model.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (report.source, report.sha256) == (checkpoint, sha256)
    assert (report.layout, report.feeds_back, report.merged) == ("own", True, 0)
    assert report.tensors == len(load_file(weights))
    both = hashlib.sha256((sha256 * 2).encode()).hexdigest()
    assert (file_sha256(weights), file_sha256(weights, weights)) == (sha256, both)
