import re
import zlib
from random import Random

import pytest

from codi_patching.data.word_problems import (
    MAX_VALUE,
    Plot,
    Problem,
    Step,
    apply_operator,
    is_held_out,
    sample_problem,
    split_words,
    twins,
    vocabulary,
)


@pytest.fixture(scope="module")
def problems():
    rng = Random(3)
    return [sample_problem(rng, held_out=False) for _ in range(500)]


def test_a_problem_by_hand():
    plot = Plot(
        "Tom has {0} pears.",
        (Step("-", "He eats {1}."), Step("/", "He packs them in bags of {2}. How many full bags?")),
        "",
    )
    problem = Problem(plot, (16, 3, 4))
    assert problem.question == (
        "Tom has 16 pears. He eats 3. He packs them in bags of 4. How many full bags?"
    )
    assert problem.reasoning_steps == ("<<16-3=13>>", "<<13/4=3>>")
    assert problem.values == (13, 3)
    assert problem.answer == 3
    assert {t.answer for t in twins(problem)} >= {3, 4, 2}


def test_steps_are_true_and_end_in_the_answer(problems):
    for problem in problems:
        assert len(problem.reasoning_steps) in (2, 3, 4)
        for step, value in zip(problem.reasoning_steps, problem.values, strict=True):
            a, operator, b, result = re.fullmatch(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", step).groups()
            truth = eval(f"{a}{operator.replace('/', '//')}{b}")
            assert truth == int(result) == value
        assert problem.answer == problem.values[-1] > 0


def test_every_number_of_the_question_is_used_and_in_range(problems):
    for problem in problems:
        given = [int(n) for n in re.findall(r"\d+", problem.question)]
        assert sorted(given) == sorted(problem.numbers)
        assert all(0 <= n <= MAX_VALUE for n in [*given, *problem.values])


def test_sentences_are_whole(problems):
    for problem in problems:
        assert problem.question.endswith("?")
        assert problem.question.count("?") == 1
        assert "  " not in problem.question
        assert "{" not in problem.question


def test_operators_and_lengths_all_occur(problems):
    operators = {step.operator for p in problems for step in p.plot.steps}
    assert operators == set("+-*/")
    for num_steps in (2, 3, 4):
        assert 120 < sum(len(p.plot.steps) == num_steps for p in problems) < 220
    rng = Random(5)
    assert all(len(sample_problem(rng, False, (4,)).values) == 4 for _ in range(20))


def test_going_on_from_another_result_by_hand(problems):
    plot = Plot("", (Step("-", ""), Step("*", ""), Step("/", "")), "")
    problem = Problem(plot, (16, 3, 4, 5))
    assert problem.values == (13, 52, 10)
    assert problem.continue_from(1, 13) == (52, 10)
    assert problem.continue_from(1, 10) == (40, 8)
    assert problem.continue_from(1, 16) is None  # 64 is out of range
    assert problem.continue_from(3, 9) == ()
    for drawn in problems:
        for step, value in enumerate(drawn.values, start=1):
            assert drawn.continue_from(step, value) == drawn.values[step:]


def test_twins_differ_in_one_number_by_a_little(problems):
    for problem in problems[:50]:
        for twin in twins(problem):
            changed = [
                (a, b)
                for a, b in zip(split_words([problem.question]), split_words([twin.question]))
                if a != b
            ]
            assert len(changed) == 1
            assert 1 <= abs(int(changed[0][0]) - int(changed[0][1])) <= 3


def test_held_out_problems_never_occur_in_training(problems):
    assert not any(is_held_out(p) for p in problems)
    rng = Random(4)
    assert all(is_held_out(sample_problem(rng, held_out=True)) for _ in range(50))


def test_the_vocabulary_covers_problems_and_reasoning(problems):
    words = set(vocabulary())
    texts = [text for p in problems for text in (p.question, *p.reasoning_steps)]
    assert set(split_words([*texts, "The answer is:"])) <= words
    assert {str(n) for n in range(MAX_VALUE + 1)} <= words


def plain(numbers, operators):
    return Problem(Plot("", tuple(Step(operator, "") for operator in operators), ""), numbers)


@pytest.mark.parametrize(
    ("numbers", "operators", "valid"),
    [
        ((60, 1), "-", True),
        ((61, 2), "-", False),
        ((0, 2), "+", False),
        ((5, 0), "+", False),
        ((59, 1), "+", True),
        ((59, 2), "+", False),
        ((5, 5), "-", False),
        ((5, 5, 3), "-+", True),
        ((5, 6, 3), "-+", False),
        ((30, 2), "*", True),
        ((30, 1), "*", False),
        ((6, 9), "*", True),
        ((6, 10), "*", False),
        ((1, 2, 1), "/+", True),
        ((30, 10), "/", False),
        ((30, 1), "/", False),
        ((1, 2), "/", False),
        ((30, 2), "/", True),
        ((31, 2, 5), "*-", False),
    ],
)
def test_which_numbers_a_problem_may_have(numbers, operators, valid):
    assert plain(numbers, operators).is_valid() is valid


def test_operators():
    assert [apply_operator(operator, 17, 5) for operator in "+-*/"] == [22, 12, 85, 3]


@pytest.mark.parametrize(("value", "found"), [(60, (60,)), (61, None), (0, (0,)), (-1, None)])
def test_results_from_another_value_stay_in_range(value, found):
    assert plain((9, 4, 1), "-+").continue_from(1, value - 1) == found


def test_all_twins_of_a_problem_by_hand():
    problem = plain((3, 4, 9), "+*")
    assert [twin.numbers for twin in twins(plain((3, 4, 8), "+*"), 1)] == [
        (2, 4, 8),
        (3, 3, 8),
        (3, 4, 7),
    ]
    assert not problem.is_valid()
    assert [twin.numbers for twin in twins(plain((5, 3), "-"))] == [
        *((4, 3), (6, 3), (7, 3), (8, 3)),
        *((5, 1), (5, 2), (5, 4)),
    ]


def test_a_seed_draws_the_problems_that_it_always_drew():
    """Else a model is trained on what it was not said to be."""
    rng = Random(1)
    texts = [sample_problem(rng, held_out=False).question for _ in range(200)]
    assert zlib.crc32("\n".join(texts).encode()) == 1930079183


def test_words_of_texts_are_split_as_the_tokenizer_splits_them():
    assert split_words(["Tom's 12.", "<<16-3=13>>"]) == [
        *("Tom", "'", "s", "12", "."),
        *("<<", "16", "-", "3", "=", "13", ">>"),
    ]
    words = vocabulary()
    assert words[-MAX_VALUE - 1 :] == tuple(map(str, range(MAX_VALUE + 1)))
    others = words[: -MAX_VALUE - 1]
    assert list(others) == sorted(set(others))
    assert not any(word.isdigit() for word in others)
