"""`codi-patching evaluate`, in process: batches, a second start, the published accuracy."""

import argparse
import json
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import pytest
import torch

from codi_patching.commands import evaluate, journal, model_options, published_accuracy
from codi_patching.commands.journal import Journal
from codi_patching.commands.published_accuracy import compare_with_published
from codi_patching.data.word_problems import sample_problem
from codi_patching.errors import InputError
from codi_patching.models import accuracy
from codi_patching.models.loading.checkpoint import LoadReport, load_checkpoint
from codi_patching.models.loading.known import KNOWN_MODELS

QUESTIONS = [
    ("Tom has 16 pears. He eats 3.", 13),
    ("Tom has 9 pears.", 9),
    ("Tom has 9 pears. He buys 3 more. He eats 5.", 7),
    ("Tom has 5 pears. He eats 1.", 4),
    ("Tom buys 2 more pears.", 2),
]


@pytest.fixture
def questions_file(tmp_path):
    path = tmp_path / "questions.jsonl"
    lines = [json.dumps({"question": q, "answer": f"… #### {a}"}) for q, a in QUESTIONS]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def run(checkpoint, questions_file, capsys):
    def run(*options):
        args = ["--checkpoint", checkpoint, "--data", str(questions_file), *map(str, options)]
        assert evaluate.run(args) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture(autouse=True)
def few_words(monkeypatch):
    """A random model never stops by itself."""
    monkeypatch.setattr(evaluate, "_ANSWER_TOKENS", 3)
    monkeypatch.setattr(evaluate, "_WORDS_TOKENS", 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_of_16_answers_as_one_by_one(dtype):
    model, _ = load_checkpoint("codi-tiny")
    model.to(dtype)
    rng = Random(5)
    asked = [sample_problem(rng, held_out=True).question for _ in range(16)]
    lengths = [len(model.prompt_ids(question)) for question in asked]
    batched = accuracy.latent_answers(model, asked)
    for index in {lengths.index(min(lengths)), lengths.index(max(lengths)), 0, 9}:
        assert accuracy.latent_answers(model, [asked[index]]) == [batched[index]]


def test_thoughts_and_logits_of_a_padded_batch_are_those_of_single_questions(model):
    model.float()
    prompts = [model.prompt_ids(question) for question, _ in QUESTIONS]
    hidden, context = model.encode(prompts)
    thoughts, states, _ = model.think(hidden, context)
    for row, prompt in enumerate(prompts):
        single = model.think(*model.encode([prompt]))
        torch.testing.assert_close(thoughts[row], single[0][0], rtol=0, atol=1e-5)
        logits = [model.logits(s) for s in (states[row], single[1][0])]
        torch.testing.assert_close(*logits, rtol=0, atol=1e-4)


def test_every_way_of_answering(run, questions_file, tmp_path, checkpoint):
    output = tmp_path / "run.jsonl"
    text = run("--output", output, "--batch_size", 2)
    for words in ("5 questions", "own thoughts", "zeroed", "exchanged", "in words", "0: ", "3: "):
        assert words in text
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(r["question"], r["answer"]) for r in records] == QUESTIONS
    model, _ = load_checkpoint(checkpoint)
    texts = [question for question, _ in QUESTIONS]
    longest_first = [2, 0, 3, 4, 1]
    sorted_texts = [texts[index] for index in longest_first]
    exchanged = accuracy.latent_answers(model, sorted_texts, "exchanged", 3)
    for name, expected in {
        "own": accuracy.latent_answers(model, texts, "own", 3),
        "zeroed": accuracy.latent_answers(model, texts, "zeroed", 3),
        "exchanged": [exchanged[longest_first.index(i)] for i in range(5)],
        "thoughts_3": accuracy.latent_answers(model, texts, "own", 3),
        "words": accuracy.reasoned_answers(model, texts, 5),
    }.items():
        assert [r["predictions"][name] for r in records] == expected, name
    model.settings = replace(model.settings, num_latents=1)
    assert [r["predictions"]["thoughts_1"] for r in records] == accuracy.latent_answers(
        model, texts, "own", 3
    )
    summary = json.loads((tmp_path / "run.summary.json").read_text())
    right = sum(r["correct"]["own"] for r in records)
    assert summary["accuracy"]["own"] == right / 5
    assert summary["questions"] == 5


