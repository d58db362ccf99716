"""How effects are spread: over positions, over early and late layers, and over both.

All are contrasts of mean content effects, so they say how much positions or layers differ on
average, in probability; shares are not used, since a share of nothing is noise. A layer in which
some position cannot have an effect is left out, so that all means are over the same cells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codi_patching.analysis.arms import THOUGHT, Arm, Array, Mask, command
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.effects import content, mean_over
from codi_patching.analysis.families import Claims, Contrasts, Family, Part
from codi_patching.analysis.questions.setup import DIFFERENCE, Setup, contrast, halves, stacked
from codi_patching.analysis.sentences import answer, compared, evidence, layers_listed, listed

FAMILY = "patterns"


def patterns_family(setup: Setup) -> Family:
    """Early or late, specialisation of thoughts, and layers by positions."""
    parts, ready = [], []
    layered = [arm for arm in (*setup.find("layer"), *setup.find("position")) if _deep(arm)]
    parts += [_early_layers(arm, setup) for arm in layered]
    positions = [arm for arm in setup.find("position") if len(arm.columns) > 1]
    for arm in positions:
        parts += [_early_positions(arm, setup), _special(arm, setup)]
        if _deep(arm):
            parts.append(_interaction(arm, setup))
    if not positions:
        reason = f"It takes position patching; `{command('position')}` makes it."
        ready = [
            unanswered(question, reason, family=FAMILY)
            for question in (
                "Do early or late positions carry more?",
                "Do some thoughts carry more of the answer than the others?",
                "Do early and late layers rely on different positions?",
            )
        ]
    return Family(FAMILY, tuple(parts), tuple(ready))


def _deep(arm: Arm) -> bool:
    """Whether both halves of the layers have one that is whole."""
    return all(half.any() for half in _halves(arm))


def _whole(arm: Arm) -> Mask:
    """Rows of the layers in which every cell can have an effect; the thoughts' row is none."""
    return ~arm.structural.any(axis=1) & (np.array(arm.layers) != THOUGHT)


def _halves(arm: Arm) -> tuple[Mask, Mask]:
    """Whole rows of the lower and of the upper half of the layers."""
    early, late = halves(arm)
    return early & _whole(arm), late & _whole(arm)


def _left_out(arm: Arm) -> str:
    """Says which layers have some cells that can have an effect, but not all."""
    partly = arm.structural.any(axis=1) & ~arm.structural.all(axis=1)
    if not partly.any():
        return ""
    names = layers_listed([f"layer {arm.layers[row]}" for row in np.flatnonzero(partly)])
    return f" Without {names}, where not every position can have an effect."


def _early_layers(arm: Arm, setup: Setup) -> Part:
    early, late = _halves(arm)

    def difference(values: Array) -> Array:
        by_layer = mean_over(values, 2)
        return (mean_over(by_layer[:, early], 1) - mean_over(by_layer[:, late], 1))[:, None]

    block = _contrast(["early minus late layers"], arm, setup, difference, "early minus late")
    return Part(
        (block,), _conclude(f"Do early or late layers carry more ({arm.name})?", arm, _sides)
    )


def _by_position(arm: Arm, values: Array) -> Array:
    """Means over whole layers, `(pairs, positions)`; the thoughts' own row counts if alone."""
    alone = arm.layers == (THOUGHT,)
    return mean_over(values if alone else values[:, _whole(arm)], 1)


def _early_positions(arm: Arm, setup: Setup) -> Part:
    middle = len(arm.columns) // 2

    def difference(values: Array) -> Array:
        by_position = _by_position(arm, values)
        early, late = by_position[:, :middle], by_position[:, -middle:]
        return (mean_over(early, 1) - mean_over(late, 1))[:, None]

    block = _contrast(["early minus late positions"], arm, setup, difference, "early minus late")
    return Part(
        (block,), _conclude(f"Do early or late positions carry more ({arm.name})?", arm, _sides)
    )


def _special(arm: Arm, setup: Setup) -> Part:
    def difference(values: Array) -> Array:
        by_position = _by_position(arm, values)
        return stacked(
            [
                by_position[:, k] - mean_over(np.delete(by_position, k, axis=1), 1)
                for k in range(len(arm.columns))
            ]
        )

    names = [f"position {name} minus the others" for name in arm.columns]
    block = _contrast(names, arm, setup, difference, "position minus the others", True)
    question = f"Do some thoughts carry more of the answer than the others ({arm.name})?"
    return Part((block,), _conclude(question, arm, _more_and_less))


def _interaction(arm: Arm, setup: Setup) -> Part:
    early, late = _halves(arm)

    def difference(values: Array) -> Array:
        shift = mean_over(values[:, early], 1) - mean_over(values[:, late], 1)
        return np.asarray(shift - mean_over(shift, 1)[:, None])

    names = [
        f"position {name}, early minus late layers against all positions'" for name in arm.columns
    ]
    reach = (2.0, 4.0)  # of a difference of differences
    block = _contrast(names, arm, setup, difference, "interaction", True, reach)
    question = f"Do early and late layers rely on different positions ({arm.name})?"
    return Part((block,), _conclude(question, arm, _shift))


def _contrast(
    names: list[str],
    arm: Arm,
    setup: Setup,
    difference: Callable[[Array], Array],
    kind: str,
    by_position: bool = False,
    reach: tuple[float, float] = DIFFERENCE,
) -> Contrasts:
    cells = [(None, name) for name in arm.columns] if by_position else [(None, None)] * len(names)
    effect = content(arm).apply(difference)
    return contrast(names, effect, setup.thresholds, kind, arm.control, cells, reach=reach)


def _conclude(
    question: str, arm: Arm, yes: Callable[[list[Claim], Claim], str]
) -> Callable[[tuple[Claims, ...]], Finding]:
    def conclude(blocks: tuple[Claims, ...]) -> Finding:
        return answer(
            question, blocks[0], [arm], yes, "difference of mean content effects", FAMILY,
            "on average they differ by less than the threshold", _left_out(arm),
        )  # fmt: skip

    return conclude


def _sides(shown: list[Claim], lead: Claim) -> str:
    del shown
    side = "early" if (lead.estimate or 0) > 0 else "late"
    what = lead.name.rsplit(" ", 1)[-1]
    return (
        f"Yes: {side} {what} carry more. The mean content effect of early minus that of late "
        f"{what} is {evidence(lead)}.{compared(lead)}"
    )


def _more_and_less(shown: list[Claim], lead: Claim) -> str:
    more = [f"{c.column}" for c in shown if (c.estimate or 0) > 0]
    less = [f"{c.column}" for c in shown if (c.estimate or 0) < 0]
    said = [f"position {listed(more)} carries more than the others do on average"] if more else []
    said += [f"position {listed(less)} carries less"] if less else []
    return (
        f"Yes: {' and '.join(said)}, means over layers. For {lead.name} it is {evidence(lead)}."
        f"{compared(lead)}"
    )


def _shift(shown: list[Claim], lead: Claim) -> str:
    early = [f"{c.column}" for c in shown if (c.estimate or 0) > 0]
    late = [f"{c.column}" for c in shown if (c.estimate or 0) < 0]
    said = [f"larger at position {listed(early)}"] if early else []
    said += [f"smaller at position {listed(late)}"] if late else []
    return (
        "Yes: by how much early layers carry more than late ones depends on the position; it is "
        f"{' and '.join(said)} than over all positions. For {lead.name} the contrast is "
        f"{evidence(lead)}.{compared(lead)}"
    )
