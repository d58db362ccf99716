"""What the lens reads beside what patching does: planted, by hand, and without any effect."""

import numpy as np
import pytest
from by_hand import make_arm
from lens_maker import make_lens
from results_maker import make, run_of

from codi_patching.analysis.findings import find
from codi_patching.analysis.from_results import as_arm, as_readings
from codi_patching.analysis.max_t import draw_signs, max_t
from codi_patching.analysis.readings import LENS, Readings
from codi_patching.analysis.simulated import simulate

FLIPS = 999
PAIRS = 60


def lens_finding(arms, readings, flips=FLIPS):
    """The one finding about the lens."""
    found = find(arms, flips=flips, readings=readings)
    (finding,) = [f for f in found if f.family == "the lens"]
    return finding


def yes(finding, kind):
    return {(c.layer, c.column) for c in finding.claims if c.verdict == "yes" and c.kind == kind}


@pytest.fixture(scope="module")
def agreeing():
    """Step 1 is read at two cells, of which one carries the answer; a third carries it unread."""
    arm = as_arm(make(run_of(), pairs=PAIRS, planted={(1, 1): 0.5, (2, 2): 0.5}))
    lens = make_lens(PAIRS, planted={(0, 1, 1): 0.8, (0, 3, 0): 0.8}, chance={(0, 1, 1): 0.1})
    return lens_finding([arm], as_readings(lens))


def test_cells_where_both_say_yes_and_where_one_does(agreeing):
    assert agreeing.verdict == "yes"
    assert yes(agreeing, "step 1 minus another pair's") == {("1", "1"), ("3", "0")}
    assert yes(agreeing, "step 2 minus another pair's") == set()
    assert yes(agreeing, "content") == {("1", "1"), ("2", "2")}
    for said in (
        "Yes: read, and patching has a content effect: step 1 (position 1 at layer 1).",
        "Read, but patching has no content effect beyond the threshold: step 1 (position 0 at "
        "layer 3).",
        "Content effect, but no step's result is shown to be read: position 2 at layer 2.",
        "step 1 in 0 of 60 and step 2 in 60 of 60 pairs",
    ):
        assert said in agreeing.sentence
    assert agreeing.arms == ("position patching (recomputed thoughts)", LENS)


def test_the_numbers_are_those_of_hand_arithmetic(agreeing):
    """Read in 48 of 60 pairs, another pair's in 6 of these: a difference of 42 / 60."""
    assert (agreeing.estimate, agreeing.unit, agreeing.threshold) == (0.7, "hit rate", 0.05)
    assert agreeing.n == PAIRS
    (claim,) = [c for c in agreeing.claims if c.name == "step 1 at layer 1, position 1"]
    assert (claim.estimate, claim.against) == (0.7, "the result of that step of another pair")
    # The standard error of 42 ones and 18 zeros, by hand: sqrt(.7 × .3 / 59).
    readings, content = np.zeros((PAIRS, 24)), claim_values()
    readings[6:48, 4] = 1.0
    readings[:48, 9] = 1.0
    joint = max_t(np.concatenate([readings, *content], axis=1), draw_signs(PAIRS, FLIPS, 0))
    assert joint.error[4] == pytest.approx(np.sqrt(0.7 * 0.3 / 59))
    # Four families have their arms: cells, patterns, the ceiling and the lens.
    width = joint.critical(0.05 / 4) * joint.error[4]
    assert (claim.low, claim.high) == pytest.approx((0.7 - width, 0.7 + width))


def claim_values():
    """Both comparisons of the cells of the position arm that can have an effect."""
    results = make(run_of(), pairs=PAIRS, planted={(1, 1): 0.5, (2, 2): 0.5})
    own, control = (v["clean_probability"] for v in (results.values, results.control))
    base = results.unpatched("base", "clean_probability")[:, None, None]
    keep = ~results.structural
    return (own - base)[:, keep], (own - control)[:, keep]


def test_read_where_nothing_can_act(agreeing):
    arm = as_arm(make(run_of(), pairs=PAIRS, planted={(1, 1): 0.5}))
    lens = make_lens(PAIRS, planted={(1, 3, 2): 0.9})  # the last layer at the last position
    found = lens_finding([arm], as_readings(lens))
    assert "read, where no patch can act" in found.sentence
    assert "step 2 (position 2 at layer 3)" in found.sentence
    assert found.verdict == "undecided"  # 60 pairs are too few to rule hit rates of 0.05 out
    assert found.sentence.startswith("Undecided whether any cell is both: ")


def test_with_enough_pairs_a_reading_without_effect_is_a_no():
    arm = as_arm(make(run_of(), pairs=150))
    lens = make_lens(150, planted={(0, 1, 1): 0.9})
    found = lens_finding([arm], as_readings(lens))
    assert found.verdict == "no"
    assert found.sentence.startswith("No cell is both: read, but patching has no content effect")
    assert found.estimate == 0.9


