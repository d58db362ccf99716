"""What is read beside what acts, within strata; what is needed beside what suffices."""

from dataclasses import replace

import numpy as np
import pytest
from by_hand import make_data
from lens_maker import make_lens
from results_maker import make, run_of

from codi_patching.analysis.asking import ask
from codi_patching.analysis.findings import Claim, Comparison
from codi_patching.analysis.questions import PRIMARY
from codi_patching.analysis.study import studies_of
from codi_patching.analysis.used import (
    DIFFERS,
    READ,
    SAME,
    _read_and_used,
    ask_needed,
    ask_read,
    read_and_acting,
)

PAIRS = 60
CELL = (1, 1)


def read(patching, lens):
    (study,) = studies_of([*patching, lens], 0, ())
    (finding,) = ask_read(study)
    return finding, dict(finding.numbers)


def lens(planted=None, chance=None, differs=None):
    data = make_lens(pairs=PAIRS, planted=planted or {}, chance=chance or {}, steps=1)
    if differs is not None:
        data["differs"] = (("pair", "step"), np.asarray(differs, dtype=float)[:, None])
    return data


def patching(acts):
    """Position patching in which some pairs are restored at one cell."""
    data = make(run_of(), pairs=PAIRS)
    data["clean_probability"][:, CELL[0], CELL[1], 0] = np.where(acts, 0.95, 0.02)
    data["clean_probability"][:, CELL[0], CELL[1], 1] = 0.02
    return data.assign_coords(pair=[f"pair_{i:02d}" for i in range(PAIRS)])


HALF = np.arange(PAIRS) % 2 == 0


def test_read_and_used_is_where_the_step_differs():
    finding, numbers = read([patching(HALF)], lens({(0, *CELL): 0.9}, differs=HALF))
    assert finding.answer == "yes"
    assert finding.lead.name == "step 1 at layer 1, position 1"
    assert (numbers["read"], numbers["read and used"]) == (1, 1)
    assert numbers["read and used whether it differs or not"] == 0
    claims = {(c.kind, c.step, c.layer, c.column): c for c in finding.claims}
    assert claims[DIFFERS, 1, "1", "1"].verdict == "rises"
    same = claims[SAME, 1, "1", "1"]
    assert not same.claimed
    assert same.lead.n == 30


def test_what_is_read_where_nothing_acts_is_not_used():
    finding, numbers = read([patching(~HALF)], lens({(0, *CELL): 0.9}, differs=HALF))
    assert finding.answer != "yes"
    assert (numbers["read"], numbers["read and used"]) == (1, 0)


def test_what_is_read_as_often_of_another_pair_is_not_read():
    planted = {(0, *CELL): 0.9}
    finding, numbers = read([patching(HALF)], lens(planted, planted, differs=HALF))
    assert numbers["read"] == 0
    assert finding.answer != "yes"


def test_the_lens_alone_says_what_is_read_and_what_is_missing():
    (study,) = studies_of([lens({(0, *CELL): 0.9}, differs=HALF)], 0, ())
    (finding,) = ask_read(study)
    assert (finding.key, finding.number) == ("read", 6)
    assert (finding.answer, finding.missing, finding.runs) == (
        "described", (("position",),), ("lens",),
    )  # fmt: skip
    assert finding.lead.verdict == "rises"


def test_readings_are_judged_alike_with_and_without_patching():
    seen = lens({(0, *CELL): 0.3}, differs=HALF)
    (alone,) = studies_of([seen], 0, ())
    (of_lens,) = ask_read(alone)
    both, _ = read([patching(HALF)], seen)
    assert repr(of_lens.claims) == repr(
        tuple(c for c in both.claims if c.kind.startswith("read"))
    )  # NaN is not equal to itself


def test_without_the_lens_its_configuration_is_named():
    (study,) = studies_of([patching(HALF)], 0, ())
    (finding,) = ask_read(study)
    assert (finding.key, finding.number) == ("read", 6)
    assert (finding.answer, finding.missing) == ("missing", (("lens",),))


def noising(fall, **changed):
    own = np.full((PAIRS, 2, 2), 0.9)
    own[:, 0, 1] -= fall
    data = make_data(1 - own, np.full(PAIRS, 0.1), direction="noising", **changed)
    data["clean_probability"] = 1 - data["corrupted_probability"]
    data["run_clean_probability"] = 1 - data["run_corrupted_probability"]
    return data


@pytest.fixture
def denoising():
    own = np.full((PAIRS, 2, 2), 0.1)
    own[:, 0, 1] += 0.5 + 0.1 * np.random.default_rng(0).normal(size=PAIRS)
    return make_data(own, np.full(PAIRS, 0.1), direction="denoising")


