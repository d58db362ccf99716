"""The same runs of several models, seeds or checkpoints: differences pair by pair, cell by cell.

A difference of content effects takes the same pairs, layers and positions; where models have
another number of thoughts it is of the positions in common. The models' unpatched runs differ, so
nothing cancels from a difference. The level is 5 %, of which everything that is asked, every run in
common and the ceiling of every two models, has an equal part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import xarray as xr

from codi_patching.analysis.asking import conclude
from codi_patching.analysis.contrasts import Runs, unit
from codi_patching.analysis.effects import Contrast, align, effect_of
from codi_patching.analysis.findings import Finding
from codi_patching.analysis.inference import LEVEL, judge
from codi_patching.analysis.levels import label_of
from codi_patching.results.dataset import patches, run_of, structural_of
from codi_patching.results.description import ResultsError

Model = dict[str, xr.Dataset]
"""Runs of one model by label."""

_CLEAN = ("denoising", "clean")
"""Direction and source of a run that restores the clean answer."""


def compare_models(models: Mapping[str, Model], seed: int) -> tuple[Finding, ...]:
    """How much more each model carries where, of every run that two of them have.

    Args:
        models: Of two or more checkpoints, on the same file of pairs.
        seed: Of the flips.
    """
    asked = [
        (names, *question)
        for names in combinations(models, 2)
        for question in _asked(*(models[name] for name in names))
    ]
    found: list[Finding] = []
    for names, key, label in asked:
        runs = {"first": models[names[0]][label], "second": models[names[1]][label]}
        found += _difference(key, runs, names, label, LEVEL / len(asked), seed)
    return tuple(found)


def _asked(one: Model, other: Model) -> list[tuple[str, str]]:
    """Questions about two models with the label of the run that each is of, the ceiling first.

    The ceiling of a run that restores the clean answer, if there is one.
    """
    labels = [label for label in one if label in other and patches(one[label])]
    clean = [n for n in labels if (run_of(one[n]).direction, run_of(one[n]).source) == _CLEAN]
    asked = [("between_ceilings", label) for label in (clean or labels)[:1]]
    return asked + [("between_models", label) for label in labels]


def _difference(
    key: str, runs: Runs, names: tuple[str, str], label: str, share: float, seed: int
) -> list[Finding]:
    aligned = align(runs)
    if not aligned["first"].sizes["pair"]:
        return []
    contrasts = _cells(aligned) if key == "between_models" else [_CEILINGS]
    if not contrasts:
        return []
    effect = effect_of(aligned, contrasts)
    claims = judge(effect, share, seed)
    named = (named_run(names[0], label), named_run(names[1], label))
    return [conclude(key, None, named, claims, effect)] if claims else []


_CEILINGS = Contrast(
    "all thoughts at all layers", {}, kind="first minus second", either=True, one_base=False,
    ceilings={"first": 1.0, "second": -1.0},
)  # fmt: skip


def _cells(runs: Runs) -> list[Contrast]:
    """Every cell in common that can have an effect in one of the two."""
    one, other = run_of(runs["first"]).grid, run_of(runs["second"]).grid
    able = [~structural_of(runs[role]) for role in ("first", "second")]
    found = []
    for (row, column), layer, name in one.cells():
        if layer not in other.layers or name not in other.columns:
            continue
        there = other.layers.index(layer), other.columns.index(name)
        if able[0][row, column] or able[1][there]:
            weights = {
                "first": unit(runs["first"], row, column),
                "second": unit(runs["second"], *there, -1.0),
            }
            found.append(
                Contrast(
                    run_of(runs["first"]).label((row, column)), weights, layer, name,
                    "first minus second", either=True, one_base=False,
                )
            )  # fmt: skip
    return found


def named_run(model: str, label: str) -> str:
    """What a run is called where there are several models."""
    return f"{model}: {label}"


def by_model(datasets: Sequence[xr.Dataset]) -> dict[str, Model]:
    """Runs by the name of their checkpoint and by label, of models that can be set side by side.

    Raises:
        ResultsError: The files of pairs differ, a run is there twice, or a model has no run in
            common with another one.
    """
    models = by_checkpoint(datasets)
    _check_common(models)
    return models


def by_checkpoint(datasets: Sequence[xr.Dataset]) -> dict[str, Model]:
    """Runs by the name of their checkpoint and by label.

    Raises:
        ResultsError: The files of pairs differ, or a run is there twice.
    """
    names: dict[str, str] = {}
    for data in datasets:
        run = run_of(data)
        if run.data_sha256 != run_of(datasets[0]).data_sha256:
            raise ResultsError(
                f"{label_of(run)} and {label_of(run_of(datasets[0]))} differ in data_sha256: "
                "compare models on one file of pairs"
            )
        taken = {n for sha, n in names.items() if sha != run.checkpoint_sha256}
        name = f"{run.model}, {run.checkpoint_sha256[:8]}" if run.model in taken else run.model
        names.setdefault(run.checkpoint_sha256, name)
    models: dict[str, Model] = {name: {} for name in names.values()}
    for data in datasets:
        own, label = models[names[run_of(data).checkpoint_sha256]], label_of(run_of(data))
        if label in own:
            raise ResultsError(f"expected each experiment of a model once, got {label} twice")
        own[label] = data
    return models


def _check_common(models: Mapping[str, Model]) -> None:
    """Refuse a model with which no other one has a run of patching in common."""
    labels = {n: {k for k, data in m.items() if patches(data)} for n, m in models.items()}
    for name, own in labels.items():
        others = set().union(*(theirs for other, theirs in labels.items() if other != name))
        if not own & others:
            raise ResultsError(
                f"{name} is another checkpoint, and has no run in common with "
                f"{', '.join(n for n in models if n != name)}: compare models on the same runs"
            )
