"""The shipped codi-tiny is what it is said to be."""

import json
from random import Random

import pytest
import torch

from codi_patching.data.known_thoughts import interchanges
from codi_patching.data.word_problems import sample_problem, twins
from codi_patching.models.accuracy import is_correct, latent_answers, reasoned_answers
from codi_patching.models.interchange import interchange_hits
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.patching.hooks import capture, patch
from codi_patching.shipped import SHIPPED, SHIPPED_PAIRS


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
    """The full figures, on 2,000 problems, come from `codi-patching evaluate`."""
    rng = Random(99)
    problems = [sample_problem(rng, held_out=True) for _ in range(80)]
    questions, answers = [p.question for p in problems], [p.answer for p in problems]
    assert accuracy(latent_answers(codi_tiny, questions), answers) > 0.85
    assert accuracy(latent_answers(codi_tiny, questions, "zeroed"), answers) < 0.15
    assert accuracy(latent_answers(codi_tiny, questions, "exchanged"), answers) < 0.25
    assert accuracy(reasoned_answers(codi_tiny, questions), answers) > 0.9


@pytest.mark.thorough
@pytest.mark.slow
def test_its_thoughts_are_causes_of_what_they_should_be(codi_tiny):
    """The full figures come from `codi-patching evaluate` too."""
    rng = Random(97)
    problems = [sample_problem(rng, held_out=True) for _ in range(60)]
    changes = [
        change
        for problem in problems
        if (others := twins(problem))
        for change in interchanges(problem, rng.choice(others), codi_tiny.num_latents)
    ]
    hits = interchange_hits(codi_tiny, changes)
    for carries, least in ((True, 0.7), (False, 0.9)):
        chosen = [
            hit for change, hit in zip(changes, hits, strict=True) if change.carries == carries
        ]
        assert len(chosen) > 30
        assert sum(chosen) / len(chosen) > least


def rise_of_the_clean_answer(model, records, layer):
    """Mean rise of p(clean answer), by position, as resid_post[layer, p] is the clean run's."""
    questions = {side: [r[side]["question"] for r in records] for side in ("clean", "corrupted")}
    tokens = model.tokenizer.convert_tokens_to_ids([str(r["clean"]["answer"]) for r in records])
    prefix = model.tokenizer(model.settings.answer_prefix, add_special_tokens=False)["input_ids"]
    readout = torch.tensor([[model.settings.eot_id, *prefix]] * len(records))

    def probability(side, position=None, values=None):
        hidden, context = model.encode([model.prompt_ids(q) for q in questions[side]])
        kept = []
        for p in range(model.num_latents):
            edits = {}
            if p == position:
                edits[layer] = (torch.ones(len(records), 1, dtype=torch.bool), values[p])
            with patch(model.blocks, edits), capture([model.blocks[layer]]) as outputs:
                states, context = model.advance(context, model.next_thought(hidden).unsqueeze(1))
            kept.append(outputs[0][0])
            hidden = states[:, 0]
        final, _ = model.read(context, readout)
        p_answer = model.logits(final[:, -1]).softmax(-1)[range(len(records)), tokens]
        return p_answer.mean().item(), kept

    before, _ = probability("corrupted")
    _, clean = probability("clean")
    return [probability("corrupted", p, clean)[0] - before for p in range(model.num_latents)]


@pytest.mark.slow
@pytest.mark.thorough
def test_the_largest_position_effect_is_where_the_last_result_is_held(codi_tiny):
    """After block 3, z_p's column holds what z_p says; the last result, where a change meets it."""
    records = [r for r in json.loads(SHIPPED_PAIRS["codi-tiny"].read_text()) if differs(r)]
    for num_steps, carrying in ((2, {0, 1}), (3, {2, 3}), (4, {4})):
        same = [r for r in records if len(r["clean"]["reasoning_steps"]) == num_steps]
        effects = rise_of_the_clean_answer(codi_tiny, same, layer=3)
        assert effects.index(max(effects)) in carrying
        assert max(effects) > 0.3


def differs(record):
    return record["clean"]["answer"] != record["corrupted"]["answer"]


@pytest.mark.slow
@pytest.mark.thorough
def test_a_batch_answers_as_one_by_one(codi_tiny):
    rng = Random(98)
    questions = [sample_problem(rng, held_out=True).question for _ in range(8)]
    single = [latent_answers(codi_tiny, [question])[0] for question in questions]
    assert latent_answers(codi_tiny, questions) == single
    in_words = [reasoned_answers(codi_tiny, [question])[0] for question in questions]
    assert reasoned_answers(codi_tiny, questions) == in_words


def test_exchanged_thoughts_need_two_questions(codi_tiny):
    with pytest.raises(ValueError, match="at least 2 questions"):
        latent_answers(codi_tiny, ["Tom has 5 pears."], "exchanged")
