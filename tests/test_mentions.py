"""The numbers of a text: what they are worth, in all their forms."""

from fractions import Fraction

import pytest

from codi_patching.data.chains import ChainError
from codi_patching.data.mentions import find_mentions


def only(text):
    (mention,) = find_mentions(text)
    return mention


ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEENS = [
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def test_number_words_up_to_ninety_nine():
    words = [*ONES, *TEENS]
    for ten in TENS:
        words += [ten, *(f"{ten}-{one}" for one in ONES[1:])]
    found = find_mentions(", ".join(words))
    assert [mention.text for mention in found] == words
    assert [mention.value for mention in found] == list(range(100))
    assert {mention.kind for mention in found} == {"word"}
    assert only("FORTY TWO pens").value == 42


FIXED = {
    "half": "1/2 2 3/2",
    "halves": "1/2 2",
    "halved": "1/2 2",
    "twice": "2",
    "double": "2",
    "doubled": "2",
    "doubles": "2",
    "both": "2",
    "pair": "2",
    "pairs": "2",
    "couple": "2",
    "twins": "2",
    "triple": "3",
    "tripled": "3",
    "triples": "3",
    "thrice": "3",
    "triplets": "3",
    "quadruple": "4",
    "quadrupled": "4",
    "dozen": "12",
    "dozens": "12",
    "quarter": "1/4 4 3/4 25",
    "quarters": "1/4 4 3/4 25",
    "hundred": "100",
    "hundreds": "100",
    "thousand": "1000",
    "millions": "1000000",
    "billion": "1000000000",
    "first": "1 1 0 2",
    "second": "2 1/2 1/2 3/2",
    "third": "3 1/3 2/3 4/3",
    "thirds": "3 1/3 2/3 4/3",
    "Fourth": "4 1/4 3/4 5/4",
    "fifths": "5 1/5 4/5 6/5",
    "sixth": "6 1/6 5/6 7/6",
    "seventh": "7 1/7 6/7 8/7",
    "eighth": "8 1/8 7/8 9/8",
    "ninth": "9 1/9 8/9 10/9",
    "tenths": "10 1/10 9/10 11/10",
    "eleventh": "11 1/11 10/11 12/11",
    "twelfth": "12 1/12 11/12 13/12",
    "fifteenth": "15 1/15 14/15 16/15",
    "twentieth": "20 1/20 19/20 21/20",
    "3/4": "3/4 1/4 7/4 3 4",
    "3 / 0": "3",
    "½": "1/2 1/2 3/2 2",
    "⅓": "1/3 2/3 4/3 3",
    "¼": "1/4 3/4 5/4 4",
    "¾": "3/4 1/4 7/4 4/3",
    "⅔": "2/3 1/3 5/3 3/2",
}


@pytest.mark.parametrize("text", FIXED)
def test_words_and_fractions_that_are_never_changed(text):
    mention = only(f"Ann sees {text} of it.")
    assert (mention.kind, mention.text) == ("fixed", text)
    assert list(mention.forms.values()) == [Fraction(form) for form in FIXED[text].split()]
    assert mention.value == mention.forms["0"]


@pytest.mark.parametrize(
    ("text", "kind", "forms"),
    [
        ("30%", "percent", "30 3/10 7/10 13/10"),
        ("30 %", "percent", "30 3/10 7/10 13/10"),
        ("30 Percent", "percent", "30 3/10 7/10 13/10"),
        ("thirty-percent", "percent", "30 3/10 7/10 13/10"),
        ("75¢", "cents", "75 3/4"),
        ("75 cents", "cents", "75 3/4"),
        ("75 centuries", "digits", "75"),
        ("75 pens, or 30%", "digits", "75"),
        ("seventy-five pens", "word", "75"),
        ("$1,200.50", "digits", "2401/2"),
        ("(.5)", "digits", "1/2"),
    ],
)
def test_forms_by_what_follows_a_number(text, kind, forms):
    mention = find_mentions(f"Ann has {text} here.")[0]
    assert mention.kind == kind
    assert list(mention.forms.values()) == [Fraction(form) for form in forms.split()]
    assert mention.changed_forms(mention.value) == mention.forms


def test_a_mention_is_where_it_stands():
    text = "Ann has 1,200 pens, three cups and a half."
    assert [text[m.start : m.end] for m in find_mentions(text)] == ["1,200", "three", "half"]


def test_the_forms_of_another_percentage():
    changed = only("Ann saves 30% here.").changed_forms(Fraction(40))
    assert changed == {
        "p": 40,
        "p/100": Fraction(2, 5),
        "1-p/100": Fraction(3, 5),
        "1+p/100": Fraction(7, 5),
    }


def test_seconds_of_time_are_no_number_and_two_seconds_is_2():
    assert [m.value for m in find_mentions("It takes two seconds.")] == [2]


@pytest.mark.parametrize(
    ("text", "value", "dressed"),
    [
        ("three pens", 20, "twenty"),
        ("Three pens", 21, "Twenty-one"),
        ("3 pens", 20, "20"),
        ("1,200 pens", 1300, "1,300"),
        ("2.50 dollars", 3, "3.00"),
    ],
)
def test_another_number_is_written_like_the_old_one(text, value, dressed):
    assert only(text).dress(Fraction(value)) == dressed


@pytest.mark.parametrize("value", [Fraction(5, 2), Fraction(100)])
def test_numbers_for_which_there_is_no_word(value):
    with pytest.raises(ChainError, match="no word"):
        only("three pens").dress(value)
