from dataclasses import replace

import numpy as np
import pytest
from by_hand import make_arm

from codi_patching.analysis.findings import find
from codi_patching.analysis.simulated import Planted, simulate
from codi_patching.analysis.verdicts import Thresholds

FLIPS = 999


def by_question(findings, *words):
    """The one finding whose question has all the words."""
    (found,) = [f for f in findings if all(word in f.question for word in words)]
    return found


def says(findings):
    return [finding for finding in findings if finding.verdict == "yes"]


@pytest.fixture(scope="module")
def position():
    """Position 2 carries 0.5 at layers 4 to 11."""
    return find(simulate("layers share their noise", 1, Planted(0.5, "position", 0.2)), flips=FLIPS)


@pytest.fixture(scope="module")
def band():
    """The lower half of the layers carries 0.6; relay fades, cumulative compounds."""
    return find(simulate("a third exact zeros", 2, Planted(0.6, "band", 0.1)), flips=FLIPS)


def test_planted_cells_are_found_and_no_others(position):
    for latents in ("frozen", "recomputed"):
        found = by_question(position, "Which positions and layers", latents)
        assert found.verdict == "yes"
        yes = {(c.layer, c.column) for c in found.claims if c.verdict == "yes"}
        assert yes == {(str(layer), "2") for layer in range(4, 12)}
        assert "position 2 at layers 4 to 11" in found.sentence


def test_finding_leads_with_its_strongest_claim(position):
    found = by_question(position, "Which layers", "frozen")
    lead = max((c for c in found.claims if c.verdict == "yes"), key=lambda c: c.estimate)
    assert (found.estimate, found.low, found.high, found.p, found.n) == (
        lead.estimate, lead.low, lead.high, lead.p, lead.n,
    )  # fmt: skip
    assert found.threshold == 0.1
    assert found.arms == ("layer patching (frozen)",)
    assert "control (sibling)" in found.sentence
    assert "n = 57 pairs" in found.sentence


def test_a_finding_is_shown_without_its_dozens_of_claims(position):
    finding = by_question(position, "Which layers", "frozen")
    assert finding.claims
    assert "Claim(" not in repr(finding)


def test_thoughts_that_carry_more_are_found(position):
    found = by_question(position, "Do some thoughts carry more", "recomputed")
    assert found.verdict == "yes"
    assert [c.column for c in found.claims if c.verdict == "yes" and c.estimate > 0] == ["2"]


def test_equal_direct_and_total_effects_are_never_called_different(position):
    found = by_question(position, "mediated")
    assert found.verdict in ("no", "undecided")
    assert {c.kind for c in found.claims} == {"mediated", "direct", "total"}


def test_early_layers_are_found_to_carry_more(band):
    for what in ("layer patching (frozen)", "position patching (recomputed)"):
        found = by_question(band, "early or late layers", what)
        assert found.verdict == "yes"
        assert found.sentence.startswith("Yes: early layers carry more")


def test_chains_that_compound_and_fade_are_told_apart(band):
    compounds = by_question(band, "compound", "cumulative")
    assert "compounds at layers 0" in compounds.sentence
    assert "fades" not in compounds.sentence
    fades = by_question(band, "compound", "relay")
    assert "fades at layers 0" in fades.sentence
    assert "compounds" not in fades.sentence


def test_relay_that_fades_arrives_no_more(band):
    found = by_question(band, "arrives after each hop")
    assert found.verdict in ("no", "undecided")
    assert "after iteration 1 (" in found.sentence
    assert found.arms == ("the relay chain",)


def test_positions_that_overlap_add_up_to_more_than_the_whole(band):
    found = by_question(band, "add up", "probability", "frozen")
    assert found.verdict == "yes"
    assert "add up to more at layers 0 to 7 than all at once" in found.sentence
    assert by_question(band, "add up", "logits", "recomputed").unit == "logits"


def test_leading_layers_lead_elsewhere(band):
    found = by_question(
        band, "(layer patching (frozen), then position patching (frozen))", "lead in one"
    )
    assert found.verdict == "yes"
    assert found.estimate > 0


