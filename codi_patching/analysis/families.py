"""Families of claims: contrasts that share one max-T, and the claims that come out of it.

A question brings its contrasts, each with its two comparisons, as columns; all columns of a family
go into one maximum. A content effect needs both comparisons: its p is the larger of the two, its
interval goes from the smaller lower end to the smaller upper end. A contrast of content effects may
go either way: its interval is the hull of the two, so that it lies beyond the threshold, or inside,
exactly if both do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codi_patching.analysis.arms import Array
from codi_patching.analysis.claims import Claim, Finding
from codi_patching.analysis.effects import Comparisons
from codi_patching.analysis.max_t import MaxT, max_t
from codi_patching.analysis.verdicts import (
    Rule,
    Unit,
    decide,
    identical_bounds,
    least_pairs_for_no,
    pairs_to_decide,
)


@dataclass(frozen=True)
class Contrasts:
    """Columns of a family that are judged alike.

    Attributes:
        names: One for each claim.
        comparisons: `(pairs, claims)`.
        rule: Whether only a rise counts.
        unit: Of the values.
        threshold: What is too small to matter.
        kind: What is estimated.
        control: What the control patched.
        cells: Of each claim the names of its layer and column, where it has them.
        against: What they were compared with, if it is no patch.
        reach: How large a value can be in size, of either comparison; for bounded units.
    """

    names: tuple[str, ...]
    comparisons: Comparisons
    rule: Rule
    unit: Unit
    threshold: float
    kind: str = "content"
    control: str = "none"
    cells: tuple[tuple[str | None, str | None], ...] = ()
    against: str = ""
    reach: tuple[float, float] = (1.0, 1.0)

    def columns(self) -> Array:
        """Both comparisons side by side, `(pairs, claims or twice as many)`."""
        if self.comparisons.specific is None:
            return self.comparisons.restored
        return np.concatenate([self.comparisons.restored, self.comparisons.specific], axis=1)

    def reaches(self) -> tuple[float, ...]:
        """Of the comparisons that there are."""
        return self.reach[: 1 if self.comparisons.specific is None else 2]

    @property
    def bounded(self) -> bool:
        """Whether values have a largest size."""
        return self.unit in ("probability", "hit rate")


Claims = tuple[Claim, ...]


@dataclass(frozen=True)
class Part:
    """A question of a family: its contrasts, and how its answer follows from their claims.

    Attributes:
        contrasts: One or more blocks.
        conclude: From the claims of each block to the finding.
    """

    contrasts: tuple[Contrasts, ...]
    conclude: Callable[[tuple[Claims, ...]], Finding]


@dataclass(frozen=True)
class Family:
    """Questions that share one max-T.

    Attributes:
        name: Short name.
        parts: Its questions.
        ready: Findings that take no test: not applicable, or described.
    """

    name: str
    parts: tuple[Part, ...] = ()
    ready: tuple[Finding, ...] = field(default=())


def judge_family(
    family: Family,
    signs: NDArray[np.int8],
    groups: Sequence[str],
    alpha: float,
    least_pairs: int,
) -> list[Finding]:
    """The findings of a family, from one max-T at level `alpha`."""
    blocks = [block for part in family.parts for block in part.contrasts]
    if not blocks:
        return list(family.ready)
    result = max_t(np.concatenate([block.columns() for block in blocks], axis=1), signs, groups)
    findings, first = [], 0
    for part in family.parts:
        judged = []
        for block in part.contrasts:
            width = block.columns().shape[1]
            span = slice(first, first + width)
            judged.append(_claims(block, result, span, alpha, least_pairs))
            first += width
        findings.append(part.conclude(tuple(judged)))
    return findings + list(family.ready)


def _claims(
    block: Contrasts,
    result: MaxT,
    span: slice,
    alpha: float,
    least_pairs: int,
) -> Claims:
    bounds = _Bounds.of(block, result, span, alpha)
    least_no = least_pairs
    if block.bounded:
        least_no = least_pairs_for_no(block.threshold, alpha, max(block.reaches()))
    cells = block.cells or ((None, None),) * len(block.names)
    claims = []
    for i, name in enumerate(block.names):
        estimate, low, high, p = bounds.joined(i, block.rule)
        n, units = int(bounds.n[:, i].min()), int(bounds.groups[:, i].min())
        verdict = decide(
            block.rule, low, high, block.threshold, units >= least_pairs, units >= least_no
        )
        needed = None
        if verdict == "undecided" and n:
            needed = pairs_to_decide(
                estimate, max(estimate - low, high - estimate), n, block.threshold, least_no
            )
        claims.append(
            Claim(
                name, verdict, _known(estimate), _known(low), _known(high), _known(p), n,
                block.threshold, block.unit, block.kind, *cells[i], _against(block), units,
                needed, 1 - alpha,
            )
        )  # fmt: skip
    return tuple(claims)


def _against(block: Contrasts) -> str:
    if block.against:
        return block.against
    if block.comparisons.specific is None:
        return "unpatched alone"
    return f"unpatched and control ({block.control.replace('_', ' ')})"


@dataclass(frozen=True)
class _Bounds:
    """Estimates, intervals and p of a block's comparisons, `(comparisons, claims)` each."""

    mean: Array
    low: Array
    high: Array
    p: Array
    n: NDArray[np.int_]
    groups: NDArray[np.int_]

    @classmethod
    def of(cls, block: Contrasts, result: MaxT, span: slice, alpha: float) -> _Bounds:
        shape = (-1, len(block.names))
        mean, error, n = result.mean[span], result.error[span], result.n[span]
        with np.errstate(invalid="ignore"):
            width = np.where(error > 0, result.critical(alpha) * error, 0.0)
        low, high = mean - width, mean + width
        if block.bounded:
            reach = np.repeat(block.reaches(), len(block.names))
            low, high = np.maximum(low, -reach), np.minimum(high, reach)
            for i in np.flatnonzero(~result.tested[span] & (n > 0)):
                units, most = result.groups[span][i], reach[i]
                low[i], high[i] = identical_bounds(mean[i], units, alpha, -most, most)
        excess = {
            "content": mean - block.threshold,
            "direction": np.abs(mean) - block.threshold,
            "reaches": mean + block.threshold,
        }[block.rule]
        p = result.p(np.maximum(excess, 0.0), span)
        return cls(
            mean.reshape(shape),
            low.reshape(shape),
            high.reshape(shape),
            p.reshape(shape),
            n.reshape(shape),
            result.groups[span].reshape(shape),
        )

    def joined(self, i: int, rule: Rule) -> tuple[float, float, float, float]:
        """Estimate, low, high and p of a claim from its one or two comparisons."""
        means, lows, highs, ps = self.mean[:, i], self.low[:, i], self.high[:, i], self.p[:, i]
        if np.isnan(means).any():
            return np.nan, np.nan, np.nan, np.nan
        p = float("nan") if np.isnan(ps).any() else float(ps.max())
        if rule != "direction":
            return float(means.min()), float(lows.min()), float(highs.min()), p
        if len(means) > 1 and means[0] * means[1] < 0:
            p = np.nan if np.isnan(p) else 1.0
        estimate = float(means[np.abs(means).argmin()])
        return estimate, float(lows.min()), float(highs.max()), p


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
