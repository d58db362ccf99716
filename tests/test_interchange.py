"""Interchange interventions, against whole sequences one at a time."""

import pytest
import torch

from codi_patching.commands import known_thoughts
from codi_patching.data.known_thoughts import carried_step, interchanges, makes_result
from codi_patching.data.word_problems import Plot, Problem, Step
from codi_patching.models.interchange import (
    Interchange,
    Rate,
    interchange_accuracy,
    interchange_hits,
    interchanged_answers,
    lowest,
    rates,
)
from codi_patching.models.thought_lens import spoken_thoughts
from codi_patching.training.codi_tiny import IDLE

BASES = ["Tom has 16 pears. He eats 3.", "Tom has 9 pears. He buys 3 more.", "Tom has 7."]
SOURCES = ["Tom has 18 pears. He eats 3.", "Tom has 9 pears. He buys 4 more.", "Tom has 12."]


def whole_sequence(model, embeddings):
    """The last hidden state after `embeddings` (length, hidden), read from the start."""
    return model.backbone.model(inputs_embeds=embeddings.unsqueeze(0)).last_hidden_state[0, -1]


def think_slowly(model, question, given=None):
    """Embeddings of prompt and thoughts; `given` is a position and the vector to put there."""
    sequence = model.embed(torch.tensor(model.prompt_ids(question)))
    for p in range(model.num_latents):
        thought = model.prj(whole_sequence(model, sequence))
        if given and given[0] == p:
            thought = given[1]
        sequence = torch.cat([sequence, thought[None]])
    return sequence


def answer_slowly(model, sequence, length=8):
    ids = [model.settings.eot_id, *model.tokenizer("The answer is:")["input_ids"][1:]]
    answer = []
    while len(answer) < length:
        state = whole_sequence(model, torch.cat([sequence, model.embed(torch.tensor(ids))]))
        token = int(model.logits(state[None]).argmax())
        if token == model.settings.eos_id:
            break
        ids.append(token)
        answer.append(token)
    return model.tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_interchanged_answers_by_whole_sequences(model, position):
    expected = []
    for base, source in zip(BASES, SOURCES, strict=True):
        prompt = len(model.prompt_ids(source))
        vector = think_slowly(model, source)[prompt + position]
        expected.append(answer_slowly(model, think_slowly(model, base, (position, vector))))
    assert interchanged_answers(model, BASES, SOURCES, position) == expected
    own = [answer_slowly(model, think_slowly(model, base)) for base in BASES]
    assert interchanged_answers(model, BASES, BASES, position) == own


def test_what_thoughts_say_is_the_head_on_the_states_that_make_them(model):
    for question, tokens in zip(BASES, spoken_thoughts(model, BASES), strict=True):
        assert len(tokens) == model.num_latents
        sequence = think_slowly(model, question)
        prompt = len(model.prompt_ids(question))
        for p, token in enumerate(tokens):
            state = whole_sequence(model, sequence[: prompt + p])
            assert token == model.tokenizer.convert_ids_to_tokens(
                int(model.logits(state[None]).argmax())
            )


def test_a_question_in_its_own_place_changes_nothing(model):
    changes = [Interchange(q, q, p, 2, None) for q in BASES for p in range(3)]
    accuracy = interchange_accuracy(model, changes, batch_size=2)
    assert accuracy == {(2, p): Rate(3, 3) for p in range(3)}


def test_a_thought_that_carries_nothing_leaves_the_answer_of_the_base(model):
    changes = [
        Interchange(base, source, p, 2, None)
        for base, source in zip(BASES, SOURCES)
        for p in (0, 2)
    ]
    found = interchange_hits(model, changes, batch_size=2)
    own = {base: answer_slowly(model, think_slowly(model, base)) for base in BASES}
    expected = []
    for change in changes:
        prompt = len(model.prompt_ids(change.source))
        vector = think_slowly(model, change.source)[prompt + change.position]
        sequence = think_slowly(model, change.base, (change.position, vector))
        expected.append(answer_slowly(model, sequence) == own[change.base])
    assert found == expected