def test_relation_of_layers_and_positions_is_described_only(band):
    for found in band:
        if found.family == "described":
            assert found.verdict == "not applicable"
            assert found.sentence.startswith("Described, not judged.")


@pytest.mark.parametrize("corrupted_rises", [True, False])
def test_what_destroys_the_clean_answer_is_needed_whatever_comes_instead(corrupted_rises):
    """Noising lowers the clean answer's probability where denoising raises it."""
    arms = simulate("a third exact zeros", 3, Planted(0.6, "band", 0.1))[:1]

    def noised(values, rises=corrupted_rises):
        clean = values["clean_probability"]
        return {
            "clean_probability": 1 - clean,
            "corrupted_probability": clean if rises else np.full_like(clean, 0.1),
        }

    noising = replace(
        arms[0], name="noising", direction="noising",
        **{
            name: noised(getattr(arms[0], name))
            for name in ("values", "control_values", "base", "source_run")
        },
        ceiling={}, ceiling_control={},
    )  # fmt: skip
    found = by_question(find([*arms, noising], flips=FLIPS), "also needed")
    assert found.verdict == "yes"
    assert "Yes, at layers 0 to 7" in found.sentence
    assert {c.kind for c in found.claims} == {"sufficient", "necessary"}
    unchanged = replace(
        noising, values={**noising.values, "clean_probability": np.ones((57, 16, 1))}
    )
    base = {**noising.base, "clean_probability": np.ones(57)}
    found = by_question(find([*arms, replace(unchanged, base=base)], flips=FLIPS), "also needed")
    assert found.verdict != "yes"


def test_cells_that_cannot_have_an_effect_make_no_pattern():
    """The last layer carries 0.8 at every position that can have an effect."""
    rng = np.random.default_rng(0)
    structural = np.zeros((6, 5), dtype=bool)
    structural[5, 4] = True
    base, control = np.full(57, 0.1), 0.1 + rng.normal(0, 0.01, (57, 6, 5))
    own = 0.1 + rng.normal(0, 0.01, (57, 6, 5))
    own[:, 5] += 0.8
    arm = make_arm(own, base, control, structural=structural)
    for words in (["positions carry more"], ["Do some thoughts"], ["different positions"]):
        found = by_question(find([arm], flips=FLIPS), *words)
        assert found.verdict != "yes", found.sentence
        assert "Without layer 5, where not every position can have an effect." in found.sentence
    found = by_question(find([arm], flips=FLIPS), "early or late layers")
    assert found.verdict != "yes"


def test_rare_sums_are_not_ruled_out():
    """Five positions each restore the answer alone, as all together do, in a pair of which none
    of 57 may be: sum minus whole is 4 there."""
    rng = np.random.default_rng(1)
    shape, base = (57, 2, 5), np.zeros(57)
    position = make_arm(rng.normal(0, 1e-3, shape), base, rng.normal(0, 1e-3, shape))
    small = [rng.normal(0, 1e-3, (57, 2, 1)) for _ in range(2)]
    layer = make_arm(
        small[0], base, small[1], name="layer patching", experiment="layer", columns=("all",)
    )
    found = by_question(find([position, layer], flips=FLIPS), "add up", "probability")
    assert found.verdict == "undecided"


def test_a_median_of_rounding_is_not_ranked():
    shape = (30, 2, 2)
    arm = make_arm(np.full(shape, 0.1), np.full(30, 0.1))
    noise = np.random.default_rng(2).uniform(0, 9e-7, shape)
    arm = replace(arm, values={**arm.values, "kl_divergence": noise})
    found = by_question(find([arm], flips=FLIPS), "disrupt")
    assert "No cell has a median KL beyond rounding" in found.sentence


def test_questions_without_their_arms_name_the_command_that_makes_them():
    findings = find(simulate("heavy tails", 0)[:1], flips=FLIPS)
    missing = {f.question: f.sentence for f in findings if "`codi-patching predict" in f.sentence}
    assert len(missing) >= 10
    assert "--model.latents recomputed" in missing[by_question(findings, "mediated").question]
    assert "--model.strategy cumulative" in by_question(findings, "iteration add").sentence
    assert "configs/position.yaml" in by_question(findings, "Which positions").sentence
    assert "--model.direction noising" in by_question(findings, "also needed").sentence
    assert all(f.verdict == "not applicable" for f in findings if f.question in missing)


