"""Every layout that a model can come in, on GPT-2 and Llama, against its own modules.

A new layout is one row of `LAYOUTS`.
"""

import json
from dataclasses import dataclass, field

import pytest
import torch
from foreign_models import Coconut, PublishedCodi
from safetensors.torch import save_file

from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.models.accuracy import latent_answers
from codi_patching.models.answers import build_readout
from codi_patching.models.loading.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from scripts.make_random_checkpoint import train_tokenizer

QUESTION = " Tom has 16  pears. He buys 4 more. "
CLEAN = "Tom has 16 pears. He buys 4 more."
EOS = 1
FAMILIES = ("gpt2", "llama")
USUAL = {(name, "llama") for name in ("codi-with-eos", "codi-bare-numbers", "coconut")}
"""On which every experiment runs in the quick tests."""


@dataclass
class Row:
    """How a layout's file is written and what its prompt and readout are.

    `text` is the prompt's text; `bot` and `eot` take the size of the base vocabulary.
    """

    build: object
    file: str
    text: str
    bot: object
    eot: object
    prefix: str
    load: dict = field(default_factory=dict)
    dropped: bool = False
    layout: str = "codi"
    named_tokens: bool = False


def codi(**options):
    return lambda family, size: PublishedCodi(family, size, **options)


LAYOUTS = {
    "codi": Row(
        codi(), "pytorch_model.bin", CLEAN, lambda v: [v + 1], lambda v: [v + 2], "The answer is:"
    ),
    "codi-with-eos": Row(
        codi(),
        "model.safetensors",
        CLEAN,
        lambda v: [EOS, v + 1],
        lambda v: [v + 2, EOS],
        "The answer is:",
        {"prompt_eos": True},
    ),
    "codi-bare-numbers": Row(
        lambda family, size: PublishedCodi(family, size, rows=size + 2),
        "pytorch_model.bin",
        CLEAN,
        lambda v: [EOS, v],
        lambda v: [v + 1, EOS],
        "",
        {"prompt_eos": True, "answer_prefix": ""},
        named_tokens=True,
    ),
    "sim-cot-codi": Row(
        codi(decoder=True),
        "model-00001-of-00001.safetensors",
        CLEAN,
        lambda v: [v + 1],
        lambda v: [v + 2],
        "The answer is:",
        dropped=True,
    ),
    "coconut": Row(
        Coconut,
        "checkpoint_15",
        QUESTION + "\n",
        lambda v: [v],
        lambda v: [v + 1],
        "###",
        layout="coconut",
    ),
    "sim-cot-coconut": Row(
        lambda family, size: Coconut(family, size, decoder=True),
        "checkpoint_28",
        QUESTION + "\n",
        lambda v: [v],
        lambda v: [v + 1],
        "###",
        dropped=True,
        layout="coconut",
    ),
}


@pytest.fixture(scope="module")
def tokenizers():
    return {family: train_tokenizer(family, problems=300) for family in FAMILIES}


def write_row(row, family, tokenizer, folder):
    """Write a row's checkpoint and base model; returns its module and load arguments."""
    module = row.build(family, len(tokenizer))
    base, files = folder / "base", folder / "files"
    base.mkdir()
    files.mkdir()
    (base / "config.json").write_text(json.dumps(module.base_config, default=str))
    tokenizer.save_pretrained(base)
    if row.named_tokens:
        grown = type(tokenizer).from_pretrained(base)
        grown.add_special_tokens({"additional_special_tokens": ["<|bocot|>", "<|eocot|>"]})
        grown.save_pretrained(files)
    weights = {k: v.clone().contiguous() for k, v in module.state_dict().items()}
    write = save_file if row.file.endswith(".safetensors") else torch.save
    write(weights, files / row.file)
    return module, {"checkpoint": str(files), "base_model": str(base), **row.load}


@pytest.fixture(params=[(name, family) for name in LAYOUTS for family in FAMILIES], ids="-".join)
def row(request, tokenizers, tmp_path):
    name, family = request.param
    found = LAYOUTS[name]
    return found, tokenizers[family], *write_row(found, family, tokenizers[family], tmp_path)


def test_prompt_thoughts_and_logits_are_those_of_the_code_that_wrote_the_file(row):
    layout, tokenizer, module, where = row
    model, report = load_checkpoint(**where, num_latents=4)
    size = len(tokenizer)
    ids = tokenizer(layout.text)["input_ids"] + layout.bot(size)
    assert model.prompt_ids(QUESTION) == ids
    built = build_readout(
        model.tokenizer, model.settings.eot_ids, model.settings.answer_prefix, (18.0, 19.0)
    )
    answer = tokenizer(f"{layout.prefix} 18" if layout.prefix else "18", add_special_tokens=False)
    readout = layout.eot(size) + answer["input_ids"]
    assert [*built.prefix, *built.answers[0]] == readout
    thoughts, logits = module.infer(ids, 4, readout)
    ours, _, context = model.think(*model.encode([ids]))
    hidden, _ = model.read(context, torch.tensor([readout]))
    torch.testing.assert_close(ours[0], thoughts, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.logits(hidden[0]), logits, rtol=0, atol=1e-4)
    assert thoughts.std() > 0.1
    assert report.layout == layout.layout
    assert bool(report.dropped) == layout.dropped


