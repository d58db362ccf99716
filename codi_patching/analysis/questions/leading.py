"""Whether the layers that lead in one experiment lead in another.

Pairs are split into folds. In all folds but one the layers with the largest content effect in the
first experiment are chosen; in the fold left out their mean content effect in the second is set
against that of the other layers. So no pair both chooses a layer and tests it.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from codi_patching.analysis.arms import THOUGHT, Arm, Array, command
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.effects import Comparisons, mean_over
from codi_patching.analysis.families import Claims, Family, Part
from codi_patching.analysis.questions.setup import (
    Setting,
    Setup,
    common_layers,
    contrast,
    layer_content,
)
from codi_patching.analysis.sentences import answer, compared, evidence

FAMILY = "leading layers"
QUESTION = "Do the layers that lead in one experiment lead in another"


def leading_family(setup: Setup) -> Family:
    """Every ordered pair of experiments that share their latents, or differ in them alone."""
    parts = []
    for setting in setup.settings():
        for first, second in permutations(_arms(setup, setting), 2):
            if _comparable(first, second):
                part = _part(first, second, setup)
                parts += [part] if part is not None else []
    if not parts:
        reason = (
            "It takes two experiments whose latents are the same, or the same experiment with "
            f"both; `{command('layer')}` and `{command('position', 'frozen')}` make two."
        )
        return Family(FAMILY, (), (unanswered(f"{QUESTION}?", reason, family=FAMILY),))
    return Family(FAMILY, tuple(parts))


def _arms(setup: Setup, setting: Setting) -> list[Arm]:
    layer = setup.find("layer", setting=setting)
    chains = setup.find("iterative", setting=setting)
    if any(arm.latents == "recomputed" for arm in layer):
        # The end of a cumulative chain is layer patching with recomputed latents.
        chains = [arm for arm in chains if arm.strategy != "cumulative"]
    return [*layer, *setup.find("position", setting=setting), *(arm.end() for arm in chains)]


def _comparable(first: Arm, second: Arm) -> bool:
    kinds = (first.experiment, first.strategy), (second.experiment, second.strategy)
    return (kinds[0] == kinds[1]) != (first.latents == second.latents)


def _part(first: Arm, second: Arm, setup: Setup) -> Part | None:
    rows = [
        row
        for row in common_layers(first, second)
        if row[0] != THOUGHT
        and not first.structural[row[1]].all()
        and not second.structural[row[2]].all()
    ]
    chosen = max(1, round(setup.thresholds.chosen_share * len(rows)))
    if len(rows) - chosen < 1:
        return None
    choosing = layer_content(first).apply(lambda v: v[:, [row[1] for row in rows]])
    testing = layer_content(second).apply(lambda v: v[:, [row[2] for row in rows]])
    leads = _choose(choosing, first.groups, chosen, setup)

    def difference(values: Array) -> Array:
        inside = np.where(leads, values, np.nan)
        outside = np.where(leads, np.nan, values)
        return (mean_over(inside, 1) - mean_over(outside, 1))[:, None]

    name = f"the {chosen} layers that lead in {first.name} minus the others in {second.name}"
    block = contrast(
        [name], testing.apply(difference), setup.thresholds, "leading minus others", second.control
    )
    return Part((block,), lambda claims: _say(claims, first, second, chosen, setup))


def _choose(effect: Comparisons, groups: tuple[str, ...], chosen: int, setup: Setup) -> Array:
    """For each pair the layers that lead in the other folds, `(pairs, layers)` of truth values.

    A layer's content effect is the smaller of the means of its two comparisons.
    """
    names = list(dict.fromkeys(groups))
    order = np.random.default_rng(setup.seed).permutation(len(names))
    fold_of = {names[group]: i % setup.thresholds.folds for i, group in enumerate(order)}
    folds = np.array([fold_of[group] for group in groups])
    leads = np.zeros(effect.restored.shape, dtype=bool)
    for fold in range(setup.thresholds.folds):
        kept = folds != fold
        size = mean_over(effect.restored[kept], 0)
        if effect.specific is not None:
            size = np.fmin(size, mean_over(effect.specific[kept], 0))
        top = np.argsort(-np.nan_to_num(size, nan=-np.inf), kind="stable")[:chosen]
        leads[np.ix_(~kept, top)] = True
    return leads


def _say(blocks: tuple[Claims, ...], first: Arm, second: Arm, chosen: int, setup: Setup) -> Finding:
    question = f"{QUESTION} ({first.name}, then {second.name})?"

    def yes(shown: list[Claim], lead: Claim) -> str:
        del shown
        begin = "Yes" if (lead.estimate or 0) > 0 else "The other way round: they carry less there"
        return (
            f"{begin}. Chosen in {first.name} on {setup.thresholds.folds - 1} of "
            f"{setup.thresholds.folds} folds and tested on the one left out, {lead.name} have a "
            f"mean content effect that differs by {evidence(lead)}; it is {compared(lead)}."
        )

    return answer(
        question, blocks[0], [first, second], yes, "difference of mean content effects", FAMILY,
        f"the {chosen} layers chosen in one carry the same as the others in the other, to within "
        "the threshold",
    )  # fmt: skip
