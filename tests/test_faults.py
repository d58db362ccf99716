"""Kinds of input that once gave a wrong number, a traceback or nothing: a table a kind."""

import json
import logging
import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from foreign_models import LLAMA_TARGETS, PublishedCodi
from safetensors.torch import save_file

from codi_patching.commands import evaluate, pairs
from codi_patching.data.chained_questions import read_chained_questions
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.independence import check_siblings, join_groups, name_unlike, words_of
from codi_patching.data.json_lines import DataFileError
from codi_patching.data.pair_files import read_pairs, read_questions
from codi_patching.data.pairs import Pair, Question
from codi_patching.data.twin_pairs import make_twin_pairs
from codi_patching.errors import InputError
from codi_patching.models.accuracy import is_correct, why_not_asked
from codi_patching.models.families import attention_window
from codi_patching.models.loading.checkpoint import CheckpointError, load_checkpoint
from codi_patching.models.number_text import first_number, parse_number
from scripts.make_random_checkpoint import train_tokenizer

TEXT = "Ben has {} lemons. He loses {}. He gives 26 to Mei. How many are left?"


def record(first, second, **changes):
    left = first - second
    steps = [f"<<{first}-{second}={left}>>", f"<<{left}-26={left - 26}>>"]
    question = TEXT.format(first, second)
    return {"question": question, "answer": left - 26, "reasoning_steps": steps, **changes}


def pair_record(name="a", sibling=None, **changes):
    """A pair of 46-13 and 46-14; `changes` are of both questions."""
    both = {"clean": record(46, 13, **changes), "corrupted": record(46, 14, **changes)}
    return {"pair_id": name, **both, **({"sibling": sibling} if sibling else {})}


@pytest.fixture
def write(tmp_path):
    def write(records, name="pairs.json"):
        path = tmp_path / name
        lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        path.write_text(lines, encoding="utf-8")
        return path

    return write


# -- files of pairs -------------------------------------------------------------------------------

CHAIN = ["<<46-13=33>>", "<<33-26=7>>"]
STEPS = {
    "a list": (CHAIN, 2, 0),
    "a text": (" ".join(CHAIN), 2, 0),
    "a list with words": (["He has <<46-13=33>>33", "then <<33-26=7>>7 lemons"], 2, 0),
    "their number": (2, 2, 0),
    "their number as text": ("2", 2, 0),
    "their number with a point": (2.0, 2, 0),
    "their number in another script": ("٢", None, 1),
    "a number of no chain": (10**30, None, 1),
    "a list without brackets": (["46-13=33", "33 - 26 = 7"], 2, 0),
    "with the minus of typesetters": ("<<46\u221213=33>> <<33\u221226=7>>", 2, 0),
    "a list of words": (["subtract", "subtract"], None, 1),
    "none": (None, None, 0),
    "an object": ({"first": CHAIN[0]}, None, 1),
    "words": ("first subtract, then subtract", None, 1),
    "a list of numbers": ([33, 7], None, 1),
    "half a step": (2.5, None, 1),
    "true": (True, None, 1),
}


@pytest.mark.parametrize("form", STEPS)
def test_forms_of_reasoning_steps(write, form):
    given, count, lines = STEPS[form]
    said = []
    made = pair_record()
    made["clean"]["reasoning_steps"] = given
    (pair,) = read_pairs(write([made]), said.append)
    assert (pair.num_steps, len(said)) == (count, lines)
    assert len(pair.clean.reasoning_steps) == (count if count and "number" not in form else 0)


def test_a_published_file_with_numbers_of_steps_and_fields_of_its_own(write):
    base = {"pair_id": 3, "reasoning_steps": 2, "source": "hand", "level": 4, "more": [1]}
    lines = [
        {**base, "variant": "clean", "question": TEXT.format(46, 13), "answer": 7},
        {**base, "variant": "corrupted", "question": TEXT.format(46, 14), "answer": 6},
    ]
    (pair,) = read_pairs(write(lines))
    assert (pair.num_steps, pair.changed_step, pair.changed_path) == (2, None, ())
    assert pair.fields == {"source": "hand", "level": "4"}