def needed(*datasets):
    (study,) = studies_of(datasets, 0, ())
    question = next(q for q in PRIMARY if q.key == "cells")
    return next(ask_needed(study, list(ask(question, study))))


def test_what_destroys_the_answer_is_needed(denoising):
    fall = 0.6 + 0.1 * np.random.default_rng(1).normal(size=PAIRS)
    finding = needed(denoising, noising(fall))
    assert finding.answer == "yes"
    assert finding.lead.name == "layer 0, position 1"
    assert dict(finding.numbers) == {"needed": 1, "sufficient": 1, "both": 1}
    assert finding.runs == ("position, recomputed, noising", "position, recomputed")
    assert [c.against for c in finding.lead.comparisons] == ["unpatched"]


def test_what_suffices_without_being_needed_is_not_both(denoising):
    finding = needed(denoising, noising(np.zeros(PAIRS)))
    assert finding.answer == "at most"
    assert dict(finding.numbers)["both"] == 0


def test_noising_is_judged_alike_alone_and_beside_denoising(denoising):
    fall = 0.2 + 0.3 * np.random.default_rng(1).normal(size=PAIRS)
    alone, beside = needed(noising(fall)), needed(denoising, noising(fall))
    same = [replace(claim, kind="needed") for claim in beside.claims]
    assert repr(list(alone.claims)) == repr(same)  # NaN is not equal to itself
    assert (alone.answer, alone.missing) == ("described", (("position",),))


@pytest.mark.parametrize(
    ("arm", "config"),
    [
        ({}, "position"), ({"latents": "frozen"}, "position_frozen"),
        ({"experiment": "layer"}, "layer"),
        ({"experiment": "layer", "latents": "recomputed"}, "layer_recomputed"),
        ({"experiment": "iterative"}, "iterative"),
        ({"experiment": "iterative", "strategy": "cumulative"}, "iterative_cumulative"),
    ],
)  # fmt: skip
def test_of_noising_alone_the_configuration_of_denoising_is_named(arm, config):
    columns = 1 if arm.get("experiment") == "layer" else 2
    kept = 0.9 - np.resize([0.5, 0.7], (PAIRS, 1, 1)) * np.ones((1, 2, columns))
    data = make_data(1 - kept, np.full(PAIRS, 0.1), direction="noising", **arm)
    data["clean_probability"] = 1 - data["corrupted_probability"]
    data["run_clean_probability"] = 1 - data["run_corrupted_probability"]
    (study,) = studies_of([data], 0, ())
    (finding,) = ask_needed(study, [])
    assert (finding.key, finding.number) == ("needed", 8)
    assert (finding.answer, finding.missing) == ("described", ((config,),))
    assert (finding.lead.verdict, finding.lead.kind) == ("rises", "needed")
    assert finding.lead.lead.mean == pytest.approx(0.6)


def test_of_a_users_own_noising_no_configuration_is_named():
    own = noising(0.5 + 0.1 * np.resize([1, -1], PAIRS), experiment="neighbours")
    (study,) = studies_of([own], 0, ())
    (finding,) = ask_needed(study, [])
    assert (finding.answer, finding.missing) == ("described", ())


def test_every_run_of_noising_is_asked_by_itself(denoising):
    """Also after one that has no denoising beside it."""
    fall = 0.6 + 0.1 * np.resize([1, -1], PAIRS)
    runs = noising(fall, latents="frozen"), noising(fall)
    (study,) = studies_of([denoising, *runs], 0, ())
    question = next(q for q in PRIMARY if q.key == "cells")
    found = list(ask_needed(study, list(ask(question, study))))
    assert [(f.runs, f.answer) for f in found] == [
        (("position, frozen, noising",), "described"),
        (("position, recomputed, noising", "position, recomputed"), "yes"),
    ]