def test_reading_as_often_as_chance_is_no_reading():
    arm = as_arm(make(run_of(), pairs=PAIRS, planted={(1, 1): 0.5}))
    shares = {(0, 1, 1): 0.9, (1, 2, 2): 0.4}
    found = lens_finding([arm], as_readings(make_lens(PAIRS, planted=shares, chance=shares)))
    assert found.verdict == "undecided"
    assert found.estimate == 0
    assert "no step's result is shown to be read more often than chance" in found.sentence


@pytest.mark.parametrize("kind", ["heavy tails", "rare flips", "strangers disrupt", "skewed"])
def test_without_effects_nothing_is_claimed(kind):
    """Own and another pair's results are read equally often, or patching does nothing."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        arms = simulate(kind, seed)[3:4]
        own, chance = ((rng.random((57, 3, 16, 5)) < 0.1).astype(float) for _ in range(2))
        noise = lens_finding(arms, readings_of(own, chance, arms[0].pair_ids))
        assert not any(claim.verdict == "yes" for claim in noise.claims)
        always = lens_finding(arms, readings_of(own * 0 + 1, chance, arms[0].pair_ids))
        assert always.verdict != "yes"
        assert yes(always, "step 1 minus another pair's")
        assert yes(always, "content") == set()


def readings_of(own, chance, pair_ids):
    names = (tuple(map(str, range(n))) for n in own.shape[2:])
    return Readings(5, *names, pair_ids, own, chance, np.full(own.shape[:2], np.nan))


def test_pairs_without_a_step_or_another_pair_are_left_out():
    arm = as_arm(make(run_of(), pairs=PAIRS, planted={(1, 1): 0.5}))
    readings = as_readings(make_lens(PAIRS, planted={(0, 1, 1): 1.0, (1, 1, 1): 1.0}))
    readings.own[15:, 1] = np.nan
    readings.chance[50:, 0] = np.nan
    found = lens_finding([arm], readings)
    counts = {c.kind: (c.n, c.verdict) for c in found.claims if (c.layer, c.column) == ("1", "1")}
    assert counts["step 1 minus another pair's"] == (50, "yes")
    assert counts["step 2 minus another pair's"] == (15, "not applicable")
    assert "Step 2 is in too few pairs for a verdict (n = 15 pairs)." in found.sentence


def test_under_twenty_pairs_there_is_no_verdict():
    arm = as_arm(make(run_of(), pairs=19, planted={(1, 1): 0.5}))
    found = lens_finding([arm], as_readings(make_lens(19, planted={(0, 1, 1): 1.0})))
    assert found.verdict == "not applicable"
    assert found.sentence == "No verdict: too few pairs for one (n = 19 pairs)."


def test_questions_that_cannot_be_asked_change_no_number():
    """The lens counts among the families only where it was read beside position patching."""
    arm = as_arm(make(run_of(), pairs=PAIRS, planted={(1, 1): 0.5}))
    layer = as_arm(make(run_of("layer"), pairs=PAIRS, planted={(1, 0): 0.5}))
    readings = as_readings(make_lens(PAIRS, planted={(0, 1, 1): 1.0}))
    alone, beside = (find([layer], flips=FLIPS, readings=read) for read in (None, readings))
    assert [f for f in alone if f.family != "the lens"] == [
        f for f in beside if f.family != "the lens"
    ]
    (missing,) = [f for f in alone if f.family == "the lens"]
    assert missing.verdict == "not applicable"
    assert "`codi-patching predict --config configs/lens.yaml" in missing.sentence
    (unpatched,) = [f for f in beside if f.family == "the lens"]
    assert "`codi-patching predict --config configs/position.yaml" in unpatched.sentence
    wider = find([arm], flips=FLIPS, readings=readings)[0]
    narrow = find([arm], flips=FLIPS)[0]
    assert wider.question == narrow.question
    assert wider.high - wider.low > narrow.high - narrow.low


def test_a_lens_that_read_nothing_says_why():
    arm = as_arm(make(run_of(), pairs=2))
    excluded = {f"pair_{i:02d}": "its clean question has no reasoning steps" for i in range(2)}
    found = lens_finding([arm], as_readings(make_lens(2, excluded=excluded)))
    assert found.verdict == "not applicable"
    assert found.sentence == (
        "The lens read none of these pairs; pair_00: its clean question has no reasoning steps."
    )


def test_only_patches_of_the_states_that_are_read_are_set_beside_it():
    own = np.zeros((30, 4, 3))
    arms = [make_arm(own, np.zeros(30), site="kv"), make_arm(own, np.zeros(30), name="noising")]
    arms[1] = make_arm(
        own, np.zeros(30), name="n", direction="noising", metric="corrupted_probability"
    )
    readings = readings_of(*np.zeros((2, 30, 1, 4, 3)), arms[0].pair_ids)
    for arm in arms:
        assert lens_finding([arm], readings).sentence.startswith(
            "It takes position patching of resid_post, denoising, beside the lens"
        )
