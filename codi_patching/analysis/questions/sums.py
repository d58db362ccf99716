"""Whether single positions add up to all positions at once.

On the probability of the source run's answer and on the answer logit difference, which adds up in a
linear model; KL does not even there. Both sides have the same latents.
"""

from __future__ import annotations

import numpy as np

from codi_patching.analysis.arms import Arm, command
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.effects import content, logit_span, sign
from codi_patching.analysis.families import Claims, Family, Part
from codi_patching.analysis.questions.setup import Setting, Setup, common_layers, contrast
from codi_patching.analysis.sentences import answer, compared, evidence, layers_listed
from codi_patching.analysis.verdicts import Unit

FAMILY = "sums"
QUESTION = "Do single positions add up to more or less than all positions at once"
LOGITS = "answer_logit_difference"


def sums_family(setup: Setup) -> Family:
    """Sums against wholes, for each kind of latents that has both."""
    parts: list[Part] = []
    missing: list[Finding] = []
    for setting in setup.settings():
        for latents in ("frozen", "recomputed"):
            made = _pair(setup, latents, setting)
            if isinstance(made, Finding):
                missing.append(made)
            else:
                parts += made
    return Family(FAMILY, tuple(parts), tuple(missing))


def _pair(setup: Setup, latents: str, setting: Setting) -> list[Part] | Finding:
    position = setup.one("position", latents, None, setting)
    whole = setup.whole(latents, setting)
    if position is None or whole is None:
        made = command("position" if position is None else "layer", latents, None, setting[1])
        reason = f"It takes single positions and all at once with {latents} latents; `{made}`."
        return unanswered(f"{QUESTION} ({latents} latents)?", reason, family=FAMILY)
    parts = [_sums(position, whole, position.probability, "probability", setup)]
    runs = (position.values, whole.values, position.base, whole.base, position.source_run)
    known = all(LOGITS in run for run in runs)
    if known and np.isfinite(logit_span(position)):
        parts.append(_sums(position, whole, LOGITS, "logits", setup))
    return parts


def _sums(position: Arm, whole: Arm, metric: str, unit: Unit, setup: Setup) -> Part:
    rows = [row for row in common_layers(position, whole) if not whole.structural[row[2]].all()]
    here, there = [row[1] for row in rows], [row[2] for row in rows]
    scale = sign(position, metric)
    singles = content(position, metric, 0.0).apply(lambda v: scale * v[:, here].sum(axis=2))
    together = content(whole, metric, 0.0).apply(lambda v: scale * v[:, there, 0])
    block = contrast(
        [position.layer_name(row) for row in here],
        singles.minus(together),
        setup.thresholds,
        f"sum minus whole, {unit}",
        position.control,
        [(name, None) for name, _, _ in rows],
        unit,
        setup.thresholds.of(unit, logit_span(position) if unit == "logits" else np.nan),
        (len(position.columns), len(position.columns) + 1),  # the base cancels but for K - 1 of it
    )
    question = f"{QUESTION}, in {unit} ({position.latents} latents)?"
    return Part((block,), lambda claims: _say(question, claims, position, whole, unit))


def _say(
    question: str, blocks: tuple[Claims, ...], position: Arm, whole: Arm, unit: Unit
) -> Finding:
    measure = "the answer logit difference" if unit == "logits" else "the answer's probability"

    def yes(shown: list[Claim], lead: Claim) -> str:
        more = [claim.name for claim in shown if (claim.estimate or 0) > 0]
        less = [claim.name for claim in shown if (claim.estimate or 0) < 0]
        said = [f"to more at {layers_listed(more)}"] if more else []
        said += [f"to less at {layers_listed(less)}"] if less else []
        return (
            f"Yes: in {measure} single positions ({position.name}) add up {' and '.join(said)} "
            f"than all at once ({whole.name}). At {lead.name} sum minus whole is "
            f"{evidence(lead)}.{compared(lead)}"
        )

    return answer(
        question, blocks[0], [position, whole], yes, f"difference, sum minus whole in {measure},",
        FAMILY, "at every layer sum and whole agree to within the threshold",
    )  # fmt: skip
