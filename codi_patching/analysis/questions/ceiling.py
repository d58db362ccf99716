"""How much of the ceiling a patch reaches: all thoughts as in the source run, at all layers.

What is missing from the ceiling to the source run reaches the answer from the prompt directly. A
cell reaches the ceiling if its content effect is not smaller by the threshold or more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from codi_patching.analysis.arms import Arm, Array, command_of
from codi_patching.analysis.claims import Finding, unanswered
from codi_patching.analysis.effects import Comparisons, ceiling_content, mean_over
from codi_patching.analysis.families import Claims, Contrasts, Family, Part
from codi_patching.analysis.questions.setup import DIFFERENCE, Setup, cell_contrasts
from codi_patching.analysis.sentences import (
    compared,
    conclude,
    evidence,
    layers_listed,
    more_pairs,
    named,
    number,
    overall,
    too_few,
)

FAMILY = "ceiling"


def ceiling_family(setup: Setup) -> Family:
    """Every arm's cells against its ceiling."""
    parts: list[Part] = []
    ready: list[Finding] = []
    for arm in setup.arms:
        ceiling = ceiling_content(arm)
        shown = arm.end() if arm.experiment == "iterative" else arm
        if ceiling is None or not np.isfinite(ceiling.restored).any():
            reason = f"The results hold no ceiling; `{command_of(arm)}` makes it."
            ready.append(unanswered(_question(arm), reason, (arm.name,), FAMILY))
        else:
            parts.append(_part(shown, ceiling, setup))
    return Family(FAMILY, tuple(parts), tuple(ready))


def _question(arm: Arm) -> str:
    return f"Does any single patch reach the ceiling, and how much of it ({arm.name})?"


def _part(arm: Arm, ceiling: Comparisons, setup: Setup) -> Part:
    cells = cell_contrasts(arm, setup.thresholds)
    top = ceiling.apply(lambda values: values[:, None])
    gap = replace(
        cells,
        comparisons=cells.comparisons.minus(top),
        rule="reaches",
        kind="cell minus ceiling",
        reach=DIFFERENCE,
    )
    whole = Contrasts(
        ("the ceiling",), top, "content", "probability", setup.thresholds.probability,
        "ceiling", arm.control,
    )  # fmt: skip
    largest = float(np.nanmax(_estimates(cells.comparisons), initial=-1.0))
    return Part((gap, whole), lambda claims: _say(arm, claims, largest))


def _estimates(effect: Comparisons) -> Array:
    """Of each column the smaller of the two means."""
    restored = mean_over(effect.restored, 0)
    return restored if effect.specific is None else np.fmin(restored, mean_over(effect.specific, 0))


def _say(arm: Arm, blocks: tuple[Claims, ...], largest: float) -> Finding:
    gaps, (whole,) = blocks
    question = _question(arm)
    lead = max(gaps, key=lambda gap: -1.0 if gap.estimate is None else gap.estimate, default=None)
    if whole.verdict != "yes" or lead is None or not whole.estimate:
        reason = (
            "The ceiling itself is not shown to have a content effect: "
            f"{evidence(whole)}; there is nothing to reach."
        )
        if whole.verdict == "not applicable":
            reason = too_few(whole)
        return conclude(question, "not applicable", None, reason, (), [arm], FAMILY)
    verdict = overall(gaps)
    begin = {
        "yes": f"Yes, at {layers_listed([claim.name for claim in named(gaps, 'yes')])}.",
        "no": "No: every single patch stays below it by more than the threshold.",
    }.get(verdict, f"Undecided; at {lead.name}, {more_pairs(lead)}.")
    sentence = (
        f"{begin} The largest content effect of a single patch is estimated at {number(largest)} "
        f"in probability, {largest / whole.estimate:.0%} of the ceiling's "
        f"{number(whole.estimate)}; as the largest of many it is biased upwards. For {lead.name} "
        f"the patch minus the ceiling is {evidence(lead)}, p being of a shortfall of less than the "
        f"threshold.{compared(lead)}"
    )
    return conclude(question, verdict, lead, sentence, gaps, [arm], FAMILY)
