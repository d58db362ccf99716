"""Whether patching brings back the source run's answer as the prediction, by layer."""

from __future__ import annotations

import numpy as np

from codi_patching.analysis.arms import Arm, command
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.families import Claims, Family, Part
from codi_patching.analysis.questions.setup import Setup, cell_contrasts
from codi_patching.analysis.sentences import answer, compared, evidence, layers_listed

FAMILY = "accuracy"


def accuracy_family(setup: Setup) -> Family:
    """Hit rates of layer patching and of the ends of chains."""
    arms = [*setup.find("layer"), *(arm.end() for arm in setup.find("iterative"))]
    arms = [arm for arm in arms if arm.hit in arm.values and arm.hit in arm.base]
    if not arms:
        question = "At which layers does patching bring back the source run's answer?"
        reason = f"It takes layer patching; `{command('layer')}` makes it."
        return Family(FAMILY, (), (unanswered(question, reason, family=FAMILY),))
    return Family(FAMILY, tuple(_accuracy(arm, setup) for arm in arms))


def _accuracy(arm: Arm, setup: Setup) -> Part:
    question = (
        f"At which layers does patching bring back the source run's answer as the prediction "
        f"({arm.name})?"
    )
    block = cell_contrasts(arm, setup.thresholds, arm.hit, "hit rate", "hit rate")

    def yes(shown: list[Claim], lead: Claim) -> str:
        return (
            f"Yes: at {layers_listed([claim.name for claim in shown])}. At {lead.name}, where "
            f"it is largest, the source run's answer is predicted more often by {evidence(lead)}."
            f"{compared(lead)}"
        )

    def conclude(blocks: tuple[Claims, ...]) -> Finding:
        return answer(
            question, blocks[0], [arm], yes, "change of the hit rate", FAMILY,
            "at no layer does the hit rate rise beyond the threshold", _rates(arm),
        )  # fmt: skip

    return Part((block,), conclude)


def _rates(arm: Arm) -> str:
    base = arm.base[arm.hit]
    n = int(np.isfinite(base).sum())
    if not n:
        return ""
    return f" Unpatched, the base run predicts it in {np.nanmean(base):.1%} of {n} pairs."
