"""Twins of questions: worked by hand, refused by rule, and checked by another calculator."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest

from codi_patching.data.chained_questions import (
    ChainedQuestion,
    read_chained_questions,
)
from codi_patching.data.chains import ChainError
from codi_patching.data.change_rules import why_fixed
from codi_patching.data.donors import find_donors
from codi_patching.data.explained import read_question
from codi_patching.data.json_lines import DataFileError
from codi_patching.data.mentions import find_mentions
from codi_patching.data.pair_files import read_pairs
from codi_patching.data.twin_pairs import make_twin_pairs, yield_report
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
    ],
)
def test_numbers_that_may_not_be_changed(text, number, reason):
    mentions = find_mentions(text)
    mention = next(mention for mention in mentions if mention.text == number)
    found = why_fixed(text, mention, mentions)
    assert (found is None) if reason is None else (reason in found), found


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
    first = list(new_numbers(read, place_of(read, "80,000"), Random(0)))[:2]
    assert sorted(first) == [79_000, 81_000]


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
    ],
)
def test_all_forms_of_questions(tmp_path, content):
    path = tmp_path / "test.jsonl"
    path.write_text(content)
    assert read_chained_questions(path, "questions") == [question(*EGGS, name="test-1")]


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
