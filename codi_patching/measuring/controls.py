"""Which other activations a pair's patches are compared with: the control.

A patch with activations of another content disrupts as much as one with the source run's and
carries nothing of it (resample ablation; arXiv 2309.16042). The closest control is a *sibling*, the
same question with yet another number; else another pair's source run, matched to be alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from codi_patching.data.pairs import Pair, Question
from codi_patching.measuring.prompts import Direction, roles
from codi_patching.models.answers import format_answer
from codi_patching.results.pair_descriptions import Control

ControlKind = Literal["sibling", "random_pair", "none"]

_CHUNK = 400
"""Pairs that are matched among themselves: the cost grows with their square."""

_FORBIDDEN = 1e9
_OTHER_STEPS = 1e4


def find_control(
    pair: Pair,
    kind: ControlKind,
    direction: Direction,
    fits: Callable[[Question], bool],
    partner: Callable[[], Pair | None],
) -> tuple[Control, Question] | None:
    """The question whose activations a pair's control patches have; None without one.

    Args:
        pair: The pair.
        kind: What was asked for. A pair without a sibling that fits gets a random pair.
        direction: Which question of a pair is the source.
        fits: Whether the model can run a question.
        partner: The pair's match, worked out only where it is needed.
    """
    if kind == "none":
        return None
    question, owner = pair.sibling, pair
    if kind == "random_pair" or question is None or not fits(question):
        matched = partner()
        if matched is None:
            return None
        kind, owner, question = "random_pair", matched, roles(matched, direction)[1]
    answer = format_answer(question.answer)
    return Control(kind, question.text, answer, owner.pair_id), question


def match_pairs(pairs: Sequence[Pair], lengths: Sequence[int], seed: int) -> dict[str, Pair]:
    """For each pair another one to take activations from; each gives once.

    Of the same number of reasoning steps and the nearest prompt length where that can be, its two
    answers unlike both of the pair's. The least total cost among a random few hundred pairs.

    Args:
        pairs: All that can be run.
        lengths: Of their source runs' prompts, in tokens.
        seed: Of the draw.

    Returns:
        By id; pairs without a partner are missing.
    """
    order = list(range(len(pairs)))
    Random(seed).shuffle(order)
    found: dict[str, Pair] = {}
    count = max(1, round(len(order) / _CHUNK))
    for chunk in np.array_split(np.array(order, dtype=int), count):
        members = [pairs[index] for index in chunk]
        cost = _costs(members, [lengths[index] for index in chunk])
        for row, column in zip(*linear_sum_assignment(cost)):
            if cost[row, column] < _FORBIDDEN:
                found[members[row].pair_id] = members[column]
    return found


def _costs(pairs: Sequence[Pair], lengths: Sequence[int]) -> np.ndarray:
    """Cost of each pair taking from each, `(pairs, pairs)`."""
    steps = np.array([pair.num_steps or 0 for pair in pairs])
    sizes = np.array(lengths, dtype=float)
    cost = np.abs(sizes[:, None] - sizes) + _OTHER_STEPS * (steps[:, None] != steps)
    answers = [np.array([getattr(p, v).answer for p in pairs]) for v in ("clean", "corrupted")]
    for own in answers:
        for other in answers:
            cost[own[:, None] == other] = _FORBIDDEN
    groups = np.array([pair.group for pair in pairs])
    cost[groups[:, None] == groups] = _FORBIDDEN
    return cost
