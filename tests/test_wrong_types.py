"""What is given to public names: used where it is plain, else refused in one line."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import codi_patching as cp
from codi_patching.errors import InputError, brief, plain_text, whole_number

CLEAN, CORRUPTED = "Tom has 16 pears. He eats 3.", "Tom has 18 pears. He eats 3."
PAIR = cp.Pair.of(CLEAN, CORRUPTED, 13, 15)
SITE = cp.Site("resid_post", layer=1, position=0)
KV = cp.Site("kv", layer=1, position=0)


@pytest.fixture(scope="module")
def hand():
    from conftest import random_model

    return cp.Model(random_model())


WITHOUT_A_MODEL = {
    "layer true": (lambda: cp.Site("kv", layer=True, position=1), "layer to be a whole number"),
    "layer 1.5": (lambda: cp.Site("kv", layer=1.5, position=1), "layer to be a whole number"),
    "layer as text": (lambda: cp.Site("kv", layer="3", position=1), "whole number, got '3'"),
    "layers": (lambda: cp.Site("kv", layer=[1, 2], position=1), r"whole number, got \[1, 2\]"),
    "no layer": (lambda: cp.Site("kv", layer=None, position=1), "expected a layer for the site"),
    "position true": (lambda: cp.Site("thought", position=True), "position to be a whole number"),
    "sites": (lambda: cp.Site(["kv"], layer=1, position=1), r"a site of .*, got \['kv'\]"),
    "question of bytes": (lambda: cp.Question(b"Tom"), "a question as text, got b'Tom'"),
    "NUL in a question": (lambda: cp.Question("To\0m"), r"a control character '\\x00' in"),
    "half a pair of code units": (lambda: cp.Question("\ud800"), "a control character"),
    "steps as one text": (lambda: cp.Question("a", 3, "<<1+2=3>>"), "a list of steps"),
    "answer in words": (lambda: cp.Pair.of("a", "b", "eight"), "a finite number, got 'eight'"),
    "answer of two readings": (lambda: cp.Pair.of("a", "b", "3,5"), "finite number, got '3,5'"),
    "answer true": (lambda: cp.Question("a", True), "a finite number, got True"),
    "answer infinite": (lambda: cp.Question("a", math.inf), "a finite number, got inf"),
    "answer too large": (lambda: cp.Question("a", 10**400), "a finite number, got 1000"),
    "answer inexact": (lambda: cp.Question("a", 1e17), r"at most 2\^53"),
    "answers": (lambda: cp.Question("a", torch.zeros(2)), r"got Tensor of shape \(2,\)"),
    "list as question": (lambda: cp.Pair.of(["a"], "b"), r"a question as text, got \['a'\]"),
    "checkpoint 5": (lambda: cp.load(5), "checkpoint to be a path, got 5: set checkpoint"),
    "checkpoint empty": (lambda: cp.load(""), "checkpoint to be a path, got ''"),
    "name of other case": (lambda: cp.load("CODI_Tiny"), "did you mean codi-tiny?"),
    "thoughts 2.5": (lambda: cp.load(num_latents=2.5), "num_latents to be a whole number"),
    "thoughts true": (lambda: cp.load(num_latents=True), "num_latents to be a whole number"),
    "alpha as text": (lambda: cp.load(lora_alpha="32"), "to be over 0, got '32'"),
    "eos as text": (lambda: cp.load(prompt_eos="yes"), "to be true or false, got 'yes'"),
    "prefix 5": (lambda: cp.load(answer_prefix=5), "answer_prefix to be text, got 5"),
    "prefix of marks": (lambda: cp.load(answer_prefix="<bot>"), "got control tokens: <bot>"),
    "engine": (lambda: cp.load(engine=["sweep"]), "engine of sweep, reference"),
    "model of text": (lambda: cp.Model("codi-tiny"), "expected a CodiModel, got 'codi-tiny'"),
    "results of None": (lambda: cp.load_results(None), "folder to be a path, got None"),
    "results of a file": (lambda: cp.load_results(__file__), "is no folder"),
    "comparison of None": (lambda: cp.compare(None), "a list of folders or results, got None"),
    "comparison of a folder": (lambda: cp.compare(Path("a")), "a list of folders or results"),
    "comparison of Nones": (lambda: cp.compare([None]), "folder to be a path, got None"),
    "plot of text": (lambda: cp.plot("results"), "expected results, as load_results gives them"),
    "batches as text": (lambda: cp.PairsDataModule(batch_size="4"), "a whole number, got '4'"),
    "pairs 2.5": (lambda: cp.PairsDataModule(max_pairs=2.5), "a whole number, got 2.5"),
    "pairs as objects": (lambda: cp.PairsDataModule(pairs=[PAIR]), "pairs to be a path"),
    "seed in words": (lambda: cp.PositionPatching(seed="lucky"), "seed to be a whole number"),
    "rows 2.5": (lambda: cp.PositionPatching(max_rows=2.5), "max_rows to be a whole number"),
    "folder 3": (lambda: cp.ResultsWriter(3), "dir to be a path, got 3"),
    "folder empty": (lambda: cp.ResultsWriter(""), "dir to be a path, got ''"),
}


def said_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as raised:
        call()
    said = str(raised.value)
    assert len(said.splitlines()) == 1
    assert len(said) < 400
    assert "--" not in said


@pytest.mark.parametrize("case", WITHOUT_A_MODEL)
def test_what_is_refused_without_a_model(case):
    said_in_one_line(*WITHOUT_A_MODEL[case])


OF_A_MODEL = {
    "numbers to run": (lambda m: m.run([CLEAN, 3]), "a question as text, got 3"),
    "pair to run": (lambda m: m.run(PAIR), "a question as text, got Pair"),
    "texts to patch": (lambda m: m.patch((CLEAN, CORRUPTED), SITE), r"make one with Pair.of"),
    "site as text": (lambda m: m.patch(PAIR, "kv"), r"sites such as Site\(.*, got 'kv'"),
    "no sites": (lambda m: m.patch(PAIR, []), "got none: set sites"),
    "nested sites": (lambda m: m.patch(PAIR, [[SITE]]), "sites such as"),
    "array of words": (
        lambda m: m.patch(PAIR, SITE, value=np.array(["a"] * 32)),
        "an array of real numbers",
    ),
    "complex numbers": (
        lambda m: m.patch(PAIR, SITE, value=torch.zeros(32, dtype=torch.complex64)),
        r"numbers of \(32,\) for Site.*, got Tensor of shape \(32,\)",
    ),
    "heads last": (
        lambda m: m.patch(PAIR, KV, value=torch.zeros(8, 2, 2)),
        r"numbers of \(2, 2, 8\) for Site.*, got \(8, 2, 2\)",
    ),
    "a class": (lambda m: m.patch(PAIR, SITE, value=cp.Question), "expected a name, a question"),
    "a question as a name": (
        lambda m: m.patch(PAIR, SITE, value=CLEAN),
        r"another question is given as Question\(text\)",
    ),
    "a name by half": (lambda m: m.grid(PAIR, value="sourc"), "did you mean 'source'?"),
    "a tensor for a grid": (
        lambda m: m.grid(PAIR, value=torch.zeros(32)),
        r"a question or a run, got Tensor of shape \(32,\)",
    ),
    "whole layers in words": (lambda m: m.grid(PAIR, whole_layers="yes"), "a truth value"),
    "another pair of none": (lambda m: m.patch(PAIR, SITE, value="random_pair"), "set questions"),
    "numbers as questions": (
        lambda m: m.patch(PAIR, SITE, value="mean", questions=[1]),
        "a question as text, got 1",
    ),
    "no tokens": (lambda m: m.run(CLEAN).lens(k=0), "k of at least 1, got 0"),
    "tokens beyond all": (lambda m: m.run(CLEAN).lens(k=10**6), "k of at most .* the vocabulary"),
}


@pytest.mark.parametrize("case", OF_A_MODEL)
def test_what_a_model_refuses(hand, case):
    call, message = OF_A_MODEL[case]
    said_in_one_line(lambda: call(hand), message)


def test_a_run_of_another_model_is_no_value(hand):
    from conftest import random_model

    other = random_model()
    other.settings = type(other.settings)(**{**vars(other.settings), "num_latents": 2})
    run = cp.Model(other).run(CLEAN)
    for call in (hand.patch, hand.grid):
        options = {"site": "kv"} if call == hand.grid else {"sites": SITE}
        with pytest.raises(InputError, match=r"a run of this model.*\(3, 3, 32\), got \(3, 2, 32"):
            call(PAIR, **options, value=run)


ANSWERS = {
    "text": ("1,430", 1430.0),
    "dollars": ("$18", 18.0),
    "typesetters' minus": ("\u22125", -5.0),
    "GSM8K's mark": ("so it is #### 7", 7.0),
    "numpy's": (np.int64(8), 8.0),
    "torch's": (torch.tensor(2.5), 2.5),
    "a fraction": (Fraction(1, 2), 0.5),
    "a whole number": (7, 7.0),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answers_that_are_plain_are_used(case):
    given, expected = ANSWERS[case]
    assert cp.Pair.of("a", "b", given).clean.answer == expected


def test_what_is_plain_is_used(hand):
    assert cp.Site("kv", layer=np.int64(3), position=torch.tensor(1)) == cp.Site(
        "kv", layer=3, position=1
    )
    assert cp.Site("thought", layer="thought", position=1) == cp.Site("thought", position=1)
    assert hand.run(cp.Question(CLEAN)).answer == hand.run(CLEAN).answer
    assert cp.Pair.of(cp.Question(CLEAN, 13), CORRUPTED, corrupted_answer=15) == PAIR
    assert math.isnan(cp.Question("a", None).answer)
    numbers = torch.linspace(-1, 1, 32)
    given = hand.patch(PAIR, SITE, value=numbers).metrics
    for same in (numbers.numpy(), numbers.tolist(), numbers[None], lambda _: numbers.numpy()):
        assert hand.patch(PAIR, SITE, value=same).metrics == pytest.approx(given, nan_ok=True)
    unchanged = hand.patch(PAIR, iter([SITE]), value="base")
    assert unchanged.metrics["kl_divergence"] == pytest.approx(0, abs=1e-12)
    assert len(repr(unchanged)) < 500
    other = hand.patch(PAIR, SITE, value="random_pair", questions=CLEAN).metrics
    assert other == pytest.approx(hand.patch(PAIR, SITE, value="clean").metrics, nan_ok=True)


def test_values_are_shown_in_one_short_plain_line():
    assert brief(np.zeros((2, 3))) == "ndarray of shape (2, 3)"
    assert brief("\x1b[31m\u202e") == r"'\x1b[31m\u202e'"
    assert len(brief("x" * 999)) == 58
    assert plain_text("a\nb\x1b\u202ec") == "a b  c"
    assert str(InputError("a\x1b[2J\nb")) == "a [2J b"
    assert whole_number(np.uint8(3), "k") == 3


def test_marks_are_told_from_words():
    from tokenizers import AddedToken

    from codi_patching.models.loading.checkpoint import load_checkpoint
    from codi_patching.models.vocabulary import control_tokens

    tokenizer = load_checkpoint("codi-tiny")[0].tokenizer
    tokenizer.add_tokens([AddedToken("<call>", special=False), AddedToken("pears", special=False)])
    assert control_tokens(tokenizer, "Tom <call> has 3 pears <bot>") == ["<bot>", "<call>"]
    assert control_tokens(tokenizer, "Zorblax has 3 pears") == []
