"""Calculation chains: values by hand."""

from fractions import Fraction

import pytest

from codi_patching.data.chains import ChainError, decimals, format_like, parse_chain


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
    ],
)
def test_dress_of_numbers(value, like, text):
    assert format_like(value, like) == text


def test_a_number_without_an_end_has_no_dress():
    assert decimals(Fraction(1, 3)) is None
    assert [decimals(Fraction(x)) for x in ("5", "1.5", "0.25", "1000")] == [0, 1, 2, 0]
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
