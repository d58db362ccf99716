"""What chains do, layer by layer, from effects that are planted."""

from dataclasses import replace

import numpy as np
import pytest
from by_hand import make_data
from scipy import stats

from codi_patching.analysis.courses import ask_chains, course_of, ratio_interval, total_claims
from codi_patching.analysis.findings import Claim, Comparison
from codi_patching.analysis.study import studies_of

PAIRS = 57


def chain(rows, deviation=0.05, pairs=PAIRS, zeros=(), strategy="cumulative", seed=0):
    """A chain whose mean content effects are these, `(layers, iterations)`."""
    rng = np.random.default_rng(seed)
    means = np.asarray(rows, dtype=float)
    change = means + deviation * rng.normal(size=(pairs, *means.shape)) * (means != 0)
    for cell in zeros:
        change[:, *cell] = 0
    control = 0.5 + 0.001 * rng.normal(size=change.shape)
    return make_data(
        0.5 + change, np.full(pairs, 0.5), control, "iterative", zeros, strategy=strategy
    )


def asked(data):
    (study,) = studies_of([data], 0, ())
    (finding,) = ask_chains(study)
    return finding


COURSES = [
    ([0.2, 0.3, 0.45], "compounds"),
    ([-0.2, -0.3, -0.45], "compounds"),
    ([0.4, 0.4, 0.4], "saturates"),
    ([0.45, 0.2, 0.1], "fades"),
    ([-0.45, -0.2, 0.0], "fades"),
    ([0.3, 0.0, -0.3], "turns"),
    ([-0.3, 0.0, 0.3], "turns"),
    ([0.0, 0.0, 0.0], "none"),
]


@pytest.fixture(scope="module")
def finding():
    return asked(chain([row for row, _ in COURSES], deviation=0.01, pairs=200))


@pytest.mark.parametrize("place", range(len(COURSES)))
def test_a_course_goes_by_the_sign_of_what_the_first_patch_did(finding, place):
    assert finding.courses[place].course == COURSES[place][1]


def test_a_chain_that_goes_up_to_nothing_does_not_compound(finding):
    """From -0.45 to 0 the change is positive, and what the first patch did fades."""
    course = finding.courses[4]
    assert course.change.verdict == "rises"
    assert course.course == "fades"


def test_a_share_is_given_only_where_the_first_effect_is_claimed(finding):
    shares = [course.share for course in finding.courses]
    assert shares[-1] is None
    assert shares[0][0] == pytest.approx(0.45 / 0.2, rel=0.05)
    assert shares[0][1] < shares[0][0] < shares[0][2]


def test_a_change_that_is_neither_claimed_nor_small_leaves_the_course_open():
    finding = asked(chain([[0.4, 0.4, 0.45]], deviation=0.3))
    assert finding.courses[0].effects[0].verdict == "rises"
    assert finding.courses[0].course == "open"


def test_ends_are_the_same_iteration_at_every_layer():
    """The last layer has no third iteration: all ends are the second, what comes later is shown."""
    rows = [[0.3, 0.3, 0.0], [0.3, 0.3, 0.3]]
    finding = asked(chain(rows, 0.01, zeros=[(1, 2)], strategy="relay"))
    assert [course.change.column for course in finding.courses] == ["1", "1"]
    assert [len(course.effects) for course in finding.courses] == [3, 2]
    assert [round(course.share[0], 1) for course in finding.courses] == [1.0, 1.0]


def test_noise_alone_has_no_course():
    rng = np.random.default_rng(3)
    own = 0.5 + 0.1 * rng.standard_t(3, (PAIRS, 6, 4)).clip(-4, 4)
    finding = asked(make_data(own, np.full(PAIRS, 0.5), None, "iterative"))
    assert {course.course for course in finding.courses} == {"none"}
    assert finding.answer == "at most"


def test_under_twenty_pairs_nothing_is_told():
    finding = asked(chain([[0.4, 0.4, 0.4]], pairs=15))
    assert finding.answer == "counts"
    assert finding.courses[0].course == "none"


def test_missing_chains_name_their_configurations():
    (study,) = studies_of([make_data(np.zeros((2, 2, 2)), [0, 0])], 0, ())
    (finding,) = ask_chains(study)
    assert finding.answer == "missing"
    assert finding.missing == (("iterative",), ("iterative_cumulative",))


