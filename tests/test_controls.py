"""Which pair another one gets as its control, against every possible matching."""

from itertools import permutations
from random import Random

import pytest

from codi_patching.data.pairs import Pair, Question
from codi_patching.measuring.controls import find_control, match_pairs


def pair(name, clean, corrupted, steps=1, group=""):
    calculation = tuple(f"<<{i}+0={i}>>" for i in range(steps))
    return Pair(
        name, Question("c", clean, calculation), Question("d", corrupted, calculation), None, group
    )


def some_pairs(count, seed=0):
    rng = Random(seed)
    pairs = [
        pair(f"p{i}", *rng.sample(range(4 * count), 2), steps=rng.randint(1, 2))
        for i in range(count)
    ]
    return pairs, [rng.randint(10, 30) for _ in pairs]


def allowed(one, other):
    answers = {one.clean.answer, one.corrupted.answer}
    return one.group != other.group and not answers & {other.clean.answer, other.corrupted.answer}


def names(found):
    return {pair_id: partner.pair_id for pair_id, partner in found.items()}


def test_the_same_number_of_steps_then_the_nearest_length():
    pairs = [pair(f"p{i}", 10 * i, 10 * i + 1, steps=1 + i % 2) for i in range(8)]
    lengths = [10, 90, 11, 91, 50, 30, 51, 31]  # p0 p2, p4 p6 of one step; p1 p3, p5 p7 of two
    twos = {"p0": "p2", "p1": "p3", "p4": "p6", "p5": "p7"}
    expected = twos | {partner: own for own, partner in twos.items()}
    assert names(match_pairs(pairs, lengths, seed=42)) == expected


def test_steps_go_before_length():
    pairs = [pair(f"p{i}", 10 * i, 10 * i + 1, steps=1 + i // 2) for i in range(4)]
    found = names(match_pairs(pairs, [10, 900, 10, 900], seed=1))
    assert found == {"p0": "p1", "p1": "p0", "p2": "p3", "p3": "p2"}


@pytest.mark.parametrize("seed", range(4))
def test_the_cost_is_the_least_of_all_matchings(seed):
    pairs, lengths = some_pairs(7, seed)

    def cost(order):
        total = 0
        for own, other in enumerate(order):
            if own == other or not allowed(pairs[own], pairs[other]):
                return float("inf")
            steps = [len(pairs[index].clean.reasoning_steps) for index in (own, other)]
            total += abs(lengths[own] - lengths[other]) + 1e4 * (steps[0] != steps[1])
        return total

    least = min(cost(order) for order in permutations(range(7)))
    found = names(match_pairs(pairs, lengths, seed=42))
    assert least < float("inf")
    assert cost([int(found[f"p{index}"][1:]) for index in range(7)]) == least


@pytest.mark.parametrize("count", [60, 900])
def test_each_gives_once_and_none_to_itself_nor_to_its_answers(count):
    pairs, lengths = some_pairs(count, seed=3)
    found = match_pairs(pairs, lengths, seed=42)
    assert found.keys() == {pair.pair_id for pair in pairs}
    assert len({partner.pair_id for partner in found.values()}) == count
    for own in pairs:
        assert allowed(own, found[own.pair_id])


def test_pairs_of_one_group_give_each_other_nothing():
    pairs = [pair(f"p{i}", 10 * i, 10 * i + 1, group=f"g{i // 2}") for i in range(4)]
    found = match_pairs(pairs, [10, 10, 20, 20], seed=42)
    assert all(found[own.pair_id].group != own.group for own in pairs)


def test_pairs_without_a_partner_are_missing():
    same = [pair("a", 1, 2), pair("b", 2, 3), pair("c", 3, 1)]
    assert match_pairs(same, [5, 5, 5], seed=42) == {}
    assert match_pairs(same[:1], [5], seed=42) == {}
    assert match_pairs([], [], seed=42) == {}
    found = match_pairs([*same, pair("d", 7, 8)], [5, 5, 5, 5], seed=42)
    assert len(found) == 2
    assert found["d"].pair_id in "abc"
    assert [partner.pair_id for own, partner in found.items() if own != "d"] == ["d"]


def test_the_draw_is_the_seeds():
    pairs, lengths = some_pairs(40)
    lengths = [10] * len(lengths)  # so that many matchings cost the same
    first, again, other = (names(match_pairs(pairs, lengths, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


# -- which question it is -----------------------------------------------------------------------


def control_of(own, kind, direction="denoising", fits=lambda _: True, partner=None):
    return find_control(own, kind, direction, fits, lambda: partner)


def test_the_sibling_goes_before_a_random_pair_where_it_fits():
    own, other = pair("own", 1, 2), pair("other", 3, 4)
    own.sibling = Question("s", 5)
    found, question = control_of(own, "sibling", partner=other)
    assert (found.kind, found.question, found.answer, found.pair_id) == ("sibling", "s", "5", "own")
    assert question is own.sibling
    too_long = control_of(own, "sibling", fits=lambda question: question.text != "s", partner=other)
    for found, question in (too_long, control_of(own, "random_pair", partner=other)):
        assert (found.kind, found.answer, found.pair_id) == ("random_pair", "3", "other")
        assert question is other.clean


def test_a_random_pairs_control_is_its_source_question():
    found, question = control_of(pair("own", 1, 2), "sibling", "noising", partner=pair("o", 3, 4))
    assert (found.question, found.answer, question.answer) == ("d", "4", 4)


def test_without_a_partner_or_asked_for_none_there_is_no_control():
    own = pair("own", 1, 2)
    assert control_of(own, "sibling") is None
    own.sibling = Question("s", 5)
    assert control_of(own, "none", partner=pair("o", 3, 4)) is None
