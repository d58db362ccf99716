"""Answers to the research questions, each with the numbers that it rests on.

    findings = find(arms)

Questions come in families that share claims. Each family is one max-T at level 0.05 / Q, with Q the
number of families of a report that are judged; so the chance that a report of data without effects
says yes or gives a direction is at most 5 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codi_patching.analysis.arms import Arm, align, command_of
from codi_patching.analysis.claims import Claim, Finding
from codi_patching.analysis.families import Family, judge_family
from codi_patching.analysis.max_t import FLIPS, draw_signs
from codi_patching.analysis.questions.accuracy import accuracy_family
from codi_patching.analysis.questions.both_ways import both_ways_family
from codi_patching.analysis.questions.ceiling import ceiling_family
from codi_patching.analysis.questions.cells import cells_family
from codi_patching.analysis.questions.courses import chains_family
from codi_patching.analysis.questions.decoded import decoded_family
from codi_patching.analysis.questions.described import described_family
from codi_patching.analysis.questions.layers import layers_family
from codi_patching.analysis.questions.leading import leading_family
from codi_patching.analysis.questions.patterns import patterns_family
from codi_patching.analysis.questions.setup import Setup
from codi_patching.analysis.questions.sums import sums_family
from codi_patching.analysis.readings import Readings
from codi_patching.analysis.verdicts import Thresholds

__all__ = ["Claim", "Finding", "find"]

FAMILIES: tuple[Callable[[Setup], Family], ...] = (
    cells_family,
    layers_family,
    patterns_family,
    chains_family,
    sums_family,
    leading_family,
    accuracy_family,
    ceiling_family,
    both_ways_family,
    decoded_family,
    described_family,
)
"""In the order in which a report answers them."""


def find(
    arms: Sequence[Arm],
    thresholds: Thresholds | None = None,
    seed: int = 0,
    flips: int = FLIPS,
    readings: Readings | None = None,
) -> list[Finding]:
    """Answer every question that the arms allow, and say what is missing for the others.

    Args:
        arms: Results of experiments on the same pairs; pairs that an arm lacks are left out of what
            it takes part in.
        thresholds: What is too small to matter.
        seed: Of the sign flips, the folds and the bootstraps.
        flips: Sign flips; p-values are no smaller than 1 / (1 + flips).
        readings: What the lens read of these pairs, if it was run.

    Returns:
        Findings in the order of `FAMILIES`.
    """
    if not arms:
        raise ValueError("expected the results of at least one experiment, got none")
    for arm in arms:
        for where, metrics in (("results", arm.values), ("unpatched runs", arm.base)):
            if arm.probability not in metrics:
                raise ValueError(
                    f"expected {arm.probability} in the {where} of {arm.name}, got "
                    f"{', '.join(sorted(metrics)) or 'nothing'}; `{command_of(arm)}` makes it"
                )
    options = thresholds or Thresholds()
    aligned = tuple(align(arms))
    read = None if readings is None else readings.aligned(aligned[0].pair_ids)
    setup = Setup(aligned, options, seed, read)
    families = [build(setup) for build in FAMILIES]
    alpha = options.level / max(1, sum(bool(family.parts) for family in families))
    groups = setup.arms[0].groups
    signs = draw_signs(len(set(groups)), flips, seed)
    findings: list[Finding] = []
    for family in families:
        findings += judge_family(family, signs, groups, alpha, options.least_pairs)
    return findings
