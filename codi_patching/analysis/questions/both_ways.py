"""Where patching is sufficient (denoising), necessary (noising), or both.

Denoising patches the clean run into the corrupted one: what restores the answer suffices. Noising
patches the corrupted run into the clean one: what destroys it is needed (Heimersheim and Nanda,
arXiv 2404.15255, section 2). Needed is judged by the fall of the clean answer's probability against
the unpatched run alone: a stranger's activations destroy what is needed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from codi_patching.analysis.arms import Arm, command
from codi_patching.analysis.claims import UNPATCHED, Claim, Finding, unanswered
from codi_patching.analysis.effects import Comparisons, content
from codi_patching.analysis.families import Claims, Contrasts, Family, Part
from codi_patching.analysis.questions.cells import where
from codi_patching.analysis.questions.setup import Setup, cell_contrasts
from codi_patching.analysis.sentences import (
    compared,
    conclude,
    evidence,
    layers_listed,
    more_pairs,
    named,
    strongest,
    too_few,
)
from codi_patching.analysis.verdicts import Verdict

FAMILY = "both directions"
CLEAN = "clean_probability"
QUESTION = "Is what suffices to restore the answer also needed for it"


def both_ways_family(setup: Setup) -> Family:
    """Layer and position patching, wherever both directions were run."""
    parts: list[Part] = []
    arms = [*setup.find("layer"), *setup.find("position")]
    for first in arms:
        if first.direction == "denoising":
            second = _other(first, arms)
            if second is not None:
                parts.append(_part(first, second, setup))
    if parts:
        return Family(FAMILY, tuple(parts))
    experiment = arms[0].experiment if arms else "layer"
    latents = arms[0].latents if arms else "frozen"
    have = {arm.direction for arm in arms}
    missing = "denoising" if have == {"noising"} else "noising"
    made = command(experiment, latents, None, missing)
    reason = f"It takes the same experiment in both directions; `{made}`."
    return Family(FAMILY, (), (unanswered(f"{QUESTION}?", reason, family=FAMILY),))


def _other(first: Arm, arms: list[Arm]) -> Arm | None:
    for arm in arms:
        if CLEAN not in arm.values or CLEAN not in arm.base:
            continue
        same = (arm.experiment, arm.latents, arm.site, arm.source, arm.layers, arm.columns)
        if arm.direction == "noising" and same == (
            first.experiment, first.latents, first.site, first.source, first.layers, first.columns,
        ):  # fmt: skip
            return arm
    return None


def _part(first: Arm, second: Arm, setup: Setup) -> Part:
    blocks = (
        cell_contrasts(first, setup.thresholds, kind="sufficient"),
        _necessary(second, setup),
    )
    return Part(blocks, lambda claims: _say(first, second, claims))


def _necessary(arm: Arm, setup: Setup) -> Contrasts:
    """How far every patch lowers the probability of the clean answer, that of the base run."""
    block = cell_contrasts(arm, setup.thresholds, kind="necessary")
    fall = content(arm, CLEAN).columns(~arm.structural).apply(np.negative)
    return replace(block, comparisons=Comparisons(fall.restored, None), against=UNPATCHED)


def _say(first: Arm, second: Arm, blocks: tuple[Claims, ...]) -> Finding:
    question = f"{QUESTION} ({first.name}, {second.name})?"
    sufficient, necessary = blocks
    both = [
        (a, b)
        for a, b in zip(sufficient, necessary, strict=True)
        if a.verdict == "yes" and b.verdict == "yes"
    ]
    verdict = _verdict(sufficient, necessary)
    claims = (*sufficient, *necessary)
    lead = strongest([first for first, _ in both])
    lead = lead or strongest(named(claims, verdict)) or strongest(claims)
    if lead is None or verdict == "not applicable":
        reason = too_few(lead) if lead else "No pair has a value in any of the cells."
        return conclude(question, "not applicable", lead, reason, claims, [first, second], FAMILY)
    said = [
        f"{what}: {_places(named(block, 'yes')) or 'none shown'}"
        for what, block in (("sufficient", sufficient), ("necessary", necessary))
    ]
    begin = {
        "yes": f"Yes, at {_places([a for a, _ in both])}",
        "no": "No: none is both, to within the threshold",
    }.get(verdict, "Undecided")
    pairs = f", and {more_pairs(lead)}" if verdict == "undecided" else ""
    sentence = (
        f"{begin} ({'; '.join(said)}). At {lead.name} the {lead.kind} effect is "
        f"{evidence(lead)}{pairs}.{compared(lead)}"
    )
    return conclude(question, verdict, lead, sentence, claims, [first, second], FAMILY)


def _places(claims: Sequence[Claim]) -> str:
    """Layers, or cells by column."""
    if any(claim.column not in (None, "all") for claim in claims):
        return where(claims)
    return layers_listed([claim.name for claim in claims])


def _verdict(sufficient: tuple[Claim, ...], necessary: tuple[Claim, ...]) -> Verdict:
    verdicts = [{a.verdict, b.verdict} for a, b in zip(sufficient, necessary, strict=True)]
    if {"yes"} in verdicts:
        return "yes"
    if all("not applicable" in pair for pair in verdicts):
        return "not applicable"
    return "no" if all("no" in pair for pair in verdicts) else "undecided"
