"""`codi-patching pairs`, in process."""

import argparse
import json
from fractions import Fraction
from random import Random
from types import SimpleNamespace

import pytest

from codi_patching.commands import pairs
from codi_patching.data.chained_questions import read_chained_questions
from codi_patching.data.pair_files import read_pairs
from codi_patching.data.twin_pairs import Side, TwinPair, make_twin_pairs
from codi_patching.data.word_problems import sample_problem
from codi_patching.errors import InputError
from codi_patching.models.accuracy import is_correct, latent_answers
from codi_patching.models.loading.checkpoint import LoadReport, load_checkpoint


@pytest.fixture(scope="module")
def questions_file(tmp_path_factory):
    """Problems that codi-tiny knows, with their chains."""
    rng = Random(7)
    path = tmp_path_factory.mktemp("questions") / "known.jsonl"
    problems = [sample_problem(rng, held_out=True) for _ in range(60)]
    records = [
        {"question": p.question, "answer": str(p.answer), "steps": list(p.reasoning_steps)}
        for p in problems
    ]
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


@pytest.fixture
def run(questions_file, tmp_path, capsys):
    def run(*options, output="pairs.json"):
        path = tmp_path / output
        args = ["--questions", questions_file, "--output", path, *options]
        assert pairs.run([str(arg) for arg in args]) == 0
        return read_pairs(path), "".join(capsys.readouterr())

    return run


def test_without_a_model(run):
    found, text = run("--seed", 3)
    assert "60 questions: " in text
    assert f"{len(found)} pairs in" in text
    assert 15 < len(found) <= 60
    assert all(pair.clean.answer != pair.corrupted.answer for pair in found)
    assert sum(pair.sibling is not None for pair in found) > len(found) / 2
    again, _ = run("--seed", 3, output="again.jsonl")
    assert again == found
    ids = [pair.pair_id for pair in found]
    shuffled = sorted(ids, key=lambda name: int(name.rpartition("-")[2]))
    Random(3).shuffle(shuffled)
    assert ids == shuffled
    other, _ = run("--seed", 4, output="other.json")
    assert other != found
    few, text = run("--seed", 3, "--count", 4, output="few.json")
    assert few == found[:4]
    assert "4 pairs in" in text


def test_several_pairs_of_a_question_share_a_group(run):
    found, _ = run("--per_question", 2)
    groups = {pair.group for pair in found}
    assert len(groups) < len(found)
    assert len({pair.pair_id for pair in found}) == len(found)


def test_donors_are_written(run, tmp_path):
    run("--donors")
    records = json.loads((tmp_path / "pairs.json").read_text())
    donors = [record["donors"]["different_value"] for record in records if record["donors"]]
    assert donors
    assert {"question", "answer", "reasoning_steps", "from", "step"} == donors[0].keys()


def test_nothing_is_overwritten(run, questions_file, tmp_path):
    run("--count", 4)
    before = (tmp_path / "pairs.json").read_bytes()
    with pytest.raises(InputError, match=r"pairs\.json is there already: remove it, or set --out"):
        run("--count", 5)
    assert (tmp_path / "pairs.json").read_bytes() == before
    with pytest.raises(InputError, match="is there already"):
        run("--count", 4, output=questions_file)


@pytest.mark.thorough
@pytest.mark.slow
def test_codi_tiny_answers_both_right_and_needs_its_thoughts(run):
    found, text = run("--checkpoint", "codi-tiny", "--needs_thoughts", "--count", 3)
    assert len(found) == 3
    assert "loaded codi-tiny" in text
    model, _ = load_checkpoint("codi-tiny")
    for pair in found:
        for side in (pair.clean, pair.corrupted, *([pair.sibling] if pair.sibling else [])):
            assert is_correct(latent_answers(model, [side.text])[0], side.answer)
        for side in (pair.clean, pair.corrupted):
            assert not is_correct(latent_answers(model, [side.text], "zeroed")[0], side.answer)


