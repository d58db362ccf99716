"""Which thought carries which intermediate result: the known truth of `codi-tiny`.

For K = 5, by number of steps; r_s is the result of step s:

    steps   z_0    z_1    z_2    z_3    z_4    readout
    2       r_1    r_1    idle   idle   idle   r_2 = answer
    3       r_1    r_1    r_2    r_2    idle   r_3 = answer
    4       r_1    r_1    r_2    r_2    r_3    r_4 = answer

Each result is held for two thoughts, except the last step's, which no thought carries: the readout
computes it from the last thought that is not idle, and from the question.
"""

from __future__ import annotations

from codi_patching.data.word_problems import Problem
from codi_patching.models.interchange import Interchange

HELD = 2
"""Thoughts that a result is held for."""


def carried_step(position: int, num_steps: int) -> int | None:
    """The step (from 1) whose result thought z_p carries; None for an idle thought.

    >>> [carried_step(p, 3) for p in range(5)]
    [1, 1, 2, 2, None]
    """
    step = position // HELD + 1
    return step if step < num_steps else None


def makes_result(position: int) -> bool:
    """Whether z_p is the first thought with its result: computed there, not taken over."""
    return position % HELD == 0


def interchanges(problem: Problem, source: Problem, num_latents: int) -> list[Interchange]:
    """What each thought of `source` should do in the place of `problem`'s.

    Left out are thoughts whose result is the same in both or would give the same answer, and those
    from which the remaining steps leave the range of numbers.

    Args:
        problem: The base.
        source: A problem of as many steps; a twin, say.
        num_latents: K.
    """
    count = len(problem.values)
    found = []
    for position in range(num_latents):
        step = carried_step(position, count)
        expected = None
        if step is not None:
            results = problem.continue_from(step, source.values[step - 1])
            if results is None or results[-1] == problem.answer:
                continue
            expected = float(results[-1])
        found.append(Interchange(problem.question, source.question, position, count, expected))
    return found
