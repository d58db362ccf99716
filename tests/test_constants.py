"""Constants that words license: the sizes of units and what else a word stands for."""

from fractions import Fraction

import pytest

from codi_patching.data.constants import licensed_constants, unit_size, units_in

LICENSED = {
    "seconds of minutes": "60",
    "minutes and hours": "60",
    "seconds of an hour": "3600",
    "hours, daily": "24",
    "days of a week": "7",
    "days of months": "30",
    "days of years": "365",
    "weeks of a month": "4",
    "weeks of a year": "52",
    "months of a year": "12",
    "years of decades": "10",
    "years of a century": "100",
    "inches of a foot": "12",
    "inches of a yard": "36",
    "feet of a yard": "3",
    "feet of a mile": "5280",
    "mm of a cm": "10",
    "centimeters of a meter": "100",
    "mm of a metre": "1000",
    "m of a km": "1000",
    "ounces of a pound": "16",
    "lbs of a ton": "2000",
    "grams of a kilo": "1000",
    "mg of a gram": "1000",
    "ml of a liter": "1000",
    "cups of a pint": "2",
    "cups of a quart": "4",
    "cups of a gallon": "16",
    "pints of a quart": "2",
    "pints of a gallon": "8",
    "quarts of a gallon": "4",
    "cents of a dollar": "100",
    "9¢ of $2": "100",
    "percentage": "100 1/100",
    "half of it": "1/2 2",
    "the average": "",
    "a round trip": "2",
    "on weekdays": "5",
    "at weekends": "2",
    "nickels": "5 1/20",
    "dimes": "10 1/10",
    "quarters": "25 1/4 4",
    "a penny": "1/100",
    "a square": "4",
    "a triangle": "3",
    "two dozens": "12",
    "a score": "20",
    "paid quarterly": "4",
    "a leap year": "366",
    "in February": "28",
    "in April": "30",
    "in June": "30",
    "in September": "30",
    "in November": "30",
    "in January": "31",
    "in March": "31",
    "in May": "31",
    "in July": "31",
    "in August": "31",
    "in October": "31",
    "in December": "31",
    "hours alone, and miles": "",
    "bystanders of a footer": "",
}


@pytest.mark.parametrize("text", LICENSED)
def test_the_constants_of_words_and_1(text):
    expected = {Fraction(1), *map(Fraction, LICENSED[text].split())}
    assert licensed_constants(text) == expected


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        (7, "days of a week", True),
        (8, "days of a week", False),
        (7, "days of a year", False),
        (7, "days", False),
        (7, "weeks", False),
        (12, "months of years, and feet", True),
    ],
)
def test_a_number_is_the_size_of_a_unit_where_both_units_are_spoken_of(value, text, found):
    assert unit_size(Fraction(value), text) is found


def test_units_are_whole_words_in_any_case():
    assert units_in("Five Hours at 2 pm in Weekly feet") == {"hour", "week", "foot"}