def test_interchange_checks_its_arguments(model):
    with pytest.raises(ValueError, match="expected a position from 0 to 2, got 3"):
        interchanged_answers(model, BASES, SOURCES, 3)
    with pytest.raises(ValueError, match="expected one source for each base, got 1 for 3 bases"):
        interchanged_answers(model, BASES, SOURCES[:1], 0)


def test_rates_by_hand():
    changes = [
        Interchange("a", "b", 0, 2, 5.0),
        Interchange("c", "d", 0, 2, 6.0),
        Interchange("a", "b", 1, 2, None),
        Interchange("e", "f", 0, 3, 7.0),
    ]
    found = rates(changes, [True, False, True, False])
    assert found == {(2, 0): Rate(1, 2), (2, 1): Rate(1, 1), (3, 0): Rate(0, 1)}
    assert found[2, 0].accuracy == 0.5
    assert lowest(changes, found, carries=True) == 0.0
    assert lowest(changes, found, carries=False) == 1.0


PLOT = Plot(
    "Tom has {0} pears.",
    (Step("-", "He eats {1}."), Step("*", "Ben has {2} times as many."), Step("+", "He buys {3}.")),
    "How many pears does he have?",
)


def test_results_are_held_for_two_thoughts_and_the_last_is_left_out():
    table = {n: [carried_step(p, n) for p in range(5)] for n in (2, 3, 4)}
    assert table == {
        2: [1, 1, None, None, None],
        3: [1, 1, 2, 2, None],
        4: [1, 1, 2, 2, 3],
    }


def test_every_other_thought_is_the_first_with_its_result():
    assert [makes_result(position) for position in range(5)] == [True, False, True, False, True]


def test_counterfactual_answers_by_hand():
    """16 - 3 = 13, 13 * 2 = 26, 26 + 1 = 27; the source has 12, 24."""
    base, source = Problem(PLOT, (16, 3, 2, 1)), Problem(PLOT, (16, 4, 2, 5))
    assert base.values == (13, 26, 27)
    assert source.values == (12, 24, 29)
    found = {c.position: c.expected for c in interchanges(base, source, 5)}
    assert found == {0: 25.0, 1: 25.0, 2: 25.0, 3: 25.0, 4: None}
    made = interchanges(base, source, 3)
    assert [change.position for change in made] == [0, 1, 2]
    assert {(c.base, c.source, c.num_steps) for c in made} == {(base.question, source.question, 3)}
    equal = Problem(PLOT, (16, 3, 2, 5))
    assert {c.position: c.expected for c in interchanges(base, equal, 5)} == {4: None}
    out_of_range = Problem(PLOT, (40, 3, 1, 5))
    assert out_of_range.values == (37, 37, 42)
    assert {c.position: c.expected for c in interchanges(base, out_of_range, 5)} == {
        2: 38.0,
        3: 38.0,
        4: None,
    }


def test_what_the_lens_says_is_counted_by_steps_and_thought(monkeypatch):
    """All that should be said of the first problem is; of the second, only that z4 says nothing."""
    steps = Step("-", "He eats {1}."), Step("+", "He buys {2}.")
    plot = Plot("Tom has {0} pears.", steps, PLOT.question)
    problems = [Problem(plot, (9, 2, 4)), Problem(plot, (8, 3, 1))]  # 7, 11; 5, 6
    carried = [carried_step(place, 2) for place in range(5)]
    right = [IDLE if step is None else str((7, 11)[step - 1]) for step in carried]
    monkeypatch.setattr(
        known_thoughts, "spoken_thoughts", lambda model, asked: [right] * len(asked)
    )
    found = known_thoughts.lens_accuracy(None, problems, batch_size=2)
    assert found == {(2, place): Rate(1 + (step is None), 2) for place, step in enumerate(carried)}


TWO_STEPS = Plot(
    "Tom has {0} pears.",
    (Step("-", "He eats {1}."), Step("+", "He buys {2}.")),
    "How many pears does he have?",
)


