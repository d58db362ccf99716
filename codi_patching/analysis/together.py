"""What must hold between the results of several experiments, for them to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from codi_patching.analysis.validity import Check
from codi_patching.results.read import Results
from codi_patching.results.schema import Array, ResultsError

_SAME = ("checkpoint_sha256", "data_sha256", "num_latents", "seed", "precision")

_ROUNDING = {"64": 1e-9, "32": 1e-3}
_HALF = 2e-1
"""How far two computations of the same run may differ, by the model's precision, relative to the
largest value or 1."""


def check_compatible(arms: Mapping[str, Results]) -> None:
    """Refuse results of other models, data, pairs or settings.

    Raises:
        ResultsError: Two differ, naming what in.
    """
    (first_name, first), *others = arms.items()
    for name, results in others:
        for field in _SAME:
            ours, theirs = getattr(first.run, field), getattr(results.run, field)
            if ours != theirs:
                raise ResultsError(
                    f"{first_name} and {name} differ in {field}: {ours!r} and {theirs!r}; compare "
                    "results of one model, file of pairs and seed"
                )
        missing = sorted(set(first.pair_ids) ^ set(results.pair_ids))
        if missing:
            raise ResultsError(
                f"{first_name} and {name} differ in their pairs: only one of them has "
                f"{', '.join(missing[:5])}"
            )


def check_together(arms: Mapping[str, Results]) -> list[Check]:
    """The same unpatched runs everywhere, and the same numbers where the patches are the same."""
    checks = [_check_unpatched(arms)]
    for (name, results), (other_name, other) in _twins(arms):
        checks.append(_check_same(f"{name} against {other_name}", results, other))
    return checks


def _check_unpatched(arms: Mapping[str, Results]) -> Check:
    """The unpatched runs of every pair agree in all arms of a direction."""
    wrong: list[str] = []
    first: dict[str, tuple[str, Results]] = {}
    for name, results in arms.items():
        other_name, other = first.setdefault(results.run.direction, (name, results))
        for run in ("base", "source"):
            for metric in ("answer_logit_difference", "clean_probability"):
                values = results.unpatched(run, metric)
                index = [other.pair_ids.index(pair) for pair in results.pair_ids]
                if not _agree(values, other.unpatched(run, metric)[index], results):
                    wrong.append(f"{run} run of {name} and {other_name}")
    return Check(
        "unpatched runs across experiments",
        "the same in all experiments of a direction",
        "; ".join(dict.fromkeys(wrong)) or "the same to rounding",
        "fail" if wrong else "pass",
    )


_Named = tuple[str, Results]


def _twins(arms: Mapping[str, Results]) -> list[tuple[_Named, _Named]]:
    """Arms that run the same patches somewhere: a chain's ends and the experiments it meets."""
    found = []
    named = list(arms.items())
    for name, results in named:
        if results.run.strategy is None:
            continue
        for other_name, other in named:
            same = (other.run.direction, other.run.source, other.run.site) == (
                results.run.direction,
                results.run.source,
                results.run.site,
            )
            if not same or other.run.strategy or other.run.latents != "recomputed":
                continue
            if other.run.experiment == "position" or results.run.strategy == "cumulative":
                found.append(((name, results), (other_name, other)))
    return found


def _check_same(name: str, chain: Results, other: Results) -> Check:
    """A chain's first iteration is position 0; a cumulative chain's last, the whole layer."""
    whole = other.run.grid.whole_layers
    what = "last iteration and all positions at once" if whole else "first iteration, position 0"
    index = [other.pair_ids.index(pair) for pair in chain.pair_ids]
    kl, others = (results.values["kl_divergence"] for results in (chain, other))
    first, second = (
        (kl[:, :, -1], others[index, :, 0]) if whole else (kl[:, :, 0], others[index, :, 0])
    )
    holds = first.shape == second.shape and _agree(first, second, chain)
    worst = float(np.nanmax(np.abs(first - second), initial=0)) if holds else float("nan")
    return Check(
        f"{name}, {what}",
        "the same patches give the same KL",
        f"differ by at most {worst:.2g} nats" if holds else "they differ",
        "pass" if holds else "fail",
    )


def _agree(first: Array, second: Array, results: Results) -> bool:
    """Whether two computations of the same runs agree to rounding, undefined values included."""
    precision = results.run.precision
    rounding = next((r for digits, r in _ROUNDING.items() if digits in precision), _HALF)
    if not np.array_equal(np.isnan(first), np.isnan(second)):
        return False
    known = ~np.isnan(first)
    scale = max(1.0, float(np.abs(first[known]).max(initial=0)))
    return bool(np.all(np.abs(first[known] - second[known]) <= rounding * scale))


def names_of(results: Sequence[Results], names: Sequence[str]) -> dict[str, Results]:
    """Results by the name of their arm.

    Raises:
        ResultsError: Two are of the same arm.
    """
    found: dict[str, Results] = {}
    for name, one in zip(names, results, strict=True):
        if name in found:
            raise ResultsError(f"expected each experiment once, got {name} twice")
        found[name] = one
    return found