def test_a_second_start_goes_on_and_gives_the_same_bytes(run, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run("--output", whole, "--batch_size", 2)
    asked = []
    answers = evaluate.answers_by_thoughts

    def interrupted(model, questions, *rest):
        asked.append(len(questions))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return answers(model, questions, *rest)

    monkeypatch.setattr(evaluate, "answers_by_thoughts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("--output", cut, "--batch_size", 2)
    assert len(cut.read_text().splitlines()) == 2
    with cut.open("a") as file:
        file.write('{"index": 2, "cut')
    run("--output", cut, "--batch_size", 3)
    assert asked == [3, 3, 4]
    assert cut.read_bytes() == whole.read_bytes()
    run("--output", cut)
    assert asked == [3, 3, 4]


def test_a_second_start_in_another_order_is_refused(run, tmp_path, monkeypatch):
    """As after a change of the tokenizer: by count alone a question would be answered twice."""
    output, order = tmp_path / "run.jsonl", evaluate._askable
    with monkeypatch.context() as fewer:
        fewer.setattr(evaluate, "_askable", lambda *given: order(*given)[:3])
        run("--output", output)
    monkeypatch.setattr(evaluate, "_askable", lambda *given: order(*given)[::-1])
    with pytest.raises(InputError, match="questions are in another order: remove it"):
        run("--output", output)


def test_a_second_start_with_other_options_is_refused(run, tmp_path):
    output = tmp_path / "run.jsonl"
    run("--output", output)
    with pytest.raises(InputError, match=r"other options \(num_latents 3, now 2\): remove it and"):
        run("--output", output, "--num_latents", 2)
    (tmp_path / "run.summary.json").unlink()
    with pytest.raises(InputError, match=r"is there already, without run\.summary\.json"):
        run("--output", output)


@pytest.mark.parametrize("name", ["none.jsonl", "none.txt"])
def test_a_missing_file_is_named_with_its_option(run, tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be read .*: set data$"):
        run("--output", tmp_path / "run.jsonl", "--data", tmp_path / name)


def test_a_damaged_journal_is_refused(tmp_path):
    lines, description = tmp_path / "a.jsonl", tmp_path / "a.json"
    Journal(lines, description, {"x": 1}, "--output").append([{"y": "ü"}])
    assert Journal(lines, description, {"x": 1}, "--output").done == [{"y": "ü"}]
    Journal(lines, description, {"x": 1}, "--output").append([{"y": "a\u2028b"}])
    assert Journal(lines, description, {"x": 1}, "--output").done[1:] == [{"y": "a\u2028b"}]
    whole = lines.read_bytes()
    for damaged in (b"no json\n", b"", whole[:-1], whole.replace(b"a", b"b"), whole[1:] + b"\n"):
        lines.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged, it is not as .*: remove it and a\.json"):
            Journal(lines, description, {"x": 1}, "--output")
        assert lines.read_bytes() == damaged
    description.write_text("[]")
    with pytest.raises(InputError, match=r"a\.json is damaged .*: remove it"):
        Journal(lines, description, {"x": 1}, "--output")


def test_a_journal_goes_on_wherever_it_was_ended(tmp_path, monkeypatch):
    """After lines and before their sum; after the sums of a replacement, before it and after it."""
    lines, description = tmp_path / "a.jsonl", tmp_path / "a.json"

    def begin():
        return Journal(lines, description, {"x": 1}, "--output")

    begin().append([{"y": 1}, {"y": 2}])
    with lines.open("a") as file:
        file.write('{"y": 3}\n{"y')
    assert begin().done == [{"y": 1}, {"y": 2}]
    old = lines.read_bytes()
    assert old == b'{"y": 1}\n{"y": 2}\n'
    with monkeypatch.context() as ended:
        ended.setattr(journal, "atomic_write", None)
        with pytest.raises(TypeError):
            begin().rewrite([{"y": 2}, {"y": 1}, {"y": 0}])
    both = description.read_bytes()
    assert begin().done == [{"y": 1}, {"y": 2}]
    assert lines.read_bytes() == old
    begin().rewrite([{"y": 2}, {"y": 1}, {"y": 0}])
    description.write_bytes(both)
    assert begin().done == [{"y": 2}, {"y": 1}, {"y": 0}]
    begin().append([{"y": 4}])
    assert begin().done[-1] == {"y": 4}


def test_a_journal_says_in_what_it_differs_and_makes_its_folder(tmp_path):
    lines, description = tmp_path / "new" / "a.jsonl", tmp_path / "new" / "a.json"
    begun = {"a": 1, "b": (2,), "c": 3, "d": 4, "gone": 0}
    first = Journal(lines, description, begun, "--here")
    first.append([{"y": 1}])
    first.describe({"accuracy": 0.5})
    told = json.loads(description.read_text())
    assert (told["accuracy"], told["depends_on"]["b"]) == (0.5, [2])
    assert Journal(lines, description, begun, "--here").done == [{"y": 1}]
    assert "accuracy" not in json.loads(description.read_text())
    with pytest.raises(InputError) as refused:
        Journal(lines, description, {"a": 1, "b": 5, "c": 6, "d": 7, "new": None}, "--here")
    assert str(refused.value) == (
        f"{lines} was begun with other options (b [2], now 5; c 3, now 6; d 4, now 7): remove it "
        "and a.json, or set --here to another file"
    )
    lines.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl is damaged"):
        Journal(lines, description, begun, "--here")
    description.write_text('{"depends_on": 3}')
    with pytest.raises(InputError, match=r"other options \(not a description\)"):
        Journal(lines, description, begun, "--here")


@pytest.mark.parametrize("size", ["5", None, -1, 10**6])
def test_a_sum_that_is_none_certifies_nothing(tmp_path, size):
    lines, description = tmp_path / "a.jsonl", tmp_path / "a.json"
    Journal(lines, description, {}, "--output").append([{"y": 1}])
    content = json.loads(description.read_text())
    content["written"] = ["nothing", {**content["written"][0], "bytes": size}]
    description.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is damaged"):
        Journal(lines, description, {}, "--output")


def test_words_can_be_left_out(run):
    assert "in words" not in run("--no_words")


def test_without_data_held_out_problems_are_drawn(capsys, monkeypatch):
    lengths = []
    monkeypatch.setattr(
        evaluate, "describe_lengths", lambda *given: lengths.append(given) or ["by length"]
    )
    monkeypatch.setattr(evaluate, "describe_thoughts", lambda *given: [f"thoughts of {given[1:]}"])
    held_out = evaluate._held_out(options(problems=3, seed=2502))
    long = held_out[1].question
    monkeypatch.setattr(
        evaluate, "why_not_asked", lambda _, text, __: "long" if text == long else None
    )
    evaluate.run(["--problems", "3", "--num_latents", "1", "--batch_size", "3"])
    out = capsys.readouterr().out
    assert "2 questions, held-out problems of seed 2502; cpu, 32-true; 1 thoughts" in out
    ((problems, records),) = lengths
    assert [p.question for p in problems] == [record["question"] for record in records]
    assert f"\nby length\nthoughts of {(problems, 2502, 3)}\n" in out


def options(**given):
    usual = {"data": None, "max_questions": None, "problems": 5, "seed": 1, "no_words": False}
    return argparse.Namespace(**{**usual, **given})


def test_held_out_problems_are_those_of_the_seed():
    first = evaluate._questions(options())
    rng = Random(1)
    drawn = [sample_problem(rng, held_out=True) for _ in range(5)]
    assert [(q.text, q.answer) for q in first] == [(p.question, p.answer) for p in drawn]
    assert evaluate._questions(options(max_questions=2)) == first[:2]
    assert evaluate._questions(options(seed=2)) != first


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
def test_only_the_first_questions_of_a_file(tmp_path, suffix):
    path = tmp_path / f"questions.{suffix}"
    lines = {
        "txt": [f"Tom has {n}.||<<{n}+0={n}>> #### {n}" for n in (5, 6, 7)],
        "jsonl": [json.dumps({"question": f"Tom has {n}.", "answer": n}) for n in (5, 6, 7)],
    }
    path.write_text("\n".join(lines[suffix]))
    found = evaluate._questions(options(data=path, max_questions=2))
    assert [(q.text, q.answer) for q in found] == [("Tom has 5.", 5.0), ("Tom has 6.", 6.0)]
    assert len(evaluate._questions(options(data=path))) == 3
    with pytest.raises(InputError, match=r"at least 2 questions, .* got 1: set --data"):
        evaluate._questions(options(data=path, max_questions=1))


def test_the_summary_counts_what_is_right(model):
    model.settings = replace(model.settings, num_latents=2)
    rights = [(True, False), (True, True), (False, False), (True, False)]
    records = [{"correct": {"own": own, "zeroed": zeroed}} for own, zeroed in rights]
    args = options(seed=9, precision="bf16-true")
    found = evaluate._summary(args, model, LoadReport("mine", "0", 1, {}), records)
    assert found == {
        "checkpoint": "mine",
        "data": "held-out problems of seed 9",
        "questions": 4,
        "num_latents": 2,
        "device": "cpu",
        "precision": "bf16-true",
        "accuracy": {"own": 0.75, "zeroed": 0.25},
    }
    args.data = "some.jsonl"
    assert evaluate._summary(args, model, LoadReport("", "0", 1, {}), records)["data"] == args.data


def test_what_is_said_of_a_summary():
    """Wilson's interval of 30 in 40 is 59.8 to 85.8 %."""
    by_number = {"thoughts_0": 0.1, "thoughts_1": 0.55, "thoughts_2": 0.75}
    accuracy = {"own": 0.75, "zeroed": 0.1, "words": 1.0, **by_number}
    given = {"checkpoint": "mine", "data": "some.jsonl", "device": "cpu", "precision": "32-true"}
    summary = {**given, "questions": 40, "num_latents": 2, "accuracy": accuracy}
    assert [" ".join(line.split()) for line in evaluate.describe(summary)] == [
        "mine on 40 questions, some.jsonl; cpu, 32-true; 2 thoughts",
        "own thoughts 75.00% (95 % interval 59.8% to 85.8%)",
        "thoughts zeroed 10.00%",
        "in words, as the teacher 100.00%",
        "by number of thoughts 0: 10.0% 1: 55.0% 2: 75.0%",
    ]


def test_the_accuracy_of_own_thoughts_is_held_against_the_published_one(run, tmp_path, monkeypatch):
    """Own thoughts are right but once; each question exchanges with the next shorter one."""
    answers = {question: str(answer) for question, answer in QUESTIONS}

    def answer(model, questions, tokens):
        asked = questions[:-1]
        own = [answers[q] if q != "Tom has 9 pears." else "none" for q in asked]
        few = {f"thoughts_{number}": ["none"] * len(asked) for number in range(3)}
        exchanged = [answers[question] for question in questions[1:]]
        return {"own": own, "zeroed": few["thoughts_0"], "exchanged": exchanged, **few,
                "thoughts_3": own}  # fmt: skip

    monkeypatch.setattr(evaluate, "answers_by_thoughts", answer)
    monkeypatch.setattr(
        evaluate, "compare_with_published", lambda model, report, *told: [f"published: {told}"]
    )
    text = run("--output", tmp_path / "run.jsonl", "--batch_size", 2, "--no_words")
    assert "published: (0.8, 5)" in text
    assert "by number of thoughts     0: 0.0%  1: 0.0%  2: 0.0%  3: 80.0%" in text
    assert text.splitlines()[-1] == (
        f"predictions in {tmp_path}/run.jsonl, summary in {tmp_path}/run.summary.json"
    )
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    given = [record["predictions"]["exchanged"] for record in records]
    assert given == ["4", "7", "13", "2", "9"]  # of the next in the order 2, 0, 3, 4, 1
    assert [record["correct"]["own"] for record in records] == [True, False, True, True, True]
    summary = json.loads((tmp_path / "run.summary.json").read_text())
    assert summary["accuracy"]["own"] == 0.8
    assert summary["accuracy"]["thoughts_2"] == 0.0


def test_a_journal_depends_on_all_that_changes_what_is_answered(tmp_path, model, questions_file):
    def depends_on(report=None, **given):
        numbers.append(len(numbers))
        usual = {"output": tmp_path / f"{numbers[-1]}.jsonl", "precision": "32-true"}
        loaded = LoadReport("a", "5" * 64, 1, {}, lora_alpha=32.0, **(report or {}))
        return evaluate._journal(options(**{**usual, **given}), loaded, model).depends_on

    numbers = []
    drawn = depends_on()
    assert (drawn["data"], drawn["checkpoint_sha256"]) == ([5, 1], "5" * 64)
    assert (drawn["num_latents"], drawn["lora_alpha"]) == (model.num_latents, 32.0)
    for key, (given, value) in {
        "data": ({"data": questions_file}, evaluate.file_sha256(questions_file)),
        "precision": ({"precision": "bf16-true"}, "bf16-true"),
        "max_questions": ({"max_questions": 4}, 4),
        "no_words": ({"no_words": True}, True),
        "base_model": ({"report": {"base_model": "b"}}, "b"),
    }.items():
        changed = depends_on(**given)
        assert changed == {**drawn, key: value}
        assert changed != drawn
    assert (tmp_path / "0.summary.json").exists()


def test_questions_that_do_not_fit_are_named_and_the_longest_comes_first(
    model, monkeypatch, capsys
):
    reasons = {"Tom has 9 pears.": "too long"}
    monkeypatch.setattr(evaluate, "why_not_asked", lambda model, text, tokens: reasons.get(text))
    questions = [evaluate.Question(text, answer) for text, answer in QUESTIONS]
    again = [*questions, questions[0]]
    assert evaluate._askable(model, again) == [2, 0, 3, 5, 4]  # equally long, in their order
    assert capsys.readouterr().err == "1 questions left out: question 1: too long\n"
    assert evaluate._askable(model, questions[3:]) == [0, 1]
    assert capsys.readouterr().err == ""
    assert evaluate._askable(model, questions[1:3] + questions[:1]) == [1, 2]
    with pytest.raises(InputError, match="at least 2 questions that fit the model"):
        evaluate._askable(model, questions[:2])


def test_words_that_the_model_never_learned_are_named_once(model, monkeypatch, capsys):
    strange = {"a": ["zebra", "yak"], "b": [], "c": ["yak"]}
    monkeypatch.setattr(evaluate, "unknown_words", lambda tokenizer, text: strange[text])
    evaluate._say_unknown(model, ["a", "b", "c"])
    assert capsys.readouterr().err == (
        "2 questions have words that the tokenizer does not know: zebra, yak\n"
    )
    evaluate._say_unknown(model, ["b"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("accuracy", "said"), [(0.466, 0), (0.468, 1), (0.408, 0), (0.406, 1)])
def test_a_gap_of_more_than_three_points_is_spoken_of(model, accuracy, said):
    text = compare(model, "zen-E/CODI-gpt2", accuracy)
    assert text.count("what usually lies behind it") == said
    assert f"points {'higher' if accuracy > 0.437 else 'lower'}" in text


def test_an_alpha_that_was_not_read_is_no_deviation(model):
    assert "leave out --lora_alpha" not in compare(
        model, "zen-E/CODI-gpt2", 0.1, alpha=None, num_latents=6
    )


def test_causes_are_of_the_layout(model):
    coconut = next(name for name, known in KNOWN_MODELS.items() if known.layout == "coconut")
    known = replace(KNOWN_MODELS[coconut], accuracy=0.3)
    told = published_accuracy.causes(model, known_report(coconut), known, 1319)
    assert not any("LoRA's alpha: trained with" in cause for cause in told)
    unknown = replace(known, num_latents=None)
    told = published_accuracy.causes(model, known_report(coconut), unknown, 1319)
    assert not any("--num_latents" in cause for cause in told)


def test_questions_a_line_each(tmp_path, checkpoint, capsys):
    path = tmp_path / "questions.txt"
    path.write_text("Tom has 5.||<<5+0=5>> #### 5\nTom has 6.||<<6+0=6>> #### 6\n")
    evaluate.run(["--checkpoint", checkpoint, "--data", str(path), "--precision", "bf16-true"])
    assert "2 questions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_questions", "1"], "at least 2 questions.* --max_questions"),
        (["--max_questions", "-1"], "--max_questions to be 1 or more, got -1"),
        (["--batch_size", "0"], "--batch_size to be 1 or more, got 0"),
        (["--device", "cuda:7"], "--device to be one of this machine's, got cuda:7"),
        (["--device", "abacus"], "--device to be one of this machine's, got abacus"),
        (["--checkpoint", "nowhere"], "set checkpoint"),
    ],
)
def test_options_that_are_refused(questions_file, options, message):
    with pytest.raises(InputError, match=message):
        evaluate.run(["--data", str(questions_file), *options])