def test_fiellers_interval_holds_the_ratios_that_no_test_rejects():
    """An end of the interval is a ratio r at which the mean of above - r below has t at 2.5 %."""
    rng = np.random.default_rng(1)
    below = rng.normal(0.5, 0.3, 40)
    above = 0.4 * below + rng.normal(0, 0.1, 40)
    names = [f"p{i}" for i in range(40)]
    ratio, low, high = ratio_interval(above, below, names)
    assert ratio == pytest.approx(above.mean() / below.mean())
    for end in (low, high):
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05)


def test_a_ratio_to_what_may_be_nothing_has_no_interval():
    rng = np.random.default_rng(1)
    names = [f"p{i}" for i in range(40)]
    above, below = rng.normal(size=40), rng.normal(0.1, 1, 40)
    ratio, low, high = ratio_interval(above, below, names)
    assert ratio == pytest.approx(above.mean() / below.mean())
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize(("share", "bounded"), [(1.01, True), (0.99, False)])
def test_a_ratio_is_bounded_exactly_where_what_it_is_to_is_told_from_nothing(share, bounded):
    """Where t of the first effect's mean is over or under its quantile at 97.5 %."""
    below = np.random.default_rng(1).normal(size=40)
    error = below.std(ddof=1) / np.sqrt(40)
    below += share * stats.t.ppf(0.975, 39) * error - below.mean()
    names = [f"p{i}" for i in range(40)]
    _, *ends = ratio_interval(np.random.default_rng(2).normal(size=40), below, names)
    assert np.isfinite(ends).all() == bounded


def test_a_ratio_is_of_the_pairs_that_have_both_and_of_whole_groups():
    rng = np.random.default_rng(4)
    below = rng.normal(0.5, 0.2, 30)
    above = -0.6 * below + rng.normal(0, 0.1, 30)
    names = [f"p{i}" for i in range(30)]
    expected = ratio_interval(above, below, names)
    assert expected[1] < expected[0] < expected[2] < 0
    more = np.append(above, [np.nan, 9.0]), np.append(below, [9.0, np.nan])
    assert ratio_interval(*more, [*names, "q", "r"]) == pytest.approx(expected)
    twice = [name for name in names for _ in "ab"]
    assert ratio_interval(above.repeat(2), below.repeat(2), twice) == pytest.approx(expected)