def test_under_twenty_pairs_there_are_no_verdicts():
    findings = find(simulate("heavy tails", 0, Planted(0.6, "band"), pairs=19), flips=FLIPS)
    assert {f.verdict for f in findings} == {"not applicable"}
    assert (
        "too few pairs for one (n = 19 pairs)"
        in by_question(findings, "Which layers", "frozen").sentence
    )


def test_few_pairs_that_share_questions_are_too_few():
    arms = simulate("heavy tails", 0, Planted(0.6, "band"))
    grouped = [replace(arm, groups=tuple(f"q{i // 4}" for i in range(57))) for arm in arms]
    found = by_question(find(grouped, flips=FLIPS), "Which layers", "frozen")
    assert found.verdict == "not applicable"
    assert "n = 57 pairs in 15 groups that share a question" in found.sentence


def test_without_control_the_sentence_says_so():
    arm = replace(
        simulate("heavy tails", 0, Planted(0.6, "band"))[0], control="none", control_values={}
    )
    found = by_question(find([arm], flips=FLIPS), "Which layers")
    assert found.verdict == "yes"
    assert "no control was run" in found.sentence


def test_strangers_that_disrupt_are_no_content():
    assert says(find(simulate("strangers disrupt", 0), flips=FLIPS)) == []


def test_layers_of_rounding_noise_are_not_ranked():
    found = by_question(find(simulate("rounding noise", 0), flips=FLIPS), "Which layers", "frozen")
    assert (found.estimate, found.p, found.verdict) == (0, None, "no")
    assert "not tested: no spread" in found.sentence


def test_last_layer_is_named_for_what_it_is():
    findings = find(simulate("heavy tails", 0), flips=FLIPS)
    names = [c.name for c in by_question(findings, "Which positions", "recomputed").claims]
    assert "layer 15, position 3 (makes thought 4)" in names
    assert "layer 15, position 4" not in names


def test_same_seed_same_findings():
    arms = simulate("heavy tails", 5, Planted(0.3, "cell"))
    assert find(arms, seed=3, flips=FLIPS) == find(arms, seed=3, flips=FLIPS)


def test_thresholds_are_options():
    arms = simulate("layers share their noise", 1, Planted(0.5, "position", 0.2))
    found = find(arms, Thresholds(probability=0.9), flips=FLIPS)
    assert by_question(found, "Which layers", "frozen").verdict != "yes"


def test_arms_are_needed():
    with pytest.raises(ValueError, match="expected the results of at least one experiment"):
        find([])


def test_arms_of_other_pairs_and_metrics_are_taken():
    """A grid of one position, no source run, one metric: what can be answered is."""
    rng = np.random.default_rng(0)
    own = 0.6 + rng.normal(0, 0.05, (60, 4, 1))
    arm = make_arm(own, np.zeros(60), own * 0 + rng.normal(0, 0.05, (60, 4, 1)))
    findings = find([arm], flips=FLIPS)
    assert by_question(findings, "Which positions").verdict == "yes"


def test_metric_that_is_missing_is_named_with_the_command_that_makes_it():
    arm = make_arm(np.zeros((30, 2, 1)), np.zeros(30), metric="kl_divergence")
    with pytest.raises(
        ValueError, match=r"expected clean_probability in the results of position"
    ) as e:
        find([arm])
    assert "codi-patching predict --config configs/position.yaml" in str(e.value)


def test_grid_of_thoughts_alone_is_answered():
    rng = np.random.default_rng(0)
    own = np.array([0.6, 0.0, 0.0]) + rng.normal(0, 0.05, (60, 1, 3))
    control = rng.normal(0, 0.05, (60, 1, 3))
    arm = make_arm(own, np.zeros(60), control, layers=("thought",), site="thought")
    findings = find([arm], flips=FLIPS)
    assert "position 0 as the thought itself" in by_question(findings, "Which positions").sentence
    assert by_question(findings, "Do some thoughts carry more").verdict == "yes"