def test_falls_within_what_self_patches_show_are_neither_up_nor_down():
    """A KL of 2e-4 nats moves a probability by up to 0.01."""
    data = noising(np.resize([0.009, 0.011], PAIRS))
    data["self_patch"].values[:] = 2e-4
    (study,) = studies_of([data], 0, ())
    (finding,) = ask_needed(study, [])
    (comparison,) = next(c for c in finding.claims if c.column == "1").comparisons
    assert (comparison.up, comparison.down, comparison.n) == (PAIRS // 2, 0, PAIRS)
    assert comparison.mean == pytest.approx(0.01)


def test_where_denoising_was_run_and_not_judged_it_is_described(denoising):
    """Nothing was asked of it, as of runs in which nothing can have an effect."""
    (study,) = studies_of([denoising, noising(np.full(PAIRS, 0.5))], 0, ())
    (finding,) = ask_needed(study, [])
    assert (finding.answer, finding.runs) == ("described", ("position, recomputed, noising",))


def test_without_noising_it_is_missing(denoising):
    finding = needed(denoising)
    assert (finding.key, finding.number) == ("needed", 8)
    assert (finding.answer, finding.missing) == ("missing", (("position", "noising"),))


def test_the_denoising_run_of_the_same_kind_stands_beside(denoising):
    """Frozen noising is set beside frozen denoising, which suffices at another cell."""
    own = np.full((PAIRS, 2, 2), 0.1)
    own[:, 1, 0] += 0.5 + 0.1 * np.random.default_rng(2).normal(size=PAIRS)
    frozen = make_data(own, np.full(PAIRS, 0.1), latents="frozen")
    fall = 0.6 + 0.1 * np.random.default_rng(1).normal(size=PAIRS)
    finding = needed(denoising, frozen, frozen_noising := noising(fall, latents="frozen"))
    assert frozen_noising.attrs["run"].latents == "frozen"
    assert finding.runs == ("position, frozen, noising", "position, frozen")
    assert dict(finding.numbers) == {"needed": 1, "sufficient": 1, "both": 0}
    assert finding.answer == "at most"
    assert {claim.kind for claim in finding.claims} == {"needed"}


def idle(pairs):
    """Position patching that does nothing, and a lens that reads nothing."""
    data = make_data(np.full((pairs, 4, 3), 0.1), np.full(pairs, 0.1), np.full((pairs, 4, 3), 0.1))
    data = data.assign_coords(pair=[f"pair_{i:02d}" for i in range(pairs)])
    return data, make_lens(pairs=pairs, steps=1)


def test_no_takes_bounds_on_everything_that_is_read():
    data, nothing = idle(300)
    nothing["differs"] = (("pair", "step"), (np.arange(300) % 2 == 0)[:, None].astype(float))
    finding, numbers = read([data], nothing)
    assert (finding.key, finding.number, finding.answer) == ("read", 6, "no")
    assert (numbers["read"], numbers["judged"]) == (0, 12)
    somewhere = make_lens(pairs=300, steps=1, planted={(0, 2, 1): 0.5})
    somewhere["differs"] = nothing["differs"]
    finding, numbers = read([data], somewhere)
    assert (finding.answer, numbers["read"]) == ("no", 1)  # read there, and it is not used
    assert finding.lead.name == "step 1 at layer 2, position 1"
    few = somewhere.copy()
    few["differs"] = (("pair", "step"), (np.arange(300) < 40)[:, None].astype(float))
    finding, _ = read([data], few)  # of 40 pairs a use of 0.1 cannot be ruled out
    assert finding.answer == "at most"
    unsure = make_lens(pairs=300, steps=1, planted={(0, 2, 1): 0.5, (0, 0, 0): 0.2})
    unsure["rank"].values[::6, 0, 0, 0, 1] = 0  # nor, here, that it is read
    unsure["differs"] = nothing["differs"]
    assert read([data], unsure)[0].answer == "at most"


def test_few_pairs_or_none_are_counted():
    data, nothing = idle(12)
    assert read([data], nothing)[0].answer == "counts"
    data, nothing = idle(12)
    finding, _ = read([data], nothing.isel(pair=slice(0)))
    assert (finding.key, finding.number, finding.answer) == ("read", 6, "counts")
    assert finding.runs == ("lens",)


def test_what_is_read_leads_where_nothing_is_used():
    finding, _ = read([patching(~HALF)], lens({(0, *CELL): 0.9, (0, 3, 2): 0.5}, differs=HALF))
    assert finding.lead.name == "step 1 at layer 1, position 1"
    finding, _ = read([patching(~HALF)], lens({(0, 3, 2): 0.05}, differs=HALF))
    assert finding.lead.name == "step 1 at layer 3, position 2"  # the most, though not claimed


def test_where_no_cell_can_have_an_effect_what_is_read_stands_alone():
    """Of one layer nothing reads its frozen patches: they are no run to set beside the lens."""
    frozen = make(run_of(layers=1, latents="frozen"), pairs=24)
    seen = make_lens(pairs=24, layers=1, planted={(0, 0, 1): 0.9}, steps=1)
    (study,) = studies_of([frozen, seen], 0, ())
    (finding,) = ask_read(study)
    assert (finding.answer, finding.runs, finding.missing) == (
        "described", ("lens",), (("position",),),
    )  # fmt: skip
    assert (finding.lead.column, finding.lead.verdict) == ("1", "rises")


def test_of_nothing_at_all_lens_and_positions_are_missing():
    (study,) = studies_of([make(run_of("layer"), pairs=2)], 0, ())
    (finding,) = ask_read(study)
    assert (finding.answer, finding.missing) == ("missing", (("lens",), ("position",)))


def claim(kind, verdict, step=1, layer="0", column="0", mean=0.3):
    """A claim of one comparison."""
    comparison = Comparison("unpatched", mean, mean - 0.1, mean + 0.1, 5, 0, 60, 60)
    name = f"step {step} at layer {layer}, position {column}"
    return Claim(name, verdict, (comparison,), 0.01, 0.5, layer, column, kind, "probability", step)


@pytest.mark.parametrize(
    ("verdict", "other", "used"),
    [
        ("rises", "rises", True), ("more often", "more often", True), ("falls", "rises", False),
        ("rises", "falls", False), ("less often", "rises", False), ("rises", "at most", False),
    ],
)  # fmt: skip
def test_read_and_acting_takes_a_rise_of_both(verdict, other, used):
    read = claim(READ, verdict)
    assert read_and_acting([read, claim(DIFFERS, other)]) == (read,) * used
    assert read_and_acting([read, claim(SAME, other)]) == ()


@pytest.mark.parametrize("place", [{"step": 2}, {"layer": "1"}, {"column": "1"}])
def test_read_and_acting_is_at_one_place_and_of_one_step(place):
    read = claim(READ, "rises")
    assert read_and_acting([read, claim(DIFFERS, "rises", **place)]) == ()
    both = claim(READ, "rises", **place), claim(DIFFERS, "rises", **place)
    assert read_and_acting([read, *both]) == both[:1]


def joined(read, acts):
    finding = _read_and_used(tuple(read), tuple(acts), ("position, recomputed", "lens"))
    return finding, dict(finding.numbers)


def test_what_acts_where_the_step_is_the_same_too_is_counted_apart():
    read = [claim(READ, "rises", column=c) for c in "012"] + [claim(READ, "at most", column="3")]
    acts = [claim(DIFFERS, "rises", column=c) for c in "013"]
    acts += [claim(SAME, "more often", column="1"), claim(SAME, "falls", column="0")]
    finding, numbers = joined(read, acts)
    assert finding.answer == "yes"
    assert numbers == {
        "read": 3, "read and used": 2, "read and used whether it differs or not": 1, "judged": 4,
    }  # fmt: skip
    assert finding.claims == (*read, *acts)


def test_the_lead_is_used_or_else_read_or_else_the_most():
    low, high = claim(READ, "rises", mean=0.3), claim(READ, "rises", column="1", mean=0.6)
    most = claim(READ, "at most", column="2", mean=0.9)
    lower = claim(READ, "falls", column="3", mean=-0.95)
    read = [low, high, most, lower]
    assert joined(read, [claim(DIFFERS, "rises")])[0].lead == low
    assert joined(read, [claim(DIFFERS, "at most")])[0].lead == high
    assert joined([most, lower], [claim(DIFFERS, "at most")])[0].lead == most


@pytest.mark.parametrize(
    ("read", "acts", "answer"),
    [
        (["no", "no"], ["no", "no"], "no"),
        (["no", "no"], ["at most", "at most"], "no"),  # what is not read is not used
        (["rises", "no"], ["no", "at most"], "no"),  # nor what is read and does not act
        (["rises", "no"], ["at most", "no"], "at most"),
        (["rises", "at most"], ["no", "no"], "at most"),
        (["rises", "falls"], ["no", "no"], "at most"),
        (["counts", "counts"], ["no", "no"], "counts"),
        (["no", "no"], ["counts", "counts"], "counts"),
        (["no", "counts"], ["no", "no"], "at most"),
        ([], ["no"], "counts"),
        (["no"], [], "counts"),
        (["rises"], ["rises"], "yes"),
    ],
)
def test_no_takes_that_nothing_can_be_both_read_and_used(read, acts, answer):
    finding, _ = joined(
        [claim(READ, verdict, column=str(at)) for at, verdict in enumerate(read)],
        [claim(DIFFERS, verdict, column=str(at)) for at, verdict in enumerate(acts)],
    )
    assert finding.answer == answer


def test_what_is_read_where_a_patch_cannot_act_is_not_used():
    """A cell without a claim of acting can have no effect."""
    read = [claim(READ, "rises"), claim(READ, "no", column="1")]
    assert joined(read, [claim(DIFFERS, "no", column="1")])[0].answer == "no"