BROKEN = {
    "a step that gives something else": (["<<46-13=34>>", "<<34-26=8>>"], "not what it gives"),
    "steps of another question": (["<<1+1=2>>", "<<1+1=2>>"], "the last result is not the answer"),
    "numbers from nowhere": (["<<9-5=4>>", "<<4+3=7>>"], "comes from nowhere"),
    "a result that is not used": (["<<26+13=39>>", *CHAIN], "a result is not used"),
    "half a step": (["<<46-13=33>>", "<<33-26=>>"], "result is not a number"),
    "5,000 steps": (["<<46-13=33>>"] * 5000, "more than 100 steps"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_chain_that_does_not_lead_to_the_answer_is_refused_by_name(write, case):
    steps, reason = BROKEN[case]
    said = []
    bad = pair_record("b")
    bad["clean"]["reasoning_steps"] = steps
    good, pair = read_pairs(write([pair_record(), bad]), said.append)
    assert len(said) == 1
    assert "1 pairs run without their steps: b (clean: " in said[0]
    assert reason in said[0]
    assert (pair.num_steps, pair.changed_path) == (None, ())
    assert pair.clean.reasoning_steps == pair.corrupted.reasoning_steps == ()
    assert (good.num_steps, good.changed_path) == (2, (1, 2))


PATHS = {
    "straight": (["<<9-4=5>>", "<<5*2=10>>"], ["<<8-4=4>>", "<<4*2=8>>"], 1, (1, 2)),
    "from the second step": (["<<9-4=5>>", "<<5*2=10>>"], ["<<9-4=5>>", "<<5*3=15>>"], 2, (2,)),
    "past a branch": (
        ["<<5*2=10>>", "<<4*3=12>>", "<<10+12=22>>"],
        ["<<6*2=12>>", "<<4*3=12>>", "<<12+12=24>>"],
        1,
        (1, 3),
    ),
    "used without effect at first": (
        ["<<18/7=2>>", "<<18+2=20>>", "<<20-1=19>>"],
        ["<<19/7=2>>", "<<19+2=21>>", "<<21-1=20>>"],
        1,
        (2, 3),
    ),
    "written otherwise": (["<<2*500=1,000>>"], ["<< 2*500 = 1000 >>"], None, ()),
}


@pytest.mark.parametrize("case", PATHS)
def test_the_changed_numbers_path(case):
    clean, corrupted, step, path = PATHS[case]
    pair = Pair("a", Question("c", 1, tuple(clean)), Question("d", 2, tuple(corrupted)))
    assert (pair.changed_step, pair.changed_path) == (step, path)


# -- controls and independence --------------------------------------------------------------------

SIBLINGS = {
    "another number": (TEXT.format(46, 12), True, 0),
    "the clean question": (TEXT.format(46, 13), False, 1),
    "the corrupted one, with spaces": (f" {TEXT.format(46, 14)}  ", False, 1),
    "the clean one, its number as a word": (TEXT.format(46, "thirteen"), False, 1),
    "the clean one in capitals": (TEXT.format(46, 13).upper(), False, 1),
    "another number as a word": (TEXT.format(46, "twelve"), True, 0),
    "another number elsewhere": (TEXT.format(45, 12), True, 1),
    "more words beside the number": (TEXT.format(46, "12 and finds 5"), True, 1),
    "no number in its place": (TEXT.format(46, "some"), True, 1),
    "an unrelated question": ("Tom has 5 pens. How many pens has Tom?", True, 1),
}


@pytest.mark.parametrize("case", SIBLINGS)
def test_siblings_that_are_no_third_question(write, case):
    text, kept, lines = SIBLINGS[case]
    made = pair_record(sibling={"question": text, "answer": 8})
    (pair,), said = check_siblings(read_pairs(write([made])))
    assert (pair.sibling is not None, len(said)) == (kept, lines)
    assert all("a" in line.partition(": ")[2] for line in said)


@pytest.mark.parametrize(("answer", "side"), [(7, "clean"), (6, "corrupted")])
def test_a_sibling_with_an_answer_of_the_pair_controls_nothing(write, answer, side):
    made = pair_record(sibling={"question": TEXT.format(46, 12), "answer": answer})
    (pair,), said = check_siblings(read_pairs(write([made])))
    assert pair.sibling is None
    assert said[0].endswith(f"a (it has the {side} answer)")


UNLIKE = {
    "one number": ("Tom has 3 of 4.", "Tom has 5 of 4.", False),
    "one number in words": ("Tom has three.", "Tom has four.", False),
    "two numbers": ("Tom has 3 of 4.", "Tom has 5 of 6.", True),
    "another question": ("Tom has 3.", "Ann bakes 5 cakes.", True),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_pairs_that_differ_in_more_than_one_number_are_named(case):
    clean, corrupted, named = UNLIKE[case]
    alike = Pair("b", Question("Tom has 1", 1), Question("Tom has 2", 2))
    said = name_unlike([Pair("a", Question(clean, 1), Question(corrupted, 2)), alike])
    whole = "1 pairs differ in more than one number alone, so their effects are of all that differs"
    assert said == [f"{whole}: a"] * named


def test_siblings_that_a_model_reads_like_the_pair():
    pair = Pair("a", Question("Tom", 1), Question("Ann", 2), Question("TOM", 3))
    (found,), said = check_siblings([pair], str.lower)
    assert found.sibling is None
    assert "a (it is the clean question)" in said[0]
    assert pair.sibling is not None


def numbered(*texts):
    return [Pair(f"p{i}", Question(t[0], 1), Question(t[1], 2)) for i, t in enumerate(texts)]


GROUPS = {
    "different": ([("a", "b"), ("c", "d")], ["p0", "p1"]),
    "the same twice": ([("a", "b"), ("a", "b")], ["p0", "p0"]),
    "with spaces": ([("a 1", "b"), (" a  1 ", "b ")], ["p0", "p0"]),
    "in capitals": ([("Tom has 1", "b"), ("TOM has 1", "c")], ["p0", "p0"]),
    "with what cannot be seen": ([("a 1", "b"), ("a\u200b 1", "c")], ["p0", "p0"]),
    "numbers as words": ([("Tom has 13", "b"), ("Tom has thirteen", "c")], ["p0", "p0"]),
    "clean shared": ([("a", "b"), ("a", "c")], ["p0", "p0"]),
    "turned round": ([("a", "b"), ("b", "a")], ["p0", "p0"]),
    "by a third": ([("a", "b"), ("c", "d"), ("b", "c")], ["p0", "p0", "p0"]),
}


@pytest.mark.parametrize("case", GROUPS)
def test_pairs_that_share_a_question_are_one_group(case):
    texts, groups = GROUPS[case]
    found, said = join_groups(numbered(*texts))
    assert [pair.group for pair in found] == groups
    assert len(said) == (len(set(groups)) < len(groups))


def test_groups_of_the_file_are_kept_and_joined_and_their_pairs_counted():
    texts = [("a", "b"), ("c", "d"), ("e", "f"), ("b", "g"), ("b", "h"), ("b", "i"), ("f", "e")]
    given = numbered(*texts)
    given[1].group = given[2].group = "own"
    found, (line,) = join_groups(given)
    assert [pair.group for pair in found] == ["p0", "own", "own", "p0", "p0", "p0", "own"]
    assert given[3].group == "p3"
    assert line == (
        "6 pairs share their questions; each of 2 groups of them counts as one: "
        "p0, p3, p4, and 1 more; own, p6"
    )


def test_words_of_a_text_and_what_its_numbers_are_worth():
    assert words_of(" Tom  HAS 13\u200b eggs, two of 1/2.") == (
        ("tom", "has", "\0", "eggs,", "\0", "of", "\0."),
        (13, 2, Fraction(1, 2)),
    )
    assert words_of("cafe\u0301 1") == words_of("caf\u00e9 one")
    assert words_of("Tom 1 2") != words_of("Tom 2 1")
    assert words_of("Tom 1 has") != words_of("Tom has 1")
    assert words_of("a " + "9" * 99) == (("a", "9" * 99), ())


def test_siblings_are_counted_by_what_is_wrong_with_them():
    same, other, fine = "Tom has 3 of 4.", "Ann has 5 of 4.", "Tom has 6 of 4."
    texts = [same, other, fine, other]
    pairs = [
        Pair(f"p{i}", Question(same, 1), Question("Tom has 5 of 4.", 2), Question(text, 3))
        for i, text in enumerate(texts)
    ]
    found, said = check_siblings([*pairs, Pair("none", "a", "b")])
    assert [pair.sibling is not None for pair in found] == [False, True, True, True, False]
    assert said[0].startswith("1 siblings left out")
    assert said[0].endswith("p0 (it is the clean question)")
    assert said[1].startswith("2 siblings differ from their pairs outside the changed number")
    assert said[1].endswith(": p1; p3")


def test_the_data_module_says_what_it_left_out_and_joined(write, caplog, monkeypatch):
    same = {"question": TEXT.format(46, 13), "answer": 8}
    records = [pair_record("a", same), pair_record("b"), pair_record("c")]
    data = PairsDataModule(str(write(records)))
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    with caplog.at_level(logging.INFO):
        data.setup("predict")
    assert {pair.group for pair in data.kept} == {"a"}
    assert data.kept[0].sibling is None
    assert "1 siblings left out" in caplog.text
    assert "counts as one: a, b, c" in caplog.text


# -- numbers --------------------------------------------------------------------------------------

NUMBERS = {
    "18": 18, "18.0": 18, "1,430": 1430, "1,430.50": Fraction(2861, 2), "-5": -5, "\u22125": -5,
    ".5": Fraction(1, 2), "3.": 3, "+4": 4, " 7 ": 7,
    "0,500": None, "3,5": None, "1.430,50": None, "12,15": None, "1,43": None, "1/2": None,
    "1'000": None, "1 000": None, "": None, "-": None, "1e5": None, "nan": None,
    "٥": None, "9" * 5000: None,
}  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS, ids=lambda text: text[:9])
def test_one_parser_for_numbers_in_files(write, text):
    assert parse_number(text) == NUMBERS[text]
    path = write([{"question": "Tom has 5.", "answer": text}], "questions.jsonl")
    if NUMBERS[text] is None:
        with pytest.raises(DataFileError, match="expected answer to be a finite number"):
            read_questions(path, "data")
    else:
        assert read_questions(path, "data")[0].answer == float(NUMBERS[text])


ANSWERS = {
    " 18": 18, "1,430 pears": 1430, "-2.5": -2.5, "It is 18.": 18, "5, 6": 5, "$7 each": 7,
    "50%": 50, " \u22125": -5, " 12,15": None, " 1/2": None, "1.430,50": None, "none": None,
    "1'000": None, "1\u202f000": None, "": None, "-$5": -5, "$-5": -5, "(-5)": -5, "18apples": 18,
    "\u20135": None, "- 5": None, "minus 5": None, "+-5": None, ",5": None, "0,500": None,
    "1e5": None, "2^10": None, "10\u00b2": None, "5 1/2": None, "1\u00bd": None, "5 / 6": None,
    "5-3": None, "5 + 3 = 8": None, "12:30": None, "3 thousand": None, "5k": None, "5 000": None,
    "1\u0663": None, "\u06635": None, "1O0": None, "18. 5 of them": 18, "18 or 20": 18,
    "12\u20095": None, "18/": 18, "\u2248-5": -5, "3 dozen": None, "2 and a half": None,
    "1 \u00bd": None, "\u00bd of the 6": None,
}  # fmt: skip


@pytest.mark.parametrize("text", ANSWERS)
def test_numbers_in_what_models_answer(text):
    number = ANSWERS[text]
    assert first_number(text) == number
    assert is_correct(text, number if number is not None else 1215) == (number is not None)


# -- questions with chains ------------------------------------------------------------------------

PENS = "Ann has 20 pens. She gives away 5. How many are left?"
REFUSED = {
    "5,000 brackets": (PENS, f"<<{'(' * 5000}20-5{')' * 5000}=15>>", "more than 200"),
    "5,000 terms": (PENS, f"<<20-5{'+0' * 5000}=15>>", "more than 200"),
    "5,000 digits": (PENS, f"<<20-{'0' * 5000}5=15>>", "too many digits"),
    "5,000 digits in the text": (PENS.replace("20", "2" * 5000), "<<20-5=15>>", "too many digits"),
    "5,000 steps": (PENS, "<<20-5=15>>" * 5000, "more than 100 steps"),
    "5,000 fractions": ("1/" * 5000 + PENS.replace("5", "5 or 6"), "<<20-5=15>>", "not used"),
    "digits of another script": (PENS.replace("20", "٢٠"), "<<20-5=15>>", "digits other than"),
    "half in another script": (PENS.replace("20", "2٠"), "<<20-5=15>>", "digits other than"),
    "beside digits of another script": (PENS.replace("20", "20 (٢٠)"), "<<20-5=15>>", "digits o"),
    "a European number": (PENS.replace("20", "20,5"), "<<20.5-5=15.5>>", "commas out of place"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_question_that_cannot_be_read_is_refused_alone(write, case):
    text, chain, reason = REFUSED[case]
    good = {"question": PENS.replace("Ann", "Eve"), "answer": "<<20-5=15>> #### 15"}
    answer = chain.rpartition("=")[2].removesuffix(">>")
    path = write([{"question": text, "answer": f"{chain} #### {answer}"}, good], "questions.jsonl")
    found, reasons = make_twin_pairs(read_chained_questions(path, "questions"))
    assert [pair.clean.text for pair in found] == [good["question"]]
    assert reason in next(iter(reasons))


@pytest.mark.parametrize("steps", ["<<20-5=15>>", ["<<20-5=15>>"], ["20-5=15"]])
def test_steps_of_a_question_as_text_or_list(write, steps):
    path = write([{"question": PENS, "answer": "15", "steps": steps}], "questions.jsonl")
    assert read_chained_questions(path, "questions")[0].steps == ("<<20-5=15>>",)


@pytest.mark.parametrize("reader", [read_chained_questions, read_questions])
def test_a_key_may_not_stand_twice(tmp_path, reader):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "a <<1+1=2>>", "answer": "2", "answer": "3"}\n')
    with pytest.raises(DataFileError, match="an object has the key 'answer' twice: set data"):
        reader(path, "data")


# -- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A published file's weights and its base model."""
    base = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer("llama", problems=300)
    module = PublishedCodi("llama", len(tokenizer))
    tokenizer.save_pretrained(base)
    (base / "config.json").write_text(json.dumps(module.base_config, default=str))
    weights = {k: v.clone().contiguous() for k, v in module.state_dict().items()}
    return SimpleNamespace(weights=weights, base=base)


@pytest.fixture
def load(published, tmp_path):
    """Load the published file after a change of its weights, with a record beside it."""

    def load(change=lambda weights: weights, record=None, metadata=None, **options):
        weights = change(dict(published.weights))
        path = tmp_path / ("model.safetensors" if metadata else "pytorch_model.bin")
        if metadata:
            save_file(weights, path, metadata)
        else:
            torch.save(weights, path)
        if record is not None:
            (tmp_path / "adapter_config.json").write_text(json.dumps(record))
        return load_checkpoint(path, base_model=str(published.base), **options)

    return load


Q_PROJ = "model.layers.1.self_attn.q_proj"
SCALES = {
    "plain": ({"lora_alpha": 32, "r": 4}, 8, 8),
    "as peft writes it": (
        {"lora_alpha": 32, "r": 4, "peft_type": "LORA", "bias": "none", "use_dora": False,
         "modules_to_save": None, "lora_dropout": 0.1, "target_modules": LLAMA_TARGETS,
         "init_lora_weights": True, "megatron_core": "megatron.core", "loftq_config": {},
         "qalora_group_size": 16, "trainable_token_indices": None},
        8,
        8,
    ),
    "rank-stabilised": ({"lora_alpha": 32, "r": 4, "use_rslora": True}, 16, 16),
    "another alpha for some": ({"lora_alpha": 32, "alpha_pattern": {"q_proj": 64}}, 16, 8),
    "for one by its whole name": ({"lora_alpha": 32, "alpha_pattern": {Q_PROJ: 64}}, 16, 8),
    "ranks that are there": ({"lora_alpha": 32, "r": 8, "rank_pattern": {"_proj": 4,
                              ".*_proj": 4}}, 8, 8),
    "no alpha": ({"r": 4}, 8, 8),
}  # fmt: skip


def plain_weight(published, module):
    """Weight, and `B @ A`, of an adapted module."""
    name = f"codi.base_model.model.{module}"
    down, up = (published.weights[f"{name}.lora_{x}.default.weight"] for x in "AB")
    return published.weights[f"{name}.base_layer.weight"], up @ down


@pytest.mark.parametrize("case", SCALES)
def test_what_adapters_are_scaled_by(load, published, case):
    record, q_scale, other = SCALES[case]
    model, report = load(record=record)
    state = model.backbone.state_dict()
    for module, scale in ((Q_PROJ, q_scale), ("model.layers.0.mlp.up_proj", other)):
        weight, change = plain_weight(published, module)
        torch.testing.assert_close(state[f"{module}.weight"], weight + scale * change)
    assert report.lora_scales == sorted({float(q_scale), float(other)})


RECORDS = {
    "dora": ({"use_dora": True}, "use_dora True"),
    "biases": ({"bias": "lora_only"}, "bias 'lora_only'"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "layers that stand twice": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "another method": ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
    "what is not known here": ({"use_new_thing": 3}, "use_new_thing 3"),
    "another rank": ({"r": 8}, "has rank 4, where adapter_config.json says 8"),
    "another rank for some": ({"r": 4, "rank_pattern": {"q_proj": 2}}, "q_proj has rank 4, wher"),
    "alpha 0": ({"lora_alpha": 0}, "to be over 0, got 0"),
    "an alpha under 0": ({"lora_alpha": -1}, "to be over 0, got -1"),
    "NaN": ({"lora_alpha": math.nan}, "to be over 0, got nan"),
    "a bad alpha for some": ({"alpha_pattern": {"q_proj": 0}}, "to be over 0, got 0"),
    "text": ({"lora_alpha": "sixteen"}, "Expected `float | null`, got `str`"),
    "a text for a switch": ({"use_rslora": "true"}, "Expected `bool`, got `str`"),
    "no object": ([32], "expected an object, got list"),
    "no pattern": ({"alpha_pattern": {"(": 3}}, "as peft writes it"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_records_of_adapters_that_are_refused(load, case):
    record, message = RECORDS[case]
    with pytest.raises(CheckpointError) as refused:
        load(record=record)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_alpha_is_checked_at_every_door(load, alpha):
    with pytest.raises(CheckpointError, match=r"to be over 0, got .*: set lora_alpha"):
        load(lora_alpha=alpha)
    options = ["--checkpoint", "codi-tiny", "--lora_alpha", str(alpha), "--problems", "2"]
    with pytest.raises(InputError, match=r"to be over 0, got .*: set lora_alpha"):
        evaluate.run(options)


@pytest.mark.parametrize("text", ["sixteen", "0", "nan"])
def test_alpha_in_metadata_must_be_a_number(load, text):
    tied = "codi.base_model.model.lm_head.weight"
    with pytest.raises(CheckpointError, match="to be over 0, got"):
        load(lambda w: {k: v for k, v in w.items() if k != tied}, metadata={"lora_alpha": text})


WRAPPED = {
    "a training module": lambda w: {f"model.{k}": v for k, v in w.items()},
    "several processes": lambda w: {f"module.{k}": v for k, v in w.items()},
    "compiled": lambda w: {k.replace("codi.", "codi._orig_mod.", 1): v for k, v in w.items()},
    "compiled as a whole": lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
    "a checkpoint of a trainer": lambda w: {"state_dict": w, "epoch": 3},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_wrappers_are_taken_off(load, case):
    plain, _ = load()
    found, report = load(WRAPPED[case])
    assert report.layout == "codi"
    for name, value in plain.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


def test_constants_of_older_files_are_dropped_by_name(load):
    constants = {
        "codi.base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "codi.base_model.model.transformer.h.0.attn.bias": torch.ones(2, 2, dtype=torch.bool),
        "codi.base_model.model.transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    plain, (_, report) = load()[1], load(lambda weights: {**weights, **constants})
    assert sorted(report.dropped) == sorted(constants)
    assert report.tensors == plain.tensors + 3


NORM = "codi.base_model.model.model.norm.weight"


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(load, dtype):
    with pytest.raises(CheckpointError, match=r"weights in 16 bits or more .*norm\.weight is"):
        load(lambda weights: {**weights, NORM: weights[NORM].to(dtype)})


@pytest.fixture
def shards(published, tmp_path):
    """Write the file in two shards with an index, after a change of all three."""

    def shards(change=lambda one, two, index: None, ending="safetensors"):
        names = sorted(k for k in published.weights if "lm_head" not in k)
        one, two = ({k: published.weights[k].clone() for k in names[i::2]} for i in (0, 1))
        stem = "model" if ending == "safetensors" else "pytorch_model"
        files = [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
        index = {k: file for part, file in zip((one, two), files, strict=True) for k in part}
        change(one, two, index)
        for part, file in zip((one, two), files, strict=True):
            (save_file if ending == "safetensors" else torch.save)(part, tmp_path / file)
        text = json.dumps({"weight_map": index})
        (tmp_path / f"{stem}.{ending}.index.json").write_text(text)
        return load_checkpoint(tmp_path, base_model=str(published.base))[0]

    return shards


def stale_copies(one, two, _index):
    """The first shard's norm stands in the second too, in an older version, and the other way."""
    for here, there in ((one, two), (two, one)):
        name = next(iter(here))
        there[name] = here[name] + 1


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("change", [lambda *_: None, stale_copies])
def test_each_tensor_comes_from_the_shard_that_the_index_names(
    published, tmp_path, shards, ending, change
):
    found = shards(change, ending)
    torch.save(published.weights, tmp_path / "plain.bin")
    plain, _ = load_checkpoint(tmp_path / "plain.bin", base_model=str(published.base))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


INDICES = {
    "a tensor in another shard": (
        lambda one, two, index: index.update({next(iter(one)): index[next(iter(two))]}),
        "is missing",
    ),
    "a tensor that it lacks": (lambda one, two, index: index.pop(NORM), "is not in the index"),
    "a tensor that is nowhere": (
        lambda one, two, index: index.update({"codi.x": index[NORM]}),
        "codi.x is missing",
    ),
    "a file elsewhere": (
        lambda one, two, index: index.update({NORM: "../outside.safetensors"}),
        "to name files beside it, got '../outside.safetensors'",
    ),
    "a number": (lambda one, two, index: index.update({NORM: 7}), "files beside it, got 7"),
    "nothing": (lambda one, two, index: index.clear(), "it has no weight_map"),
}


@pytest.mark.parametrize("case", INDICES)
def test_shards_that_are_not_what_the_index_says(shards, case):
    change, message = INDICES[case]
    with pytest.raises(CheckpointError) as refused:
        shards(change)
    assert message in str(refused.value)


SETTINGS = {
    "no bot": ({"bot_ids": []}, "expected bot_ids to hold at least one token"),
    "text for tokens": ({"bot_ids": "3"}, "Expected `array`, got `str`"),
    "a token beyond the embeddings": ({"eot_ids": [5000]}, "got eot_ids 5000"),
    "a token under 0": ({"eos_id": -1}, "got eos_id -1"),
    "half a thought": ({"num_latents": 2.5}, "Expected `int`, got `float`"),
    "true": ({"num_latents": True}, "Expected `int`, got `bool`"),
    "text for a switch": ({"raw_question": "false"}, "Expected `bool`, got `str`"),
    "a prefix that is none": ({"answer_prefix": None}, "Expected `str`, got `null`"),
    "an unknown key": ({"latents": 3}, "expected no key latents"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_of_wrong_types_and_values(checkpoint, case):
    change, message = SETTINGS[case]
    path = f"{checkpoint}/codi.json"
    with open(path) as file:
        content = json.load(file)
    with open(path, "w") as file:
        json.dump({**content, **change}, file)
    with pytest.raises(InputError) as refused:
        load_checkpoint(checkpoint)
    assert message in str(refused.value)


def test_a_tokenizer_with_more_tokens_than_embeddings(checkpoint):
    path = f"{checkpoint}/tokenizer.json"
    with open(path) as file:
        content = json.load(file)
    content["model"]["vocab"]["zebra"] = 4000
    with open(path, "w") as file:
        json.dump(content, file)
    with pytest.raises(CheckpointError, match=r"for which there are embeddings, got .* 4000"):
        load_checkpoint(checkpoint)


CONFIGS = {
    "attention of its own": {"attn_implementation": "flash_attention_2"},
    "the same by its inner name": {"_attn_implementation": "flash_attention_2"},
    "a window that Llama has not": {"sliding_window": 4},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_what_of_a_config_is_not_the_files_to_set(checkpoint, case):
    plain, _ = load_checkpoint(checkpoint)
    path = f"{checkpoint}/config.json"
    with open(path) as file:
        content = json.load(file)
    with open(path, "w") as file:
        json.dump({**content, **CONFIGS[case]}, file)
    found, _ = load_checkpoint(checkpoint)
    assert attention_window(found.backbone) is None
    ids = plain.prompt_ids("Tom has 16 pears. He eats 3.")
    thoughts = [model.think(*model.encode([ids]))[0] for model in (plain, found)]
    assert torch.equal(*thoughts)


@pytest.mark.parametrize("content", ["[]", "{", '{"model_type": "llama", "hidden_size": "x"}'])
def test_configs_that_are_none(checkpoint, content):
    with open(f"{checkpoint}/config.json", "w") as file:
        file.write(content)
    with pytest.raises(CheckpointError, match="config"):
        load_checkpoint(checkpoint)


def test_more_thoughts_than_a_model_was_trained_with_are_spoken_of_once(checkpoint, caplog):
    for count in (2, 3):
        load_checkpoint(checkpoint, num_latents=count)
    assert not caplog.records
    load_checkpoint(checkpoint, num_latents=4)
    assert [r.getMessage() for r in caplog.records] == [
        "4 latent thoughts are run, where the model was trained with 3: the further ones are "
        "nothing that it knows"
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("codi_tiny", "codi-tiny"), ("CODI-gpt", "zen-E/CODI-gpt2"), ("something", None)],
)
def test_a_name_that_was_probably_meant(name, meant):
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(name)
    assert (f"did you mean {meant}?" in str(refused.value)) == (meant is not None)


# -- questions that do not fit --------------------------------------------------------------------

UNFIT = {
    "too long": ("Tom has 16 pears. " * 40, "at most 60 tokens from prompt to answer"),
    "control tokens": ("Tom has 16 pears.<eos>", "got control tokens: <eos>"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_evaluate_names_and_skips_what_does_not_fit(model, capsys, monkeypatch, case):
    text, reason = UNFIT[case]
    monkeypatch.setattr(evaluate, "_ANSWER_TOKENS", 3)
    model.backbone.config.max_position_embeddings = 60
    asked = [Question(t, 3) for t in ("Tom has 3.", text, "Tom has 16 pears.")]
    records = evaluate.evaluate(model, asked, 2)
    assert [record["index"] for record in records] == [0, 2]
    said = capsys.readouterr().err
    assert said.startswith("1 questions left out: question 1: expected ")
    assert reason in said


@pytest.mark.parametrize("case", UNFIT)
def test_pairs_names_and_skips_what_does_not_fit(model, case):
    text, reason = UNFIT[case]
    model.backbone.config.max_position_embeddings = 60
    good, bad = SimpleNamespace(text="Tom has 3.", answer=3), SimpleNamespace(text=text, answer=3)
    verdicts = pairs.judge(
        model,
        [
            SimpleNamespace(pair_id="a", clean=good, corrupted=bad, sibling=None),
            SimpleNamespace(pair_id="b", clean=good, corrupted=good, sibling=bad),
        ],
        False,
    )
    assert verdicts["a"].startswith("cannot be asked (expected")
    assert reason in verdicts["a"]
    assert "cannot" not in verdicts["b"]


def test_the_last_token_spoken_counts(model):
    """Prompt, K thoughts, eot, the prefix, and all spoken tokens but the last are read."""
    length = len(model.prompt_ids("Tom has 3.")) + 3 + 1 + 4 + 4
    model.backbone.config.max_position_embeddings = length
    assert why_not_asked(model, "Tom has 3.", 5) is None
    assert "got" in (why_not_asked(model, "Tom has 3.", 6) or "")
