"""A small run whose every number is written by hand in the test."""

from dataclasses import replace

import numpy as np
from results_maker import run_of

from codi_patching.analysis.effects import Contrast, Effect
from codi_patching.results.dataset import patching_dataset
from codi_patching.results.pair_descriptions import PairDescription


def make_data(
    own, base, control=None, experiment="position", zeros=(), groups=None, ceiling=None, **changed
):
    """A dataset of one probability; `own` is `(pairs, layers, columns)`, `base` `(pairs,)`.

    Args:
        own: Probability of the source run's answer with the own patch.
        base: The same of the unpatched run.
        control: With the control's.
        experiment: See `results_maker.run_of`.
        zeros: Structural zeros.
        groups: Of each pair.
        ceiling: With all thoughts, own and control, `(pairs, 2)`.
        **changed: Fields of the run's description.
    """
    own = np.asarray(own, dtype=float)
    pairs, layers, columns = own.shape
    run = run_of(experiment, layers, columns, **changed)
    metric = "clean_probability" if run.clean_is_source else "corrupted_probability"
    run = replace(
        run,
        metrics=(metric, "kl_divergence"),
        grid=replace(run.grid, structural_zeros=tuple(zeros)),
    )
    ceiling = np.full((pairs, 2), np.nan) if ceiling is None else np.asarray(ceiling)
    described = [
        PairDescription(
            "", "", "3", "8", (1,), (2,), "" if groups is None else groups[row],
            {metric: float(base[row])}, {metric: 1.0}, {metric: float(ceiling[row, 0])},
            {metric: float(ceiling[row, 1])},
        )
        for row in range(pairs)
    ]  # fmt: skip
    values = {metric: own, "kl_divergence": np.full(own.shape, np.nan)}
    others = {}
    if control is not None:
        others = {**values, metric: np.asarray(control, dtype=float)}
    ids = [f"p{row}" for row in range(pairs)]
    return patching_dataset(run, ids, described, values, others)


def make_effect(unpatched, control=None, groups=None, unit="probability", either=False):
    """Contrasts of single cells with these values, `(pairs, contrasts)`."""
    values = {"unpatched": np.asarray(unpatched, dtype=float)}
    if control is not None:
        values["control"] = np.asarray(control, dtype=float)
    rows, columns = values["unpatched"].shape
    cell = {"run": np.ones((1, 1))}
    contrasts = tuple(Contrast(f"cell {i}", cell, str(i), either=either) for i in range(columns))
    names = tuple(f"p{row}" for row in range(rows)) if groups is None else tuple(groups)
    return Effect(contrasts, values, names, unit)
