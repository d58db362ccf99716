"""A small version of scripts/calibrate.py; docs/calibration.md has the large one."""

import numpy as np
import pytest
from noise import MEANS, NO_EFFECT
from simulated import (
    HOLDS,
    Planted,
    expected,
    planted_cells,
    simulate,
    simulate_strata,
)

from codi_patching.analysis.findings import Claim, Comparison, Finding
from codi_patching.results.dataset import run_of
from scripts import calibrate
from scripts.calibrate import Score, claims_of, judged, score, score_cuts, score_strata

KIND = ("cells", ("position, recomputed",), "content", "layer 0, position 0")


def claim(verdict, bound=0.2, ends=(-0.1, 0.1)):
    sides = tuple(Comparison(a, 0.0, *ends, 0, 0, 57, 57) for a in ("unpatched", "control"))
    return Claim(KIND[3], verdict, sides, 0.5, bound)


def truth(*means):
    sides = (Comparison(a, m, 0, 0, 0, 0, 57, 57) for a, m in zip(("unpatched", "control"), means))
    return {KIND: Claim(KIND[3], "at most", tuple(sides), 1.0, 1.0)}


def counted(made, *means):
    total = Score()
    total.add([Finding(KIND[0], 2, "yes", KIND[1], claims=(made,))], truth(*means))
    return total


def test_a_direction_is_false_where_one_comparison_is_nothing_and_wrong_where_both_go_elsewhere():
    nothing, against, right = (
        counted(claim("rises"), *means) for means in ((0.3, 0.0), (-0.3, -0.2), (0.3, 0.2))
    )
    assert (nothing.false, nothing.wrong_signs) == (1, 0)
    assert (against.false, against.wrong_signs) == (1, 1)
    assert (right.false, right.wrong_signs, right.found, right.planted) == (0, 0, 1, 1)


def test_more_pairs_one_way_is_counted_by_itself():
    total = counted(claim("more often"), 0.0, 0.0)
    assert (total.false, total.oftener) == (0, 1)


def test_bounds_and_intervals_that_miss_are_counted():
    """The effect is the smaller of the two, 0.15."""
    assert counted(claim("at most", bound=0.14), 0.15, 0.3).missed_bounds == 1
    assert counted(claim("at most", bound=0.16), 0.15, 0.3).missed_bounds == 0
    assert counted(claim("at most", ends=(-0.1, 0.2)), 0.15, 0.19).missed_intervals == 0
    assert counted(claim("at most", ends=(-0.1, 0.2)), 0.15, 0.21).missed_intervals == 1


@pytest.mark.parametrize("kind", NO_EFFECT)
def test_noise_has_the_means_that_are_said(kind):
    drawn = NO_EFFECT[kind](np.random.default_rng(0), (3000, 16, 5))
    for values, mean in zip(drawn, MEANS.get(kind, (0.0, 0.0)), strict=True):
        assert np.abs(values.mean((0, 2)) - np.ravel(mean)).max() < 0.012
        assert np.abs(values.mean((0, 1)) - np.mean(mean)).max() < 0.012


def test_expected_results_are_the_means_of_simulated_ones():
    planted = Planted(0.3, flips=True, control=0.05)
    means = expected(None, 57, planted)
    drawn = simulate(None, 0, 300, planted)
    for one, other in zip(means, drawn, strict=True):
        gap = one.clean_probability.mean("pair") - other.clean_probability.mean("pair")
        assert float(np.abs(gap).max()) < 0.12
    position = next(d for d in means if run_of(d).experiment == "position")
    rise = position.clean_probability[0] - 0.02
    assert (rise.sel(arm="own").values > 0.1).tolist() == planted_cells(5).tolist()


def test_planted_strata_restore_what_is_reached_and_shuffled_labels_do_not_say_what():
    data = simulate_strata(0, rate=1.0, pairs=60)
    steps = zip(data.num_steps.values, data.changed_step.values, strict=True)
    reached = np.array([[step <= held for held in HOLDS[int(n)]] for n, step in steps])
    assert (data.predicts_clean[:, 0, :, 0].values == reached).all()
    found = score_strata(1.0, 0.0, 57, range(4))
    assert (found.late, found.held) == (0, 44)
    assert found.right >= 42  # strata of under four pairs are not tested
    assert score_strata(1.0, 0.0, 57, range(10), shuffle=True).late <= 1


def test_every_claim_has_a_truth():
    known = dict(claims_of(judged(expected("skewed"), 0)))
    assert {key for key, _ in claims_of(judged(simulate("skewed", 0), 0))} <= known.keys()


@pytest.mark.thorough
@pytest.mark.parametrize("pairs", [20, 57])
def test_reports_without_effects_claim_no_direction(pairs):
    total = score(list(NO_EFFECT), pairs, range(len(NO_EFFECT)))
    assert total.false <= 2  # of 13 at 5 %: the chance of more is 2.5 %


@pytest.mark.slow
def test_planted_effects_are_found_beside_empty_runs():
    spread = score([None, "heavy tails"], 57, range(2), Planted(0.3))
    flips = score([None], 57, range(2), Planted(0.3, flips=True, control=0.02))
    assert spread.found >= 0.9 * spread.planted
    assert flips.found >= 0.7 * flips.planted
    assert spread.false + flips.false + spread.wrong_signs + flips.wrong_signs == 0


@pytest.mark.thorough
def test_falls_of_cut_edges_are_found_and_none_where_there_is_none():
    nothing = score_cuts(tuple(NO_EFFECT), 57, range(len(NO_EFFECT)))
    assert (nothing.reports, nothing.false, nothing.planted) == (13, 0, 0)
    planted = score_cuts([None, "heavy tails"], 57, range(2), fall=0.3)
    assert (planted.found, planted.planted, planted.wrong_signs, planted.false) == (2, 2, 0, 0)


@pytest.mark.thorough
def test_page_has_every_table(monkeypatch):
    monkeypatch.setattr(calibrate, "NO_EFFECT", {"rare flips": NO_EFFECT["rare flips"]})
    monkeypatch.setattr(calibrate, "EFFECTS", {"0.30": Planted(0.3)})
    monkeypatch.setattr(calibrate, "SIZES", (20,))
    page = calibrate.write(reports=1, tables=2)
    assert "| rare flips | 20 | 1 | 0 |" in page
    assert page.count("\n| --- |") == 4
