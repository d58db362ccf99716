"""Bad input gives one clear error and an exit status; nothing is written, nothing is lost."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from codi_patching import cli
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.errors import InputError
from codi_patching.shipped import SHIPPED

QUESTION = "Tom has 3 pens. How many pens?"
CLEAN = {"question": QUESTION, "answer": 18}
CORRUPTED = {"question": QUESTION.replace("3", "4"), "answer": 17}
GOOD = {"pair_id": "a", "clean": CLEAN, "corrupted": CORRUPTED}
RAW = {"pair_id": "a", "variant": "clean", **CLEAN}


def snapshot(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs the program in this process; gives its exit status and its error."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        before = snapshot(tmp_path)
        monkeypatch.setattr(sys, "argv", ["codi-patching", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert snapshot(tmp_path) == before
        code = ended.value.code
        if isinstance(code, str):
            return 1, code
        return code, capsys.readouterr().err

    return run


def predict(*args, config="position"):
    return ("predict", f"--config={config}", "--results.dir=out", *args)


def two(**changes):
    """The text of a file of two pairs, the second changed."""
    return json.dumps([GOOD, {**GOOD, "pair_id": "b", **changes}])


def changed(**changes):
    return two(clean={**CLEAN, **changes})


PAIR_FILES = {
    "empty file": ("", "expected at least one pair, got an empty list"),
    "empty list": ("[]", "expected at least one pair, got an empty list"),
    "not JSON": ("pairs!", "expected a JSON list or one JSON object a line"),
    "truncated list": (two()[:-30], "expected a JSON list or one JSON object a line"),
    "truncated lines": (json.dumps(GOOD) + '\n\n{"pair_id"', "a line, line 3, column 11: Exp"),
    "one object over lines": (json.dumps(GOOD, indent=1), "one JSON object a line"),
    "numbers": ("[1, 2]", "pair 0: expected an object, got int"),
    "null": ("[null]", "pair 0: expected an object, got NoneType"),
    "text": ('["a"]', "pair 0: expected an object, got str"),
    "nested lists": ("[" * 100_000, "expected a JSON list"),
    "no id": (json.dumps([{"clean": CLEAN, "corrupted": CORRUPTED}]), "expected pair_id"),
    "empty id": (two(pair_id=""), "expected pair_id to be text or a number, got ''"),
    "null id": (two(pair_id=None), "expected pair_id to be text or a number, got None"),
    "list as id": (two(pair_id=[1]), "expected pair_id to be text or a number, got [1]"),
    "true as id": (two(pair_id=True), "expected pair_id to be text or a number, got True"),
    "control character in id": (two(pair_id="a\nb"), "printable"),
    "long id": (two(pair_id="x" * 201), "at most 200 printable characters"),
    "reserved id": (two(pair_id="__metadata__"), "not __metadata__"),
    "doubled id": (two(pair_id="a"), "expected each pair_id once, got ['a'] again"),
    "doubled id of two types": (two(pair_id=3).replace('"a"', '"3"'), "got ['3'] again"),
    "doubled key": (
        two().replace('"answer": 18', '"answer": 18, "answer": 19', 1),
        "an object has the key 'answer' twice",
    ),
    "no clean variant": (json.dumps([{"pair_id": "a", "corrupted": CORRUPTED}]), "clean: expected"),
    "no corrupted variant": (json.dumps([{"pair_id": "a", "clean": CLEAN}]), "corrupted: expected"),
    "text for a question": (two(clean="18"), "('b'), clean: expected an object"),
    "list for a question": (two(clean=[]), "expected an object with question and answer"),
    "no question": (changed(question=None), "expected question to be text, got None"),
    "empty question": (changed(question=""), "expected question to be text, got ''"),
    "blank question": (changed(question=" \n\t "), "expected question to be text"),
    "number as question": (changed(question=7), "expected question to be text, got 7"),
    "NUL in question": (changed(question="a\0b"), "a control character '\\x00'"),
    "escape in question": (changed(question="a\x1b[1mb"), "a control character '\\x1b'"),
    "vertical tab in question": (changed(question="a\vb"), "a control character '\\x0b'"),
    "half a surrogate pair": (changed(question="a\ud800"), "a control character '\\ud800'"),
    "question of 10 MB": (
        changed(question="pear " * 2_000_000),
        "expected a question of at most 100,000 characters, got 10,000,000",
    ),
    "no answer": (changed(answer=None), "expected answer to be a finite number"),
    "empty answer": (changed(answer=""), "expected answer to be a finite number"),
    "words for an answer": (changed(answer="eighteen"), "got 'eighteen'"),
    "list for an answer": (changed(answer=[18]), "got [18]"),
    "true for an answer": (changed(answer=True), "got True"),
    "NaN": (changed(answer=float("nan")), "expected answer to be a finite number, got nan"),
    "infinity": (changed(answer=float("inf")), "expected answer to be a finite number"),
    "NaN as text": (changed(answer="nan"), "expected answer to be a finite number"),
    "huge number": (changed(answer=10**30), "at most 2^53 in size"),
    "huge number as text": (changed(answer="9" * 40), "at most 2^53 in size"),
    "number of 5,000 digits": (
        two().replace("18", "1" * 5000),
        "expected a JSON list or one JSON object a line",
    ),
    "equal answers only": (
        json.dumps([{**GOOD, "corrupted": {**CORRUPTED, "answer": "18.0"}}]),
        "expected a pair with two different answers, but all 1 have equal answers",
    ),
    "raw, variant missing": (json.dumps([RAW]), "pair 'a' has no corrupted variant"),
    "raw, unknown variant": (
        json.dumps([{**RAW, "variant": "dirty"}]),
        "expected variant clean, corrupted or sibling, got 'dirty'",
    ),
    "raw, variant twice": (json.dumps([RAW, RAW]), "the clean variant is there twice"),
    "two forms in one file": (json.dumps([GOOD, RAW]), "expected variant clean, corrupted"),
}


@pytest.fixture
def pairs_file(tmp_path):
    """Writes pairs.json: a case of PAIR_FILES, of which the message is given back."""

    def write(case):
        text, message = PAIR_FILES[case]
        (tmp_path / "pairs.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        return message

    return write


@pytest.mark.parametrize("case", PAIR_FILES)
def test_files_of_pairs(pairs_file, tmp_path, monkeypatch, case):
    message = pairs_file(case)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        PairsDataModule("pairs.json").setup("predict")
    error = str(refused.value)
    assert error.startswith("pairs.json: ")
    assert message in error
    assert len(error) < 480


@pytest.mark.parametrize("case", ["null", "nested lists", "NUL in question", "equal answers only"])
def test_files_of_pairs_by_command(refused, pairs_file, case):
    message = pairs_file(case)
    status, error = refused(*predict("--data.pairs=pairs.json"))
    assert status == 1
    assert error.startswith("codi-patching: pairs.json: ")
    assert message in error


BYTES = {
    "UTF-16": two().encode("utf-16"),
    "Latin-1": two(pair_id="ü").replace("\\u00fc", "ü").encode("latin-1"),
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("case", BYTES)
def test_files_of_another_encoding(refused, tmp_path, case):
    (tmp_path / "pairs.json").write_bytes(BYTES[case])
    status, error = refused(*predict("--data.pairs=pairs.json"))
    assert (status, error[:50]) == (1, "codi-patching: pairs.json: expected UTF-8 text, 'u")


@pytest.mark.parametrize(("path", "reason"), [("none.json", "No such file"), (".", "directory")])
def test_a_file_that_is_none(refused, path, reason):
    status, error = refused(*predict(f"--data.pairs={path}"))
    assert status == 1
    assert reason in error
    assert "set --data.pairs" in error


OPTIONS = {
    "--data.max_pairs=0": (1, "expected max_pairs of at least 1, got 0: set --data.max_pairs"),
    "--data.max_pairs=-3": (1, "expected max_pairs of at least 1, got -3: set --data.max_pairs"),
    "--data.batch_size=0": (1, "expected batch_size of at least 1, got 0: set --data.batch_size"),
    "--model.max_rows=0": (1, "expected max_rows of at least 1, got 0: set --model.max_rows"),
    "--model.num_latents=0": (1, "set --model.num_latents to 1 or more"),
    "--model.num_latents=-1": (1, "set --model.num_latents to 1 or more"),
    "--model.num_latents=4096": (1, "expected fewer latent thoughts than the model's context"),
    "--model.checkpoint=none": (1, "got none, which is not there: set --model.checkpoint"),
    "--model.checkpoint=codi_tiny": (1, "did you mean codi-tiny?"),
    "--model.checkpoint=owner/model": (1, "codi-plain, codi-pause: make some for owner/model"),
    "--model.lora_alpha=16": (1, "expected --model.base_model, --model.lora_alpha"),
    "--model.prompt_eos=true": (1, "expected --model.base_model, --model.lora_alpha"),
    "--results.dir=/proc/none": (1, "/proc/none cannot be written"),
    "--results.dir=/dev/null": (1, "set --results.dir"),
    "--report.docs=/proc/none": (1, "/proc/none cannot be written"),
    "--report.docs=/dev/null": (1, "set --report.docs"),
    "--model.self_patch_pairs=-1": (1, "self_patch_pairs of at least 0, got -1"),
    "--report.top=0": (1, "expected top of at least 1, got 0: set --report.top"),
    "--data.max_pairs=two": (2, "max_pairs"),
    "--data.max_pairs=1.5": (2, "max_pairs"),
    "--data.pears=x": (2, "pears"),
    "--model.latents=thawed": (2, "latents"),
    "--model.direction=up": (2, "direction"),
    "--model.source=noise": (2, "source"),
    "--model.engine=steam": (2, "engine"),
    "--model.strategy=relay": (2, "strategy"),
    "--model.unknown=1": (2, "unknown"),
    "--model=NoSuchExperiment": (2, "NoSuchExperiment"),
    "--trainer.precision=12": (2, "precision"),
    "--seed_everything=lucky": (2, "seed_everything"),
    "--config=none.yaml": (2, "none.yaml"),
    "--config=/tmp": (2, "/tmp is a folder: set --config to a file"),
    "--seed_everything=-1": (2, "patching: expected --seed_everything to be a whole number from 0"),
    "--model.checkpoint=": (1, "expected checkpoint to be a path, got '': set --model.checkpoint"),
    "--report.name=../../x": (1, "expected the name of a report"),
    "--trainer.logger=TensorBoardLogger": (2, "expected --trainer.logger.save_dir too"),
}


ALIKE = {
    *("--data.max_pairs=-3", "--model.num_latents=-1", "--model.max_rows=0"),
    *("--model.prompt_eos=true", "--results.dir=/dev/null", "--report.docs=/dev/null"),
    *("--model.source=noise", "--model.engine=steam", "--model.direction=up"),
    *("truncated tokenizer", "truncated config", "truncated settings", "a weight too many"),
    "fit --config=train_codi_tiny --data.batch_size=0",
}
"""Refused where another case is."""


def cases(table):
    """Of a table, those alike thorough."""
    return [pytest.param(n, marks=[pytest.mark.thorough] * (n in ALIKE)) for n in table]


@pytest.mark.parametrize("option", cases(OPTIONS))
def test_options(refused, option):
    expected, message = OPTIONS[option]
    status, error = refused(*predict(option))
    assert status == expected
    assert message in error


COMMANDS = {
    "fit --config=train_codi_tiny --data.batch_size=0": "set --data.batch_size",
    "fit --config=train_codi_tiny --ckpt_path=last": "a file, last does not exist: set --ckpt_path",
    "fit --config=train_codi_tiny --ckpt_path=.": "a file, . is no file: set --ckpt_path",
    "evaluate --problems=4 --output=/proc/none/x.jsonl": "cannot be written",
    "pairs --questions=chained.txt --output=/proc/none/x.json": "cannot be written",
    "evaluate --problems=2 --answer_prefix=<bot>": "got control tokens: <bot>: set --answer_prefix",
    "evaluate --problems=2 --lora_alpha=nan": "to be over 0, got nan: set --lora_alpha",
    "evaluate --problems=2 --base_model=": "expected base_model to be a path, got ''",
}


@pytest.mark.parametrize("command", cases(COMMANDS))
def test_other_commands(refused, command):
    status, error = refused(*command.split())
    assert status == 1
    assert COMMANDS[command] in error
    assert len(error.splitlines()) == 1


def test_words_that_no_evaluation_can_read_are_named(tmp_path, monkeypatch, capsys):
    asked = [{"question": f"Zorblax has {n} pens. How many pens?", "answer": n} for n in (3, 4)]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = ["codi-patching", "evaluate", f"--data={tmp_path / 'asked.json'}", "--no_words"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert "2 questions have words that the tokenizer does not know: Zorblax" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {class_path: [", "expected node content"),
        ("nonsense: 1\n", "nonsense"),
        ("data: 3\n", "expected a group of options under data, got 3"),
        ("results: [a]\n", "expected a group of options under results, got ['a']"),
        ("- a\n- b\n", "config"),
    ],
)
def test_configuration_files(refused, tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    status, error = refused(*predict("--config=bad.yaml"))
    assert status in (1, 2)
    assert message in error


def test_strata_that_no_pair_has_are_refused_before_the_model_is_loaded(refused, monkeypatch):
    from codi_patching.experiments.base import Experiment

    monkeypatch.setattr(Experiment, "configure_model", None)
    status, error = refused(*predict("--report.strata=[nofield]"))
    assert status == 1
    assert "expected strata of the fields of pairs (changed_step), got 'nofield'" in error
    assert error.endswith(": set --report.strata")


def test_a_comparison_that_cannot_be_written(refused):
    options = ("--report.compare_with=[none]", "--report.comparison_dir=/dev/null/x")
    assert "set --report.comparison_dir" in refused(*predict(*options))[1]
    shipped = Path(__file__).parent.parent / "docs" / "results" / "codi-tiny"
    folders = [shipped / name for name in ("layer_frozen", "position_recomputed")]
    status, error = refused("compare", *folders, "--dir=/dev/null/x")
    assert status == 1
    assert "/dev/null/x cannot be written (Not a directory): set --dir" in error
    status, error = refused("compare", folders[0], folders[0], "--dir=x")
    assert "expected each experiment once" in error
    status, error = refused("report", "none")
    assert "none does not exist: name a folder" in error


def test_a_pair_to_trace_that_is_not_there(refused):
    status, error = refused(*predict("--model.trace_pair=none", config="iterative"))
    assert status == 1
    assert "expected trace_pair to be one of the 57 pairs" in error
    assert "set --model.trace_pair" in error


def test_no_command_that_exists(refused):
    unknown = "codi-patching: unknown command patch; codi-patching --help lists them\n"
    assert refused("patch") == (2, unknown)
    assert refused() == (2, cli._USAGE)


@pytest.fixture
def model(tmp_path):
    shutil.copytree(SHIPPED["codi-tiny"], tmp_path / "model")
    return tmp_path / "model"


def _edit_weights(model, edit):
    weights = load_file(model / "model.safetensors")
    edit(weights)
    save_file(weights, model / "model.safetensors")


def _truncate(model, name):
    path = model / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


NORM = "model.norm.weight"
CHECKPOINTS = {
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "has no model.safetensors"),
    "no settings": (lambda m: (m / "codi.json").unlink(), "has no codi.json"),
    "truncated weights": (lambda m: _truncate(m, "model.safetensors"), "model.safetensors"),
    "truncated tokenizer": (lambda m: _truncate(m, "tokenizer.json"), "tokenizer.json"),
    "truncated config": (lambda m: _truncate(m, "config.json"), "config.json"),
    "truncated settings": (lambda m: _truncate(m, "codi.json"), "codi.json"),
    "a weight that is missing": (lambda m: _edit_weights(m, lambda w: w.pop(NORM)), NORM),
    "a weight too many": (
        lambda m: _edit_weights(m, lambda w: w.update(extra=torch.zeros(1))),
        "extra",
    ),
    "a weight of another shape": (
        lambda m: _edit_weights(m, lambda w: w.update({NORM: torch.zeros(3)})),
        NORM,
    ),
    "NaN in a weight": (lambda m: _edit_weights(m, lambda w: w[NORM].fill_(torch.nan)), NORM),
    "another family": (
        lambda m: (m / "config.json").write_text(json.dumps({"model_type": "bert"})),
        "bert",
    ),
}


@pytest.mark.parametrize("case", cases(CHECKPOINTS))
def test_checkpoints(refused, model, case):
    damage, message = CHECKPOINTS[case]
    damage(model)
    status, error = refused(*predict("--model.checkpoint=model", "--data.pairs=shipped"))
    assert status == 1
    assert message in error
    assert error.startswith("codi-patching: ")


class _Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_would_run_code_does_not(refused, tmp_path, model):
    torch.save({"codi": _Malicious()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(_Malicious()))
    file = str(model / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file, eos_token="<eos>").save_pretrained(model)
    for name in ("pytorch_model.bin", "plain.bin"):
        file = f"--model.checkpoint={name}"
        options = (file, "--model.base_model=model", "--data.pairs=shipped")
        status, error = refused(*predict(*options))
        assert status == 1
        assert name in error
    assert not (tmp_path / "ran").exists()