def test_a_single_group_has_a_ratio_and_no_interval():
    above, below = np.array([3.0, 5.0]), np.array([2.0, 6.0])
    np.testing.assert_array_equal(ratio_interval(above, below, ["a", "a"]), [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(
        ratio_interval(above, below / 2, ["a", "a"]), [2.0, np.nan, np.nan]
    )
    for groups in (["a", "a"], ["a", "b"]):
        assert np.isnan(ratio_interval(above, np.array([1.0, -1.0]), groups)).all()


def test_a_constant_first_effect_leaves_the_ends_own_interval():
    above = np.random.default_rng(2).normal(0.3, 0.1, 30)
    names = [f"p{i}" for i in range(30)]
    _, low, high = ratio_interval(above, np.full(30, 0.5), names)
    interval = stats.ttest_1samp(above / 0.5, 0).confidence_interval()
    assert (low, high) == pytest.approx((interval.low, interval.high))


def test_a_claim_of_pairs_counts_as_a_claim(finding):
    first = replace(finding.courses[0].effects[0], verdict="more often")
    assert first.claimed


def test_of_two_groups_a_ratio_has_an_interval():
    """0.2 and 0.4 over 0.5: 0.6, and t of one degree, 12.7, times 0.1 / 0.5 either way."""
    found = ratio_interval(np.array([0.2, 0.4]), np.array([0.5, 0.5]), ["a", "b"])
    half = stats.t.ppf(0.975, 1) * 0.1 / 0.5
    assert found == pytest.approx((0.6, 0.6 - half, 0.6 + half))


def test_a_change_leads_only_where_something_is_told():
    """Of 15 pairs nothing is: 0.1 leads, not the rise of 0.5 from -0.4 to there."""
    found = asked(chain([[-0.4, 0.1]], pairs=15))
    assert (found.lead.kind, found.lead.column) == ("content", "1")
    assert found.lead.lead.mean == pytest.approx(0.1, abs=0.05)


def claim(verdict, column="0", mean=0.3, layer="0", kind="content"):
    """A claim of one comparison."""
    comparison = Comparison("unpatched", mean, mean - 0.1, mean + 0.1, 5, 0, 60, 60)
    return Claim(f"layer {layer}", verdict, (comparison,), 0.01, 0.5, layer, column, kind)


UP, DOWN, OPEN = ("rises", "more often"), ("falls", "less often"), ("at most", "counts")


@pytest.mark.parametrize(
    ("first", "change", "last", "course"),
    [
        *((one, "no", last, "saturates") for one in UP + DOWN for last in ("rises", "falls")),
        *((one, left, last, "open") for one in UP + DOWN for left in OPEN for last in UP + DOWN),
        *((one, way, last, "compounds") for one in UP for way in UP for last in UP + DOWN + OPEN),
        *((one, way, "at most", "compounds") for one in DOWN for way in DOWN),
        *((one, way, last, "fades") for one in UP for way in DOWN for last in (*UP, *OPEN, "no")),
        *((one, way, last, "fades") for one in DOWN for way in UP for last in (*DOWN, *OPEN, "no")),
        *((one, way, last, "turns") for one in UP for way in DOWN for last in DOWN),
        *((one, way, last, "turns") for one in DOWN for way in UP for last in UP),
    ],
)
def test_what_a_chain_does_is_told_by_what_is_claimed(first, change, last, course):
    assert course_of(claim(first), claim(change), claim(last)) == course


def test_the_answer_leads_with_the_change_of_the_largest_first_effect(finding):
    """Of chains of which something is told: in size, whichever way they go."""
    data = chain([[0.2, 0.3, 0.4], [-0.4, -0.3, -0.2], [0.49, 0.495, 0.5]], 0.01, pairs=100)
    data["clean_probability"].values[:, 2, 0] = 0.5  # nothing is done at first: nothing is told
    found = asked(data)
    assert [course.course for course in found.courses] == ["compounds", "fades", "none"]
    assert (found.key, found.number, found.answer) == ("chain", 5, "yes")
    assert found.lead == found.courses[1].change
    assert found.lead.name == "layer 1, iteration 2 minus 0"
    assert found.lead.lead.mean == pytest.approx(0.2, abs=0.01)


def test_where_nothing_is_told_of_chains_the_largest_rise_leads():
    """What falls by more does not: only a rise answers."""
    found = asked(chain([[0.4, 0.4, 0.45], [-0.45, -0.4, -0.48]], deviation=0.3))
    assert {course.course for course in found.courses} == {"open"}
    assert (found.answer, found.lead.kind, found.lead.layer) == ("at most", "content", "0")
    assert found.lead.lead.mean > 0


def test_where_no_cell_can_have_an_effect_no_chain_is_asked():
    """Of one layer and one thought, relay's one cell is read by nothing."""
    nothing = chain([[0.0]], zeros=[(0, 0)], strategy="relay")
    found = asked(nothing)
    assert (found.answer, found.missing) == ("missing", (("iterative_cumulative",),))
    (study,) = studies_of([nothing, chain([[0.3]])], 0, ())
    (finding,) = ask_chains(study)
    assert (finding.runs, finding.courses[0].course) == (("cumulative",), "none")
    assert (finding.courses[0].change, finding.courses[0].share) == (None, None)
    assert finding.lead == finding.courses[0].effects[0]


def test_claims_of_the_total_are_those_of_the_chains_end():
    """The second iteration: the last layer has no third."""
    data = chain([[0.3, 0.3, 0.3], [0.3, 0.3, 0.0]], zeros=[(1, 2)], strategy="relay")
    claims = tuple(claim("rises", column, layer=layer) for layer in "01" for column in "012")
    change = claim("rises", "1", kind="last minus first")
    finding = replace(asked(data), claims=(*claims, change))
    assert total_claims(finding, data) == tuple(
        claim("rises", "1", layer=layer, kind="total") for layer in "01"
    )
