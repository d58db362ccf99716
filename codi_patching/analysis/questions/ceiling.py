"""How much of the ceiling a patch reaches: all thoughts as in the source run, at all layers.

What is missing from the ceiling to the source run reaches the answer from the prompt directly. A
cell reaches the ceiling if its content effect is not smaller by the threshold or more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from codi_patching.analysis.arms import Arm
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.effects import Comparisons, ceiling_content, content
from codi_patching.analysis.families import Claims, Contrasts, Family, Part
from codi_patching.analysis.questions.setup import Setup, cell_contrasts, contrast
from codi_patching.analysis.sentences import (
    compared,
    conclude,
    evidence,
    listed,
    more_pairs,
    named,
    number,
    overall,
    strongest,
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
            reason = "The results hold no ceiling; run the experiment again with this version."
            ready.append(unanswered(_question(arm), reason, (arm.name,), FAMILY))
        else:
            parts.append(_part(shown, ceiling, setup))
    return Family(FAMILY, tuple(parts), tuple(ready))


def _question(arm: Arm) -> str:
    return f"Does any single patch reach the ceiling, and how much of it ({arm.name})?"


def _part(arm: Arm, ceiling: Comparisons, setup: Setup) -> Part:
    cells = cell_contrasts(arm, setup.thresholds)
    own = content(arm).columns(~arm.structural)
    top = ceiling.apply(lambda values: values[:, None])
    gap = contrast(
        cells.names, own.minus(top), setup.thresholds, "cell minus ceiling", arm.control,
        cells.cells,
    )  # fmt: skip
    whole = Contrasts(
        ("the ceiling",), top, "content", "probability", setup.thresholds.probability,
        "ceiling", arm.control,
    )  # fmt: skip
    return Part((gap, cells, whole), lambda claims: _say(arm, claims))


def _say(arm: Arm, blocks: tuple[Claims, ...]) -> Finding:
    gaps, cells, (whole,) = blocks
    question = _question(arm)
    if whole.verdict != "yes":
        reason = (
            "The ceiling itself is not shown to have a content effect: "
            f"{evidence(whole)}; there is nothing to reach."
        )
        if whole.verdict == "not applicable":
            reason = too_few(whole)
        return conclude(question, "not applicable", None, reason, (), [arm], FAMILY)
    judged = [_reaches(gap) for gap in gaps]
    lead_cell = strongest(cells)
    verdict = overall(judged)
    if lead_cell is None:
        reason = "No pair has a value in any of the cells."
        return conclude(question, "not applicable", None, reason, (), [arm], FAMILY)
    lead = judged[cells.index(lead_cell)]
    begin = {
        "yes": f"Yes, at {listed([claim.name for claim in named(judged, 'yes')])}.",
        "no": "No: every single patch stays below it by more than the threshold.",
    }.get(verdict, f"Undecided; at {lead.name}, {more_pairs(lead)}.")
    share = (lead_cell.estimate or 0.0) / (whole.estimate or np.nan)
    sentence = (
        f"{begin} The largest estimate, that of {lead.name}, is {number(lead_cell.estimate)} of "
        f"the ceiling's {number(whole.estimate)} in probability, a share of {share:.0%} (described "
        f"of the sample's largest, so it flatters). The patch minus the ceiling is "
        f"{evidence(lead)}; it is {compared(lead)}."
    )
    return conclude(question, verdict, lead, sentence, judged, [arm], FAMILY)


def _reaches(gap: Claim) -> Claim:
    """The verdict on `at least the ceiling, less the threshold` from that on their difference."""
    if gap.verdict == "not applicable" or gap.low is None or gap.high is None:
        return gap
    if gap.low > -gap.threshold:
        return replace(gap, verdict="yes", pairs_to_decide=None)
    if gap.high < -gap.threshold:
        return replace(gap, verdict="no", pairs_to_decide=None)
    return replace(gap, verdict="undecided")
