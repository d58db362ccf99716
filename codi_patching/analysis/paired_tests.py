"""The classical paired tests, cell by cell, for readers who expect them.

They stand in `paired_tests.csv` because they are what papers report; no sentence is decided by
them, and they are not corrected for the number of cells. Pairs that share a question count as one:
their mean is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from codi_patching.analysis.distributions import ranks, signed_ranks, t_tail
from codi_patching.analysis.effects import content, groups_of, without_rounding
from codi_patching.analysis.groups import by_group
from codi_patching.results.dataset import run_of, structural_of
from codi_patching.results.description import Array

TEST_COLUMNS = ("cell", "comparison", "n", "mean", "t", "p_t", "wilcoxon", "p_wilcoxon")
"""Of each row: the cell's name; `own - unpatched` or `own - control`; groups of pairs; their mean
difference in the probability of the source run's answer; the paired t-test (Student, 1908) and the
signed-rank test (Wilcoxon, 1945; zero differences by Pratt), None where nothing varies."""

_FEW, _MANY = 13, 50
"""Up to so many groups p of the signed ranks is exact: with zeros or ties, and without any."""


def paired_tests(data: xr.Dataset) -> tuple[dict[str, Any], ...]:
    """The tests of every cell that can have an effect, rows of `TEST_COLUMNS`."""
    run, groups, able = run_of(data), groups_of(data), np.argwhere(~structural_of(data))
    sides = {against: _by_group(values, groups) for against, values in content(data).items()}
    return tuple(
        {
            "cell": run.label((int(row), int(column))),
            "comparison": f"own - {against}",
            **_test(values[:, row, column]),
        }
        for row, column in able
        for against, values in sides.items()
    )


def _by_group(values: Array, groups: tuple[str, ...]) -> Array:
    """Means over the pairs of each group, `(groups, layers, columns)`."""
    flat = values.reshape(len(values), -1)
    present = np.isfinite(flat)
    counts = by_group(present.astype(np.float64), groups)
    sums = by_group(np.where(present, flat, 0.0), groups)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return np.asarray(means.reshape(-1, *values.shape[1:]))


def _test(differences: Array) -> dict[str, float | int | None]:
    """Both tests of differences `(groups,)`; NaN is left out, under 1e-6 is 0."""
    differences = without_rounding(differences)
    known = differences[np.isfinite(differences)]
    found: dict[str, float | int | None] = dict.fromkeys(TEST_COLUMNS[2:])
    found |= {"n": len(known), "mean": float(known.mean()) if len(known) else None}
    if len(known) < 2 or np.ptp(known) == 0:
        return found
    t = float(known.mean() / (known.std(ddof=1) / np.sqrt(len(known))))
    smaller, approximate = signed_ranks(known)
    distinct = len(np.unique(np.abs(known))) == len(known) and known.all()
    exact = len(known) <= (_MANY if distinct else _FEW)
    return {
        **found,
        "t": t, "p_t": float(2 * t_tail(abs(t), len(known) - 1)),
        "wilcoxon": smaller, "p_wilcoxon": _exact_p(known) if exact else approximate,
    }  # fmt: skip


def _exact_p(differences: Array) -> float:
    """Exact p of the signed-rank sum among all signs."""
    doubled = np.rint(2 * ranks(np.abs(differences))).astype(int)
    signed = doubled[differences != 0]
    ways = np.ones(1)  # how many signs give each sum of the positive ranks
    for rank in signed:
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    seen = int(doubled[differences > 0].sum())
    tail = min(ways[: seen + 1].sum(), ways[seen:].sum())
    return float(min(1.0, 2 * tail / 2.0 ** len(signed)))
