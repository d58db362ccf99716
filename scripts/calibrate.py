"""How often reports are wrong, and what they find: simulated results, judged as reports judge them.

    python scripts/calibrate.py --out docs/calibration.md

Without effects it counts reports that claim a direction, for each kind of noise; with planted ones,
wrong signs, bounds and intervals that miss, and power; with planted strata, what is said of each
thought.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr
from noise import NO_EFFECT
from simulated import (
    HOLDS,
    Planted,
    expected,
    expected_cuts,
    planted_cells,
    simulate,
    simulate_cuts,
    simulate_strata,
)
from tqdm import tqdm

from codi_patching.analysis.asking import ask
from codi_patching.analysis.courses import ask_chains
from codi_patching.analysis.findings import Claim, Finding, StrataFinding
from codi_patching.analysis.knocked_out import THROUGH, ask_knockout
from codi_patching.analysis.levels import SHARES, label_of
from codi_patching.analysis.questions import PRIMARY
from codi_patching.analysis.strata import strata_finding
from codi_patching.analysis.study import studies_of
from codi_patching.results.dataset import run_of

SIZES = (20, 57, 200)
EFFECTS = {
    "0.30, deviation 0.3": Planted(0.3),
    "0.15, deviation 0.3": Planted(0.15),
    "flips in 30 %, control never": Planted(0.3, flips=True),
    "flips in 30 %, control in 2 %": Planted(0.3, flips=True, control=0.02),
    "flips in 30 %, control in 5 %": Planted(0.3, flips=True, control=0.05),
}
NOISES = (None, "heavy tails", "a third exact zeros", "layers share their noise")
"""Of mean 0, beneath planted effects of every size; flips stand in none."""

Key = tuple[str, tuple[str, ...], str, str]


def judged(runs: Sequence[xr.Dataset], seed: int) -> list[Finding]:
    """The findings in which a report claims, by the functions that reports use."""
    found = []
    for study in studies_of(list(runs), seed, ()):
        found += [finding for question in PRIMARY for finding in ask(question, study)]
        found += ask_chains(study)
    return found


def claims_of(findings: Iterable[Finding]) -> Iterator[tuple[Key, Claim]]:
    """Every claim once, by question, runs, kind and name."""
    for finding in findings:
        for claim in finding.claims:
            yield (finding.key, finding.runs, claim.kind, claim.name), claim


def judged_cuts(cuts: xr.Dataset, seed: int) -> list[Finding]:
    """What a report claims of cut edges; the others are described."""
    (study,) = studies_of([cuts], seed, ())
    return [finding for finding in ask_knockout(study) if finding.key == "around"]


@dataclass
class Score:
    """Counts over reports.

    Attributes:
        reports: How many.
        false: Those with a claimed direction that the truth does not have, wrong signs among them.
        oftener: Those that claim that more pairs go one way where the mean effect is 0.
        missed_bounds: Those with an effect beyond what it is said to be at most.
        missed_intervals: Those with a mean outside its simultaneous interval, in any question.
        claims: Claims of any kind.
        wrong_signs: Those whose effect goes the other way.
        planted: Cells with a planted effect, in position patching with recomputed thoughts; of
            cut edges, that of all thoughts.
        found: Those that are claimed to rise.
        counted: Those that are claimed to rise more often than fall.
        examples: Claims that the truth does not have, to look at.
    """

    reports: int = 0
    false: int = 0
    oftener: int = 0
    missed_bounds: int = 0
    missed_intervals: int = 0
    claims: int = 0
    wrong_signs: int = 0
    planted: int = 0
    found: int = 0
    counted: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, findings: Sequence[Finding], truth: dict[Key, Claim]) -> None:
        """Count a report against the truth."""
        false = oftener = bound = interval = False
        for key, claim in claims_of(findings):
            means = [comparison.mean for comparison in truth[key].comparisons]
            agree = all(m > 1e-9 for m in means) or all(m < -1e-9 for m in means)
            content = min(means, key=abs) if agree else 0.0
            sign = {"rises": 1, "more often": 1, "falls": -1, "less often": -1}
            if claim.claimed:
                wrong = sign[claim.verdict] * content <= 0
                self.claims += 1
                self.wrong_signs += sign[claim.verdict] * content < 0
                false |= wrong and claim.verdict in ("rises", "falls")
                oftener |= wrong and claim.verdict in ("more often", "less often")
                if wrong:
                    self.examples.append(f"{key} {claim}")
            bound |= content > claim.bound + 1e-9
            interval |= any(
                not (c.low - 1e-9 <= m <= c.high + 1e-9)
                for c, m in zip(claim.comparisons, means, strict=True)
                if np.isfinite(c.low)
            )
            asked = key[:2] == ("cells", ("position, recomputed",)) or claim.column == THROUGH
            if asked and content > 0.01:
                self.planted += 1
                self.found += claim.verdict == "rises"
                self.counted += claim.verdict == "more often"
        self.reports += 1
        self.false += false
        self.oftener += oftener
        self.missed_bounds += bound
        self.missed_intervals += interval


def score(
    kinds: Sequence[str | None], pairs: int, seeds: Iterable[int], planted: Planted | None = None
) -> Score:
    """Reports on noise of several kinds in turn, against the truth."""
    total = Score()
    truths = {
        kind: dict(claims_of(judged(expected(kind, pairs, planted), seed=0))) for kind in kinds
    }
    for seed in seeds:
        kind = kinds[seed % len(kinds)]
        total.add(judged(simulate(kind, seed, pairs, planted), seed), truths[kind])
    return total


def score_cuts(
    kinds: Sequence[str | None], pairs: int, seeds: Iterable[int], fall: float = 0.0
) -> Score:
    """The same of reports on cut edges."""
    total = Score()
    truths = {k: dict(claims_of(judged_cuts(expected_cuts(k, pairs, fall), 0))) for k in kinds}
    for seed in seeds:
        kind = kinds[seed % len(kinds)]
        total.add(judged_cuts(simulate_cuts(kind, seed, pairs, fall), seed), truths[kind])
    return total


@dataclass
class StrataScore:
    """Counts over tables of what each position carries.

    Attributes:
        tables: How many.
        late: Those that name a step later than what is held, or where nothing is.
        right: Positions by length whose step is named, of those that hold one.
        held: Of so many.
        depends: Tables in which effects depend on the step that changed, at 5 %.
    """

    tables: int = 0
    late: int = 0
    right: int = 0
    held: int = 0
    depends: int = 0

    def add(self, finding: StrataFinding, known: bool) -> None:
        """Count a table; `known` is whether its labels are the pairs' own."""
        late = False
        for carried in finding.main.carried:
            for length in carried.lengths or tuple(HOLDS):
                holds = HOLDS[length][int(carried.column)] if known else 0
                late |= (carried.step or 0) > holds
                self.right += holds > 0 and carried.step == holds
        self.held += sum(step > 0 for steps in HOLDS.values() for step in steps) if known else 0
        self.tables += 1
        self.late += late
        self.depends += finding.depends <= 0.05