def test_the_lens_is_held_against_each_problem_s_own_results_batch_by_batch(monkeypatch):
    problems = [Problem(TWO_STEPS, (9, 2, 4)), Problem(PLOT, (16, 3, 2, 1))]
    problems.append(Problem(TWO_STEPS, (8, 3, 1)))
    said = {p.question: [*map(str, p.values[:-1]), IDLE] for p in problems}
    asked = []

    def spoken(model, questions):
        asked.append(len(questions))
        return [said[question] for question in questions]

    monkeypatch.setattr(known_thoughts, "spoken_thoughts", spoken)
    found = known_thoughts.lens_accuracy(None, problems, batch_size=2)
    assert asked == [2, 1]
    assert list(found.items()) == [
        ((2, 0), Rate(2, 2)),
        ((2, 1), Rate(0, 2)),  # "idle", where the result is held
        ((3, 0), Rate(1, 1)),
        ((3, 1), Rate(0, 1)),  # the next step's result, one thought early
        ((3, 2), Rate(0, 1)),
    ]


def test_twins_give_their_thoughts_to_the_problems(monkeypatch, model):
    problem, alone = Problem(TWO_STEPS, (9, 2, 4)), Problem(TWO_STEPS, (7, 2, 4))
    others = [Problem(TWO_STEPS, (9, 3, 4)), Problem(TWO_STEPS, (9, 2, 5))]
    monkeypatch.setattr(known_thoughts, "twins", lambda p: others if p is problem else [])
    monkeypatch.setattr(known_thoughts, "interchange_accuracy", lambda *given: given)

    def of(seed):
        who, changes, size = known_thoughts.twin_interchanges(model, [alone, problem], seed, 5)
        assert (who, size) == (model, 5)
        return changes

    drawn = {seed: of(seed) for seed in range(8)}
    expected = [interchanges(problem, other, model.num_latents) for other in others]
    assert all(changes in expected for changes in drawn.values())
    assert drawn[0] == of(0)
    assert all(changes in drawn.values() for changes in expected)


def test_a_line_for_each_number_of_steps_and_thought(monkeypatch):
    said = {(2, 0): Rate(3, 4), (2, 2): Rate(4, 4), (4, 3): Rate(1, 8)}
    changed = {(2, 0): Rate(1, 2), (4, 3): Rate(3, 3)}
    given = []
    monkeypatch.setattr(known_thoughts, "lens_accuracy", lambda *a: given.append(a) or said)
    monkeypatch.setattr(known_thoughts, "twin_interchanges", lambda *a: given.append(a) or changed)
    title, *lines = known_thoughts.describe_thoughts("model", ["problem"], 7, 16)
    assert title == "held against what the thoughts of codi-tiny carry:"
    assert [line.split() for line in lines] == [
        ["steps", "thought", "carries", "lens", "interchange", "of"],
        ["2", "z_0", "step", "1", "75.00%", "50.00%", "2"],
        ["2", "z_2", "idle", "100.00%", "-"],
        ["4", "z_3", "step", "2", "12.50%", "100.00%", "3"],
    ]
    assert given == [("model", ["problem"], 16), ("model", ["problem"], 7, 16)]


def test_accuracies_by_number_of_steps():
    problems = [Problem(TWO_STEPS, (9, 2, 4)), Problem(PLOT, (16, 3, 2, 1))]
    problems.append(Problem(TWO_STEPS, (8, 3, 1)))
    correct = [{"own": 1, "zeroed": 0}, {"own": 0, "zeroed": 1}, {"own": 1, "zeroed": 1}]
    records = [{"correct": right} for right in correct]
    lines = known_thoughts.describe_lengths(problems, records)
    assert [line.split() for line in lines] == [
        ["2", "steps", "3", "steps", "4", "steps"],
        ["own", "100.00%", "0.00%", "-"],
        ["zeroed", "50.00%", "100.00%", "-"],
    ]


def test_thoughts_are_known_of_a_model_that_can_say_that_they_are_idle(model):
    class Tokenizer:
        def get_vocab(self):
            return {"Tom": 0}

    assert known_thoughts.has_known_thoughts(model)
    model.tokenizer = Tokenizer()
    assert not known_thoughts.has_known_thoughts(model)
