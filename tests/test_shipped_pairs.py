"""The pairs that come with each shipped model are what they are said to be."""

import json
import re
from collections import Counter

import pytest

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pair_files import read_pairs
from codi_patching.data.word_problems import split_words
from codi_patching.models.accuracy import is_correct, latent_answers
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.shipped import SHIPPED_PAIRS

SIDES = ("clean", "corrupted", "sibling")


@pytest.fixture(params=SHIPPED_PAIRS)
def name(request):
    return request.param


@pytest.fixture
def records(name):
    return json.loads(SHIPPED_PAIRS[name].read_text())


def test_66_pairs_of_which_57_are_left(name):
    data = PairsDataModule(name)
    data.setup("predict")
    assert len(read_pairs(SHIPPED_PAIRS[name])) == 66
    assert len(data.kept) == 57
    assert len(data.filtered) == 9


def test_pairs_differ_in_one_number_and_their_steps_are_true(records):
    for record in records:
        sides = clean, corrupted, sibling = [record[side] for side in SIDES]
        words = [split_words([side["question"]]) for side in sides]
        changed = [column for column in zip(*words, strict=True) if len(set(column)) > 1]
        assert len(changed) == 1
        assert len(set(changed[0])) == 3
        assert all(word.isdigit() for word in changed[0])
        assert sibling["answer"] not in (clean["answer"], corrupted["answer"])
        for side in sides:
            for step in side["reasoning_steps"]:
                expression, result = re.fullmatch(r"<<(.+)=(\d+)>>", step).groups()
                assert eval(expression.replace("/", "//")) == int(result)
            assert int(result) == side["answer"]
        if clean["answer"] == corrupted["answer"]:
            assert "/" in clean["reasoning_steps"][-1]


def test_the_changed_numbers_are_spread_over_steps_and_lengths(records):
    kinds = Counter(
        (len(record["clean"]["reasoning_steps"]), record["changed_step"]) for record in records
    )
    assert set(kinds) == {(n, step) for n in (2, 3, 4) for step in range(1, n + 1)}
    last = sum(count for (n, step), count in kinds.items() if n == step)
    assert last < len(records) / 3
    for record in records:
        results = zip(
            record["clean"]["reasoning_steps"], record["corrupted"]["reasoning_steps"], strict=True
        )
        first = next(step for step, (a, b) in enumerate(results, start=1) if a != b)
        assert first == record["changed_step"]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name"),
    [
        *(("codi-tiny", name) for name in ("codi-tiny", "codi-plain")),
        *((name, name) for name in ("codi-plain", "codi-pause")),
    ],
)
def test_all_questions_of_every_pair_need_the_thoughts(model, name):
    """Those of codi-plain need codi-tiny's too, so that the two are compared on one file."""
    records = json.loads(SHIPPED_PAIRS[name].read_text())
    if model == "codi-pause":  # four of its nine with equal answers are codi-plain's
        records = [r for r in records if r["clean"]["answer"] != r["corrupted"]["answer"]]
    model = load_checkpoint(model)[0]
    for side in SIDES:
        texts = [record[side]["question"] for record in records]
        answers = [record[side]["answer"] for record in records]
        assert all(map(is_correct, latent_answers(model, texts), answers))
        assert not any(map(is_correct, latent_answers(model, texts, "zeroed"), answers))
