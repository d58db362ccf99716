"""The classical paired tests, claim by claim, for readers who expect them.

They stand in tables because they are what papers report; no sentence is decided by them. The
signed-rank test answers a question about ranks and the t-test one about 0 instead of the threshold,
neither corrected for the number of claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from codi_patching.analysis.arms import Arm, Array
from codi_patching.analysis.effects import content, without_rounding
from codi_patching.analysis.intervals import bca_intervals


@dataclass(frozen=True)
class PairedTests:
    """Both tests of one comparison of one cell; None where nothing varies.

    Attributes:
        name: The cell.
        comparison: `own - unpatched` or `own - control`.
        n: Pairs.
        mean: Mean difference.
        low: Lower end of its own 95 % interval (BCa), not simultaneous.
        high: Upper end.
        t: Statistic of the paired t-test (Student, 1908).
        p_t: Its p.
        wilcoxon: Statistic of the signed-rank test (Wilcoxon, 1945; zero differences by Pratt).
        p_wilcoxon: Its p.
    """

    name: str
    comparison: str
    n: int
    mean: float | None
    low: float | None
    high: float | None
    t: float | None
    p_t: float | None
    wilcoxon: float | None
    p_wilcoxon: float | None


def paired_tests(arm: Arm, metric: str | None = None, seed: int = 0) -> list[PairedTests]:
    """The tests of every cell that can have an effect.

    Args:
        arm: The experiment.
        metric: By default the probability of the source run's answer.
        seed: Of the bootstrap.
    """
    effect = content(arm, metric)
    comparisons = [("own - unpatched", effect.restored)]
    if effect.specific is not None:
        comparisons.append(("own - control", effect.specific))
    return [
        _test(arm.cell_name(i, j), name, values[:, i, j], arm.groups, seed)
        for i, j in np.argwhere(~arm.structural)
        for name, values in comparisons
    ]


def _test(
    name: str, comparison: str, differences: Array, groups: Sequence[str] | None, seed: int
) -> PairedTests:
    """Both tests of differences `(pairs,)`; NaN is left out, under 1e-6 is 0."""
    differences = without_rounding(differences)
    known = differences[np.isfinite(differences)]
    n = len(known)
    if n < 2 or np.ptp(known) == 0:
        mean = float(known.mean()) if n else None
        return PairedTests(name, comparison, n, mean, None, None, None, None, None, None)
    low, high = bca_intervals(differences, groups, seed, resamples=9_999)
    student = stats.ttest_1samp(known, 0.0)
    ranks = stats.wilcoxon(known, zero_method="pratt")
    return PairedTests(
        name, comparison, n, float(known.mean()), float(low), float(high),
        float(student.statistic), float(student.pvalue),
        float(ranks.statistic), float(ranks.pvalue),
    )  # fmt: skip
