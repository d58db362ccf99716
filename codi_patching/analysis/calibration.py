"""How often reports and intervals are wrong on simulated results, whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from codi_patching.analysis.claims import Claim, Finding
from codi_patching.analysis.findings import find
from codi_patching.analysis.intervals import median_interval
from codi_patching.analysis.simulated import PAIRS, Generator, Planted, expected_arms, simulate


def no_effect(
    seeds: Iterable[int], flips: int, kind: str, pairs: int = PAIRS
) -> list[list[Finding]]:
    """Findings that say yes, of each report on data without effects; a report a seed."""
    reports = (find(simulate(kind, seed, pairs=pairs), seed=seed, flips=flips) for seed in seeds)
    return [[finding for finding in report if finding.verdict == "yes"] for report in reports]


class Score:
    """What is counted over reports on planted effects.

    Attributes:
        claims: Claims with a verdict of yes or no.
        wrong: Those that the truth contradicts.
        yes: Claims that say yes.
        wrong_sign: Those with the sign against the truth.
        intervals: Simultaneous intervals.
        covered: Those that hold the truth.
        joint: Reports in which all of them do.
        found: Reports with the planted effect in each experiment, by experiment.
        cells: Planted cells that say yes, and how many there are.
    """

    def __init__(self) -> None:
        self.claims = self.wrong = self.yes = self.wrong_sign = 0
        self.intervals = self.covered = self.joint = self.runs = 0
        self.found = {"layer": 0, "position": 0}
        self.cells = [0, 0]

    def add(self, report: Sequence[Finding], truth: Sequence[Finding]) -> None:
        """Count one report against the truth."""
        self.runs += 1
        known = {finding.question: finding for finding in truth}
        joint = True
        for finding in report:
            if finding.family in ("described", "leading layers", "accuracy"):
                continue
            expected = known[finding.question].claims
            for claim, true in zip(finding.claims, expected, strict=False):
                if true.estimate is not None and claim.low is not None:
                    joint &= self._count(claim, true)
        self.joint += joint
        for experiment, family in (("layer", "layers"), ("position", "layers and positions")):
            asked = [f for f in report if f.family == family and f.question.startswith("Which")]
            self.found[experiment] += any(finding.verdict == "yes" for finding in asked)
            for finding in asked:
                for claim, true in zip(finding.claims, known[finding.question].claims, strict=True):
                    if (true.estimate or 0.0) > 0.1:
                        self.cells[0] += claim.verdict == "yes"
                        self.cells[1] += 1

    def _count(self, claim: Claim, true: Claim) -> bool:
        low, high, truth = (value or 0.0 for value in (claim.low, claim.high, true.estimate))
        inside = low - 1e-9 <= truth <= high + 1e-9
        self.intervals += 1
        self.covered += inside
        if claim.kind == "cell minus ceiling":
            holds = truth > -claim.threshold - 1e-9
        elif claim.kind in ("content", "direct", "total"):
            holds = truth > claim.threshold + 1e-9
        else:
            holds = abs(truth) > claim.threshold + 1e-9
        if claim.verdict in ("yes", "no"):
            self.claims += 1
            self.wrong += (claim.verdict == "yes") != holds
        if claim.verdict == "yes" and claim.kind != "cell minus ceiling":
            self.yes += 1
            self.wrong_sign += (claim.estimate or 0.0) * truth <= 0
        return inside


def planted(seeds: Iterable[int], flips: int, effect: Planted, kinds: Sequence[str]) -> Score:
    """Reports on a planted effect in noise of several kinds with mean 0, against the truth."""
    truth = find(expected_arms(effect), flips=19)
    score = Score()
    for seed in seeds:
        arms = simulate(kinds[seed % len(kinds)], 10_000 + seed, effect)
        score.add(find(arms, seed=seed, flips=flips), truth)
    return score


def values() -> Iterator[tuple[str, Callable[[Generator], NDArray[np.float64]], float]]:
    """Bounded values of which few are not 0: name, sampler of a sample, true mean."""

    def sparse(
        share: float, draw: Callable[[Generator], NDArray[np.float64]], negative: float
    ) -> Callable[[Generator], NDArray[np.float64]]:
        def sample(rng: Generator) -> NDArray[np.float64]:
            sign = np.where(rng.random(PAIRS) < negative, -1.0, 1.0)
            return np.where(rng.random(PAIRS) < share, sign * draw(rng), 0.0)

        return sample

    sizes: list[tuple[str, Callable[[Generator], NDArray[np.float64]], float]] = [
        ("1", lambda rng: np.ones(PAIRS), 1.0),
        ("uniform", lambda rng: rng.random(PAIRS), 0.5),
        ("beta(2, 5)", lambda rng: rng.beta(2, 5, PAIRS), 2 / 7),
        ("beta(0.5, 2)", lambda rng: rng.beta(0.5, 2, PAIRS), 0.2),
    ]
    for share in (0.1, 0.3, 1.0):
        for name, draw, mean in sizes:
            for negative in (0.0, 0.5):
                if share < 1 or name != "1":
                    side = "either way" if negative else "one way"
                    label = f"{share:.0%} nonzero, {name}, {side}"
                    yield label, sparse(share, draw, negative), share * mean * (1 - 2 * negative)


def coverage(
    samples: Iterable[int],
    sample: Callable[[Generator], NDArray[np.float64]],
    truth: float,
    intervals: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> float:
    """Share of samples, the columns of `(pairs, samples)`, whose interval holds the truth."""
    rng = np.random.default_rng(1)
    low, high = intervals(np.stack([sample(rng) for _ in samples], axis=1))
    return float(np.mean((low - 1e-12 <= truth) & (truth <= high + 1e-12)))


def median_intervals(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`median_interval` of each column: lower and upper ends."""
    _, low, high = np.array([median_interval(column) for column in values.T]).T
    return low, high


def skewed_kl(rng: Generator) -> NDArray[np.float64]:
    """KL as it is found: lognormal with σ = 2, and 30 % zeros."""
    return np.where(rng.random(PAIRS) < 0.3, 0.0, np.exp(rng.normal(0, 2, PAIRS)))


KL_MEDIAN = float(np.exp(2 * -0.5659488218))
"""Median of `skewed_kl`: the quantile of the lognormal at (0.5 - 0.3) / 0.7."""
