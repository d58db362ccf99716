"""`codi-patching pairs`, in process."""

import json
from random import Random

import pytest

from codi_patching.commands import pairs
from codi_patching.data.chained_questions import read_chained_questions
from codi_patching.data.pair_files import read_pairs
from codi_patching.data.twin_pairs import make_twin_pairs
from codi_patching.data.word_problems import sample_problem
from codi_patching.errors import InputError
from codi_patching.models.accuracy import is_correct, latent_answers
from codi_patching.models.loading.checkpoint import load_checkpoint


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
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
