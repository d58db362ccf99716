"""How the level of a report is divided, fixed in advance.

5 % belong to a report of the full study of one site and source. Each question has its share whether
or not the runs of the others are there, and of that each kind of run has a fixed part. So a run's
own report and a comparison judge the same numbers by the same rule. Questions 7 (subsets) and what
is not asked yet keep theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

from codi_patching.results.description import THOUGHTS, RunDescription

SHARES: Mapping[str, Mapping[str, float]] = {
    "ceiling": {"all": 0.0033},
    "cells": {
        "position, recomputed": 0.0140,
        "position, frozen": 0.0030,
        "layer, frozen": 0.0010,
        "layer, recomputed": 0.0010,
        "own": 0.0010,
    },
    "strata": {"position, recomputed": 0.0080, "position, frozen": 0.0020},
    "direct": {"all": 0.0033},
    "chain": {"relay": 0.00165, "cumulative": 0.00165},
    "read": {"lens": 0.0013, "position, recomputed": 0.0013, "position, frozen": 0.0007},
    "needed": {
        "position, recomputed": 0.0011,
        "position, frozen": 0.0002,
        "layer, frozen": 0.0002,
        "layer, recomputed": 0.0002,
        "relay": 0.0002,
        "cumulative": 0.0002,
        "own": 0.0002,
    },
    "around": {"knockout": 0.0010},
}
"""By question and kind of run; with 0.33 % for question 7 they add up to 5 %. Question 8 has two
parts, `needed` and `around`."""


_UNPATCHED = ("lens", "attention", "knockout")


def kind_of(run: RunDescription) -> str:
    """The kind of a run, as `SHARES` has it."""
    if run.strategy in ("relay", "cumulative"):
        return run.strategy
    if run.experiment in ("layer", "position") and run.positions == THOUGHTS:
        return f"{run.experiment}, {run.latents}"
    return run.experiment if run.experiment in _UNPATCHED else "own"


def label_of(run: RunDescription) -> str:
    """What sentences call a run: `position, recomputed`, `relay`, `layer, frozen, kv, noising`."""
    kind = kind_of(run)
    name = f"{run.experiment}, {run.latents}" if kind == "own" else kind
    site = "head" if run.experiment == "head" else "resid_post"
    rest = [
        value
        for value, usual in (
            (run.places, ""), (run.site, site), (run.direction, "denoising"),
            (run.source, "clean"),
        )
        if value != usual and kind not in _UNPATCHED
    ]  # fmt: skip
    return ", ".join([name, *rest])


def share_of(question: str, kind: str) -> float | None:
    """Of the level that a kind of run has in a question; None if it is not asked of it."""
    return SHARES[question].get(kind)
