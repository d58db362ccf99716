"""The questions of a report, as a table: which runs each takes, and which contrasts it makes.

A new question is an entry. Primary questions have a number and are judged at a share of the level
fixed in advance (`levels`); the others are described by unadjusted 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codi_patching.analysis import contrasts
from codi_patching.analysis.contrasts import Runs
from codi_patching.analysis.effects import Contrast, Measure

CHAINS = ("relay", "cumulative")
WHOLE = ("layer, frozen", "layer, recomputed")
SINGLE = ("position, recomputed", "position, frozen")


@dataclass(frozen=True)
class Question:
    """Something that is asked of runs of one site and source.

    Attributes:
        key: Its name.
        contrasts: From runs by role to what is estimated.
        roles: Sets of kinds of runs by role; each set whose runs are all there is asked, or the
            first of them alone.
        number: Of a primary question.
        measure: Of the source run's answer.
        only_first: Whether only the first set that is there is asked.
        missing: Kinds of runs that it takes.
    """

    key: str
    contrasts: Callable[[Runs], list[Contrast]]
    roles: tuple[Mapping[str, str], ...]
    number: int | None = None
    measure: Measure = "probability"
    only_first: bool = False
    missing: tuple[str, ...] = ()


def _each(*kinds: str) -> tuple[dict[str, str], ...]:
    """A question that is asked of every such run by itself."""
    return tuple({"run": kind} for kind in kinds)


_TOTAL_AND_DIRECT: tuple[dict[str, str], ...] = (
    {"direct": "layer, frozen", "total": "layer, recomputed"},
    {"direct": "layer, frozen", "total": "cumulative"},
    {"direct": "position, frozen", "total": "position, recomputed"},
)

PRIMARY: tuple[Question, ...] = (
    Question(
        "ceiling", contrasts.ceiling, _each(*SINGLE, *WHOLE, *CHAINS, "own"), 1, only_first=True,
    ),
    Question(
        "cells", contrasts.cells, _each(*SINGLE, *WHOLE, "own"), 2,
        missing=("position, recomputed",),
    ),
    Question(
        "direct", contrasts.mediated, _TOTAL_AND_DIRECT, 4, only_first=True,
        missing=("layer, frozen", "layer, recomputed"),
    ),
)  # fmt: skip
"""Those of the primary questions that one table of weights answers."""

DESCRIBED: tuple[Question, ...] = (
    Question("early_or_late_layers", contrasts.early_late_layers, _each(*SINGLE, *WHOLE)),
    Question("early_or_late_positions", contrasts.early_late_positions, _each(*SINGLE)),
    Question("thoughts", contrasts.each_against_others, _each(*SINGLE)),
    Question("layers_by_positions", contrasts.layers_by_positions, _each(*SINGLE)),
    Question(
        "iterative_or_parallel", contrasts.iteration_adds,
        ({"direct": "layer, frozen", "total": "cumulative"},),
        missing=("layer, frozen", "cumulative"),
    ),
    Question("accuracy", contrasts.ends, _each(*WHOLE, *CHAINS), measure="hit"),
    Question("hops", contrasts.hops, _each("relay")),
    Question(
        "sums", contrasts.sums, ({"single": "position, frozen", "whole": "layer, frozen"},),
        missing=("layer, frozen", "position, frozen"),
    ),
    Question(
        "sums_of_logits", contrasts.sums,
        ({"single": "position, frozen", "whole": "layer, frozen"},), measure="logits",
    ),
    Question("increments", contrasts.hops, _each("cumulative")),
    Question(
        "below_ceiling", contrasts.below_ceiling, _each(*SINGLE, *WHOLE, *CHAINS, "own"),
    ),
)  # fmt: skip
