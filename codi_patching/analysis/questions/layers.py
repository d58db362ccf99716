"""Which layers carry the answer; how much of it directly, how much through regenerated thoughts.

Layer patching with frozen latents measures the direct effect, with recomputed latents the total
effect; total minus direct is mediated by the thoughts that the patched ones generate (Pearl, 2001,
Direct and Indirect Effects). A cumulative chain's end is layer patching with recomputed latents, so
what iteration adds to parallel patching is that same difference.
"""

from __future__ import annotations

from dataclasses import replace

from codi_patching.analysis.arms import Arm, command
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.effects import content
from codi_patching.analysis.families import Claims, Family, Part
from codi_patching.analysis.questions.setup import (
    Setting,
    Setup,
    cell_contrasts,
    common_layers,
    contrast,
)
from codi_patching.analysis.sentences import answer, compared, evidence, layers_listed, strongest

FAMILY = "layers"
MEDIATED = "Is part of the effect mediated by the thoughts that are generated after the patch?"
ITERATION = "What does iteration add to parallel patching?"


def layers_family(setup: Setup) -> Family:
    """Which layers, direct against total, iterative against parallel."""
    parts = [_which(arm, setup) for arm in setup.find("layer")]
    ready: list[Finding] = []
    if not parts:
        reason = f"No layer patching was run; `{command('layer')}` makes it."
        ready.append(unanswered("Which layers carry the answer?", reason, family=FAMILY))
    for setting in setup.settings():
        for made in (_mediated(setup, setting), _iteration(setup, setting)):
            if isinstance(made, Part):
                parts.append(made)
            elif made is not None and made not in ready:
                ready.append(made)
    return Family(FAMILY, tuple(parts), tuple(ready))


def _which(arm: Arm, setup: Setup) -> Part:
    question = f"Which layers carry the answer, all thoughts patched at once ({arm.name})?"

    def yes(shown: list[Claim], lead: Claim) -> str:
        return (
            f"Yes: {layers_listed([claim.name for claim in shown])}. At {lead.name}, where it is "
            f"largest, the source run's answer becomes more probable by "
            f"{evidence(lead)}.{compared(lead)}"
        )

    def conclude(blocks: tuple[Claims, ...]) -> Finding:
        return answer(
            question, blocks[0], [arm], yes, "content effect", FAMILY,
            "no layer has a content effect beyond the threshold",
        )  # fmt: skip

    return Part((cell_contrasts(arm, setup.thresholds),), conclude)


def _mediated(setup: Setup, setting: Setting) -> Part | Finding | None:
    """Total minus direct, by layer."""
    direct, total = setup.one("layer", "frozen", None, setting), setup.whole("recomputed", setting)
    if direct is None and total is None:
        return None
    if direct is None or total is None:
        made = command("layer", "frozen" if direct is None else "recomputed", None, setting[1])
        have = (direct or total or setup.arms[0]).name
        reason = f"It takes layer patching with frozen and with recomputed latents; `{made}`."
        return unanswered(MEDIATED, reason, (have,), FAMILY)
    return _difference(MEDIATED, direct, total, setup, "mediated")


def _iteration(setup: Setup, setting: Setting) -> Part | Finding | None:
    """The end of a cumulative chain minus parallel patching, by layer."""
    parallel = setup.one("layer", "frozen", None, setting)
    chain = setup.one("iterative", None, "cumulative", setting)
    if parallel is None and chain is None:
        return None
    if parallel is None or chain is None:
        made = command("layer", "frozen") if parallel is None else _cumulative(setting)
        have = (parallel or chain or setup.arms[0]).name
        reason = (
            "It takes parallel patching (frozen latents) and a cumulative chain, which patch the "
            f"same positions; `{made}`."
        )
        return unanswered(ITERATION, reason, (have,), FAMILY)
    return _difference(ITERATION, parallel, chain.end(), setup, "added by iteration")


def _cumulative(setting: Setting) -> str:
    return command("iterative", None, "cumulative", setting[1])


def _difference(question: str, direct: Arm, total: Arm, setup: Setup, kind: str) -> Part:
    rows = [row for row in common_layers(total, direct) if not total.structural[row[1]].all()]
    at_total, at_direct = [row[1] for row in rows], [row[2] for row in rows]
    effect = content(total, structural=0.0).apply(lambda values: values[:, at_total, 0])
    parallel = content(direct, structural=0.0).apply(lambda values: values[:, at_direct, 0])
    names = [total.layer_name(row) for row in at_total]
    cells = [(name, None) for name, _, _ in rows]
    added = contrast(names, effect.minus(parallel), setup.thresholds, kind, total.control, cells)
    blocks = (
        added,
        cell_contrasts(direct, setup.thresholds, kind="direct"),
        cell_contrasts(total, setup.thresholds, kind="total"),
    )
    return Part(blocks, lambda claims: _say_difference(question, claims, direct, total))


def _say_difference(question: str, blocks: tuple[Claims, ...], direct: Arm, total: Arm) -> Finding:
    def yes(shown: list[Claim], lead: Claim) -> str:
        up = [claim.name for claim in shown if (claim.estimate or 0) > 0]
        down = [claim.name for claim in shown if (claim.estimate or 0) < 0]
        where = [f"more at {layers_listed(up)}"] if up else []
        where += [f"less at {layers_listed(down)}"] if down else []
        return (
            f"Yes: with the later thoughts generated anew patching carries "
            f"{' and '.join(where)}. At {lead.name} the total effect ({total.name}) minus the "
            f"direct effect ({direct.name}) is {evidence(lead)}.{compared(lead)}"
        )

    largest = [strongest(block) for block in blocks[1:]]
    extra = "".join(
        f" The largest {claim.kind} effect is estimated at {claim.name}: {evidence(claim)}."
        for claim in largest
        if claim is not None and claim.verdict == "yes"
    )
    found = answer(
        question, blocks[0], [direct, total], yes, "difference, total minus direct,", FAMILY,
        "at every layer total and direct effect agree to within the threshold", extra,
    )  # fmt: skip
    return _with_claims(found, blocks)


def _with_claims(found: Finding, blocks: tuple[tuple[Claim, ...], ...]) -> Finding:
    return replace(found, claims=tuple(claim for block in blocks for claim in block))