def test_precision_is_that_of_the_weights(checkpoint):
    parser = argparse.ArgumentParser()
    model_options.add_model_arguments(parser, None)
    args = parser.parse_args(["--checkpoint", checkpoint, "--precision", "bf16-true"])
    model, _ = model_options.load_model(args)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.backbone.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32
    assert args.prompt_eos is None
    assert parser.parse_args(["--no-prompt_eos"]).prompt_eos is False


def loaded(monkeypatch, *options):
    """What a model is loaded with, the default type and the reproducibility of that time."""
    given = []

    def load(*asked):
        given.append((asked, torch.get_default_dtype()))
        return SimpleNamespace(to=lambda device: device), "report"

    parser = argparse.ArgumentParser()
    model_options.add_model_arguments(parser, "codi-tiny")
    monkeypatch.setattr(model_options, "load_checkpoint", load)
    device, report = model_options.load_model(parser.parse_args(options))
    assert report == "report"
    return device, *given[0]


def test_each_option_of_a_model_is_its_own(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = torch.device("cpu")
    usual = ("codi-tiny", None, None, None, None, None)
    assert loaded(monkeypatch) == (cpu, usual, torch.float32)
    options = ["--checkpoint=~/a", "--num_latents=3", "--base_model=~/b", "--lora_alpha=8"]
    options += ["--no-prompt_eos", "--answer_prefix=", "--precision=64-true"]
    asked = ("/home/me/a", 3, "/home/me/b", 8.0, False, "")
    assert loaded(monkeypatch, *options) == (cpu, asked, torch.float64)
    assert torch.get_default_dtype() == torch.float32
    assert loaded(monkeypatch, "--precision=16-true")[2] == torch.float16
    assert loaded(monkeypatch, "--batch_size=1")[0] == cpu
    for number in ("0", "-1"):
        with pytest.raises(InputError, match=f"--batch_size to be 1 or more, got {number}"):
            loaded(monkeypatch, f"--batch_size={number}")


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_if_there_is_one_and_products_of_a_cpu_alone_are_set(
    monkeypatch, there, device
):
    made = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(model_options, "enable_mkl_reproducibility", lambda: made.append("mkl"))
    assert loaded(monkeypatch)[0] == torch.device(device)
    assert made == ([] if there else ["mkl"])
    assert model_options._device("cpu") == torch.device("cpu")


def test_a_model_that_cannot_be_loaded_leaves_the_default_type():
    def fail():
        with model_options._default_dtype(torch.float64):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_default_dtype() == torch.float32


def test_the_teachers_answer_is_read_after_the_prefix_alone(model, monkeypatch):
    texts = [
        "<<16-3=13>> The answer is: 13",
        "<<16-3=13>> so 13",
        "The answer is: 4 The answer is: 5",
        "The answer 13",
    ]
    monkeypatch.setattr(accuracy, "_generate", lambda *_: texts)
    answers = accuracy.reasoned_answers(model, ["Tom has 16 pears."] * 4)
    assert answers == ["13", "", "5", ""]
    assert [accuracy.is_correct(answer, 13) for answer in answers] == [True, False, False, False]
    model.settings = replace(model.settings, answer_prefix="")
    with pytest.raises(InputError, match="expected a model with an answer prefix"):
        accuracy.reasoned_answers(model, ["Tom has 16 pears."])


def test_which_models_reason_in_words(model):
    assert accuracy.reasons_in_words(model)
    for change in (
        {"bot_ids": (1, 2)},
        {"answer_prefix": ""},
        {"raw_question": True},
    ):
        model.settings = replace(model.settings, **change)
        assert not accuracy.reasons_in_words(model)
        model.settings = replace(
            model.settings, bot_ids=(1,), answer_prefix="The answer is:", raw_question=False
        )


def known_report(name, alpha=32.0):
    return LoadReport(name, "0" * 64, 1, {}, lora_alpha=alpha, known_as=name)


def compare(model, name, accuracy, questions=1319, alpha=32.0, **settings):
    model.settings = replace(model.settings, **settings)
    return "\n".join(compare_with_published(model, known_report(name, alpha), accuracy, questions))


def test_the_published_accuracy(model):
    near = compare(model, "zen-E/CODI-gpt2", 0.432, num_latents=6)
    assert "published for zen-E/CODI-gpt2: 43.7% on GSM8K's 1,319 test questions" in near
    assert near.endswith("measured 0.5 points lower")
    far = compare(model, "zen-E/CODI-gpt2", 0.033, num_latents=6)
    assert "measured 40.4 points lower\nmore than 3 points: what usually lies behind it" in far
    assert "LoRA's alpha: trained with 32, which the published code's default (16) is not" in far
    assert "tokenizer of another model than openai-community/gpt2" in far
    assert "leave out" not in far
    assert "by chance alone" not in far


def test_what_is_set_otherwise_is_named_first(model):
    text = compare(
        model,
        "zen-E/CODI-gpt2",
        0.3,
        questions=200,
        alpha=16.0,
        num_latents=5,
        answer_prefix="",
        bot_ids=(1, 2),
    )
    lines = text.splitlines()[2:]
    assert lines[0].endswith(
        "5 thoughts, where the published evaluation has 6: leave out --num_latents"
    )
    assert "LoRA's alpha 16, where training had 32" in lines[1]
    assert "the answer prefix '', where training had 'The answer is:'" in lines[2]
    assert "another ending of the prompt" in lines[3]
    assert "200 questions, not the 1,319" in lines[4]


def test_chance_is_95_percent_of_a_binomial_share(model):
    """With 43.7 % and 200 questions: 1.96 √(0.437 · 0.563 / 200) = 0.0687."""
    text = compare(model, "zen-E/CODI-gpt2", 0.3, questions=200)
    assert "200 questions, not the 1,319 of GSM8K's test set: up to 7 points by chance" in text
    assert "up to 31 points by chance" in compare(model, "zen-E/CODI-gpt2", 0.1, questions=10)


def test_models_without_a_published_accuracy(model):
    assert "no published accuracy of internlm" in compare(model, "internlm/SIM_COT-GPT2-CODI", 0.4)
    assert compare_with_published(model, LoadReport("mine", "0", 1, {}), 0.4, 10) == []
    assert KNOWN_MODELS["internlm/SIM_COT-GPT2-Coconut"].num_latents == 10
