"""How often reports are wrong: simulated results, through the very functions that reports use.

    python scripts/calibrate.py --runs 400 --out docs/calibration.md

Without effects it counts reports in which any finding says yes, for each kind of noise; all kinds
make own patch and control exchangeable, or leave the own patch without any change. With planted
effects it counts wrong claims, wrong signs, coverage of the simultaneous intervals and power. And
it measures the coverage of the single intervals that maps and tables show.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from codi_patching.analysis.claims import Claim, Finding
from codi_patching.analysis.findings import find
from codi_patching.analysis.intervals import Interval, mean_interval, median_interval
from codi_patching.analysis.simulated import (
    NO_EFFECT,
    PAIRS,
    Planted,
    expected_arms,
    simulate,
)

Generator = np.random.Generator
SIZES = (0.15, 0.30, 0.50)
SHAPES = ("cell", "position", "band")
MEAN_ZERO = ("heavy tails", "a third exact zeros", "layers share their noise")
RESAMPLES = 1_999


def no_effect(runs: int, flips: int, kind: str, pairs: int = PAIRS) -> list[list[Finding]]:
    """Findings that say yes, of each report on data without effects."""
    reports = (
        find(simulate(kind, seed, pairs=pairs), seed=seed, flips=flips) for seed in range(runs)
    )
    return [
        [finding for finding in report if finding.verdict == "yes"]
        for report in tqdm(reports, total=runs, desc=kind, leave=False)
    ]


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


def planted(runs: int, flips: int, effect: Planted, kinds: Sequence[str]) -> Score:
    """Reports on a planted effect in noise of several kinds with mean 0, against the truth."""
    truth = find(expected_arms(effect), flips=19)
    score = Score()
    for seed in tqdm(range(runs), desc=f"{effect.shape} {effect.size}", leave=False):
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
    samples: int,
    sample: Callable[[Generator], NDArray[np.float64]],
    truth: float,
    interval: Callable[[NDArray[np.float64]], Interval],
) -> float:
    """Share of samples whose interval holds the truth."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in tqdm(range(samples), desc="coverage", leave=False):
        found = interval(sample(rng))
        held += found.low - 1e-12 <= truth <= found.high + 1e-12
    return held / samples


def skewed_kl(rng: Generator) -> NDArray[np.float64]:
    """KL as it is found: lognormal with σ = 2, and 30 % zeros."""
    return np.where(rng.random(PAIRS) < 0.3, 0.0, np.exp(rng.normal(0, 2, PAIRS)))


KL_MEDIAN = float(np.exp(2 * -0.5659488218))
"""Median of `skewed_kl`: the quantile of the lognormal at (0.5 - 0.3) / 0.7."""


def _mean_interval(sample: NDArray[np.float64]) -> Interval:
    return mean_interval(sample, resamples=RESAMPLES)


def table(title: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [title, ["---"] * len(title), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(runs: int, flips: int, samples: int) -> str:
    """The whole page."""
    kinds = list(NO_EFFECT)
    nothing = {kind: no_effect(runs, flips, kind) for kind in kinds}
    rows = [
        [kind, str(runs), str(sum(map(bool, found))), str(sum(map(len, found)))]
        for kind, found in nothing.items()
    ]
    total = sum(sum(map(bool, found)) for found in nothing.values())
    every = runs * len(kinds)
    rows.append(["all", str(every), f"{total} ({total / every:.2%})", ""])
    effects: list[tuple[str, float, tuple[str, ...]]] = [
        (shape, size, MEAN_ZERO) for shape in SHAPES for size in SIZES
    ]
    effects.append(("position", 0.30, ("skewed",)))
    scores = [
        (size, shape, noise, planted(-(-runs // 4), flips, Planted(size, shape), noise))
        for shape, size, noise in effects
    ]
    single = [
        [name, f"{coverage(samples, sample, truth, _mean_interval):.1%}"]
        for name, sample, truth in values()
    ]
    single.append(
        [
            "median of KL, lognormal σ = 2, 30 % zeros",
            f"{coverage(samples, skewed_kl, KL_MEDIAN, median_interval):.1%}",
        ]
    )
    return PAGE.format(
        command=f"python scripts/calibrate.py --runs {runs} --flips {flips} --samples {samples}",
        nothing=table(["noise", "reports", "with any yes", "findings that say yes"], rows),
        planted=table(PLANTED, [_row(*score) for score in scores]),
        single=table(["values", "coverage"], single),
        pairs=PAIRS,
    )


PLANTED = (
    "shape", "size", "reports", "found by layer", "found by cell", "planted cells that say yes",
    "wrong claims", "wrong signs", "intervals that cover", "reports in which all cover",
)  # fmt: skip


def _row(size: float, shape: str, noise: Sequence[str], score: Score) -> list[str]:
    return [
        shape if len(noise) > 1 else f"{shape}, {noise[0]}",
        f"{size:.2f}",
        str(score.runs),
        f"{score.found['layer'] / score.runs:.0%}",
        f"{score.found['position'] / score.runs:.0%}",
        f"{score.cells[0] / max(score.cells[1], 1):.0%}",
        f"{score.wrong} of {score.claims}",
        f"{score.wrong_sign} of {score.yes}",
        f"{score.covered / max(score.intervals, 1):.2%}",
        f"{score.joint / score.runs:.0%}",
    ]


PAGE = """# Calibration

How often reports are wrong, measured on simulated results through the very functions that reports
use (`codi_patching.analysis.findings.find`, `codi_patching.analysis.intervals`). Made by

    {command}

Each report has {pairs} pairs and six arms: layer and position patching, each with frozen and with
recomputed latents, a relay and a cumulative chain, over 16 layers and 5 positions.

## No effect: how many reports claim one

Every kind of noise makes own patch and control exchangeable, or leaves the own patch without any
change. A report is wrong if any of its findings says yes; at most 5 % may be.

{nothing}

## Planted effects

A content effect of the given mean and a standard deviation of 0.3 over pairs, drawn anew in each
cell, in noise of mean 0 (heavy tails, zeros, shared; a third of the reports each). `cell` is one
layer and one position, `position` one position at eight layers, `band` all positions in the lower
half. A claim is wrong if it says yes where the true contrast is within the threshold, or no
where it is beyond; the truth of every contrast comes from the same code, applied to expected
values. Found means that the question about layers, or about cells, is answered with yes. The last
row is in skewed noise (a tenth of the pairs changes by 0.45 one way, the others by 0.05 the other):
there some of a report's 500 columns see none or one of those pairs, and their intervals miss, but
by less than the threshold.

{planted}

## Single intervals

Coverage of the 95 % intervals of maps and tables at {pairs} pairs: `mean_interval` of bounded
values, `median_interval` of KL.

{single}
"""


def main() -> None:
    """Simulate, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=400, help="reports for each kind of noise")
    parser.add_argument("--flips", type=int, default=1_999, help="sign flips of each test")
    parser.add_argument("--samples", type=int, default=2_000, help="samples for each coverage")
    parser.add_argument("--out", type=Path, help="where to write the page; else it is printed")
    arguments = parser.parse_args()
    page = write(arguments.runs, arguments.flips, arguments.samples)
    if arguments.out:
        arguments.out.write_text(page, encoding="utf-8")
    else:
        print(page)


if __name__ == "__main__":
    main()