@pytest.fixture
def oracle(monkeypatch, questions_file, checkpoint):
    """A model that knows every answer but those of questions of odd length.

    Without thoughts it knows those of questions whose length is a multiple of 5. `oracle.asked`
    counts the questions.
    """
    found, _ = make_twin_pairs(read_chained_questions(questions_file, "questions"))
    sides = [s for p in found for s in (p.clean, p.corrupted, p.sibling) if s is not None]
    answers = {side.text: str(int(side.answer)) for side in sides}

    def answer(model, questions, thoughts, _tokens):
        answer.asked += len(questions)
        step = 2 if thoughts == "own" else 5
        return [answers[q] if len(q) % step == 0 else "none" for q in questions]

    answer.asked = 0
    answer.pairs = found
    answer.checkpoint = checkpoint
    monkeypatch.setattr(pairs, "latent_answers", answer)
    return answer


def right(side, step=2):
    return len(side.text) % step == 0


def test_both_questions_must_be_answered_right(run, oracle):
    found, text = run("--checkpoint", oracle.checkpoint)
    expected = [p for p in oracle.pairs if right(p.clean) and right(p.corrupted)]
    assert {pair.pair_id for pair in found} == {pair.pair_id for pair in expected}
    assert 0 < len(found) < len(oracle.pairs)
    siblings = {p.pair_id for p in expected if p.sibling is not None and right(p.sibling)}
    assert {pair.pair_id for pair in found if pair.sibling is not None} == siblings
    assert f"{len(siblings):>7} of {len(oracle.pairs)} pairs: kept\n" in text
    assert "pairs: the question is answered wrong" in text
    clean_right = [pair for pair in oracle.pairs if right(pair.clean)]
    with_sibling = [pair for pair in expected if pair.sibling is not None]
    assert oracle.asked == len(oracle.pairs) + len(clean_right) + len(with_sibling)
    again, _ = run("--checkpoint", oracle.checkpoint, "--batch_size", 3, output="again.json")
    assert again == found  # in the same order


def test_the_thoughts_must_be_needed(run, oracle):
    found, text = run("--checkpoint", oracle.checkpoint, "--needs_thoughts")
    expected = [
        pair
        for pair in oracle.pairs
        if all(right(side) and not right(side, 5) for side in (pair.clean, pair.corrupted))
    ]
    assert {pair.pair_id for pair in found} == {pair.pair_id for pair in expected}
    assert "pairs: answered right without its thoughts too" in text
    clean_right = [pair for pair in oracle.pairs if right(pair.clean)]
    both_right = [pair for pair in clean_right if right(pair.corrupted)]
    clean_needs = [pair for pair in both_right if not right(pair.clean, 5)]
    with_sibling = [pair for pair in expected if pair.sibling is not None]
    asked = (oracle.pairs, clean_right, both_right, clean_needs, with_sibling)
    assert oracle.asked == sum(map(len, asked))


def test_a_second_start_asks_the_model_only_for_the_rest(run, oracle, monkeypatch, tmp_path):
    options = ("--checkpoint", oracle.checkpoint, "--count", 6, "--batch_size", 4)
    whole, _ = run(*options, output="whole.json")
    needed, oracle.asked = oracle.asked, 0
    judge, judged = pairs.judge, []

    def interrupted(model, batch, needs_thoughts):
        judged.append(len(batch))
        if len(judged) == 2:
            raise KeyboardInterrupt
        return judge(model, batch, needs_thoughts)

    monkeypatch.setattr(pairs, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*options, output="cut.json")
    assert not (tmp_path / "cut.json").exists()
    again, _ = run(*options, output="cut.json")
    assert again == whole
    assert oracle.asked == needed
    more, _ = run(*options, "--count", 2, output="cut.json")
    assert more == whole[:2]
    assert oracle.asked == needed
    with pytest.raises(InputError, match=r"begun with other options \(seed 0, now 1\)"):
        run(*options, "--seed", 1, output="cut.json")


def a_pair(name, sibling=True):
    """A pair whose questions are its name and `clean`, `corrupted` and perhaps `sibling`."""
    sides = {
        side: Side(f"{name} {side}", (f"<<{number}+0={number}>>",), Fraction(number))
        for number, side in enumerate(("clean", "corrupted", "sibling"), 1)
    }
    if not sibling:
        sides["sibling"] = None
    return TwinPair(name, name, changed_step=1, **sides)


