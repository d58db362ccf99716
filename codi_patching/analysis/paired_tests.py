"""The classical paired tests, cell by cell, for readers who expect them.

They stand in `paired_tests.csv` because they are what papers report; no sentence is decided by
them. The signed-rank test answers a question about ranks and the t-test one about 0 instead of the
threshold, neither corrected for the number of cells. Pairs that share a question count as one:
their mean is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy import stats

from codi_patching.analysis.arms import Arm, Array
from codi_patching.analysis.effects import content, mean_over, without_rounding


@dataclass(frozen=True)
class PairedTests:
    """Both tests of one comparison of one cell; None where nothing varies.

    Attributes:
        cell: Its name.
        comparison: `own - unpatched` or `own - control`.
        n: Groups of pairs; as many as pairs if none share a question.
        mean: Mean difference over them, in the probability of the source run's answer.
        t: Statistic of the paired t-test (Student, 1908).
        p_t: Its p.
        wilcoxon: Statistic of the signed-rank test (Wilcoxon, 1945; zero differences by Pratt).
        p_wilcoxon: Its p.
    """

    cell: str
    comparison: str
    n: int
    mean: float | None
    t: float | None = None
    p_t: float | None = None
    wilcoxon: float | None = None
    p_wilcoxon: float | None = None


TEST_COLUMNS = tuple(field.name for field in fields(PairedTests))


def paired_tests(arm: Arm) -> list[PairedTests]:
    """The tests of every cell that can have an effect."""
    effect = content(arm)
    comparisons = [("own - unpatched", effect.restored)]
    if effect.specific is not None:
        comparisons.append(("own - control", effect.specific))
    groups = np.array(arm.groups)
    by_group = [
        (name, np.stack([mean_over(values[groups == g], 0) for g in dict.fromkeys(arm.groups)]))
        for name, values in comparisons
    ]
    return [
        _test(arm.cell_name(i, j), name, values[:, i, j])
        for i, j in np.argwhere(~arm.structural)
        for name, values in by_group
    ]


def _test(name: str, comparison: str, differences: Array) -> PairedTests:
    """Both tests of differences `(groups,)`; NaN is left out, under 1e-6 is 0."""
    differences = without_rounding(differences)
    known = differences[np.isfinite(differences)]
    n = len(known)
    if n < 2 or np.ptp(known) == 0:
        return PairedTests(name, comparison, n, float(known.mean()) if n else None)
    student = stats.ttest_1samp(known, 0.0)
    ranks = stats.wilcoxon(known, zero_method="pratt")
    return PairedTests(
        name, comparison, n, float(known.mean()),
        float(student.statistic), float(student.pvalue),
        float(ranks.statistic), float(ranks.pvalue),
    )  # fmt: skip
