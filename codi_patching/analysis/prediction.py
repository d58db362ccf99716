"""How well one thing is predicted from others in pairs that took no part in the fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codi_patching.analysis.effects import mean_over
from codi_patching.results.description import Array

_RESAMPLES = 2_000


@dataclass(frozen=True)
class Prediction:
    """Share of the held-out variance that a linear fit predicts.

    Attributes:
        n: Pairs.
        r_squared: 1 minus the squared errors over those of the other pairs' mean at each point, so
            that differences between points predict nothing; may be under 0.
        low: Lower end of its 95 % percentile bootstrap interval over groups of pairs.
        high: Upper end.
    """

    n: int
    r_squared: float | None = None
    low: float | None = None
    high: float | None = None


def predict_held_out(
    predictors: Array, target: Array, groups: Sequence[str], seed: int, folds: int
) -> Prediction:
    """Predict each fold's targets by least squares on the other folds.

    Args:
        predictors: `(pairs, points, predictors)`.
        target: `(pairs, points)`.
        groups: Of each pair; a group is never split.
        seed: Of the folds and the bootstrap.
        folds: How many.
    """
    pairs, points = target.shape
    design = np.concatenate([predictors, np.ones((pairs, points, 1))], axis=2)
    known = np.isfinite(target) & np.isfinite(design).all(axis=2)
    n = int(known.any(axis=1).sum())
    generator = np.random.default_rng(seed)
    names = list(dict.fromkeys(groups))
    of = np.array([names.index(group) for group in groups])
    fold = (generator.permutation(len(names)) % folds)[of]
    errors, spread = np.zeros(len(names)), np.zeros(len(names))
    for chosen in range(folds):
        fit, test = known & (fold != chosen)[:, None], known & (fold == chosen)[:, None]
        if fit.sum() <= design.shape[2]:
            return Prediction(n)
        weights = np.linalg.lstsq(design[fit], target[fit], rcond=None)[0]
        rows = of[np.nonzero(test)[0]]
        np.add.at(errors, rows, (target[test] - design[test] @ weights) ** 2)
        means = mean_over(np.where(fit, target, np.nan), 0)
        means = np.where(np.isnan(means), target[fit].mean(), means)
        np.add.at(spread, rows, (target - means)[test] ** 2)
    if spread.sum() < 1e-12:
        return Prediction(n)
    drawn = generator.integers(len(names), size=(_RESAMPLES, len(names)))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = 1 - errors[drawn].sum(axis=1) / spread[drawn].sum(axis=1)
    low, high = np.nanpercentile(shares, [2.5, 97.5])
    return Prediction(n, float(1 - errors.sum() / spread.sum()), float(low), float(high))