@pytest.fixture
def asked(monkeypatch):
    """A model that knows every answer, and none without its thoughts, but for exceptions.

    `asked.wrong` it does not know, `asked.zeroed` it knows without thoughts, `asked.unfit` it
    cannot be asked; `asked.batches` are the questions of each batch.
    """
    answers = {"clean": "1", "corrupted": "2", "sibling": "3"}
    asked = SimpleNamespace(wrong=set(), zeroed=set(), unfit={}, batches=[])

    def answer(model, questions, thoughts, tokens):
        asked.batches.append((thoughts, questions))
        known = [
            (q not in asked.wrong) if thoughts == "own" else (q in asked.zeroed) for q in questions
        ]
        return [answers[q.split()[1]] if k else "none" for q, k in zip(questions, known)]

    monkeypatch.setattr(pairs, "latent_answers", answer)
    monkeypatch.setattr(pairs, "why_not_asked", lambda model, text, tokens: asked.unfit.get(text))
    return asked


def test_what_becomes_of_each_pair_and_what_it_is_asked(asked):
    asked.wrong = {"b clean", "c corrupted", "d sibling"}
    asked.unfit = {"f clean": "long", "g corrupted": "longer", "h sibling": "longest"}
    asked.zeroed = {"i sibling", "a clean"}
    given = [a_pair(name, sibling=name != "e") for name in "abcdefghi"]
    assert pairs.judge(None, given, needs_thoughts=False) == {
        "a": "kept",
        "b": "the question is answered wrong",
        "c": "the twin is answered wrong",
        "d": "kept without its sibling",
        "e": "kept",
        "f": "cannot be asked (long)",
        "g": "cannot be asked (longer)",
        "h": "kept without its sibling",
        "i": "kept",
    }
    assert [(kind, "".join(q[0] for q in batch)) for kind, batch in asked.batches] == [
        ("own", "abcdehi"),
        ("own", "acdehi"),
        ("own", "adi"),
    ]


def test_a_pair_that_is_right_without_thoughts_is_told_from_one_that_is_wrong(asked):
    asked.wrong = {"b clean", "e sibling"}
    asked.zeroed = {"b clean", "c clean", "d corrupted", "e sibling"}
    found = pairs.judge(None, [a_pair(name) for name in "abcde"], needs_thoughts=True)
    unneeded = "answered right without its thoughts too"
    assert found == {
        "a": "kept",
        "b": "the question is answered wrong",
        "c": unneeded,
        "d": unneeded,
        "e": "kept without its sibling",
    }
    kinds = [(kind, "".join(q[0] for q in batch)) for kind, batch in asked.batches]
    assert kinds == [
        *(("own", "abcde"), ("own", "acde"), ("zeroed", "acde"), ("zeroed", "ade")),
        ("own", "ae"),
    ]


@pytest.fixture
def gated(asked, monkeypatch, tmp_path, questions_file, model, capsys):
    """The pairs a to f through the gate; gives what is kept, and what is said."""
    report = LoadReport("a", "5" * 64, 1, {}, lora_alpha=32.0)
    monkeypatch.setattr(pairs, "load_model", lambda args: (model, report))

    def gated(**given):
        usual = {"output": tmp_path / "out.json", "questions": questions_file, "batch_size": 2}
        usual |= {"count": None, "seed": 0, "per_question": 1, "precision": "32-true"}
        args = argparse.Namespace(**{**usual, "needs_thoughts": False, **given})
        gated.args = args
        kept = pairs._gate([a_pair(name) for name in "abcdef"], args)
        return kept, capsys.readouterr().out.splitlines()

    return gated


def test_the_gate_says_what_became_of_how_many(gated, asked):
    asked.wrong = {"a corrupted", "b sibling", "c clean", "d clean", "f clean"}
    kept, said = gated()
    assert [(pair.pair_id, pair.sibling is None) for pair in kept] == [("b", True), ("e", False)]
    assert said == [
        "      3 of 6 pairs: the question is answered wrong",
        "      1 of 6 pairs: the twin is answered wrong",
        "      1 of 6 pairs: kept without its sibling",
        "      1 of 6 pairs: kept",
    ]
    again, said_again = gated()
    assert (again, said_again) == (kept, said)
    lines = (gated.args.output.parent / "out.verdicts.jsonl").read_text().splitlines()
    assert [json.loads(line)["pair_id"] for line in lines] == [*"abcdef"]


