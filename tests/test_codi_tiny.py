"""The shipped model and pairs are what they are said to be."""

import json
import re
from random import Random

import pytest

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pair_files import SHIPPED_PAIRS, read_pairs
from codi_patching.data.word_problems import sample_problem, split_words
from codi_patching.models.accuracy import is_correct, latent_answers, reasoned_answers
from codi_patching.models.loading.checkpoint import SHIPPED, load_checkpoint


@pytest.fixture(scope="module")
def codi_tiny():
    return load_checkpoint("codi-tiny")[0]


def accuracy(texts, answers):
    return sum(map(is_correct, texts, answers)) / len(texts)


def test_it_is_small_and_has_sixteen_layers_and_five_thoughts(codi_tiny):
    assert sum(path.stat().st_size for path in SHIPPED["codi-tiny"].iterdir()) < 15_000_000
    assert len(codi_tiny.blocks) == 16
    assert codi_tiny.num_latents == 5


@pytest.mark.slow
def test_it_reasons_in_its_thoughts(codi_tiny):
    """The full figures, on 2,000 problems, come from scripts/evaluate_codi.py."""
    rng = Random(99)
    problems = [sample_problem(rng, held_out=True) for _ in range(200)]
    questions, answers = [p.question for p in problems], [p.answer for p in problems]
    assert accuracy(latent_answers(codi_tiny, questions), answers) > 0.85
    assert accuracy(latent_answers(codi_tiny, questions, "zeroed"), answers) < 0.25
    assert accuracy(latent_answers(codi_tiny, questions, "exchanged"), answers) < 0.25
    assert accuracy(reasoned_answers(codi_tiny, questions), answers) > 0.85


@pytest.mark.slow
def test_a_batch_answers_as_one_by_one(codi_tiny):
    rng = Random(98)
    questions = [sample_problem(rng, held_out=True).question for _ in range(12)]
    single = [latent_answers(codi_tiny, [question])[0] for question in questions]
    assert latent_answers(codi_tiny, questions) == single


def test_66_pairs_of_which_57_are_left():
    data = PairsDataModule()
    data.setup("predict")
    assert len(read_pairs(SHIPPED_PAIRS)) == 66
    assert len(data.kept) == 57
    assert len(data.filtered) == 9


def test_pairs_differ_in_one_number_and_their_steps_are_true():
    for record in json.loads(SHIPPED_PAIRS.read_text()):
        clean, corrupted = record["clean"], record["corrupted"]
        words = [split_words([side["question"]]) for side in (clean, corrupted)]
        changed = [(a, b) for a, b in zip(*words, strict=True) if a != b]
        assert len(changed) == 1
        assert all(word.isdigit() for word in changed[0])
        for side in (clean, corrupted):
            for step in side["reasoning_steps"]:
                expression, result = re.fullmatch(r"<<(.+)=(\d+)>>", step).groups()
                assert eval(expression.replace("/", "//")) == int(result)
            assert int(result) == side["answer"]
        if clean["answer"] == corrupted["answer"]:
            assert "/" in clean["reasoning_steps"][-1]


@pytest.mark.slow
def test_both_questions_of_every_pair_need_the_thoughts(codi_tiny):
    for side in ("clean", "corrupted"):
        questions = [getattr(pair, side) for pair in read_pairs(SHIPPED_PAIRS)]
        texts, answers = [q.text for q in questions], [q.answer for q in questions]
        assert accuracy(latent_answers(codi_tiny, texts), answers) == 1
        assert accuracy(latent_answers(codi_tiny, texts, "zeroed"), answers) == 0


def test_exchanged_thoughts_need_two_questions(codi_tiny):
    with pytest.raises(ValueError, match="at least 2 questions"):
        latent_answers(codi_tiny, ["Tom has 5 pears."], "exchanged")
