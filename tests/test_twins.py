"""Twins of questions: worked by hand, refused by rule, and checked by another calculator."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from random import Random

import pytest

from codi_patching.data.chained_questions import (
    ChainedQuestion,
    read_chained_questions,
    steps_of,
)
from codi_patching.data.chains import ChainError, parse_chain
from codi_patching.data.change_rules import largest_allowed, why_fixed, why_not_asked
from codi_patching.data.donors import find_donors, results_of
from codi_patching.data.explained import _all_sources, changed_step, check_chain, read_question
from codi_patching.data.json_lines import DataFileError
from codi_patching.data.mentions import find_mentions
from codi_patching.data.pair_files import read_pairs
from codi_patching.data.twin_pairs import Side, TwinPair, make_twin_pairs, yield_report
from codi_patching.data.twins import change, new_numbers, variants, why_not_changed

EGGS = (
    "Tom has 16 eggs. He eats three and sells the rest for $2 each. How much does he get?",
    ["<<16-3=13>>", "<<13*2=26>>"],
    26,
)


def question(text, steps, answer, name="q"):
    return ChainedQuestion(name, text, tuple(steps), Fraction(str(answer)))


def reading(text, steps, answer):
    return read_question(question(text, steps, answer))


def place_of(read, text):
    return next(i for i, mention in enumerate(read.mentions) if mention.text == text)


def refused(text, steps, answer, number):
    """Why one number may not be changed; None if it may."""
    read = reading(text, steps, answer)
    return why_not_changed(read, place_of(read, number))


def test_a_twin_by_hand():
    read = reading(*EGGS)
    twin = change(read, place_of(read, "16"), Fraction(17))
    assert twin.text.startswith("Tom has 17 eggs. He eats three")
    assert twin.steps == ("<<17-3=14>>", "<<14*2=28>>")
    assert twin.answer == 28
    twin = change(read, place_of(read, "three"), Fraction(5))
    assert "He eats five and" in twin.text
    assert twin.steps == ("<<16-5=11>>", "<<11*2=22>>")


def test_each_result_is_carried_to_where_it_is_used():
    text = "A shop sells 12 pens at $3 each and 7 cups at $9 each."
    read = reading(text, ["<<12*3=36>>", "<<7*9=63>>", "<<36+63=99>>"], 99)
    twin = change(read, place_of(read, "12"), Fraction(13))
    assert twin.steps == ("<<13*3=39>>", "<<7*9=63>>", "<<39+63=102>>")
    assert twin.answer == 102


def test_numbers_keep_their_dress():
    text = "Twenty-five boys pay $1,200 and get 30% back. How much is that per boy?"
    read = reading(text, ["<<1200*30/100=360>>", "<<1200-360=840>>", "<<840/25=33.6>>"], "33.6")
    assert change(read, place_of(read, "Twenty-five"), Fraction(24)).text.startswith("Twenty-four")
    assert "$1,300 and" in change(read, place_of(read, "1,200"), Fraction(1300)).text
    assert "get 40% back" in change(read, place_of(read, "30"), Fraction(40)).text
    with pytest.raises(ChainError, match="no word"):
        change(read, place_of(read, "Twenty-five"), Fraction(120))


def test_percentages_in_all_their_forms():
    for steps in (
        ["<<30*200/100=60>>", "<<200-60=140>>"],
        ["<<.3*200=60>>", "<<200-60=140>>"],
        ["<<200*.7=140>>"],
    ):
        read = reading("A coat costs $200 and is 30% off. What does it cost now?", steps, 140)
        assert change(read, place_of(read, "30"), Fraction(40)).answer == 120
    read = reading("Ann has $200 and earns 30% more. What has she?", ["<<200*1.3=260>>"], 260)
    assert change(read, place_of(read, "30"), Fraction(40)).steps == ("<<200*1.4=280>>",)


def test_cents_can_be_a_part_of_a_dollar():
    steps = ["<<8*.75=6>>"]
    read = reading("A pear costs 75 cents. How many dollars do 8 pears cost?", steps, 6)
    assert change(read, place_of(read, "75"), Fraction(50)).steps == ("<<8*.50=4>>",)


@pytest.mark.parametrize(
    ("text", "steps", "answer", "reason"),
    [
        (EGGS[0], ["<<16-3=13>>"], 26, "last result is not the answer"),
        (EGGS[0], [], 26, "no calculation chain"),
        (EGGS[0], ["<<16-5=11>>", "<<11*2=22>>"], 22, "comes from nowhere"),
        (EGGS[0], ["<<16-3=13>>", "<<16*2=32>>"], 32, "a result is not used"),
        (EGGS[0] + " He has 9 hens.", *EGGS[1:], "a number of the question is not used"),
        ("Round 17 to the nearest ten and add 3.", ["<<17+3=20>>"], 20, "rounds or estimates"),
        ("Ann runs 3 miles a day. How far in two weeks?", ["<<14*3=42>>"], 42, "from nowhere"),
    ],
)
def test_questions_that_are_refused(text, steps, answer, reason):
    with pytest.raises(ChainError, match=reason):
        reading(text, steps, answer)


def test_small_numbers_may_stay_out_of_the_calculation():
    """As in "he sleeps for 2 nights": up to 3, and none above."""
    text, chain = "Ann has 16 pens, loses 5 and has {} bags.", (["<<16-5=11>>"], 11)
    reading(text.format(3), *chain)
    reading(text.format("a dozen"), *chain)
    with pytest.raises(ChainError, match="a number of the question is not used"):
        reading(text.format(4), *chain)


def test_words_license_constants():
    text = "Ann earns $50 a week. How much is that in a year?"
    read = reading(text, ["<<50*52=2600>>"], 2600)
    assert change(read, place_of(read, "50"), Fraction(40)).answer == 2080
    with pytest.raises(ChainError, match="comes from nowhere"):
        reading("Ann earns $50 a day. How much is that in a year?", ["<<50*52=2600>>"], 2600)


@pytest.mark.parametrize(
    ("text", "number", "reason"),
    [
        ("Ann has 9 pens and buys 4.", "9", None),
        ("Ann buys all 9 pens and 4 cups.", "9", "after the, all"),
        ("Ann buys the 9 pens and 4 cups.", "9", "after the, all"),
        ("Ann wakes at 9:30 and adds 4.", "9", "a time"),
        ("Ann wakes at 9 am and adds 4.", "9", "a time"),
        ("Ann reads page 9 and 4 more.", "9", "names something"),
        ("Ann has 9 hundred pens and buys 4.", "9", "beside hundred"),
        ("Ann sees 9 to 12 pens and buys 4.", "9", "a range"),
        ("A room is 9 by 4.", "9", "a range"),
        ("A room is 9 by 4.", "4", "a range"),
        ("The ratio of pens is 9 and cups 4.", "9", "a range"),
        ("A spider has 9 legs and gets 4.", "9", "limbs"),
        ("A 9-inch pen and 4 cups.", "9", "longer word"),
        ("It is -9 degrees and 4 more.", "9", "longer word"),
        ("Ann has 9 friends: Bo, Cy and others, and 4 cups.", "9", "count of a list"),
        ("Ann meets 4 friends, Bo, Cy, Di and Ed, and buys 9 pens.", "4", "count of a list"),
        ("In 1995 Ann had 4 pens.", "1995", "a year"),
        ("Ann has 1995 pens and 4 cups.", "1995", None),
        ("Ann had 4 pens in 950 bags.", "950", None),
        ("Ann walks 9 or 12 miles and 4 more.", "9", "a range"),
        ("Ann walks 9 or more miles and 4 more.", "9", None),
        ("Ann has 9 pens. The ratio of pens is odd.", "9", None),
        ("The ratio of pens is odd. Ann has 9 pens.", "9", None),
        ("Is 9 a pen? In proportion it is odd.", "9", None),
        ("Is 9 a pen in proportion? No.", "9", "a range"),
        ("Ann has 9 pens. Bo has more in proportion! He is odd.", "9", None),
        ("Ann pays €9 and has 4 cups.", "9", "longer word"),
        ("Ann pays £9 and has 4 cups.", "9", "longer word"),
        ("In proportion! Ann has 9", "9", None),
        ("Ann has 1 pen.", "1", "such as half"),
        ("Ann has 1.5 pens.", "1.5", None),
        ("Ann has 0.5 pens.", "0.5", "such as half"),
        ("Ann has half a pen.", "half", "such as half"),
        ("Ann wakes at 4:9 and adds 4.", "9", "a time"),
        ("Ann pays three hundred 9 times.", "9", "beside hundred"),
        ("Ann has 2 thousand and 9 pens.", "9", "beside hundred"),
        ("Ann has 9 $10 bills.", "10", "bank note"),
        ("Between 9 and 12 pens.", "9", "a range"),
        ("Between 4 pens and 9 cups.", "9", "a range"),
        ("Ann wins out of 9 games.", "9", "a range"),
        ("Ann wins 9 out of every match.", "9", "a range"),
        ("Ann has pen#9 there.", "9", "longer word"),
        ("Ann has 9's pens.", "9", "longer word"),
        ("In 1500 Ann had 4 pens.", "1500", "a year"),
        ("In 2200 Ann had 4 pens.", "2200", "a year"),
        ("In 1499 Ann had 4 pens.", "1499", None),
        ("In 2201 Ann had 4 pens.", "2201", None),
        ("Ann gets a raise of $1995 now.", "1995", None),
        ("A loss of 1,995 pens.", "1,995", None),
        ("Ann meets 3 old friends, Bo and Cy, here.", "3", "count of a list"),
        ("Ann meets 3 friends, all of whom she likes, and a dog.", "3", None),
        ("Ann meets 3 friends, Bo alone. Cy, Di, Ed.", "3", None),
        ("Ann meets 2 friends, Bo who likes cats and Cy who likes dogs.", "2", "count of a list"),
        ("Ann has 9 pens named Bo.", "9", "count of a list"),
        ("There are 7 days in a week.", "7", "size of a unit"),
        ("There are 6 days in a week.", "6", None),
    ],
)
def test_numbers_that_may_not_be_changed(text, number, reason):
    mentions = find_mentions(text)
    mention = next(mention for mention in mentions if mention.text == number)
    found = why_fixed(text, mention, mentions)
    assert (found is None) if reason is None else (reason in found), found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Ann has 1,200 pens and 2.50 dollars.", None),
        ("Ann makes a round-trip of 5 miles and sees ½ of it.", None),
        ("Ann rounds 5.3 up.", "the question rounds or estimates"),
        ("Ann has 5² pens.", "digits other than 0 to 9"),
        ("Ann has 五 pens.", "digits other than 0 to 9"),
        ("Ann has 12,15 pens.", "a number with points or commas out of place"),
        ("On 1.2.1995 Ann had 5 pens.", "a number with points or commas out of place"),
    ],
)
def test_questions_of_which_no_number_may_be_changed(text, reason):
    assert why_not_asked(text) == reason


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("9% of it", 99),
        ("9 days a week", 7),
        ("9 whole days of the week", 7),
        ("9 times per week", 7),
        ("9 hours a day", 24),
        ("9 hours each night", 24),
        ("9 months of the year", 12),
        ("9 weeks of the year", 52),
        ("9 weeks a month", 4),
        ("9 weeks a month, all year", 4),
        ("9 days, a week", None),
        ("9 pens a week", None),
        ("9 pens for all of us and then for more than 2 days a week", None),
    ],
)
def test_the_most_that_a_number_can_mean(text, most):
    assert largest_allowed(text, find_mentions(text)[0]) == most


@pytest.mark.parametrize(
    ("percents", "whole"),
    [
        ("40%, 60%", True),
        ("40%, 30% and 20%, 10%", True),
        ("40%, 25%, 35%", True),
        ("40%, 5%, 60%", True),
        ("50%", False),
        ("50%, 30%", False),
        ("40%, 60", False),
    ],
)
def test_percentages_that_add_up_to_100_with_some_of_the_others(percents, whole):
    text = f"Ann gives {percents}."
    mentions = find_mentions(text)
    reason = why_fixed(text, mentions[0], mentions)
    assert reason == ("percentages that add up to 100" if whole else None)


def test_the_size_of_a_unit_and_days_of_a_week():
    steps = ["<<5*8=40>>"]
    text = "Ann works 8 hours a day, 5 days a week. How many hours is that?"
    read = reading(text, steps, 40)
    days = list(new_numbers(read, place_of(read, "5"), Random(0)))
    assert max(days) == 7
    hours = list(new_numbers(read, place_of(read, "8"), Random(0)))
    assert max(hours) <= 24
    text = "There are 16 ounces in a pound. How many ounces are 3 pounds?"
    assert "size of a unit" in refused(text, ["<<16*3=48>>"], 48, "16")


def test_a_number_must_enter_the_calculation_once():
    text = "Ann has 5 boxes of 7 pens and gives away 20. Bo has 20 cups."
    assert "more than once in the question" in refused(
        text, ["<<5*7=35>>", "<<35-20=15>>"], 15, "20"
    )
    assert refused(text, ["<<5*7=35>>", "<<35-20=15>>"], 15, "5") is None
    steps = ["<<5*7=35>>", "<<35-20=15>>", "<<15-5=10>>"]
    assert "not once in the calculation" in refused(text, steps, 10, "5")
    text = "Ann has 8 pens, half of them red, in 4 bags of 3."
    assert "not once in the calculation" in refused(text, ["<<8/2=4>>", "<<4*3=12>>"], 12, "4")
    text = "Ann has 20 pens, half of them red, and 2 bags."
    assert "more than once in the question" in refused(text, ["<<20/2=10>>"], 10, "2")
    assert refused("Ann has 16 pens and loses 8.", ["<<16-8=8>>"], 8, "8") is None


def test_an_earlier_result_of_the_same_value_is_refused():
    """The second 4 may be the number of the text or the first result."""
    text = "Ann has 8 pens and gives half to Bo. She buys 4 cups and packs them with each pen."
    steps = ["<<8/2=4>>", "<<4*4=16>>"]
    assert "not once in the calculation" in refused(text, steps, 16, "4")
    read = reading(text, steps, 16)
    with pytest.raises(ChainError, match="could come from two places"):
        change(read, place_of(read, "8"), Fraction(10))


def test_the_count_of_terms_is_refused():
    text = "Ann ran 5, 6 and 10 miles. What was the average of 3 days?"
    steps = ["<<5+6+10=21>>", "<<21/3=7>>"]
    assert "count of the terms" in refused(text, steps, 7, "3")
    steps = ["<<5+6=11>>", "<<11+10=21>>", "<<21/3=7>>"]
    assert "count of the terms" in refused(text, steps, 7, "3")


def test_percentages_that_make_a_whole():
    text = "Of 50 pens 40% are red and 60% blue. How many more are blue?"
    steps = ["<<50*.4=20>>", "<<50*.6=30>>", "<<30-20=10>>"]
    assert "add up to 100" in refused(text, steps, 10, "40")


def test_new_numbers_come_nearest_first_and_keep_their_place():
    text = "Ann has 20 pens, buys 18 and loses 27."
    read = reading(text, ["<<20+18=38>>", "<<38-27=11>>"], 11)
    found = list(new_numbers(read, place_of(read, "20"), Random(0)))
    assert found[:2] in ([19, 21], [21, 19])
    assert set(found) == set(range(19, 27)) - {20}
    read = reading("A car costs $80,000 and $500 more.", ["<<80000+500=80500>>"], 80500)
    first = list(islice(new_numbers(read, place_of(read, "80,000"), Random(0)), 2))
    assert sorted(first) == [79_000, 81_000]
    read = reading("A car costs $100 and $50 more.", ["<<100+50=150>>"], 150)
    first = list(islice(new_numbers(read, place_of(read, "100"), Random(0)), 2))
    assert sorted(first) == [90, 110]


def test_the_seed_decides_between_up_and_down():
    read = reading(*EGGS)
    place = place_of(read, "16")
    assert {next(new_numbers(read, place, Random(seed))) for seed in range(8)} == {15, 17}


def test_new_numbers_come_once_from_2_to_the_largest_that_is_allowed():
    read = reading("Ann has 3 pens and buys 20.", ["<<3+20=23>>"], 23)
    found = list(new_numbers(read, 0, Random(0)))
    assert len(found) == len(set(found))
    assert min(found) == 2
    read = reading("Cy saves 90% of $800.", ["<<90/100*800=720>>"], 720)
    found = list(new_numbers(read, 0, Random(0)))
    assert len(found) == len(set(found)) > 5
    assert max(found) == 99  # and not 100, 110, …


def test_values_stay_whole_and_keep_their_signs():
    read = reading("12 pens are shared by 4 boys. How many has each?", ["<<12/4=3>>"], 3)
    assert {v.number for v in variants(read, 0, Random(0))} == {8, 16}
    read = reading("Ann has 9 pens and loses 7.", ["<<9-7=2>>"], 2)
    assert all(v.answer > 0 for v in variants(read, 1, Random(0)))


def test_articles_must_still_read_right():
    read = reading("An $8 pen and a $5 cup.", ["<<8+5=13>>"], 13)
    assert list(new_numbers(read, 0, Random(0))) == [11]
    assert 8 not in set(new_numbers(read, 1, Random(0)))


QUESTIONS = [
    EGGS,
    ("Ann has 40 pens and gives 15 to Bo. How many has she left?", ["<<40-15=25>>"], 25),
    (
        "A shop sells 12 pens at $3 each and 7 cups at $9 each. What does it take?",
        ["<<12*3=36>>", "<<7*9=63>>", "<<36+63=99>>"],
        99,
    ),
    (
        "Bo drives 60 miles an hour for 5 hours, then 14 miles more. How far is that?",
        ["<<60*5=300>>", "<<300+14=314>>"],
        314,
    ),
    ("Cy saves 25% of $800. How much does he save?", ["<<25/100*800=200>>"], 200),
    (
        "Di has twice as many as Ed, who has 17. How many have they?",
        ["<<17*2=34>>", "<<17+34=51>>"],
        51,
    ),
    ("A rope of 48 feet is cut into 6 parts. How long is each?", ["<<48/6=8>>"], 8),
    ("Flo buys 3.5 pounds at $4 a pound. What does she pay?", ["<<3.5*4=14>>"], 14),
]
STRINGS = [question(*q, name=f"q-{i}") for i, q in enumerate(QUESTIONS, 1)]


def calculate(step):
    """By Python, with fractions in place of numbers."""
    expression, result = re.fullmatch(r"<<(.*)=(.*)>>", step).groups()
    exact = re.sub(
        r"\d[\d,]*\.?\d*|\.\d+", lambda m: f"Fraction('{m[0].replace(',', '')}')", expression
    )
    return eval(exact, {"Fraction": Fraction}), Fraction(result.replace(",", ""))


@pytest.mark.parametrize(
    ("text", "steps", "answer", "number", "reason"),
    [
        ("Ann has 9 pens and loses 7.", ["<<9-7=2>>"], 7, 7, "the answer stays the same"),
        ("Ann has 9 pens and loses 7.", ["<<9-7=2>>"], 7, 9, "changes its sign or becomes zero"),
        ("Ann has 9 pens and loses 7.", ["<<9-7=2>>"], 7, 10, "changes its sign or becomes"),
        ("12 pens for 4 boys.", ["<<12/4=3>>"], 4, 5, "no longer whole"),
        ("5 pens for 4 boys.", ["<<5/4=1.25>>"], 4, 8, "gets more digits"),
        ("5 pens for 4 boys.", ["<<5/4=1.25>>"], 4, 3, "gets more digits"),
        ("5 pens for 4 boys.", ["<<5/4=1.25>>"], 4, 2, None),
        ("10 pens for 4 boys.", ["<<10/4=2.5>>"], 10, 11, None),
        ("1 pen for 8 boys.", ["<<1/8=.125>>"], 8, 40, None),
        ("1 pen for 8 boys.", ["<<1/8=.125>>"], 8, 16, "gets more digits"),
    ],
)
def test_what_a_change_may_not_do(text, steps, answer, number, reason):
    """`answer` names the number that is changed."""
    result = steps[-1].rpartition("=")[2].removesuffix(">>")
    read = reading(text, steps, result)
    place = place_of(read, str(answer))
    if reason is None:
        assert change(read, place, Fraction(number)).number == number
    else:
        with pytest.raises(ChainError, match=reason):
            change(read, place, Fraction(number))


@pytest.mark.parametrize(
    ("text", "steps", "number", "nearest", "ends"),
    [
        ("Ann has 8 pens and buys 50.", "<<8+50=58>>", "8", 1, (3, 13)),
        ("Ann has 6 pens and buys 50.", "<<6+50=56>>", "6", 1, (2, 11)),
        ("Ann has 3 pens and buys 50.", "<<3+50=53>>", "3", 1, (2, 8)),
        ("Ann has 60 pens and buys 5.", "<<60+5=65>>", "60", 1, (30, 90)),
        ("Ann has 600 pens and buys 5.", "<<600+5=605>>", "600", 10, (300, 900)),
        ("Ann has 610 pens and buys 5.", "<<610+5=615>>", "610", 10, (305, 915)),
        ("Ann has 7.5 pens and buys 50.", "<<7.5+50=57.5>>", "7.5", Fraction(1, 10), None),
        ("Ann has eight pens and buys 50.", "<<8+50=58>>", "eight", 1, (3, 13)),
        ("Ann has 6 pens and buys 8.", "<<6+8=14>>", "6", 1, (2, 7)),
        ("Ann has 8 pens and buys 6.", "<<8+6=14>>", "8", 1, (7, 13)),
    ],
)
def test_how_far_and_in_what_steps_numbers_change(text, steps, number, nearest, ends):
    read = reading(text, [steps], steps.rpartition("=")[2].removesuffix(">>"))
    place = place_of(read, number)
    old = read.mentions[place].value
    for seed in range(3):
        found = list(new_numbers(read, place, Random(seed)))
        assert old not in found
        assert [abs(new - old) for new in found[:2]] == [nearest, nearest]
        assert len(found) == len(set(found))
        if ends is not None:
            assert (min(found), max(found)) == ends
        else:
            assert all((2 * new).denominator == 1 or new.denominator in (5, 10) for new in found)
            assert not any(new.denominator == 1 for new in found)


@pytest.mark.parametrize(
    ("text", "number", "taken"),
    [
        ("Ann has 16 pens, 30 cups and 20% off.", "16", None),
        ("Ann has 5 pens and twice as many.", "5", 2),
        ("Ann has 5 pens and 6% off.", "5", 6),
        ("Ann has 30% off and Bo 60% more.", "30", 40),
    ],
)
def test_no_number_is_a_form_of_another_of_the_text(text, number, taken):
    mentions = find_mentions(text)
    read = replace(reading(*EGGS), question=question(text, [], 0), mentions=mentions)
    found = list(new_numbers(read, place_of(read, number), Random(0)))
    assert found
    assert taken not in found


@pytest.mark.parametrize(
    ("article", "old", "same"),
    [
        ("an", 8, {11}),
        ("an", 11, {8}),
        ("an", 18, {11}),
        ("a", 20, {*range(10, 31)} - {11, 18, 20}),
        ("a", 110, {*range(100, 121)} - {110}),
    ],
)
def test_articles_by_how_numbers_begin(article, old, same):
    """Eight, eleven and eighteen begin with a vowel; a hundred and ten does not."""
    mentions = find_mentions(f"Ann sees {article} {old} dollar pen.")
    read = replace(
        reading(*EGGS),
        question=question(f"Ann sees {article} {old} dollar pen.", [], 0),
        mentions=mentions,
    )
    found = set(new_numbers(read, 0, Random(0)))
    near = {new for new in found if abs(new - old) <= 10}
    assert near == {new for new in same if 2 * abs(new - old) <= max(old, 10)}


@pytest.mark.parametrize(
    ("steps", "fixed"),
    [
        (["<<5+6+10=21>>", "<<21/3=7>>"], "3"),
        (["<<5+6=11>>", "<<11/2=5.5>>"], None),
        (["<<5+6=11>>", "<<11+10=21>>", "<<21*3=63>>"], "3"),
        (["<<(5+6+10)/3=7>>"], "3"),
        (["<<5*6*10=300>>", "<<300/3=100>>"], None),
        (["<<5-6+10=9>>", "<<9/3=3>>"], None),
        (["<<(5+6)*10=110>>", "<<110+2=112>>", "<<112*3=336>>"], None),
    ],
)
def test_the_count_of_the_terms_of_a_sum_of_three_or_more(steps, fixed):
    text = "Ann ran 5, 6 and 10 miles, and then for 3 days, and 2 hours."
    read = replace(reading(*EGGS), question=question(text, [], 0), chain=parse_chain(steps))
    read = replace(read, mentions=find_mentions(text), sources=_all_sources(text, read.chain))
    counted = [
        mention.text
        for index, mention in enumerate(read.mentions)
        if why_not_changed(read, index) == "is the count of the terms of a sum"
    ]
    assert counted == ([fixed] if fixed else [])


@pytest.mark.parametrize(
    ("steps", "answer", "reason"),
    [
        (["<<16-3=13>>", "<<13*2=26>>"], 26.0, None),
        (["<<16/3=5.33>>", "<<5.33*2=10.66>>"], 10.66, None),
        (["<<16-3=13>>", "<<13*2=26>>"], 27.0, "last result is not the answer"),
        ([], 26.0, "last result is not the answer"),
        (["<<16-3=13>>", "<<16*2=32>>"], 32.0, "a result is not used"),
        (["<<16-9=7>>", "<<7*2=14>>"], 14.0, "comes from nowhere"),
    ],
)
def test_chains_of_pairs_lead_from_the_question_to_the_answer(steps, answer, reason):
    if reason is None:
        check_chain(EGGS[0], steps, answer)
    else:
        with pytest.raises(ChainError, match=reason):
            check_chain(EGGS[0], steps, answer)


def test_sources_of_each_operand_and_the_step_that_a_number_enters():
    steps = ["<<50*52=2600>>", "<<2600-600=2000>>"]
    read = reading("Ann earns $50 a week for a year, less 600.", steps, 2000)
    kinds = [[[s.kind for s in found] for found in step] for step in read.sources]
    assert kinds == [[["text"], ["constant"]], [["result"], ["text"]]]
    assert [changed_step(read, place) for place in (0, 1)] == [1, 2]
    steps = ["<<5+6=11>>", "<<11-2=9>>", "<<9+8=17>>"]
    read = reading("Ann has 8 cups, Bo 5 and Cy 6, less 2. How many are it?", steps, 17)
    assert [changed_step(read, place) for place in range(4)] == [3, 1, 1, 2]


def test_a_number_of_the_text_is_no_constant_even_if_a_word_licenses_it():
    read = reading("Ann buys 5 pens on weekdays and 4 cups.", ["<<5+4=9>>"], 9)
    assert [[s.kind for s in found] for found in read.sources[0]] == [["text"], ["text"]]
    assert change(read, place_of(read, "5"), Fraction(6)).answer == 10


@pytest.mark.parametrize("seed", range(25))
def test_every_twin_is_a_true_calculation_and_differs_in_one_number(seed):
    pairs, _ = make_twin_pairs(STRINGS, seed, per_question=3)
    assert {pair.group for pair in pairs} == {q.question_id for q in STRINGS} - {"q-6"}
    for pair in pairs:
        sides = [pair.clean, pair.corrupted, *([pair.sibling] if pair.sibling else [])]
        words = [re.findall(r"[\d.,]*\d|[A-Za-z]+(?:-\w+)?|\S", side.text) for side in sides]
        for side, text in zip(sides, words, strict=True):
            assert all(a == b for a, b in map(calculate, side.steps))
            assert calculate(side.steps[-1])[1] == side.answer
            assert sum(a != b for a, b in zip(text, words[0], strict=True)) == (
                side is not sides[0]
            )
        assert len({side.answer for side in sides}) == len(sides)
        changed = [a != b for a, b in zip(pair.clean.steps, pair.corrupted.steps, strict=True)]
        assert changed.index(True) + 1 == pair.changed_step


def test_at_most_so_many_pairs_of_a_question_and_those_with_siblings_first():
    asked = [STRINGS[2]]
    names = ["q-3", "q-3.2", "q-3.3"]
    for most in (1, 2, 3):
        pairs, reasons = make_twin_pairs(asked, per_question=most)
        assert [pair.pair_id for pair in pairs] == names[:most]
        assert {pair.group for pair in pairs} == {"q-3"}
        assert not reasons
    assert len({pair.corrupted.text for pair in pairs}) == 3
    one_twin = question(
        "12 pens are shared by 4 boys, and 10 more.", ["<<12/4=3>>", "<<3+10=13>>"], 13
    )
    for seed in range(8):
        pairs, _ = make_twin_pairs([one_twin], seed, per_question=3)
        assert pairs[0].sibling is not None
        without = [pair.sibling is None for pair in pairs]
        assert without == sorted(without)


def test_records_of_sides_and_pairs():
    side = Side("a", ("<<1+2=3>>",), Fraction(3))
    assert side.as_record() == {"question": "a", "answer": 3, "reasoning_steps": ["<<1+2=3>>"]}
    assert isinstance(side.as_record()["answer"], int)
    assert replace(side, answer=Fraction(5, 2)).as_record()["answer"] == 2.5
    pair = TwinPair("p", "g", side, replace(side, text="b"), replace(side, text="c"), 2)
    record = pair.as_record()
    assert [record[name]["question"] for name in ("clean", "corrupted", "sibling")] == list("abc")
    assert (record["pair_id"], record["group"], record["changed_step"]) == ("p", "g", 2)
    assert "sibling" not in pair.without_sibling().as_record()


def test_the_seed_decides_and_nothing_else():
    first = [pair.as_record() for pair in make_twin_pairs(STRINGS, 1)[0]]
    assert first == [pair.as_record() for pair in make_twin_pairs(STRINGS, 1)[0]]
    assert first == [
        pair.as_record() for pair in reversed(make_twin_pairs(list(reversed(STRINGS)), 1)[0])
    ]
    assert first != [pair.as_record() for pair in make_twin_pairs(STRINGS, 2)[0]]


def test_the_yield_report_counts_reasons():
    twice = [*STRINGS, STRINGS[0]]
    pairs, reasons = make_twin_pairs(twice)
    lines = yield_report(len(twice), pairs, reasons)
    assert lines[0].startswith("9 questions: 7 have a twin (78%), 7 of them a sibling too; 7 pairs")
    assert "      1  the same text as an earlier question" in lines
    assert any("no number may be changed, mostly: stands not once" in line for line in lines)
    pairs, reasons = make_twin_pairs([STRINGS[2]], per_question=2)
    whole = "1 questions: 1 have a twin (100%), 1 of them a sibling too; 2 pairs"
    assert yield_report(1, pairs, reasons) == [whole]


def test_of_why_no_number_may_be_changed_the_most_common_reason_is_said():
    text = "Ann reads page 5, the 9 pens and all 4 cups."
    _, reasons = make_twin_pairs([question(text, ["<<9+4=13>>", "<<13+5=18>>"], 18)])
    (reason,) = reasons
    assert reason.startswith("no number may be changed, mostly: after the, all")


def test_records_are_read_as_pairs(tmp_path):
    pairs, _ = make_twin_pairs(STRINGS, per_question=2)
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([pair.as_record() for pair in pairs]))
    read = read_pairs(path)
    assert [pair.pair_id for pair in read] == [pair.pair_id for pair in pairs]
    assert read[0].group == read[1].group == "q-1"
    assert read[0].clean.reasoning_steps == pairs[0].clean.steps
    assert read[0].sibling.answer == pairs[0].sibling.answer
    assert read[0].changed_step == pairs[0].changed_step


def test_donors_share_the_value_or_do_not():
    more = [
        question(
            "Gus has 30 pens and loses 17. He sells them at $7.",
            ["<<30-17=13>>", "<<13*7=91>>"],
            91,
            "same",
        ),
        question(
            "Gus has 30 pens and loses 10. He sells them at $7.",
            ["<<30-10=20>>", "<<20*7=140>>"],
            140,
            "other",
        ),
    ]
    pairs, _ = make_twin_pairs([STRINGS[0], *more])
    donors = find_donors(pairs)
    eggs = next(pair for pair in pairs if pair.group == "q-1")
    assert eggs.changed_step == 1
    assert donors["q-1"]["same_value"].name == "same"
    assert donors["q-1"]["different_value"].name in ("same", "other")
    assert donors["same"]["different_value"].name == "other"
    record = donors["same"]["different_value"].as_record()
    assert record["reasoning_steps"] == ["<<30-10=20>>", "<<20*7=140>>"]
    assert record["from"] == "other"


def side(text, *steps):
    return Side(text, steps, results_of(Side(text, steps, Fraction(0)))[-1])


CLEAN_SIDE = side("clean", "<<9-4=5>>", "<<5*2=10>>")
CHANGED = TwinPair("p", "p", CLEAN_SIDE, side("changed", "<<9-3=6>>", "<<6*2=12>>"), None, 1)
POOL = {
    "as the pair": ("<<8-3=5>>", "<<5*3=15>>"),
    "at another step": ("<<1+1=2>>", "<<2+3=5>>", "<<5+1=6>>"),
    "of more steps": ("<<7-2=5>>", "<<5+1=6>>", "<<6+1=7>>"),
    "in the last step": ("<<1+1=2>>", "<<2+3=5>>"),
    "with the clean answer": ("<<8-3=5>>", "<<5*2=10>>"),
    "with the corrupted answer": ("<<8-3=5>>", "<<5+7=12>>"),
    "another value": ("<<8-1=7>>", "<<7*2=14>>"),
    "another value, of more steps": ("<<8-1=7>>", "<<7*2=14>>", "<<14+1=15>>"),
    "the corrupted value": ("<<7-1=6>>", "<<6+1=7>>"),
}


@pytest.mark.parametrize(
    ("names", "same", "different"),
    [
        (
            [name for name in POOL if name != "in the last step"],
            ("as the pair", 1),
            "another value",
        ),
        (["of more steps", "at another step"], ("of more steps", 1), None),
        (["at another step", "in the last step"], ("at another step", 2), "in the last step"),
        (["with the clean answer", "with the corrupted answer"], None, None),
        (["the corrupted value", "another value, of more steps"], None, None),
    ],
)
def test_which_donor_is_taken(names, same, different):
    others = [
        TwinPair(name, name, side(name, *POOL[name]), side(name, *POOL[name]), None, 1)
        for name in names
    ]
    for seed in range(5):
        found = find_donors([CHANGED, *others], seed)["p"]
        taken = {kind: (donor.name, donor.step) for kind, donor in found.items()}
        assert taken.get("same_value") == same
        assert taken.get("different_value") == (different and (different, 1))


def test_the_seed_is_0_unless_given():
    alike = [
        TwinPair(name, name, side(name, *POOL["another value"]), CLEAN_SIDE, None, 1)
        for name in map(str, range(40))
    ]
    drawn = [find_donors([CHANGED, *alike], seed)["p"] for seed in range(3)]
    assert find_donors([CHANGED, *alike])["p"] == drawn[0] != drawn[1]
    made = [[pair.as_record() for pair in make_twin_pairs(STRINGS[:3], seed)[0]] for seed in (0, 1)]
    assert [pair.as_record() for pair in make_twin_pairs(STRINGS[:3])[0]] == made[0] != made[1]


def test_a_number_that_enters_the_last_step_has_no_donor_of_its_value():
    late = replace(CHANGED, changed_step=2)
    other = TwinPair("o", "o", side("o", *POOL["another value"]), CLEAN_SIDE, None, 1)
    ten = TwinPair("t", "t", side("t", "<<8+2=10>>", "<<10+1=11>>"), CLEAN_SIDE, None, 1)
    donors = find_donors([late, other, ten])["p"]
    assert donors.keys() == {"different_value"}
    assert donors["different_value"].as_record()["step"] == 2


def test_a_donor_of_as_many_steps_is_taken_before_one_with_the_value_at_the_same_step():
    three = replace(
        CHANGED,
        clean=side("clean", "<<9-4=5>>", "<<5*2=10>>", "<<10+4=14>>"),
        corrupted=side("changed", "<<9-3=6>>", "<<6*2=12>>", "<<12+4=16>>"),
    )
    others = [
        TwinPair(name, name, side(name, *POOL[name]), CLEAN_SIDE, None, 1)
        for name in ("as the pair", "at another step")
    ]
    donor = find_donors([three, *others])["p"]["same_value"]
    assert (donor.name, donor.step) == ("at another step", 2)


def test_a_donor_may_share_the_value_of_any_step_but_the_last():
    def three(first, last, name):
        return question(
            f"Gus has {first} pens and loses 4. He sells them at $2. He adds ${last}.",
            [f"<<{first}-4={first - 4}>>", f"<<{first - 4}*2={2 * first - 8}>>",
             f"<<{2 * first - 8}+{last}={2 * first - 8 + last}>>"],
            2 * first - 8 + last,
            name,
        )  # fmt: skip

    asked = [three(30, 5, "thirty"), three(30, 7, "also thirty"), three(34, 11, "thirty-four")]
    pairs, _ = make_twin_pairs(asked)
    donors = find_donors([replace(pair, changed_step=2) for pair in pairs])
    donor = donors["thirty"]["same_value"]
    assert (donor.name, donor.step) == ("also thirty", 2)
    assert donors["thirty"]["different_value"].name == "thirty-four"
    assert "same_value" not in donors["thirty-four"]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(
            {"question": EGGS[0], "answer": "He has 16-3=<<16-3=13>>13.\n<<13*2=26>>\n#### 26"}
        ),
        json.dumps([{"question": EGGS[0], "answer": "26", "cot": "<<16-3=13>> <<13*2=26>>"}]),
        json.dumps([{"question": EGGS[0], "answer": "$26", "steps": EGGS[1]}]),
        EGGS[0] + "||<<16-3=13>> <<13*2=26>> #### 26\n\n",
        "\n " + json.dumps([{"question": EGGS[0], "answer": "26", "steps": EGGS[1]}]),
    ],
)
def test_all_forms_of_questions(tmp_path, content):
    path = tmp_path / "test.jsonl"
    path.write_text(content)
    assert read_chained_questions(path, "questions") == [question(*EGGS, name="test-1")]


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ("a <<1+2=3>>3 and <<3+4=7>>", ("<<1+2=3>>", "<<3+4=7>>")),
        (["a <<1+2=3>>3", "b"], ("<<1+2=3>>",)),
        (["1+2=3", " 3+4=7 "], ("<<1+2=3>>", "<<3+4=7>>")),
        (["1+2=3", "so it is 3"], ()),
        ("1+2=3", ()),
        ([], ()),
        (["1+2=3", 7], ()),
        (("1+2=3",), ()),
        (None, ()),
    ],
)
def test_steps_in_texts_and_lists(given, steps):
    assert steps_of(given) == steps


def test_steps_come_from_the_first_form_that_has_some(tmp_path):
    forms = {"steps": "1+1=2", "reasoning_steps": "1+2=3", "cot": "1+3=4"}
    record = {"question": " a ", "answer": "<<1+4=5>> #### 9"}
    record |= {key: [f"<<{step}>>"] for key, step in forms.items()}
    path = tmp_path / "q.json"
    for left in ("1+1=2", "1+2=3", "1+3=4", "1+4=5"):
        path.write_text(json.dumps([record]))
        (found,) = read_chained_questions(path, "questions")
        assert (found.text, found.steps, found.answer) == ("a", (f"<<{left}>>",), 9)
        key = next((key for key, step in forms.items() if step == left), None)
        record.pop(key, None)


def test_questions_without_chains_are_read_beside_those_with_one(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("\n\na||<<1+1=2>> #### 2\n\nb||#### $3\n")
    found = read_chained_questions(path, "questions")
    assert [(q.question_id, q.text, q.steps, q.answer) for q in found] == [
        ("q-1", "a", ("<<1+1=2>>",), 2),
        ("q-2", "b", (), 3),
    ]
    path.write_text("a||<<1+1=2>> #### 2\n\nb|| 3\n")
    with pytest.raises(DataFileError, match=r"line 2: expected question\|\|.*got 'b\|\| 3'"):
        read_chained_questions(path, "questions")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "at least one question"),
        ("what is this", r"line 1: expected question\|\|"),
        ('{"question": 5', "expected a JSON list or one JSON object a line"),
        ('{"text": "a"}', "record 1: expected an object with question and answer"),
        ('{"question": "", "answer": "<<1+1=2>> #### 2"}', "expected question to be text"),
        ('{"question": "a", "answer": "<<1+1=2>> #### two"}', "expected answer to be a number"),
        (
            '{"question": "a", "answer": "<<1+1=2>> #### 2"}\n'
            '{"question": "b", "answer": "#### yes"}',
            r"record 2: expected answer to be a number, got ' yes': set questions",
        ),
        (
            '{"question": "Is Tom a yumpus?", "steps": ["Tom is a wumpus."], "answer": "yes"}',
            "not of logic such as ProsQA or ProntoQA: set questions",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, content, message):
    path = tmp_path / "questions.json"
    path.write_text(content)
    with pytest.raises(DataFileError, match=message):
        read_chained_questions(path, "questions")
    with pytest.raises(DataFileError, match="cannot be read"):
        read_chained_questions(tmp_path / "none.json", "questions")


def test_mentions_and_their_forms():
    text = "In 30 seconds a third of 1/2 dozen, $2.50 or .5, 1,200 and 45% of twenty-one and ½."
    found = [(m.text, m.kind, m.value) for m in find_mentions(text)]
    assert found == [
        ("30", "digits", 30),
        ("third", "fixed", 3),
        ("1/2", "fixed", Fraction(1, 2)),
        ("dozen", "fixed", 12),
        ("2.50", "digits", Fraction(5, 2)),
        (".5", "digits", Fraction(1, 2)),
        ("1,200", "digits", 1200),
        ("45", "percent", 45),
        ("twenty-one", "word", 21),
        ("½", "fixed", Fraction(1, 2)),
    ]
