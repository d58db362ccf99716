"""Other questions whose thoughts can be put into a pair's, for interchange experiments.

Both donors are questions of their own, with another text:

    same value        has the same intermediate result as the clean question, where the changed
                      number enters: thoughts that carry the value should do as well as the clean
                      question's own
    different value   has another result there, unlike the clean and the corrupted question's
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

from codi_patching.data.chains import parse_chain
from codi_patching.data.twin_pairs import Side, TwinPair


@dataclass(frozen=True)
class Donor:
    """A question that gives its thoughts.

    Attributes:
        name: Of its own pair.
        side: The question.
        step: The step, from 1, whose result matters.
    """

    name: str
    side: Side
    step: int

    def as_record(self) -> dict[str, Any]:
        """As a file of pairs has it."""
        return {**self.side.as_record(), "from": self.name, "step": self.step}


def results_of(side: Side) -> list[Fraction]:
    """The results of a question's steps."""
    return [step.result for step in parse_chain(side.steps)]


def find_donors(pairs: Sequence[TwinPair], seed: int = 0) -> dict[str, dict[str, Donor]]:
    """Donors for each pair among the clean questions of the others.

    Args:
        pairs: Whose clean questions are the pool.
        seed: Decides between donors that fit equally.

    Returns:
        By pair id, `same_value` and `different_value` where there is one. Donors have as many
        steps as the pair's question and, of those, the value at the same step if any has it.
    """
    pool = {pair.group: (pair, results_of(pair.clean)) for pair in pairs}
    by_value: defaultdict[Fraction, list[tuple[str, int]]] = defaultdict(list)
    for group, (_, results) in pool.items():
        for step, result in enumerate(results[:-1], 1):
            by_value[result].append((group, step))
    found = {}
    for pair in pairs:
        rng = Random(f"{seed} {pair.pair_id}")
        results = pool[pair.group][1]
        step = pair.changed_step
        donors = {}
        if step < len(results):
            same = [(group, at) for group, at in by_value[results[step - 1]] if group != pair.group]
            donors["same_value"] = _pick(same, pool, pair, len(results), rng)
        avoided = {results[step - 1], results_of(pair.corrupted)[step - 1]}
        other = [
            (group, step)
            for group, (_, values) in pool.items()
            if len(values) == len(results) and values[step - 1] not in avoided
            and group != pair.group
        ]  # fmt: skip
        donors["different_value"] = _pick(other, pool, pair, len(results), rng)
        found[pair.pair_id] = {kind: donor for kind, donor in donors.items() if donor}
    return found


def _pick(
    candidates: Iterable[tuple[str, int]],
    pool: dict[str, tuple[TwinPair, list[Fraction]]],
    pair: TwinPair,
    steps: int,
    rng: Random,
) -> Donor | None:
    """A donor whose answer is unlike both of the pair's, as like its question as there is one."""
    answers = {pair.clean.answer, pair.corrupted.answer}
    fitting = [
        (len(pool[group][1]) != steps, at != pair.changed_step, rng.random(), group, at)
        for group, at in candidates
        if pool[group][0].clean.answer not in answers
    ]
    if not fitting:
        return None
    *_, group, at = min(fitting)
    return Donor(group, pool[group][0].clean, at)
