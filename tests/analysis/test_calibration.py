"""A small version of scripts/calibrate.py; docs/calibration.md has the large one."""

import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis.calibration import (
    KL_MEDIAN,
    coverage,
    median_intervals,
    no_effect,
    planted,
    skewed_kl,
    values,
)
from codi_patching.analysis.simulated import NO_EFFECT, Planted
from scripts.calibrate import write


@pytest.mark.slow
def test_reports_without_effects_claim_none():
    assert sum(map(bool, (r for k in NO_EFFECT for r in no_effect(range(2), 499, k)))) <= 2


@pytest.mark.slow
def test_reports_on_planted_effects_find_them_and_are_not_wrong():
    score = planted(range(6), 499, Planted(0.3, "position"), ("heavy tails", "a third exact zeros"))
    assert min(score.found.values()) >= 5
    assert score.wrong_sign <= 0.01 * score.yes
    assert score.wrong <= 0.01 * score.claims
    assert score.covered >= 0.99 * score.intervals


def test_true_median_of_kl():
    """30 % zeros, so the median is the 2/7 quantile of the rest."""
    assert pytest.approx(stats.lognorm(2).ppf(0.2 / 0.7)) == KL_MEDIAN


def test_coverage_counts_intervals_that_hold_the_truth():
    assert coverage(range(100), skewed_kl, KL_MEDIAN, median_intervals) >= 0.9
    assert coverage(range(20), skewed_kl, 1e9, median_intervals) == 0


def test_sparse_values_have_the_means_that_are_said():
    for _, sample, truth in values():
        rng = np.random.default_rng(0)
        means = [sample(rng).mean() for _ in range(400)]
        assert np.mean(means) == pytest.approx(truth, abs=0.01)


@pytest.mark.slow
def test_page_has_every_table(monkeypatch):
    monkeypatch.setattr("scripts.calibrate.NO_EFFECT", {"rare flips": NO_EFFECT["rare flips"]})
    monkeypatch.setattr("scripts.calibrate.SIZES", (0.3,))
    monkeypatch.setattr("scripts.calibrate.SHAPES", ("cell",))
    page = write(runs=1, flips=99, samples=5)
    assert "| rare flips | 1 | 0 | 0 |" in page
    assert page.count("\n| --- |") == 3
