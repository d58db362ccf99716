"""What chains do along their iterations, and how much of a relay's first patch arrives."""

from __future__ import annotations

import numpy as np

from codi_patching.analysis.arms import Arm, Array, command
from codi_patching.analysis.chains import Chain, split_chains
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.effects import content
from codi_patching.analysis.families import Claims, Contrasts, Family, Part
from codi_patching.analysis.questions.setup import Setup, cell_contrasts, contrast
from codi_patching.analysis.sentences import (
    compared,
    conclude,
    evidence,
    layers_listed,
    more_pairs,
    named,
    number,
    overall,
    strongest,
    too_few,
)
from codi_patching.analysis.verdicts import Verdict

FAMILY = "chains"


def chains_family(setup: Setup) -> Family:
    """Each chain's course by layer, and a relay's hops."""
    parts: list[Part] = []
    ready: list[Finding] = []
    for strategy in ("relay", "cumulative"):
        chains = setup.find("iterative", strategy=strategy)
        for arm in chains:
            parts.append(_course(arm, setup))
            if strategy == "relay":
                parts.append(_hops(arm, setup))
        if not chains:
            reason = f"No {strategy} chain was run; `{command('iterative', None, strategy)}`."
            questions = [f"Do {strategy} chains compound, saturate or fade?"]
            if strategy == "relay":
                questions.append("How much of a relay's first patch arrives after each hop?")
            ready += [unanswered(q, reason, family=FAMILY) for q in questions]
    return Family(FAMILY, tuple(parts), tuple(ready))


def _course(arm: Arm, setup: Setup) -> Part:
    blocks = (cell_contrasts(arm, setup.thresholds), _changes(arm, setup))
    return Part(blocks, lambda claims: _say_course(arm, *claims))


def _changes(arm: Arm, setup: Setup) -> Contrasts:
    """e_last - e_s of every layer and earlier iteration s."""
    last = arm.last_columns()
    where = [
        (row, column)
        for row in range(len(arm.layers))
        for column in range(last[row])
        if not arm.structural[row, column]
    ]
    rows = np.array([row for row, _ in where], dtype=np.int_)
    columns = np.array([column for _, column in where], dtype=np.int_)

    def change(values: Array) -> Array:
        return np.asarray(values[:, rows, last[rows]] - values[:, rows, columns])

    return contrast(
        [
            f"layer {arm.layers[i]}, iteration {arm.columns[last[i]]} minus {arm.columns[j]}"
            for i, j in where
        ],
        content(arm).apply(change),
        setup.thresholds,
        "last minus earlier",
        arm.control,
        [(arm.layers[i], arm.columns[j]) for i, j in where],
    )


def _say_course(arm: Arm, effects: Claims, changes: Claims) -> Finding:
    chains = split_chains(arm.layers, effects, changes)
    question = f"Does the chain compound, saturate or fade, by layer ({arm.name})?"
    by_course = {
        course: [chain for chain in chains if chain.course == course]
        for course in ("compounds", "fades", "saturates", "no effect", "undecided")
    }
    first = [chain.changes[0] for chain in chains if chain.changes]
    verdict = _course_verdict(by_course, effects)
    claims = (*effects, *changes)
    told = by_course["compounds"] + by_course["fades"]
    lead = strongest([chain.changes[0] for chain in told]) if told else strongest(first)
    lead = lead or strongest(effects)
    if lead is None or verdict == "not applicable":
        reason = too_few(lead) if lead else "No layer has an iteration that can have an effect."
        return conclude(question, "not applicable", lead, reason, claims, [arm], FAMILY)
    counts = [
        f"{course if course != 'no effect' else 'has no effect'} at "
        f"{layers_listed([_place(chain) for chain in found])}"
        for course, found in by_course.items()
        if found and course != "undecided"
    ]
    open_ = len(by_course["undecided"])
    sentence = f"The chain {'; '.join(counts)}. " if counts else ""
    sentence += f"It is undecided for {open_} of {len(chains)} layers. " if open_ else ""
    sentence += f"For {lead.name} the change of the content effect is {evidence(lead)}."
    sentence += compared(lead)
    if verdict == "undecided" and lead.verdict == "undecided":
        sentence += f" For that layer {more_pairs(lead)}."
    return conclude(question, verdict, lead, sentence, claims, [arm], FAMILY)


def _course_verdict(by_course: dict[str, list[Chain]], effects: Claims) -> Verdict:
    """Yes if any chain does something; no if none of any layer has an effect."""
    if all(claim.verdict == "not applicable" for claim in effects):
        return "not applicable"
    if by_course["compounds"] or by_course["fades"] or by_course["saturates"]:
        return "yes"
    return "undecided" if by_course["undecided"] else "no"


def _place(chain: Chain) -> str:
    name = f"layer {chain.layer}"
    return f"{name} (plateau from iteration {chain.plateau})" if chain.plateau else name


def _hops(arm: Arm, setup: Setup) -> Part:
    block = cell_contrasts(arm, setup.thresholds)
    return Part((block,), lambda claims: _say_hops(arm, claims[0]))


def _say_hops(arm: Arm, effects: Claims) -> Finding:
    """Whether the content effect is still there after the last hop, where it was at the start."""
    question = f"How much of the first patch's effect arrives after each hop ({arm.name})?"
    chains = split_chains(arm.layers, effects, ())
    started = [chain for chain in chains if chain.effects[0].verdict == "yes"]
    starts = [chain.effects[0] for chain in chains]
    if not started:
        lead = strongest(starts)
        reason = "No layer's first patch is shown to have a content effect that could be followed."
        verdict: Verdict = "no" if overall(starts) == "no" else "undecided"
        if lead is None or overall(starts) == "not applicable":
            reason, verdict = (too_few(lead) if lead else reason), "not applicable"
        elif verdict == "undecided":
            lead = strongest(named(starts, "undecided")) or lead
            reason += f" For {lead.name} it is {evidence(lead)}; {more_pairs(lead)}."
        else:
            reason = f"Nothing: no first patch has a content effect, at most {evidence(lead)}."
        return conclude(question, verdict, lead, reason, effects, [arm], FAMILY)
    ends = [chain.effects[-1] for chain in started]
    verdict = overall(ends)
    best = max(started, key=lambda chain: chain.effects[0].estimate or 0.0)
    lead = best.effects[-1]
    kept = layers_listed([chain.layer for chain in started if chain.effects[-1].verdict == "yes"])
    begin = {
        "yes": f"At {kept} the content effect is still there after the last hop.",
        "no": "After the last hop it is within the threshold at every layer whose first patch has "
        "an effect.",
    }.get(verdict, "Undecided whether more than the threshold is left after the last hop.")
    course = ", ".join(
        f"{number(claim.estimate)} after iteration {claim.column}{_share(claim, best.effects[0])}"
        for claim in best.effects
    )
    sentence = (
        f"{begin} At layer {best.layer}, where the first patch does most, the content effect is "
        f"{course}; the last is {evidence(lead)}.{compared(lead)}"
    )
    return conclude(question, verdict, lead, sentence, effects, [arm], FAMILY)


def _share(claim: Claim, first: Claim) -> str:
    if claim is first or not first.estimate or claim.estimate is None:
        return ""
    return f" ({claim.estimate / first.estimate:.0%} of the first)"