def score_strata(
    rate: float, background: float, pairs: int, seeds: Iterable[int], shuffle: bool = False
) -> StrataScore:
    """Tables of planted strata."""
    total, share = StrataScore(), SHARES["strata"]["position, recomputed"]
    for seed in seeds:
        data = simulate_strata(seed, rate, background, pairs, shuffle).isel(layer=[0])
        finding = strata_finding(data, label_of(run_of(data)), share, (), seed, permutations=499)
        if finding is not None:
            total.add(finding, not shuffle)
    return total


def table(title: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [title, ["---"] * len(title), *(map(str, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rate(part: int, whole: int) -> str:
    """A count with its share."""
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "none"


def without_effects(reports: int) -> str:
    """Reports on noise alone, by kind and number of pairs."""
    rows, every = [], {size: Score() for size in SIZES}
    for kind in tqdm(NO_EFFECT, desc="no effect", leave=False):
        for pairs in SIZES:
            own = score([kind], pairs, range(reports))
            rows.append([kind, pairs, reports, own.false, own.oftener, own.missed_intervals])
            for name in ("reports", "false", "oftener", "missed_intervals"):
                setattr(every[pairs], name, getattr(every[pairs], name) + getattr(own, name))
    for pairs, total in every.items():
        counts = (total.false, total.oftener, total.missed_intervals)
        rows.append(["all", pairs, total.reports, *(rate(c, total.reports) for c in counts)])
    title = (
        "noise", "pairs", "reports", "false direction", "more pairs one way", "interval missed",
    )  # fmt: skip
    return table(title, rows)


def with_effects(reports: int) -> str:
    """Reports on planted effects, by effect and number of pairs."""
    rows = []
    for name, planted in tqdm(EFFECTS.items(), desc="planted", leave=False):
        for pairs in SIZES:
            own = score(NOISES[:1] if planted.flips else NOISES, pairs, range(reports), planted)
            rows.append(
                [
                    name,
                    pairs,
                    reports,
                    f"{own.found / own.planted:.0%}",
                    f"{(own.found + own.counted) / own.planted:.0%}",
                    own.false,
                    rate(own.wrong_signs, own.claims),
                    own.missed_bounds,
                    own.missed_intervals,
                ]
            )
    title = (
        "effect", "pairs", "reports", "cells claimed to rise", "or more often", "false direction",
        "wrong signs of claims", "bound missed", "interval missed",
    )  # fmt: skip
    return table(title, rows)


def of_strata(tables: int) -> str:
    """Tables of planted strata, by rate, background and number of pairs."""
    rows = []
    cases = [(0.3, 0.0), (0.5, 0.0), (0.8, 0.0), (0.5, 0.1), (0.8, 0.15)]
    for restored, background in tqdm(cases, desc="strata", leave=False):
        for pairs in SIZES:
            own = score_strata(restored, background, pairs, range(tables))
            named = f"{own.right / own.held:.0%}"
            late = rate(own.late, own.tables)
            rows.append([restored, background, pairs, tables, named, late])
    for pairs in SIZES:
        own = score_strata(0.8, 0.0, pairs, range(tables), shuffle=True)
        depends = rate(own.depends, own.tables)
        late = f"{rate(own.late, own.tables)}; p ≤ 0.05 in {depends}"
        rows.append(["0.8, labels shuffled", 0.0, pairs, tables, "", late])
    title = ("restored", "background", "pairs", "tables", "steps named", "named too late")
    return table(title, rows)


def of_cuts(reports: int) -> str:
    """Reports on cut edges, without a fall and with planted ones."""
    rows = []
    for fall in tqdm((0.0, 0.15, 0.3), desc="cuts", leave=False):
        kinds = NOISES if fall else tuple(NO_EFFECT)
        for pairs in SIZES:
            own = score_cuts(kinds, pairs, range(reports * len(NO_EFFECT)), fall)
            found = f"{own.found / own.planted:.0%}" if own.planted else ""
            false = rate(own.false, own.reports)
            rows.append([fall, pairs, own.reports, found, false, own.missed_intervals])
    title = ("fall", "pairs", "reports", "claimed to fall", "false direction", "interval missed")
    return table(title, rows)


def write(reports: int, tables: int) -> str:
    """The whole page."""
    return PAGE.format(
        command=f"python scripts/calibrate.py --reports {reports} --tables {tables}",
        nothing=without_effects(reports),
        planted=with_effects(reports),
        strata=of_strata(tables),
        cuts=of_cuts(reports),
        cells=int(planted_cells(5).sum()),
    )


PAGE = """# Calibration

How often reports are wrong, and what they find, on simulated results that are judged by the
functions that judge those of models. Made by

    {command}

Each report has six runs: layer and position patching, each with frozen and with recomputed
thoughts, a relay and a cumulative chain, over 16 layers and 5 positions. At 20 pairs there are
directions only where each pair is its own group.

## No effect

Every kind of noise makes own patch and control exchangeable, or leaves the answer alone with the
own patch. *False direction*: reports in which any claim says that a mean rises or falls; at most
5 % may. *More pairs one way*: reports that claim so of pairs, and nothing of the mean; of skewed
noise it is true. *Interval missed*: reports in which any of some 700 simultaneous intervals, of
each comparison in every question, does not hold its mean; on sparse and on skewed columns they are
approximate, which is why directions have a guard of their own.

{nothing}

## Planted effects

In {cells} cells, half of the layers at one position, of both runs of position patching; the other
runs are empty. Beneath effects with a deviation there is noise of mean 0 (none, heavy tails, zeros,
shared; a quarter of the reports each). *False direction*: reports that claim a direction that the
truth does not have, in any run. *Bound missed*: reports in which an effect is larger than it is
said to be at most.

{planted}

## What each thought carries

Position patching of a model whose thoughts hold results as codi-tiny's do, in problems of two to
four steps, at one layer. Patches that reach what a thought holds restore a pair at the first rate,
all others, and the control's, at the second. *Steps named*: positions by length whose step is
named, of those that hold one. *Named too late*: tables that name a step after what is held, or
any step where nothing is.

{strata}

## Cut edges

Question 8: what the answer loses where the readout sees no question, judged against the uncut run
alone, or no thought, judged against the control too. Without a fall, all kinds of noise in turn;
with one, it is where no thought is seen.

{cuts}
"""


def main() -> None:
    """Simulate, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--reports", type=int, default=12, help="for each kind and size")
    parser.add_argument("--tables", type=int, default=200, help="of strata, for each case")
    parser.add_argument("--out", type=Path, help="where to write the page; else it is printed")
    arguments = parser.parse_args()
    page = write(arguments.reports, arguments.tables)
    if arguments.out:
        arguments.out.write_text(page, encoding="utf-8")
    else:
        print(page)


if __name__ == "__main__":
    main()
