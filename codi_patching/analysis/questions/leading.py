"""Whether the layers that lead in one experiment lead in another.

Pairs are split into folds. In all folds but one the layers with the largest content effect in the
first experiment are chosen; in the fold left out their mean content effect in the second is set
against that of the other layers. So no pair both chooses a layer and tests it.
"""

from __future__ import annotations

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
    """Layer against position patching, and layer patching against the ends of chains."""
    parts: list[Part] = []
    for setting in setup.settings():
        made = (_part(first, second, setup) for first, second in _pairs(setup, setting))
        parts += [part for part in made if part is not None]
    if not parts:
        reason = (
            "It takes layer patching, and position patching with the same latents or a chain; "
            f"`{command('layer')}` and `{command('position', 'frozen')}` make two."
        )
        return Family(FAMILY, (), (unanswered(f"{QUESTION}?", reason, family=FAMILY),))
    return Family(FAMILY, tuple(parts))


def _pairs(setup: Setup, setting: Setting) -> list[tuple[Arm, Arm]]:
    """Where layers are chosen, and where they are tested.

    The end of a cumulative chain is layer patching with recomputed latents, so it is set against
    the frozen kind; a relay's end against the recomputed kind, if there is one.
    """
    pairs = []
    for layer in setup.find("layer", setting=setting):
        for position in setup.find("position", layer.latents, setting=setting):
            pairs += [(layer, position), (position, layer)]
    frozen = setup.one("layer", "frozen", setting=setting)
    total = setup.whole("recomputed", setting)
    relay = setup.one("iterative", strategy="relay", setting=setting)
    if frozen is not None and total is not None:
        pairs.append((frozen, total))
    chosen_in = setup.one("layer", "recomputed", setting=setting) or frozen
    if relay is not None and chosen_in is not None:
        pairs.append((chosen_in, relay.end()))
    return pairs


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
            f"{begin}. {chosen} layers were chosen in {first.name} on {setup.thresholds.folds - 1} "
            f"of {setup.thresholds.folds} folds, and tested in {second.name} on the one left out: "
            f"their mean content effect minus that of the others is {evidence(lead)}."
            f"{compared(lead)}"
        )

    return answer(
        question, blocks[0], [first, second], yes, "difference of mean content effects", FAMILY,
        f"the {chosen} layers chosen in one carry the same as the others in the other, to within "
        "the threshold",
    )  # fmt: skip
