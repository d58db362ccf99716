"""Files of others that are wrong in one thing: refused in one line, before anything is allocated.

Own layout where that is enough; adapters against peft's own merging.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from foreign_models import LLAMA_TARGETS, build_backbone, draw
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from codi_patching.models.loading.checkpoint import CheckpointError, load_checkpoint
from scripts.make_random_checkpoint import train_tokenizer


def refusal(*arguments, **options):
    """The one line in which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(*arguments, **options)
    line = str(refused.value)
    assert line.isprintable()
    assert len(line) < 1500
    return line


def change_json(path, change):
    content = json.loads(Path(path).read_text())
    change(content)
    Path(path).write_text(json.dumps(content))


# -- config.json -------------------------------------------------------------------------------

ROPE = {"rope_type": "default", "rope_theta": 1e4}
CONFIGS = {
    "a billion layers": ({"num_hidden_layers": 10**9}, "expected num_hidden_layers to be a whole"),
    "more layers than weights": ({"num_hidden_layers": 4}, "expected weights of 4 layers"),
    "text for a number": ({"hidden_size": "32"}, "expected hidden_size to be a whole number"),
    "half a number": ({"hidden_size": 32.5}, "expected hidden_size to be a whole number of at l"),
    "a truth value for a number": ({"vocab_size": True}, "expected vocab_size to be a whole num"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads to be a whole number of at le"),
    "a width without end": ({"hidden_size": 10**12}, "expected (377, 1000000000000)"),
    "MLPs without end": ({"intermediate_size": 10**12}, "expected (1000000000000, 32)"),
    "a vocabulary without end": ({"vocab_size": 10**12}, "expected (1000000000000, 32)"),
    "a context of none": ({"max_position_embeddings": 0}, "max_position_embeddings to be a whol"),
    "no family": ({"model_type": None}, "the model is of the family None; expected one of llama"),
    "a list for a family": ({"model_type": ["llama"]}, "is of the family ['llama']; expected on"),
    "another family": ({"model_type": "bert"}, "is of the family 'bert'; expected one of llama"),
    "code of its own": (
        {"model_type": "new", "auto_map": {"AutoConfig": "evil.Config"}},
        "the model is of the family 'new'; expected one of llama",
    ),
    "rope unknown": ({"rope_parameters": {**ROPE, "rope_type": "odd"}}, "one of linear, dynamic"),
    "rope of nothing": ({"rope_parameters": {**ROPE, "rope_theta": 0}}, "rope_theta of rotary pos"),
    "rope under 0": ({"rope_parameters": {**ROPE, "rope_theta": -1.0}}, "to be a number over 0"),
    "rope of text": ({"rope_parameters": {**ROPE, "rope_theta": "x"}}, "to be a number over 0"),
    "rope factor 0": (
        {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 0}},
        "expected factor of rotary positions to be a number over 0, got 0",
    ),
    "rope as text": ({"rope_parameters": "default"}, "rope_parameters"),
    "epsilon under 0": ({"rms_norm_eps": -1.0}, "expected rms_norm_eps to be a finite number"),
    "epsilon NaN": ({"rms_norm_eps": math.nan}, "expected rms_norm_eps to be a finite number"),
    "text for a switch": ({"tie_word_embeddings": "false"}, "expected bool, got str"),
    "an unknown activation": ({"hidden_act": "odd"}, "makes no language model"),
    "quantised": ({"quantization_config": {"quant_method": "gptq"}}, "scales are not read"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_cannot_be(checkpoint, case):
    change, message = CONFIGS[case]
    change_json(f"{checkpoint}/config.json", lambda content: content.update(change))
    assert message in refusal(checkpoint)


RAW = {
    "a list": "[]",
    "null": "null",
    "a number": "3",
    "nothing": "",
    "a page": "<html>",
    "a key twice": '{"model_type": "llama", "model_type": "gpt2"}',
    "too deep": "[" * 100_000,
    "5,000 digits": f'{{"hidden_size": {"9" * 5000}}}',
    "no model_type": "{}",
}


@pytest.mark.parametrize("name", ["config.json", "codi.json", "tokenizer.json"])
@pytest.mark.parametrize("case", RAW)
def test_json_that_is_none(checkpoint, name, case):
    Path(checkpoint, name).write_text(RAW[case])
    assert name in refusal(checkpoint)


def test_no_code_of_a_folder_runs_and_nobody_is_asked(checkpoint, tmp_path, monkeypatch):
    """A family that is known is taken from transformers, whatever the file says of code."""
    ran = tmp_path / "ran"
    evil = f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    Path(checkpoint, "evil.py").write_text(evil)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    where = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    change_json(f"{checkpoint}/config.json", lambda content: content.update(auto_map=where))
    load_checkpoint(checkpoint)
    change_json(f"{checkpoint}/config.json", lambda content: content.update(model_type="new"))
    refusal(checkpoint)
    assert not ran.exists()


# -- tensors -----------------------------------------------------------------------------------

NORM, PRJ = "model.norm.weight", "prj.1.weight"
TENSORS = {
    "an empty one": ({NORM: torch.zeros(0)}, "norm.weight has shape (0,), expected (32,)"),
    "a single number": ({PRJ: torch.tensor(1.0)}, "prj.1.weight has shape ()"),
    "a projection of nothing": ({PRJ: torch.ones(0, 32)}, "prj.1.weight has shape (0, 32)"),
    "complex numbers": ({NORM: torch.ones(32, dtype=torch.complex64)}, "norm.weight is complex64"),
    "what float32 cannot hold": (
        {NORM: torch.full((32,), 1e300, dtype=torch.float64)},
        "model.norm.weight is not finite",
    ),
    "control characters in a name": (
        {"\x1b[31mred\n\u202ename": torch.ones(1)},
        r"\x1b[31mred\n\u202ename is unexpected",
    ),
    "a name without end": ({"x" * 10**5: torch.ones(1)}, "… "),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_no_weights(checkpoint, case):
    change, message = TENSORS[case]
    path = f"{checkpoint}/model.safetensors"
    try:
        save_file({**load_file(path), **change}, path)
    except KeyError:
        pytest.skip("this version of safetensors writes no such numbers")
    assert message in refusal(checkpoint) + " "


def test_an_embedding_of_every_token_that_a_tokenizer_puts_in(checkpoint):
    """Its template puts a token before every text that no vocabulary has to list."""
    single = [
        {"SpecialToken": {"id": "<x>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    post = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<x>": {"id": "<x>", "ids": [9999], "tokens": ["<x>"]}},
    }
    change_json(f"{checkpoint}/tokenizer.json", lambda content: content.update(post_processor=post))
    assert "got the tokenizer's 9999" in refusal(checkpoint)


# -- adapters, against peft --------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizers():
    return {family: train_tokenizer(family, problems=300) for family in ("llama", "gpt2")}


class Trained(nn.Module):
    """What CODI's code saves: peft's model, and a projection."""

    def __init__(self, codi):
        super().__init__()
        self.codi = codi
        self.prj = nn.Sequential(nn.Identity(), nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 32))


@pytest.fixture
def trained(tokenizers, tmp_path):
    """Write adapters as peft has them; returns its model, the file, its base, its record."""

    def trained(family="llama", **settings):
        tokenizer = tokenizers[family]
        torch.manual_seed(3)
        backbone, before = build_backbone(family, len(tokenizer), len(tokenizer) + 3)
        targets = ["c_attn", "c_proj", "c_fc"] if family == "gpt2" else LLAMA_TARGETS
        own = {"r": 4, "lora_alpha": 32, "target_modules": targets, "task_type": "CAUSAL_LM"}
        config = LoraConfig(**{**own, "fan_in_fan_out": family == "gpt2", **settings})
        module = draw(Trained(get_peft_model(backbone, config)))
        base, files = tmp_path / "base", tmp_path / "files"
        tokenizer.save_pretrained(base)
        (base / "config.json").write_text(json.dumps(before, default=str))
        files.mkdir()
        torch.save(module.state_dict(), files / "pytorch_model.bin")
        module.codi.peft_config["default"].save_pretrained(files)
        return module, files, str(base)

    return trained


Q_PROJ = "model.layers.1.self_attn.q_proj"
ADAPTERS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "alphas by the end of a name": {"alpha_pattern": {"q_proj": 64}},
    "alphas by whole names": {"alpha_pattern": {f"^{Q_PROJ}": 64}},
    "alphas by patterns": {"alpha_pattern": {r"layers\.[01]\..*_proj": 5}},
    "ranks": {"rank_pattern": {"q_proj": 2, r"layers\.0\.mlp\..*": 7}},
    "all of them": {"rank_pattern": {"up_proj": 8}, "alpha_pattern": {"up_proj": 5},
                    "use_rslora": True},
    "some layers": {"layers_to_transform": [0, 2]},
    "some modules": {"exclude_modules": ["q_proj"]},
    "made of the weights": {"init_lora_weights": "pissa"},
    "gpt2": {"family": "gpt2", "alpha_pattern": {"attn.c_proj": 64}, "rank_pattern": {"c_fc": 9}},
}  # fmt: skip


@pytest.mark.parametrize("case", ADAPTERS)
def test_merged_weights_are_pefts(trained, case):
    module, files, base = trained(**ADAPTERS[case])
    found = load_checkpoint(files, base_model=base)[0].backbone.state_dict()
    expected = module.codi.merge_and_unload().state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


RECORDS = {
    "other modules": ({"target_modules": ["v_proj"]}, "an adapter, where adapter_config.json says"),
    "other layers": ({"layers_to_transform": [0]}, "layers.1.self_attn.q_proj has an adapter"),
    "two alphas for one": (
        {"alpha_pattern": {"q_proj": 64, Q_PROJ: 8}},
        f"{Q_PROJ} has the alphas 64.0; 8.0 by patterns",
    ),
    "an alpha that overflows": ({"lora_alpha": 1e300}, "over 0 (1e-06 to 1e+06), got 1e+300"),
    "an alpha that vanishes": ({"lora_alpha": 1e-300}, "over 0 (1e-06 to 1e+06), got 1e-300"),
    "a pattern without end": ({"alpha_pattern": {"([a-z._0-9]+)+!": 6}}, "got a repeated group"),
    "any other setting": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens [1]"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_records_that_are_not_of_these_adapters(trained, case):
    change, message = RECORDS[case]
    _, files, base = trained()
    change_json(files / "adapter_config.json", lambda content: content.update(change))
    assert message in refusal(files, base_model=base)


DOWN, UP = f"codi.base_model.model.{Q_PROJ}.lora_A.default.weight", "lora_B.default.weight"
WEIGHTS = {
    "no adapter where one was": (
        lambda w: [w.pop(k) for k in list(w) if Q_PROJ in k and "lora_" in k],
        f"{Q_PROJ}.lora_A.default.weight is missing",
    ),
    "an adapter that is no matrix": (lambda w: w.update({DOWN: torch.ones(32)}), "no matrices"),
    "an adapter of rank 0": (
        lambda w: w.update({DOWN: torch.ones(0, 32), DOWN.replace("_A", "_B"): torch.ones(32, 0)}),
        "q_proj has rank 0",
    ),
    "a weight under two names": (
        lambda w: w.update({f"codi.{NORM}": torch.ones(32)}),
        f"codi.{NORM} is there under two names",
    ),
    "merged and not": (
        lambda w: w.update({f"codi.base_model.model.{Q_PROJ}.weight": torch.ones(32, 32)}),
        "is there under two names",
    ),
    "a weight outside the wrapper": (
        lambda w: [w.update({f"net.{k}": w.pop(k)}) for k in list(w)] and w.update(x=torch.ones(1)),
        "expected all weights in one module, as some are in net., got x",
    ),
    "a layout of others": (
        lambda w: [w.update({f"projector.{k.partition('.')[2]}": w.pop(k)}) for k in list(w)],
        "expected the keys of CODI's files",
    ),
    "sparse": (lambda w: w.update({f"codi.{NORM}": torch.ones(9).to_sparse()}), "not a dense ten"),
    "without memory": (
        lambda w: w.update({f"codi.{NORM}": torch.ones(9, device="meta")}),
        "not a dense tensor",
    ),
    "more than there is memory": (
        lambda w: w.update({f"codi.base_model.model.{NORM}": torch.ones(1).expand(10**12)}),
        "model.norm.weight has shape (1000000000000,), expected (32,)",
    ),
    "a number for a name": (lambda w: w.update({3: torch.ones(1)}), "but 3 is Tensor"),
    "other objects": (lambda w: w.update(where=Path("x")), "it holds more than tensors (pathlib"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_files_of_weights_that_are_not_whole(trained, case):
    change, message = WEIGHTS[case]
    _, files, base = trained()
    weights = torch.load(files / "pytorch_model.bin")
    change(weights)
    torch.save(weights, files / "pytorch_model.bin")
    line = refusal(files, base_model=base)
    assert message in line
    assert "weights_only" not in line


WRAPPERS = {
    "a name of one's own": lambda w: {f"student.{k}": v for k, v in w.items()},
    "two modules": lambda w: {f"model.module.{k}": v for k, v in w.items()},
    "inside": lambda w: {k.replace("codi.", "codi.module.", 1): v for k, v in w.items()},
    "each layer": lambda w: {
        k.replace("layers.1.", "layers.1._checkpoint_wrapped_module."): v for k, v in w.items()
    },
    "two dictionaries": lambda w: {"model": {"state_dict": w}, "step": 3},
}


@pytest.mark.parametrize("case", WRAPPERS)
def test_any_wrapper_is_taken_off(trained, case):
    _, files, base = trained()
    plain = load_checkpoint(files, base_model=base)[0].state_dict()
    torch.save(WRAPPERS[case](torch.load(files / "pytorch_model.bin")), files / "pytorch_model.bin")
    found = load_checkpoint(files, base_model=base)[0].state_dict()
    assert all(torch.equal(found[name], value) for name, value in plain.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull`"),
        (b"", "is not a whole PyTorch file"),
        (b"\x80broken", "is not a whole PyTorch file of tensors"),
    ],
)
def test_files_that_hold_no_weights(trained, content, message):
    _, files, base = trained()
    (files / "pytorch_model.bin").write_bytes(content)
    assert message in refusal(files, base_model=base)


def test_a_tokenizer_of_code_is_refused_and_nobody_is_asked(trained, monkeypatch):
    _, files, base = trained()
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    settings = {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}, "tokenizer_class": "Evil"}
    change_json(f"{base}/tokenizer_config.json", lambda content: content.update(settings))
    line = refusal(files, base_model=base)
    assert "asks for code of the folder, and none is run" in line
    assert "trust_remote_code" not in line
