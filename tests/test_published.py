"""Checkpoints in the published layout, written by peft and run by its own, unmerged model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from foreign_models import PublishedCodi
from random_families import usual
from safetensors.torch import load_file, save_file

from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.models.accuracy import latent_answers
from codi_patching.models.answers import build_readout
from codi_patching.models.families import FAMILIES
from codi_patching.models.loading import lora
from codi_patching.models.loading.adapter import Adapter, choose_adapter
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.models.loading.files import CheckpointError
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import patches_from
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine
from scripts.make_random_checkpoint import train_tokenizer

QUESTION = "Tom has 16 pears. He buys 4 more."


@pytest.fixture(scope="module")
def tokenizers():
    return {style: train_tokenizer(style, problems=300) for style in ("llama", "gpt2")}


@pytest.fixture
def write(tmp_path, tokenizers):
    """Write a checkpoint and its base folder; returns the published module and load arguments."""

    def write(family, change=lambda weights: None, name="pytorch_model.bin", **options):
        tokenizer = tokenizers["gpt2" if family == "gpt2" else "llama"]
        module = PublishedCodi(family, len(tokenizer), **options)
        base = tmp_path / "base"
        base.mkdir(exist_ok=True)
        (base / "config.json").write_text(json.dumps(module.base_config, default=str))
        tokenizer.save_pretrained(base)
        weights = dict(module.state_dict())
        change(weights)
        path = tmp_path / name
        if name.endswith(".bin"):
            torch.save(weights, path)
        else:
            save_file({k: v.clone().contiguous() for k, v in weights.items()}, path)
        return module, {"checkpoint": str(path), "base_model": str(base)}

    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_thoughts_and_logits_equal_the_published_codes(write, family):
    module, where = write(family)
    model, report = load_checkpoint(**where, num_latents=4)
    ids = model.prompt_ids(QUESTION)
    assert ids[-1] == module.bot_id
    readout = [module.eot_id, 5, 6, 7]
    thoughts, logits = module.infer(ids, 4, readout)
    ours, _, context = model.think(*model.encode([ids]))
    hidden, _ = model.read(context, torch.tensor([readout]))
    torch.testing.assert_close(ours[0], thoughts, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.logits(hidden[0]), logits, rtol=0, atol=1e-4)
    assert report.merged == (3 * 4 if family == "gpt2" else 3 * 7)
    assert report.lora_alpha == 32


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_is_merged_into_a_new_tensor_a_few_rows_at_a_time(monkeypatch, dtype, transposed):
    monkeypatch.setattr(lora, "_ROWS_AT_ONCE", 3)
    down, up = torch.randn(2, 7).to(dtype), torch.randn(8, 2).to(dtype)
    weight = torch.randn((7, 8) if transposed else (8, 7)).to(dtype)
    base, before = {"m.weight": weight}, weight.clone()
    adapters, path = {"m": (down, up)}, Path("a.bin")
    scales = lora.merge_lora(base, adapters, Adapter(5.0), transposed, dtype, path)
    assert scales == {"m": 2.5}
    change = 2.5 * up.float() @ down.float()
    expected = (before.float() + (change.T if transposed else change)).to(dtype)
    torch.testing.assert_close(base["m.weight"], expected)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("family", usual(FAMILIES))
def test_every_experiment_runs_on_every_family(write, predict, family):
    _, where = write(family)
    for experiment in (LayerPatching, PositionPatching, IterativePatching):
        results = predict(experiment(**where, num_latents=3), max_pairs=2)
        kl = results.values["kl_divergence"]
        assert kl[:, results.structural].max(initial=0) < 1e-8
        assert kl[:, ~results.structural].max() > 1e-6
        assert results.run.model_type == family
        assert results.run.checkpoint["merged"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_self_patching_changes_nothing_on_every_family(write, family):
    _, where = write(family)
    model, _ = load_checkpoint(**where, num_latents=3)
    readout = Readout((model.settings.eot_id, 5), ((6, 7),))
    for engine in (ReferenceEngine(model), SweepEngine(model, 40)):
        start = engine.unpatched([(model.prompt_ids(QUESTION), readout)])[0]
        own = start.run.activations()
        rows = [patches_from(own, layer, range(3)) for layer in (-1, 0, 1, 2)]
        logits = engine.patched(start, rows).answer_logits[0]
        unpatched = start.run.answer_logits[0].expand_as(logits)
        torch.testing.assert_close(logits, unpatched, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_prompts_answer_as_one_by_one(write, family):
    _, where = write(family)
    model, _ = load_checkpoint(**where, num_latents=3)
    questions = [QUESTION, "Tom has 5 pears.", "He has 6 boxes of 7 pears. He eats 3 of them."]
    single = [latent_answers(model, [question])[0] for question in questions]
    assert latent_answers(model, questions) == single


def rename(old, new):
    def change(weights):
        for key in [k for k in weights if k.startswith(old)]:
            weights[new + key.removeprefix(old)] = weights.pop(key)

    return change


def same_as_plain(write, **options):
    """Loads with `options`; the weights are those of the plain file."""
    _, plain = write("llama")
    expected = load_checkpoint(**plain)[0].state_dict()
    _, where = write("llama", **options)
    found, report = load_checkpoint(**where)
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected[name]), name
    return report


def test_older_files_say_coconut(write):
    same_as_plain(write, change=rename("codi.", "coconut."))


def test_extra_modules_are_dropped_by_name(write):
    extra = {"decoder.layers.0.weight": torch.ones(2), "dynamic_cls.bias": torch.ones(1)}
    report = same_as_plain(write, change=lambda weights: weights.update(extra))
    assert sorted(report.dropped) == sorted(extra)
    assert "dropped" in str(report)


def test_safetensors_with_and_without_the_tied_head(write):
    same_as_plain(write, name="model.safetensors")
    head = "codi.base_model.model.lm_head.weight"
    same_as_plain(write, name="model.safetensors", change=lambda weights: weights.pop(head))


def test_sharded_safetensors(write, tmp_path):
    _, where = write("llama", name="model.safetensors")
    expected = load_checkpoint(**where)[0].state_dict()
    weights = load_file(where["checkpoint"])
    names = {key: f"part{index % 2}.safetensors" for index, key in enumerate(weights)}
    for part in set(names.values()):
        save_file({k: v for k, v in weights.items() if names[k] == part}, tmp_path / part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    found = load_checkpoint(index, base_model=where["base_model"])[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names part1\.safetensors"):
        load_checkpoint(index, base_model=where["base_model"])


def test_a_projection_without_norm_and_none_at_all(write):
    module, where = write("llama", layer_norm=False)
    model, _ = load_checkpoint(**where)
    assert not hasattr(model.prj, "ln")
    module, where = write("llama", projection=False)
    model, _ = load_checkpoint(**where, num_latents=2)
    ids = model.prompt_ids(QUESTION)
    ours, _, _ = model.think(*model.encode([ids]))
    torch.testing.assert_close(ours[0], module.infer(ids, 2, [1])[0], rtol=0, atol=1e-4)


def test_prompts_that_end_with_eos_and_bot(write):
    _, where = write("llama")
    model, _ = load_checkpoint(**where, prompt_eos=True)
    assert model.prompt_ids(QUESTION)[-2:] == [1, model.settings.bot_ids[-1]]


def test_the_prompts_bos_is_the_tokenizers(write):
    for family, first in (("llama", "<|begin_of_text|>"), ("gpt2", "Tom")):
        _, where = write(family)
        model, _ = load_checkpoint(**where)
        ids = model.prompt_ids(QUESTION)
        assert model.tokenizer.convert_ids_to_tokens(ids[0]) == first


def test_num_latents_is_5_unless_given(write):
    _, where = write("llama")
    assert load_checkpoint(**where)[0].num_latents == 5
    assert load_checkpoint(**where, num_latents=6)[0].num_latents == 6
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=r"num_latents"):
            load_checkpoint(**where, num_latents=wrong)
    with pytest.raises(
        CheckpointError, match="fewer latent thoughts than the model's context of 128"
    ):
        load_checkpoint(**where, num_latents=128)


def test_alpha_scales_the_change_and_may_not_contradict_the_record(write, tmp_path):
    module, where = write("llama", alpha=16)
    model, _ = load_checkpoint(**where, lora_alpha=16)
    ids = model.prompt_ids(QUESTION)
    ours, _, _ = model.think(*model.encode([ids]))
    thoughts = module.infer(ids, 5, [1])[0]
    torch.testing.assert_close(ours[0], thoughts, rtol=0, atol=1e-4)
    wrong, _ = load_checkpoint(**where)
    assert (wrong.think(*wrong.encode([ids]))[0][0] - thoughts).abs().max() > 1e-2

    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 16}))
    assert load_checkpoint(**where)[1].lora_alpha == 16
    with pytest.raises(CheckpointError, match=r"alpha 16, by .* record, got 32.*lora_alpha"):
        load_checkpoint(**where, lora_alpha=32)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: expected a JSON object"):
        load_checkpoint(**where)


def test_a_record_goes_before_the_table_of_known_models():
    here = Path("x")
    assert choose_adapter(None, Adapter(16.0), 32.0, here).lora_alpha == 16.0
    assert choose_adapter(None, Adapter(), 64.0, here).lora_alpha == 64.0
    assert choose_adapter(None, Adapter(), None, here).lora_alpha == 32.0
    record = Adapter(16.0, 4, True, {"q_proj": 8.0}, {"k_proj": 2})
    assert choose_adapter(None, record, 32.0, here) == record


PREFIX = "codi.base_model.model.model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(f"{PREFIX}.lora_A.default.weight"), r"q_proj\.lora_A.* is missing"),
        (lambda w: w.pop(f"{PREFIX}.base_layer.weight"), r"q_proj\.base_layer\.weight is missing"),
        (
            lambda w: w.update({"codi.base_model.model.extra.weight": torch.ones(1)}),
            "extra.weight is un",
        ),
        (lambda w: w.update({"head.weight": torch.ones(1)}), "head.weight is unexpected"),
        (
            lambda w: w.update({f"{PREFIX}.lora_C.default.weight": torch.ones(1)}),
            "lora_C.*unexpected",
        ),
        (
            lambda w: w.update({f"{PREFIX}.lora_A.default.weight": torch.ones(5, 32)}),
            r"LoRA ranks differ: \[4, 5\].*do not fit",
        ),
        (
            lambda w: w.update({f"{PREFIX}.lora_B.default.weight": torch.ones(9, 4)}),
            r"lora_A \(4, 32\) and lora_B \(9, 4\) do not fit a weight of \(out, in\) \(32, 32\)",
        ),
        (
            lambda w: w.pop("codi.base_model.model.model.norm.weight"),
            "model.norm.weight is missing",
        ),
        (lambda w: w.pop("prj.3.weight"), "prj.3.weight is missing"),
        (lambda w: w.pop("prj.1.weight"), "prj.1.weight is missing"),
        (
            lambda w: w.update({"codi.base_model.model.lm_head.weight": torch.ones(3, 32)}),
            "lm_head.weight has shape",
        ),
        (
            lambda w: w.update(
                {
                    "codi.base_model.model.lm_head.weight": 1
                    + w["codi.base_model.model.lm_head.weight"]
                }
            ),
            "lm_head.weight differs from model.embed_tokens.weight",
        ),
        (
            lambda w: w["codi.base_model.model.model.norm.weight"].fill_(torch.inf),
            "model.norm.weight is not finite",
        ),
        (
            lambda w: w.update(
                {
                    "codi.base_model.model.model.embed_tokens.weight": w[
                        "codi.base_model.model.model.embed_tokens.weight"
                    ][:-3]
                }
            ),
            "3 rows .* more than the base model's",
        ),
    ],
)
def test_damaged_files_are_refused(write, change, message):
    _, where = write("llama", change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(**where)


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_pickle_that_would_run_code_is_refused_and_not_run(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, where = write("llama")
    torch.save({"a": Malicious()}, where["checkpoint"])
    with pytest.raises(CheckpointError, match="is refused: it holds more than tensors"):
        load_checkpoint(**where)
    assert not (tmp_path / "executed").exists()


def test_files_that_are_not_whole(write, tmp_path):
    _, where = write("llama")
    with open(where["checkpoint"], "r+b") as file:
        file.truncate(5000)
    with pytest.raises(CheckpointError, match="not a whole PyTorch file"):
        load_checkpoint(**where)
    torch.save([1, 2], where["checkpoint"])
    with pytest.raises(CheckpointError, match="expected a dictionary of tensors"):
        load_checkpoint(**where)
    Path(where["checkpoint"]).unlink()
    with pytest.raises(CheckpointError, match=r"not there: set checkpoint"):
        load_checkpoint(**where)


def test_base_models_that_do_not_serve(write, tmp_path, tokenizers):
    _, where = write("llama")
    with pytest.raises(CheckpointError, match=r"set base_model, or set checkpoint"):
        load_checkpoint(where["checkpoint"])
    with pytest.raises(CheckpointError, match=r"only with a checkpoint in the published layout"):
        load_checkpoint("codi-tiny", base_model=where["base_model"])
    with pytest.raises(CheckpointError, match=r"Hugging Face id or a folder.*base_model"):
        load_checkpoint(where["checkpoint"], base_model=str(tmp_path / "none"))
    base = Path(where["base_model"])
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "opt"}))
    with pytest.raises(CheckpointError, match="of the family 'opt'; expected one of llama"):
        load_checkpoint(**where)
    (base / "config.json").write_text(json.dumps(config))
    tokenizer = shutil.copytree(base, tmp_path / "more")
    more = tokenizers["llama"].__class__.from_pretrained(tokenizer)
    more.add_tokens(["another"])
    more.save_pretrained(tokenizer)
    with pytest.raises(CheckpointError, match="collide with pad, bot and eot"):
        load_checkpoint(where["checkpoint"], base_model=str(tokenizer))


def test_a_bf16_model_keeps_exact_rotary_frequencies(write):
    _, where = write("llama")
    model, _ = load_checkpoint(**where)
    before = model.backbone.model.rotary_emb.inv_freq.clone()
    model.bfloat16()
    assert model.backbone.model.norm.weight.dtype == torch.bfloat16
    assert torch.equal(model.backbone.model.rotary_emb.inv_freq, before)


def test_answers_of_both_tokenizer_styles(write):
    for family, before in (("llama", ":"), ("gpt2", "is")):
        _, where = write(family)
        model, _ = load_checkpoint(**where)
        readout = build_readout(model.tokenizer, (7,), "The answer is:", (18.0, 19.0))
        answers = [model.tokenizer.decode(list(ids)).strip() for ids in readout.answers]
        assert answers == ["18", "19"]
        assert before in model.tokenizer.decode(list(readout.prefix[1:]))