def test_the_gate_tries_no_more_batches_than_the_count_needs(gated, asked):
    asked.wrong = {"a clean"}
    kept, said = gated(count=1)
    assert ([pair.pair_id for pair in kept], said[1]) == (["b"], "      1 of 2 pairs: kept")
    kept, said = gated(count=2)
    assert [pair.pair_id for pair in kept] == ["b", "c"]
    assert [batch for kind, batch in asked.batches][0::3] == [
        ["a clean", "b clean"],
        ["c clean", "d clean"],
    ]
    assert said[0] == "      3 of 4 pairs: kept"
    more, said = gated(count=5)
    assert [pair.pair_id for pair in more] == [*"bcdef"]
    assert said[0] == "      5 of 6 pairs: kept"


def test_what_was_answered_depends_on_every_option_that_changes_it(gated):
    def depends_on(**given):
        gated(**given)
        path = gated.args.output.parent / f"{gated.args.output.stem}.verdicts.json"
        return json.loads(path.read_text())["depends_on"]

    usual = depends_on()
    assert (usual["checkpoint_sha256"], usual["lora_alpha"]) == ("5" * 64, 32.0)
    assert usual["questions"] == pairs.file_sha256(gated.args.questions)
    assert usual["num_latents"] == 3
    for key, value in {
        "seed": 1, "per_question": 2, "needs_thoughts": True, "precision": "bf16-true",
    }.items():  # fmt: skip
        place = gated.args.output.parent / f"{key}.json"
        assert depends_on(**{key: value, "output": place}) == {**usual, key: value}
        assert usual[key] != value


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_pairs_are_written_whole_with_their_donors(tmp_path, monkeypatch, capsys, suffix):
    given = [a_pair("ä"), a_pair("b", sibling=False), a_pair("c")]
    donor = SimpleNamespace(as_record=lambda: {"from": "c"})
    seeds = []
    monkeypatch.setattr(
        pairs,
        "find_donors",
        lambda found, seed: seeds.append(seed) or {"ä": {"same_value": donor}, "b": {}, "c": {}},
    )
    path = tmp_path / "new" / f"out{suffix}"
    args = argparse.Namespace(output=path, donors=True, seed=7)
    pairs._write(given, args)
    text = path.read_text(encoding="utf-8")
    records = [*map(json.loads, text.splitlines())] if suffix == ".jsonl" else json.loads(text)
    assert [record["pair_id"] for record in records] == ["ä", "b", "c"]
    assert [record["donors"] for record in records] == [{"same_value": {"from": "c"}}, {}, {}]
    assert '"pair_id": "ä"' in text
    assert ["sibling" in record for record in records] == [True, False, True]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert capsys.readouterr().out == f"3 pairs in {path}, 2 of them with a sibling\n"
    assert seeds == [7]
    args.donors = False
    pairs._write(given[:1], args)
    assert "donors" not in path.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per_question", "0"], "expected --per_question to be 1 or more, got 0"),
        (["--needs_thoughts"], "expected --checkpoint with --needs_thoughts"),
        (["--count", "0"], "expected --count to be 1 or more, got 0"),
        (["--output", "pairs.txt"], r"to end in \.json or \.jsonl, got pairs\.txt"),
        (["--questions", "none.jsonl"], r"none\.jsonl: cannot be read"),
    ],
)
def test_options_that_are_refused(questions_file, tmp_path, options, message):
    given = ["--questions", str(questions_file), "--output", str(tmp_path / "out.json")]
    with pytest.raises(InputError, match=message):
        pairs.run([*given, *options])


def test_a_file_of_which_nothing_is_left(tmp_path, capsys):
    path = tmp_path / "questions.txt"
    path.write_text("Round 17 to tens and add 3.||<<17+3=20>> #### 20\n")
    with pytest.raises(InputError, match="no pair is left"):
        pairs.run(["--questions", str(path), "--output", str(tmp_path / "out.json")])
    assert "1  the question rounds or estimates" in capsys.readouterr().out
