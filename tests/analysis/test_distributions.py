"""The few distributions that reports need, against `scipy.stats`."""

import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis import distributions as D

SHARES = np.array([1e-9, 0.001, 0.025, 0.5, 0.9, 0.999, 1 - 1e-9])


def test_quantiles_and_tails_are_scipys():
    for degrees in (1, 2, 5, 56, 1000):
        own = D.t_quantile(SHARES, degrees)
        np.testing.assert_allclose(own, stats.t.ppf(SHARES, degrees), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(D.t_tail(own, degrees), stats.t.sf(own, degrees), rtol=1e-9)
    for a, b in ((1, 57), (28, 1e-9), (1e-9, 58), (12.5, 3.2)):
        np.testing.assert_allclose(
            D.beta_quantile(SHARES, a, b), stats.beta.ppf(SHARES, a, b), rtol=1e-9, atol=1e-300
        )
    for trials in (1, 7, 57, 400):
        counts = np.arange(trials + 2)
        own = D.binomial_tail(counts, trials, 0.5)
        np.testing.assert_allclose(own, stats.binom.sf(counts - 1, trials, 0.5), atol=1e-15)
        for share in SHARES:
            found = D.binomial_quantile(share, trials, 0.5)
            assert found == stats.binom.ppf(share, trials, 0.5)


def test_ranks_share_ties():
    values = np.random.default_rng(0).integers(0, 6, 40) / 4
    np.testing.assert_array_equal(D.ranks(values), stats.rankdata(values))


@pytest.mark.parametrize("n", [5, 20, 57])
@pytest.mark.parametrize("kind", ["plain", "ties", "zeros"])
def test_signed_ranks_are_scipys(n, kind):
    values = np.random.default_rng(n).normal(0.3, 1, n)
    if kind != "plain":
        values = np.round(values, 1)
    if kind == "zeros":
        values[:2] = 0
    ranks, p = D.signed_ranks(values)
    theirs = stats.wilcoxon(values, zero_method="pratt", method="asymptotic", correction=False)
    assert ranks == theirs.statistic
    assert p == pytest.approx(theirs.pvalue, rel=1e-12)
