import pytest

from codi_patching.analysis.chains import Chain, split_chains
from codi_patching.analysis.claims import Claim


def claim(verdict, estimate=0.0, column="0", layer="3"):
    return Claim(
        "cell", verdict, estimate, None, None, None, 57, 0.1, layer=layer, column=column
    )  # fmt: skip


def chain(effects, changes):
    return Chain(
        "3",
        tuple(claim(v, column=str(i)) for i, v in enumerate(effects)),
        tuple(claim(v, e, str(i)) for i, (v, e) in enumerate(changes)),
    )


@pytest.mark.parametrize(
    ("effects", "changes", "course"),
    [
        (["no", "yes"], [("yes", 0.3)], "compounds"),
        (["yes", "no"], [("yes", -0.3)], "fades"),
        (["yes", "yes"], [("no", 0.01)], "saturates"),
        (["no", "no"], [("no", 0.01)], "no effect"),
        (["no", "no"], [("undecided", 0.05)], "no effect"),
        (["undecided", "yes"], [("no", 0.01)], "undecided"),
        (["yes", "yes"], [("undecided", 0.2)], "undecided"),
        (["no"], [], "no effect"),
        (["yes"], [], "undecided"),
    ],
)
def test_course(effects, changes, course):
    assert chain(effects, changes).course == course


@pytest.mark.parametrize(
    ("later", "plateau"),
    [
        (["no", "no", "no"], "1"),
        (["yes", "no", "no"], "2"),
        (["no", "undecided", "no"], "3"),
        (["no", "no", "yes"], None),
    ],
)
def test_plateau_is_sought_backwards_until_the_first_failure(later, plateau):
    changes = [("yes", 0.3), *((verdict, 0.1) for verdict in later)]
    assert chain(["no"] * 4 + ["yes"], changes).plateau == plateau


def test_only_a_compounding_chain_has_a_plateau():
    assert chain(["yes", "yes", "yes"], [("no", 0.0), ("no", 0.0)]).plateau is None


def test_claims_are_split_by_layer_and_layers_without_any_left_out():
    effects = [claim("no", layer="3"), claim("yes", layer="5")]
    changes = [claim("no", layer="5")]
    chains = split_chains(["3", "4", "5"], effects, changes)
    assert [found.layer for found in chains] == ["3", "5"]
    assert chains[1].effects == (effects[1],)
    assert chains[1].changes == (changes[0],)
