"""Calculation chains: values by hand."""

from fractions import Fraction

import pytest

from codi_patching.data.chains import (
    ChainError,
    Operand,
    decimals,
    format_like,
    parse_chain,
    stated_result,
    terms_of,
)


def only(text):
    return parse_chain([text])[0]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("<<16-3-4=9>>", [13, 9]),
        ("<<2+3*4=14>>", [12, 14]),
        ("<<(2+3)*4=20>>", [5, 20]),
        ("<<100/5/2=10>>", [20, 10]),
        ("<<10-(3-1)=8>>", [2, 8]),
        ("<< 30/100 * 2,000 = 600 >>", [Fraction(3, 10), 600]),
        ("<<4*.5=2.00>>", [2]),
        ("<<7=7>>", [7]),
        ("<<10-4+3=9>>", [6, 9]),
        ("<<24/4*3=18>>", [6, 18]),
        ("<<10-2*3=4>>", [6, 4]),
        ("<<2*(3+(9-5)/2)-1=9>>", [4, 2, 5, 10, 9]),
        ("5\u22123=2 ", [2]),
    ],
)
def test_values_of_all_operations(text, values):
    step = only(text)
    assert step.values([operand.value for operand in step.operands]) == values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<<16-3>>", "not of the form expression=result"),
        ("<<16-3=13=13>>", "not of the form expression=result"),
        ("<<1/3=1/3>>", "result is not a number"),
        ("<<10/3=3.33>>", "not what it gives"),
        ("<<2+2=5>>", "not what it gives"),
        ("<<3/0=1>>", "division by zero"),
        ("<<2x3=6>>", "something besides numbers"),
        ("<<5*20%=1>>", "something besides numbers"),
        ("<<+8=8>>", "not well formed"),
        ("<<(1+2=3>>", "not well formed"),
        ("<<=3>>", "not well formed"),
        ("<<1 2=12>>", "not well formed"),
    ],
)
def test_steps_that_are_refused(text, reason):
    with pytest.raises(ChainError, match=reason):
        only(text)


def test_a_step_is_written_again_in_its_own_dress():
    step = only("<<80,000*(2.5/100)=2,000>>")
    new = [Fraction(90_000), Fraction(5, 2), Fraction(100)]
    assert step.text(new, step.values(new)[-1]) == "<<90,000*(2.5/100)=2,250>>"
    step = only("<<10*.50=5.00>>")
    new = [Fraction(12), Fraction(1, 2)]
    assert step.text(new, Fraction(6)) == "<<12*.50=6.00>>"


@pytest.mark.parametrize(
    ("value", "like", "text"),
    [
        (Fraction(-5), "3", "-5"),
        (Fraction(-1, 4), "1", "-0.25"),
        (Fraction(7, 2), "12", "3.5"),
        (Fraction(1234), "5", "1234"),
        (Fraction(1234), "5,000", "1,234"),
        (Fraction(3, 100), ".5", ".03"),
        (Fraction(3, 100), "0.5", "0.03"),
        (Fraction(3), "2.5", "3"),
        (Fraction(3, 4), "2.5", "0.75"),
        (Fraction(5, 2), "0.125", "2.500"),
        (Fraction(0), ".5", "0"),
        (Fraction(0), "5", "0"),
        (Fraction(24691, 2), "1,000", "12,345.5"),
        (Fraction(-1234567), "5,000", "-1,234,567"),
        (Fraction(-1, 2), ".5", "-.5"),
        (Fraction(21, 20), "1", "1.05"),
    ],
)
def test_dress_of_numbers(value, like, text):
    assert format_like(value, like) == text


def test_a_number_without_an_end_has_no_dress():
    assert decimals(Fraction(1, 3)) is None
    assert decimals(Fraction(1, 70)) is None
    digits = {"5": 0, "1.5": 1, "0.25": 2, "1000": 0, "0.01": 2, "0.05": 2, "0.04": 2, "0.125": 3}
    digits |= {"0.008": 3, "0.00032": 5, "0.0025": 4}
    assert {text: decimals(Fraction(text)) for text in digits} == digits
    with pytest.raises(ChainError, match="without an end"):
        format_like(Fraction(1, 3), "3")


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("<<18/7=2>>", True),  # a whole number of bags
        ("<<18/7=3>>", True),  # of buses
        ("<<10/3=3.33>>", True),
        ("<<10/3=3.4>>", True),
        ("<<10/3=3.5>>", False),
        ("<<18/7=4>>", False),
        ("<<2+2=5>>", False),
    ],
)
def test_results_may_be_rounded_to_their_digits_where_that_is_asked_for(text, accepted):
    with pytest.raises(ChainError, match="rounded, or wrong"):
        parse_chain([text])
    if accepted:
        parse_chain([text], rounded=True)
    else:
        with pytest.raises(ChainError, match="rounded, or wrong"):
            parse_chain([text], rounded=True)


def test_an_expression_may_have_200_numbers_and_signs_and_a_chain_100_steps():
    ones = "+".join(["1"] * 100)
    assert only(f"<<{ones}=100>>").result == 100
    with pytest.raises(ChainError, match="more than 200 numbers and signs"):
        only(f"<<({ones})=100>>")
    assert len(parse_chain(["1+1=2"] * 100)) == 100
    with pytest.raises(ChainError, match="more than 100 steps"):
        parse_chain(["1+1=2"] * 101)


def test_a_number_that_stays_is_written_as_it_was():
    step = only("<<3.0*02=6.0>>")
    assert step.text([Fraction(3), Fraction(2)], Fraction(6)) == "<<3.0*02=6>>"
    assert step.text([Fraction(4), Fraction(2)], Fraction(8)) == "<<4*02=8>>"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("7=7", ["7"]),
        ("2*3=6", ["*"]),
        ("9-2=7", ["-"]),
        ("1+2*3+4=11", ["1", "*", "4"]),
        ("1+(2+3)=6", ["1", "2", "3"]),
        ("5+(9-2)+1=13", ["5", "-", "1"]),
    ],
)
def test_terms_of_a_sum_from_the_left(text, terms):
    found = terms_of(only(text).expression)
    assert [each.text if isinstance(each, Operand) else each.operator for each in found] == terms


@pytest.mark.parametrize(
    ("step", "stated"),
    [("<<1+2=4>>", 4), ("1+2 = 3 ", 3), ("a=b=2.5", Fraction(5, 2)), ("3 pens", "3 pens")],
)
def test_what_a_step_says_that_it_gives_right_or_wrong(step, stated):
    assert stated_result(step) == stated


def test_rounding_is_by_less_than_one_of_the_last_digit():
    parse_chain(["<<601/200=3.1>>", "<<1/8=0.13>>", "<<1/8=0.12>>", "<<1/8=.125>>"], rounded=True)
    for wrong in ("<<1/8=0.135>>", "<<1/8=0.126>>", "<<5/2=3.5>>", "<<5/2=1.5>>"):
        with pytest.raises(ChainError, match="rounded, or wrong"):
            parse_chain([wrong], rounded=True)
