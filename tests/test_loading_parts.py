"""What loading is made of, one part at a time: names, options, scales, bounds and reports."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import random_model
from safetensors.torch import save_file
from transformers import GPT2Config, LlamaConfig

from codi_patching.errors import InputError
from codi_patching.models.loading import coconut, config, files, hub, load, own, published, tensors
from codi_patching.models.loading.adapter import (
    Adapter,
    check_alpha,
    choose_adapter,
    recorded_adapter,
)
from codi_patching.models.loading.base_model import BaseModel, named_ids, vocabulary_rows
from codi_patching.models.loading.files import CheckpointError
from codi_patching.models.loading.known import KNOWN_MODELS, KnownModel, known_id
from codi_patching.models.loading.load_report import LoadReport
from codi_patching.models.loading.lora import merge_lora
from codi_patching.models.loading.options import Asked, LoadOptions, choose_options
from codi_patching.models.loading.strict import _check_tokens, dtypes_of, tied_weights
from codi_patching.models.settings import CodiSettings

HERE = Path("model.bin")
GPT2, LLAMA = "openai-community/gpt2", "meta-llama/Llama-3.2-1B-Instruct"


# -- what published models are -----------------------------------------------------------------

PUBLISHED = {  # layout, base model, thoughts, alpha, accuracy
    "zen-E/CODI-gpt2": ("codi", GPT2, 6, 32, 0.437),
    "zen-E/CODI-llama3.2-1b-Instruct": ("codi", LLAMA, 6, 32, 0.556),
    "internlm/SIM_COT-GPT2-CODI": ("codi", GPT2, 6, 32, None),
    "internlm/SIM_COT-LLaMA3-CODI-1B": ("codi", LLAMA, 6, 32, None),
    "internlm/SIM_COT-LLaMA3-CODI-3B": ("codi", LLAMA.replace("1B", "3B"), 6, 32, None),
    "internlm/SIM_COT-LLaMA3-CODI-8B": ("codi", "meta-llama/Llama-3.1-8B-Instruct", 6, 32, None),
    "internlm/SIM_COT-GPT2-Coconut": ("coconut", GPT2, 10, None, 0.448),
    "bcywinski/codi_llama1b-answer_only": ("codi", LLAMA, 6, 32, None),
    "connordilgren/gpt2-gsm8k-coconut": ("coconut", GPT2, None, None, None),
}


def test_what_is_known_of_published_models():
    found = {
        name: (row.layout, row.base_model, row.num_latents, row.lora_alpha, row.accuracy)
        for name, row in KNOWN_MODELS.items()
    }
    assert found == PUBLISHED


def test_how_published_models_are_asked():
    odd = "bcywinski/codi_llama1b-answer_only"
    assert [name for name, row in KNOWN_MODELS.items() if row.prompt_eos] == [odd]
    assert not any(row.readout_eos for row in KNOWN_MODELS.values())
    assert [name for name, row in KNOWN_MODELS.items() if row.question_suffix] == [odd]
    for name, row in KNOWN_MODELS.items():
        usual = "The answer is:" if row.layout == "codi" else "###"
        assert row.answer_prefix == ("" if name == odd else usual)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("zen-E/CODI-gpt2", True),
        ("models/zen-E/CODI-gpt2", True),
        ("models/zen-E/CODI-gpt2/model.bin", True),
        ("zen-E/CODI-gpt2/sub/model.bin", False),
        ("zen-E/CODI-gpt2-mine", False),
        ("CODI-gpt2", False),
        ("", False),
    ],
)
def test_which_paths_are_a_known_model(path, found):
    assert known_id(path) == ("zen-E/CODI-gpt2" if found else None)


ROW = KnownModel("codi", GPT2, 6, "here", 16.0, True, False, "So:", " Go.")


@pytest.mark.parametrize(
    ("known", "asked", "chosen"),
    [
        (None, {}, LoadOptions()),
        (None, {"prompt_eos": True}, LoadOptions(prompt_eos=True, readout_eos=True)),
        (None, {"num_latents": 3, "lora_alpha": 8.0}, LoadOptions(3, 8.0)),
        (None, {"answer_prefix": ""}, LoadOptions(answer_prefix="")),
        (ROW, {}, LoadOptions(6, None, "So:", True, False, " Go.", 16.0)),
        (ROW, {"num_latents": 3}, LoadOptions(3, None, "So:", True, False, " Go.", 16.0)),
        (ROW, {"lora_alpha": 8.0}, LoadOptions(6, 8.0, "So:", True, False, " Go.", 16.0)),
        (ROW, {"answer_prefix": ""}, LoadOptions(6, None, "", True, False, " Go.", 16.0)),
        (ROW, {"prompt_eos": False}, LoadOptions(6, None, "So:", False, False, " Go.", 16.0)),
        (ROW, {"prompt_eos": True}, LoadOptions(6, None, "So:", True, True, " Go.", 16.0)),
        (
            replace(ROW, readout_eos=True),
            {"prompt_eos": False},
            LoadOptions(6, None, "So:", False, False, " Go.", 16.0),
        ),
    ],
)
def test_what_is_asked_for_goes_before_what_is_known(known, asked, chosen):
    assert choose_options(known, Asked("x", **asked)) == chosen


def test_what_is_asked_for_is_made_pythons_own():
    asked = Asked("x", num_latents=torch.tensor(3), base_model=Path("here"))
    assert (type(asked.num_latents), asked.num_latents, asked.base_model) == (int, 3, "here")
    with pytest.raises(InputError, match="expected base_model to be a path, got 3") as caught:
        Asked("x", base_model=3)
    assert caught.value.naming(str).endswith("set model.base_model")


def test_layouts_have_prompts_of_their_own():
    plain, options = published._settings(LoadOptions(), 7, 8, 2), LoadOptions(3, None, "", True)
    assert plain == CodiSettings(5, (7,), (8,), 2, "The answer is:")
    assert published._settings(options, 7, 8, 2) == CodiSettings(3, (2, 7), (8,), 2, "")
    options = LoadOptions(readout_eos=True, question_suffix="!", answer_prefix="So:")
    made = published._settings(options, 7, 8, 2)
    assert made == CodiSettings(5, (7,), (8, 2), 2, "So:", False, "!")
    tokenizer = random_model().tokenizer
    tokenizer.eos_token = "<eos>"
    size = len(tokenizer)
    made = coconut._settings(LoadOptions(6, question_suffix="!"), tokenizer, size + 3)
    eos = tokenizer.eos_token_id
    assert made == CodiSettings(6, (size,), (size + 1,), eos, "###", True, "\n!")
    for rows in (size + 2, size + 4):
        with pytest.raises(CheckpointError, match="3 rows"):
            coconut._settings(LoadOptions(6), tokenizer, rows)
    tokenizer.add_tokens(["<|latent|>", "<|end-latent|>", "<|start-latent|>"])
    made = coconut._settings(LoadOptions(6, answer_prefix=""), tokenizer, size + 3)
    assert made == CodiSettings(6, (size + 2,), (size + 1,), eos, "", True, "\n")


@pytest.mark.parametrize("options", [{"lora_alpha": 8.0}, {"prompt_eos": True}])
def test_coconut_takes_no_options_of_codi(options):
    coconut._check_options(LoadOptions(6), HERE)
    with pytest.raises(CheckpointError, match="only with CODI's layout"):
        coconut._check_options(LoadOptions(6, **options), HERE)


def test_of_the_rows_after_the_base_models_the_tokenizer_may_name_the_first_as_padding():
    """As CODI's code adds it; any other token there, or a padding elsewhere, is another model's."""
    for token, after, collides in (("[PAD]", 0, False), ("[OTHER]", 0, True), ("[PAD]", 1, True)):
        tokenizer = random_model().tokenizer
        size = len(tokenizer) - after
        tokenizer.add_tokens([token])
        tokenizer.pad_token = "[PAD]" if token == "[PAD]" else tokenizer.eos_token
        base = SimpleNamespace(vocab_size=size)
        if collides:
            with pytest.raises(CheckpointError, match="collide"):
                published._special_ids(base, tokenizer, size + 3)
        else:
            assert published._special_ids(base, tokenizer, size + 3) == (size + 1, size + 2)


def test_special_tokens_follow_the_base_models_or_are_named():
    tokenizer = random_model().tokenizer
    size = len(tokenizer)
    base = SimpleNamespace(vocab_size=size)
    assert published._special_ids(base, tokenizer, size + 3) == (size + 1, size + 2)
    for rows in (size + 2, size + 4):
        with pytest.raises(CheckpointError, match="3 rows"):
            published._special_ids(base, tokenizer, rows)
    with pytest.raises(CheckpointError, match="collide"):
        published._special_ids(SimpleNamespace(vocab_size=size - 1), tokenizer, size + 2)
    tokenizer.add_tokens(["<|eocot|>", "<|bocot|>"])
    assert published._special_ids(base, tokenizer, size + 2) == (size + 1, size)
    with pytest.raises(CheckpointError, match=f"at least {size + 2} tokens"):
        published._special_ids(base, tokenizer, size + 1)
    assert named_ids(tokenizer, ("<|bocot|>", "nowhere"), size + 2) is None


def test_rows_of_the_embeddings():
    base = BaseModel("b", GPT2Config(), None)
    name = "transformer.wte.weight"
    assert vocabulary_rows(base, {name: torch.zeros(7, 3)}) == 7
    for wrong in ({}, {name: torch.zeros(7)}, {"wte.weight": torch.zeros(7, 3)}):
        with pytest.raises(CheckpointError, match=r"no embeddings .*family 'gpt2'"):
            vocabulary_rows(base, wrong)


# -- files and names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "fitting"),
    [
        (["config.json", "model.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin", "model.safetensors"]),
        (["model-00001-of-00001.safetensors"], ["model-00001-of-00001.safetensors"]),
        (
            ["model-00001-of-00001.safetensors", "model.safetensors.index.json"],
            ["model.safetensors.index.json"],
        ),
        (["pytorch_model.bin.index.json"], ["pytorch_model.bin.index.json"]),
        (["checkpoint_28", "checkpoint_3", "checkpoint_x", "checkpoint_"],
         ["checkpoint_28", "checkpoint_3"]),
        (["weights.bin", "28"], []),
    ],
)  # fmt: skip
def test_files_that_can_hold_weights(names, fitting):
    assert files.weight_names(names) == fitting


def test_an_index_comes_with_its_shards(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "b.bin", "y": "a.bin", "z": "b.bin"}}))
    with pytest.raises(CheckpointError, match=r"names a\.bin, b\.bin, not in"):
        files.weight_files(tmp_path)
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).touch()
    shards = [index, tmp_path / "a.bin", tmp_path / "b.bin"]
    assert files.weight_files(tmp_path) == files.weight_files(index) == shards
    assert files.weight_files(tmp_path / "a.bin") == [tmp_path / "a.bin"]
    with pytest.raises(CheckpointError, match="is not there"):
        files.weight_files(tmp_path / "c.bin")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        *(("a.bin", True), ("x" * 200, True), ("x" * 201, False), ("index.json", False)),
        *((7, False), ("a/b.bin", False), (".bin", False), ("", False)),
    ],
)
def test_an_index_names_files_beside_it(tmp_path, name, plain):
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}))
    if plain:
        assert files.shards(index) == {"x": name}
    else:
        with pytest.raises(CheckpointError, match="to name files beside it"):
            files.shards(index)


def test_what_others_say_is_short_and_plain():
    letters = list("abcdefg")
    assert files.shorten(letters[:5]) == "a; b; c; d; e"
    assert files.shorten(letters) == "a; b; c; d; e and 2 more"
    assert files.shorten(letters, most=6) == "a; b; c; d; e; f and 1 more"
    assert files.shorten(["x" * 200]) == "x" * 200
    assert files.shorten(["x" * 201]) == "x" * 199 + "…"
    assert files.shorten(["a\x1bé\u202e"]) == "a\\x1bé\\u202e"
    assert files.in_one_line(ValueError("a\n  b.")) == "a b"
    assert files.in_one_line(ValueError()) == "ValueError"


def test_the_digest_of_several_files_is_that_of_their_digests(tmp_path):
    digests = []
    for name in "ab":
        (tmp_path / name).write_text(name)
        digests.append(hashlib.sha256(name.encode()).hexdigest())
    assert files.file_sha256(tmp_path / "a") == digests[0]
    both = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert files.file_sha256(tmp_path / "a", tmp_path / "b") == both


@pytest.mark.parametrize(
    ("names", "file", "chosen"),
    [
        ({*own.FILES, "README.md"}, "", ["codi.json", *own.FILES[:3]]),
        ({*own.FILES, "x.bin"}, "x.bin", ["x.bin", "tokenizer.json"]),
        ({"pytorch_model.bin", "model.safetensors"}, "", ["model.safetensors"]),
        ({"pytorch_model.bin", "model.safetensors"}, "pytorch_model.bin", ["pytorch_model.bin"]),
        ({"checkpoint_1", "checkpoint_2"}, "checkpoint_2", ["checkpoint_2"]),
        ({"checkpoint_1", "merges.txt", "adapter_config.json", "config.json"}, "",
         ["checkpoint_1", "merges.txt", "adapter_config.json"]),
        ({"checkpoint_1", "checkpoint_2"}, "", None),
        ({"checkpoint_1"}, "checkpoint_2", None),
        ({"README.md"}, "", None),
    ],
)  # fmt: skip
def test_the_files_of_a_repository_that_are_needed(names, file, chosen):
    if chosen is None:
        with pytest.raises(CheckpointError, match="expected one file of weights in me/it"):
            hub._checkpoint_files(names, "me/it", file)
    else:
        assert hub._checkpoint_files(names, "me/it", file) == chosen


@pytest.mark.parametrize(
    ("base", "commands"),
    [
        (None, "`hf download me/it`"),
        ("me/base", "`hf download me/it` and `hf download me/base --include '*.json'`"),
        ("me/it", "`hf download me/it --include '*.json'`"),
        ("./base", "`hf download me/it`"),
    ],
)
def test_what_to_download_where_there_is_a_network(base, commands):
    assert hub._commands("me/it", base) == commands


def test_names_that_were_probably_meant():
    assert load._nearest("codi-tine") == " (did you mean codi-tiny?)"
    assert load._nearest("CODI-GPT3") == " (did you mean zen-E/CODI-gpt2?)"
    for far in ("something else", "codi-small", "codi-txt"):
        assert load._nearest(far) == ""


def test_what_is_missing_where_no_base_model_is_given(tmp_path):
    file, folder = tmp_path / "x.bin", tmp_path / "folder"
    file.touch()
    folder.mkdir()
    for path in (file, folder):
        assert "is not in the package's own layout" in str(load._no_base_model(path))
    (folder / "config.json").touch()
    (folder / "codi.json").touch()
    said = str(load._no_base_model(folder))
    assert said.partition("has no ")[2].startswith("tokenizer.json, model.safetensors:")


@pytest.mark.parametrize(
    ("keys", "plain"),
    [
        (["transformer.h.0", "lm_head.weight"], True),
        (["model.layers.0"], True),
        (["model.layers.0", "extra"], False),
    ],
)
def test_a_plain_language_model_is_told_from_other_files(keys, plain):
    said = load._not_latent(HERE, keys)
    assert ("a plain language model's" in said) == plain
    assert ("expected the keys of CODI's files" in said) == (not plain)


@pytest.mark.parametrize(
    ("keys", "layout", "left"),
    [
        (["base_causallm.a", "embedding.weight"], coconut, ["base_causallm.a", "embedding.weight"]),
        (["codi.a", "prj.1.weight"], published, ["codi.a", "prj.1.weight"]),
        (["coconut.a"], published, ["coconut.a"]),
        (["net.module.codi.a", "net.module.prj.b"], published, ["codi.a", "prj.b"]),
        (["m.base_causallm.a", "m.codi.b"], coconut, ["base_causallm.a", "codi.b"]),
    ],
)
def test_the_layout_of_a_file_without_its_wrappers(keys, layout, left):
    weights = {key: torch.tensor(float(at)) for at, key in enumerate(keys)}
    assert load._layout_of(weights, HERE) is layout
    assert {key: int(value) for key, value in weights.items()} == {k: i for i, k in enumerate(left)}


def test_a_weight_outside_the_wrapper_is_refused():
    weights = dict.fromkeys(["net.codi.a", "other"], torch.ones(1))
    with pytest.raises(CheckpointError, match=r"some are in net\., got other"):
        load._layout_of(weights, HERE)


# -- adapters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "scale"),
    [
        (Adapter(), 32 / 4),
        (Adapter(16.0), 16 / 4),
        (Adapter(16.0, use_rslora=True), 16 / 2),
        (Adapter(16.0, alpha_pattern={"q_proj": 8.0}), 8 / 4),
        (Adapter(16.0, alpha_pattern={"q_proj": 8.0}, use_rslora=True), 8 / 2),
        (Adapter(16.0, alpha_pattern={"proj": 8.0, "k_proj": 8.0}), 16 / 4),
        (Adapter(16.0, alpha_pattern={"1.q_proj": 8.0, ".*": 2.0}), 8 / 4),
    ],
)
def test_scales_by_hand(record, scale):
    assert record.scale("layers.1.q_proj", 4) == scale


@pytest.mark.parametrize(
    ("record", "ranks", "problem"),
    [
        (Adapter(), {"a": 4, "b": 4}, ""),
        (Adapter(), {"a": 8, "b": 4}, "LoRA ranks differ: [4, 8]"),
        (Adapter(r=4), {"a": 4}, ""),
        (Adapter(r=4), {"a": 8}, "a has rank 8, where adapter_config.json says 4"),
        (Adapter(r=4, rank_pattern={"b": 8}), {"a": 4, "b": 8}, ""),
        (Adapter(r=4, rank_pattern={"b": 8}), {"a": 4, "b": 4}, "b has rank 4, where"),
        (Adapter(rank_pattern={"b": 8}), {"a": 4, "b": 8}, ""),
        (Adapter(alpha_pattern={"b": 8, "x.b": 8}), {"x.b": 4}, ""),
        (Adapter(alpha_pattern={"b": 8, "x.b": 4}), {"x.b": 4}, "x.b has the alphas 8; 4 by"),
        (Adapter(), {"a": 0}, "a has rank 0"),
        (Adapter(target_modules=["q"]), {"x.q": 4}, ""),
        (Adapter(target_modules=["q"]), {"q": 4}, ""),
        (Adapter(target_modules=["k", "q"]), {"x.aq": 4}, "x.aq has an adapter"),
        (Adapter(target_modules="all-linear"), {"x.k": 4}, ""),
        (Adapter(layers_to_transform=[0, 2]), {"h.2.q": 4}, ""),
        (Adapter(layers_to_transform=[0, 2]), {"h.1.q": 4}, "h.1.q has an adapter"),
        (Adapter(layers_to_transform=2), {"h.2.q": 4}, ""),
        (Adapter(layers_to_transform=2), {"h.1.q": 4}, "h.1.q has an adapter"),
        (Adapter(layers_to_transform=2), {"head": 4}, ""),
        (Adapter(target_modules=["q"], layers_to_transform=1), {"h.1.k": 4}, "has an adapter"),
    ],
)  # fmt: skip
def test_records_that_adapters_contradict(record, ranks, problem):
    found = record.misfits(ranks)
    assert len(found) == bool(problem)
    assert all(line.startswith(problem) or problem in line for line in found)


@pytest.mark.parametrize("alpha", [1e6, 1e-6, 1, 0.5])
def test_alphas_that_scale_something(alpha):
    assert check_alpha(alpha, "here", "") == alpha


@pytest.mark.parametrize(
    ("alpha", "bounds"),
    [
        *((1e6 + 1, True), (9e-7, True), (0, False), (-1, False), (math.inf, False)),
        *((math.nan, False), (True, False), ("32", False)),
    ],
)
def test_alphas_that_scale_nothing_or_out_of_bounds(alpha, bounds):
    with pytest.raises(CheckpointError, match="expected LoRA's alpha in here") as refused:
        check_alpha(alpha, "here", "")
    assert ("(1e-06 to 1e+06)" in str(refused.value)) == bounds


def test_the_alpha_to_merge_with():
    assert choose_adapter(8.0, Adapter(), 16.0, HERE).lora_alpha == 8
    assert choose_adapter(8.0, Adapter(8.0), 16.0, HERE).lora_alpha == 8
    with pytest.raises(CheckpointError, match=r"alpha 4, by .*, got 8"):
        choose_adapter(8.0, Adapter(4.0), 8.0, HERE)


def test_records_beside_the_file_go_before_those_in_it(tmp_path):
    path, plain = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"x": torch.ones(1)}, path, {"lora_alpha": "8"})
    save_file({"x": torch.ones(1)}, plain)
    assert recorded_adapter([plain]) == Adapter()
    assert recorded_adapter([tmp_path / "index.json", plain, path]) == Adapter(8.0)
    record = tmp_path / "adapter_config.json"
    settings = {"r": 4, "lora_alpha": 16, "bias": "none", "use_dora": False, "task_type": "X"}
    record.write_text(json.dumps({**settings, "peft_type": "LORA"}))
    assert recorded_adapter([path]) == Adapter(16.0, 4)
    for odd in ({"peft_type": "IA3"}, {"use_dora": True}, {"bias": "all"}):
        record.write_text(json.dumps({**settings, **odd}))
        with pytest.raises(CheckpointError, match=f"got {next(iter(odd))}"):
            recorded_adapter([path])
    for odd in ({"lora_alpha": 0}, {"alpha_pattern": {"q": 0}}):
        record.write_text(json.dumps({**settings, **odd}))
        with pytest.raises(CheckpointError, match="to be over 0"):
            recorded_adapter([path])


@pytest.mark.parametrize("transposed", [False, True])
def test_merging_by_hand(transposed):
    """Of 3 inputs and 2 outputs, rank 1, times 2."""
    weight, down, up = torch.zeros(2, 3), torch.tensor([[1.0, 2, 3]]), torch.tensor([[10.0], [20]])
    base = {"a.weight": weight.T if transposed else weight, "b.weight": torch.ones(1)}
    lora = {"a": (down, up)}
    assert merge_lora(base, lora, Adapter(2.0), transposed, torch.float32, HERE) == {"a": 2}
    merged = torch.tensor([[20.0, 40, 60], [40, 80, 120]])
    assert torch.equal(base["a.weight"], merged.T if transposed else merged)
    assert not lora
    assert torch.equal(weight, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("down", "up", "problem"),
    [
        ((1, 2), (2, 1), "do not fit"),
        ((1, 3), (3, 1), "do not fit"),
        ((1, 3), (2, 2), "do not fit"),
        ((3,), (2, 1), "no matrices"),
        ((), (2, 1), "no matrices"),
        ((1, 3), (2,), "no matrices"),
    ],
)
def test_adapters_of_other_shapes(down, up, problem):
    lora = {"a": (torch.ones(down), torch.ones(up))}
    with pytest.raises(CheckpointError, match=problem):
        merge_lora({"a.weight": torch.ones(2, 3)}, lora, Adapter(), False, torch.float32, HERE)
    lora = {"a": (torch.ones(1, 3), torch.ones(2, 1))}
    with pytest.raises(CheckpointError, match="is missing"):
        merge_lora({}, lora, Adapter(), False, torch.float32, HERE)


# -- weights -----------------------------------------------------------------------------------


def test_parts_of_a_published_file():
    names = [
        "codi.base_model.model.a.base_layer.weight",
        "codi.base_model.model.a.lora_A.default.weight",
        "codi.base_model.model.a.lora_B.default.weight",
        "codi.base_model.model.a.base_layer.bias",
        "coconut.module.b.weight",
        "prj.1.weight",
        "decoder.x",
        "pj_in.x",
        "pj_out.x",
        "dynamic_cls.x",
    ]
    weights = {name: torch.tensor(float(at)) for at, name in enumerate(names)}
    parts = published.split_weights(weights, HERE)
    assert not weights
    assert {k: int(v) for k, v in parts.base.items()} == {"a.weight": 0, "a.bias": 3, "b.weight": 4}
    assert {k: tuple(map(int, v)) for k, v in parts.lora.items()} == {"a": (1, 2)}
    assert {k: int(v) for k, v in parts.projection.items()} == {"1.weight": 5}
    assert parts.dropped == names[6:]


def test_a_norms_base_layer_needs_its_adapter_and_a_bias_does_not():
    one = torch.ones(1)
    published.split_weights({"codi.a.base_layer.bias": one}, HERE)
    with pytest.raises(CheckpointError, match=r"a\.lora_A.* is missing; a\.lora_B.* is missing"):
        published.split_weights({"codi.a.base_layer.weight": one}, HERE)
    with pytest.raises(CheckpointError, match="there under two names"):
        published.split_weights({"codi.a.weight": one, "coconut.a.weight": one}, HERE)


def test_constants_and_wrappers_are_taken_out_of_weights():
    names = ["h.0.attn.bias", "h.0.attn.masked_bias", "inv_freq", "r.inv_freq"]
    kept = ["h.0.attn.c_attn.bias", "x_inv_freq", "h._orig_mod.0.weight"]
    weights = dict.fromkeys([*names, *kept], torch.ones(1))
    assert tensors.unwrap(weights, HERE) == names
    assert list(weights) == [*kept[:2], "h.0.weight"]
    doubled = dict.fromkeys(["a.b", "a._orig_mod.b"], torch.ones(1))
    with pytest.raises(CheckpointError, match=r"two weights are both a\.b"):
        tensors.unwrap(doubled, HERE)


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        *((torch.float16, ""), (torch.bfloat16, ""), (torch.float64, ""), (torch.int8, "int8")),
        *((torch.int64, "int64"), (torch.float8_e4m3fn, "float8_e4m3fn"), (torch.bool, "bool")),
    ],
)
def test_what_can_be_a_weight(dtype, said):
    assert tensors._unlike_a_weight("w", torch.zeros(1, dtype=dtype)) == said
    assert tensors._unlike_a_weight("h.0.attn.bias", torch.zeros(1, dtype=dtype)) == ""
    assert tensors._unlike_a_weight("w", torch.zeros(1, device="meta")) == "not a dense tensor"


def test_state_dicts_are_found_where_training_programs_keep_them():
    for key in ("state_dict", "model_state_dict", "module", "model"):
        assert tensors._wrapped({"epoch": 3, key: {"a": 1}}) == {"a": 1}
    assert tensors._wrapped({"model": 3, "module": {"b": 1}}) == {"b": 1}
    assert tensors._wrapped({"a": {"b": 1}}) is None
    assert tensors._wrapped([1]) is None


def test_the_dtypes_of_parts():
    half, single = torch.zeros(1, dtype=torch.float16), torch.zeros(1)
    parts = {"model": {"a": single, "b": half, "c": single}, "prj": {}, "LoRA": {"d": half}}
    assert dtypes_of(parts) == {"model": "float16, float32", "LoRA": "float16"}


def test_tokens_have_embeddings():
    model = random_model()
    rows = len(model.tokenizer)
    settings = replace(model.settings, bot_ids=(0,), eot_ids=(rows - 1,), eos_id=rows - 1)
    _check_tokens(rows, model.tokenizer, settings, HERE)
    for change, said in (
        ({"bot_ids": (1, rows)}, f"bot_ids {rows}"),
        ({"eot_ids": (rows + 4, 1)}, f"eot_ids {rows + 4}"),
        ({"eos_id": -1}, "eos_id -1"),
    ):
        with pytest.raises(CheckpointError, match=f"got {said}: the tokenizer"):
            _check_tokens(rows, model.tokenizer, replace(settings, **change), HERE)
    settings = replace(settings, eot_ids=(1,), eos_id=1)
    with pytest.raises(CheckpointError, match=f"got the tokenizer's {rows - 1}:"):
        _check_tokens(rows - 1, model.tokenizer, settings, HERE)


def test_a_head_is_tied_where_the_config_says_so():
    model = random_model()
    assert tied_weights(model.backbone) == {"lm_head.weight": "model.embed_tokens.weight"}
    model.backbone.config.tie_word_embeddings = False
    assert tied_weights(model.backbone) == {}
    assert tied_weights(model.prj) == {}


# -- configs and reports -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"num_hidden_layers": 10_000, "hidden_size": 1, "head_dim": None}, None),
        ({"num_hidden_layers": 10_001}, "at least 1 and at most 10000, got 10001"),
        ({"num_hidden_layers": 0}, "expected num_hidden_layers"),
        ({"num_hidden_layers": True}, "expected num_hidden_layers"),
        ({"num_key_value_heads": 0}, "expected num_key_value_heads"),
        ({"head_dim": 0.5}, "expected head_dim"),
        ({"vocab_size": 10_001}, None),
        ({"vocab_size": 0}, "expected vocab_size to be a whole number of at least 1, got 0"),
        ({"quantization_config": {}}, None),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_sizes_of_a_config(content, problem):
    found = list(config._raw_problems(content, {}))
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_how_a_model_is_run_is_not_a_configs_to_say(tmp_path):
    made = LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(made))
    plain = config.read_config(tmp_path, "model.checkpoint")
    for said in (
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flash_attention_2"},
        {"auto_map": {"AutoConfig": "evil.Config"}},
        {"dtype": "bfloat16"},
        {"torch_dtype": "bfloat16"},
    ):
        (tmp_path / "config.json").write_text(json.dumps({**made, **said}))
        found = config.read_config(tmp_path, "model.checkpoint")
        assert (found.to_dict(), found._attn_implementation) == (plain.to_dict(), None)


def test_sizes_under_a_familys_own_names():
    names = GPT2Config.attribute_map
    assert list(config._raw_problems({"n_layer": 3, "num_hidden_layers": 0}, names)) == []
    (found,) = config._raw_problems({"n_layer": 0}, names)
    assert found.startswith("expected n_layer to be")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"rms_norm_eps": 0.0}, None),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps"),
        ({"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon"),
        ({"of_its_own": -0.5}, None),
        ({"of_its_own": math.inf}, "of_its_own"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1}}, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "linear", "factor": math.inf}}, "factor"),
        (
            {"rope_parameters": {"original_max_position_embeddings": 0}},
            "original_max_position_embeddings",
        ),
    ],
)
def test_what_a_config_may_say(changes, problem):
    made = LlamaConfig()
    for name, value in changes.items():
        setattr(made, name, value)
    found = list(config._problems(made))
    assert [problem in line for line in found] == [True] * (problem is not None)


def test_what_a_report_says():
    plain = LoadReport("here", "0123456789abcdef", 7, {"model": "float32"})
    assert str(plain) == (
        "loaded here: 7 of 7 tensors used; model float32; every parameter filled; "
        "SHA-256 0123456789ab…"
    )
    full = LoadReport(
        *("here", "0" * 64, 7, {"base": "float16", "prj": "float32"}, 3, 16.0, [2.0, 4.0]),
        dropped=["x", "y"],
        known_as="zen-E/CODI-gpt2",
        feeds_back=False,
    )
    said = str(full)
    assert "5 of 7 tensors used; base float16; prj float32; LoRA merged into 3 weights" in said
    assert "with alpha 16, times 2, 4; learned vectors in the place of thoughts" in said
    assert "; dropped x; y; taken for zen-E/CODI-gpt2; every" in said
    full.source = full.known_as
    assert "taken for" not in str(full)


@pytest.mark.parametrize("room", [0, 1])
def test_thoughts_leave_room_in_the_context(room):
    model = random_model()
    number = model.context_length - room
    asked = Asked("x", num_latents=number)
    if room:
        load._apply(asked, model)
        assert model.num_latents == number
    else:
        with pytest.raises(CheckpointError, match="fewer latent thoughts"):
            load._apply(asked, model)
