"""Checks that a result can be trusted: what was expected, what was seen, whether it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from codi_patching.analysis.statistics import Array, compare_paired

Status = Literal["pass", "fail", "not applicable"]

EXACT = 1e-9
"""What a KL that must be 0 may be instead, in nats: the two runs take the same path."""


@dataclass(frozen=True)
class Check:
    """A check of validity.

    Attributes:
        name: What is checked.
        expected: What must be seen.
        seen: What was.
        status: `pass`, `fail` or `not applicable`.
    """

    name: str
    expected: str
    seen: str
    status: Status


def _check(name: str, expected: str, seen: str, holds: bool | None) -> Check:
    status: Status = "not applicable" if holds is None else "pass" if holds else "fail"
    return Check(name, expected, seen, status)


def check_self_patch(kl: Array, tolerance: float) -> Check:
    """Patching a run with its own activations changes nothing; KL of every cell, any shape."""
    worst = float(np.nanmax(kl, initial=0.0))
    return _check(
        "self-patch identity",
        f"KL at most {tolerance:g} nats in every cell",
        f"at most {worst:.2g} nats in {kl.shape[0]} pairs",
        worst <= tolerance if kl.size else None,
    )


def check_unchanged(changed: Mapping[str, Sequence[str]]) -> Check:
    """Files are as the runs wrote them; names of changed files by experiment."""
    found = [f"{name}: {', '.join(files)}" for name, files in changed.items() if files]
    return _check(
        "unchanged files",
        "every file has the SHA-256 that its run wrote to SHA256SUMS",
        "; ".join(found) or "no file is missing or changed",
        not found,
    )


def check_structural_zeros(kl: Array, structural: NDArray[np.bool_]) -> Check:
    """Cells that nothing reads have no effect; KL `(pairs, *grid)`."""
    zeros = kl[:, structural]
    worst = float(np.abs(zeros).max(initial=0.0))
    return _check(
        "structural zeros",
        f"KL at most {EXACT:g} nats where nothing reads the state",
        f"at most {worst:.2g} nats in {int(structural.sum())} cells"
        if structural.any()
        else "no such cells",
        worst <= EXACT if structural.any() else None,
    )


def check_first_cell(
    kl: Array, layers: Sequence[str], columns: Sequence[str], right: Array
) -> Check:
    """Position 0 at layer 0 has little effect: so early, little has been computed there.

    Args:
        kl: Mean KL, `(layers, positions)`.
        layers: Names of the rows.
        columns: Names of the columns; empty if a layer is one cell.
        right: Whether the model answers each pair right without patches, `(pairs,)`.
    """
    expected = "at most a tenth of the strongest cell's mean KL at position 0, layer 0"
    name = "position 0 at layer 0"
    if not columns or "0" not in layers:
        return _check(name, expected, "there is no such cell", None)
    cell, strongest = float(kl[layers.index("0"), 0]), float(np.nanmax(kl))
    share = cell / strongest if strongest > 0 else 0.0
    seen = f"{cell:.3g} of {strongest:.3g} nats ({share:.1%})"
    return _check(name, expected, seen, share <= 0.1 if right.mean() >= 0.5 else None)


def check_ceiling(kl_to_clean: Array, right: Array) -> Check:
    """The giving run restores itself, and answers right in most pairs; `(pairs,)` each."""
    share = float(right.mean())
    worst = float(np.abs(kl_to_clean).max(initial=0.0))
    seen = f"KL at most {worst:.2g} nats; right in {share:.1%} of {len(right)} pairs"
    holds = None if share < 0.5 else worst <= EXACT
    if holds is None:
        seen += ": a model that does not answer has no ceiling"
    return _check("ceiling", "KL of the giving run to itself 0, and its answers right", seen, holds)


def check_control(own: Array, control: Array, right: Array) -> Check:
    """Activations of the pair bring its answer closer to the clean one than another pair's do.

    Recovery would not tell: it rises too when the patched question's own answer merely falls. The
    check fails if the other pair's do better beyond the 95 % interval of the paired difference.

    Args:
        own: KL to the clean run at the strongest cell, with the pair's own activations, `(pairs,)`.
        control: The same with another pair's.
        right: Whether the model answers right without patches, `(pairs,)`.
    """
    name = "random-pair control"
    expected = "mean KL to the clean run at the strongest cell smaller with the pair's own"
    expected += " activations than with another pair's"
    both = np.isfinite(own) & np.isfinite(control)
    if both.sum() < 4 or right.mean() < 0.5:
        return _check(name, expected, "takes 4 pairs, and a model that answers", None)
    test = compare_paired(own, control)
    seen = f"{test.first:.3f} against {test.second:.3f} nats in {test.n} pairs"
    if test.difference is not None and test.difference < 0:
        return _check(name, expected, seen, True)
    if test.ci_low is not None and test.ci_low > 0:
        return _check(name, expected, seen, False)
    return _check(name, expected, f"{seen}: too close to tell on this sample", None)


def check_chain(patched: Sequence[str], generated: Sequence[str]) -> Check:
    """In relay each iteration is patched with what the one before it generated: equal hashes."""
    wrong = sum(a != b for a, b in zip(patched, generated, strict=True))
    return _check(
        "chain hashes",
        "every patched hash equal to the one generated before it",
        f"{len(patched) - wrong} of {len(patched)} equal",
        wrong == 0 if patched else None,
    )


def check_baselines(baselines: Mapping[str, Mapping[str, object]]) -> Check:
    """Unpatched runs are the same, to the last bit, in all experiments; by experiment and pair."""
    names = list(baselines)
    wrong = [
        f"{name}: pair {pair}"
        for name in names[1:]
        for pair, run in baselines[names[0]].items()
        if baselines[name].get(pair) != run
    ]
    seen = f"{len(wrong)} differ ({', '.join(wrong[:3])})" if wrong else "all equal"
    expected = f"equal to the last bit in {', '.join(names)}"
    return _check("baselines across experiments", expected, seen, not wrong)


def check_recovery(
    name: str, recovery: Array, difference: Array, corrupted: Array, clean: Array
) -> Check:
    """Recovery follows from the logit differences that are kept beside it.

    Args:
        name: Of the experiment.
        recovery: `(pairs, *grid)`.
        difference: The patched runs' answer logit difference, the same shape.
        corrupted: The unpatched run's, `(pairs,)`.
        clean: The giving run's, `(pairs,)`.
    """
    shape = (-1,) + (1,) * (recovery.ndim - 1)
    span = (clean - corrupted).reshape(shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = (difference - corrupted.reshape(shape)) / span
    known = np.isfinite(recovery)
    wrong = np.abs(recovery - expected) > 1e-6 * np.maximum(1.0, np.abs(recovery))
    pairs = int((wrong & known).reshape(len(recovery), -1).any(1).sum())
    return _check(
        f"recovery of {name}",
        "(patched − unpatched) / (giving − unpatched) of the logit differences",
        f"differs in {pairs} of {len(recovery)} pairs",
        pairs == 0,
    )


def check_arms(
    first: str, second: str, identical: bool, by_construction: bool, metric: str
) -> Check:
    """Two arms agree in every pair if and only if they run the same patches."""
    expected = "the same in every pair" if by_construction else "not the same in every pair"
    seen = "the same in every pair" if identical else "not the same in every pair"
    return _check(
        f"{first} against {second}, {metric}", expected, seen, identical == by_construction
    )
