"""How often reports are wrong: simulated results, through the very functions that reports use.

    python scripts/calibrate.py --runs 400 --out docs/calibration.md

Without effects it counts reports in which any finding says yes, for each kind of noise; all kinds
make own patch and control exchangeable, or leave the own patch without any change. With planted
effects it counts wrong claims, wrong signs, coverage of the simultaneous intervals and power. And
it measures the coverage of the single intervals that maps and tables show.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from codi_patching.analysis.calibration import (
    KL_MEDIAN,
    Score,
    coverage,
    median_intervals,
    no_effect,
    planted,
    skewed_kl,
    values,
)
from codi_patching.analysis.intervals import mean_intervals
from codi_patching.analysis.simulated import NO_EFFECT, PAIRS, Planted

SIZES = (0.15, 0.30, 0.50)
SHAPES = ("cell", "position", "band")
MEAN_ZERO = ("heavy tails", "a third exact zeros", "layers share their noise")


def _count(number: int, what: str) -> Iterable[int]:
    return tqdm(range(number), desc=what, leave=False)


def _planted(size: float, shape: str, noise: Sequence[str], runs: int, flips: int) -> Score:
    return planted(_count(runs, f"{shape} {size}"), flips, Planted(size, shape), noise)


def table(title: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [title, ["---"] * len(title), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(runs: int, flips: int, samples: int) -> str:
    """The whole page."""
    kinds = list(NO_EFFECT)
    nothing = {kind: no_effect(_count(runs, kind), flips, kind) for kind in kinds}
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
        (size, shape, noise, _planted(size, shape, noise, -(-runs // 4), flips))
        for shape, size, noise in effects
    ]
    single = [
        [name, f"{coverage(_count(samples, name), sample, truth, mean_intervals):.1%}"]
        for name, sample, truth in values()
    ]
    single.append(
        [
            "median of KL, lognormal σ = 2, 30 % zeros",
            f"{coverage(_count(samples, 'KL'), skewed_kl, KL_MEDIAN, median_intervals):.1%}",
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

Coverage of the 95 % intervals of maps and tables at {pairs} pairs: `mean_intervals` of bounded
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