def test_a_model_saved_in_our_own_layout_is_the_same(row, tmp_path):
    _, _, _, where = row
    model, _ = load_checkpoint(**where, num_latents=2)
    save_checkpoint(model, tmp_path / "own")
    again, _ = load_checkpoint(tmp_path / "own")
    assert again.settings == model.settings
    ids = model.prompt_ids(QUESTION)
    assert again.prompt_ids(QUESTION) == ids
    torch.testing.assert_close(
        again.think(*again.encode([ids]))[0], model.think(*model.encode([ids]))[0]
    )


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            (name, family),
            id=f"{name}-{family}",
            marks=[pytest.mark.thorough] * ((name, family) not in USUAL),
        )
        for name in LAYOUTS
        for family in FAMILIES
    ],
    indirect=True,
)
def test_every_experiment_runs_on_every_layout(row, tmp_path, predict):
    _, _, _, where = row
    save_checkpoint(load_checkpoint(**where, num_latents=2)[0], tmp_path / "own")
    for experiment in (LayerPatching, PositionPatching, IterativePatching):
        results = predict(experiment(checkpoint=str(tmp_path / "own")), max_pairs=1)
        assert results.values["kl_divergence"][:, ~results.structural].max() > 1e-7


def test_batched_prompts_answer_as_one_by_one(row):
    _, _, _, where = row
    model, _ = load_checkpoint(**where, num_latents=3)
    questions = [CLEAN, "Tom has 5 pears.", "He has 6 boxes of 7 pears. He eats 3 of them."]
    single = [latent_answers(model, [question])[0] for question in questions]
    assert latent_answers(model, questions) == single


@pytest.fixture
def coconut(tokenizers, tmp_path):
    """Write a Coconut file after a change of its weights; returns the load arguments."""

    def write(change=lambda weights: None, **options):
        folder = tmp_path / f"coconut{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        _, where = write_row(LAYOUTS["coconut"], "gpt2", tokenizers["gpt2"], folder)
        path = folder / "files" / "checkpoint_15"
        weights = torch.load(path)
        change(weights)
        torch.save(weights, path)
        return {**where, "num_latents": 4, **options}

    return write


def to_stage_0(weights):
    for key in list(weights):
        value = weights.pop(key)
        if key.startswith("base_causallm."):
            weights[key.removeprefix("base_causallm.")] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["embedding.weight"].add_(1), "expected embedding.weight to equal base_causal"),
        (lambda w: w.pop("base_causallm.transformer.ln_f.bias"), r"ln_f\.bias is missing"),
        (lambda w: w.update({"base_causallm.x": torch.ones(1)}), "x is unexpected"),
        (lambda w: w.update({"other.weight": torch.ones(1)}), "other.weight is unexpected"),
        (to_stage_0, "plain language model's, as a Coconut run writes at stage 0"),
    ],
)
def test_damaged_coconut_files_are_refused(coconut, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(**coconut(change))


def test_coconut_options(coconut, tmp_path):
    with pytest.raises(CheckpointError, match=r"how many thoughts .*: set num_latents"):
        load_checkpoint(**coconut(num_latents=None))
    for wrong in ({"prompt_eos": True}, {"lora_alpha": 16}):
        with pytest.raises(CheckpointError, match=r"only with CODI's layout, got one with"):
            load_checkpoint(**coconut(**wrong))
    rows = ("wte.weight", "embedding.weight", "lm_head.weight")

    def shrink(weights):
        weights.update({k: v[:-1] for k, v in weights.items() if k.endswith(rows)})

    with pytest.raises(CheckpointError, match=r"3 rows \(start, end, latent\) more than .* got"):
        load_checkpoint(**coconut(shrink))


def test_an_alias_may_be_missing(coconut):
    plain, _ = load_checkpoint(**coconut())
    found, _ = load_checkpoint(**coconut(lambda weights: weights.pop("embedding.weight")))
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in found.state_dict().items())


def test_files_in_no_layout_say_what_they_hold(coconut, tmp_path):
    where = coconut(lambda w: [w.pop(k) for k in list(w)] and w.update({"a.b": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"expected the keys of CODI's files .* got a\.b"):
        load_checkpoint(**where)


def test_several_files_in_a_folder_must_be_named(coconut, tmp_path):
    where = coconut()
    folder = where["checkpoint"]
    with open(f"{folder}/checkpoint_9", "w") as file:
        file.write("")
    with pytest.raises(CheckpointError, match=r"got 2 \(checkpoint_15, checkpoint_9\): name the"):
        load_checkpoint(**where)
    load_checkpoint(**{**where, "checkpoint": f"{folder}/checkpoint_15"})


def test_tokens_known_by_name_must_have_rows(tokenizers, tmp_path):
    row = LAYOUTS["codi-bare-numbers"]
    short = Row(**{**row.__dict__, "build": lambda f, n: PublishedCodi(f, n, rows=n + 1)})
    _, where = write_row(short, "gpt2", tokenizers["gpt2"], tmp_path)
    with pytest.raises(CheckpointError, match=r"for the tokenizer's <\|bocot\|>.*got"):
        load_checkpoint(**where)


def test_the_answer_prefix_can_be_set_and_is_saved(checkpoint, tmp_path):
    model, _ = load_checkpoint(checkpoint, answer_prefix="")
    save_checkpoint(model, tmp_path / "bare")
    again, _ = load_checkpoint(tmp_path / "bare")
    assert again.settings.answer_prefix == ""
    readout = build_readout(again.tokenizer, again.settings.eot_ids, "", (18.0, 19.0))
    assert readout.prefix == (again.settings.eot_id,)
