"""Weights over cells: what each question takes the difference of, as tables.

A function here takes runs by role and gives the contrasts of one question. Every weight is over
(layers, columns) of a run's grid; cells whose patched state nothing reads have no weight, and where
means of several cells are compared they are over layers in which every cell can have an effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from codi_patching.analysis.effects import Contrast, able_rows, content, end_of, mean_over
from codi_patching.results.dataset import run_of, structural_of
from codi_patching.results.description import ALL, THOUGHT, Array, Mask

Runs = Mapping[str, xr.Dataset]
"""Runs by the role that they have in a question."""


def unit(data: xr.Dataset, row: int, column: int, weight: float = 1.0) -> Array:
    """A weight on one cell."""
    weights = np.zeros(run_of(data).grid.shape)
    weights[row, column] = weight
    return weights


def ceiling(runs: Runs) -> list[Contrast]:
    """All thoughts at all layers."""
    return [Contrast("all thoughts at all layers", {}, kind="ceiling", ceilings={"run": 1.0})]


def cells(runs: Runs) -> list[Contrast]:
    """Every cell that can have an effect."""
    data = runs["run"]
    run, able = run_of(data), ~structural_of(data)
    return [
        Contrast(run.label(cell), {"run": unit(data, *cell)}, layer, column, axis=run.grid.column)
        for cell, layer, column in run.grid.cells()
        if able[cell]
    ]


def below_ceiling(runs: Runs) -> list[Contrast]:
    """The cell, or the chain's end, of the largest content effect, minus the ceiling.

    The effect is the smaller of the comparisons' means, the first of those that agree to three
    decimals.
    """
    data = runs["run"]
    chosen = cells(runs) if run_of(data).strategy is None else ends(runs)
    if not chosen:
        return []
    smaller = np.min([mean_over(of_all) for of_all in content(data).values()], axis=0)
    means = [np.round(smaller[c.weights["run"] != 0].sum(), 3) for c in chosen]
    c = chosen[int(np.argmax(np.nan_to_num(means, nan=-np.inf)))]
    return [Contrast(c.name, c.weights, c.layer, c.column, "cell minus ceiling", {"run": -1.0})]


def ends(runs: Runs) -> list[Contrast]:
    """A chain's end, or the one cell of a layer, by layer."""
    data = runs["run"]
    run, end = run_of(data), end_of(data)
    if end < 0:
        return []
    return [
        Contrast(
            run.layer_label(int(row)), {"run": unit(data, int(row), end)}, run.grid.layers[row],
            run.grid.columns[end],
        )
        for row in able_rows(data)
    ]  # fmt: skip


def changes(runs: Runs) -> list[Contrast]:
    """A chain's end minus its first iteration, by layer."""
    return _steps(runs, "last minus first", [(0, end_of(runs["run"]))])


def hops(runs: Runs) -> list[Contrast]:
    """Each iteration minus the one before it, by layer."""
    last = run_of(runs["run"]).grid.shape[1]
    return _steps(runs, "hop", [(column - 1, column) for column in range(1, last)])


def _steps(runs: Runs, kind: str, steps: Sequence[tuple[int, int]]) -> list[Contrast]:
    data = runs["run"]
    run, able, found = run_of(data), ~structural_of(data), []
    for row in map(int, able_rows(data)):
        for first, last in steps:
            if last > first and able[row, first] and able[row, last]:
                weights = unit(data, row, last) - unit(data, row, first)
                names = run.grid.columns[first], run.grid.columns[last]
                name = f"{run.layer_label(row)}, iteration {names[1]} minus {names[0]}"
                layer = run.grid.layers[row]
                found.append(Contrast(name, {"run": weights}, layer, names[1], kind, either=True))
    return found


def mediated(runs: Runs) -> list[Contrast]:
    """Total minus direct: recomputed minus frozen, cell by cell; of a chain its end."""
    return _differences(runs["total"], runs["direct"], "mediated")


def iteration_adds(runs: Runs) -> list[Contrast]:
    """The end of a cumulative chain minus parallel patching, by layer."""
    return _differences(runs["total"], runs["direct"], "iterative minus parallel")


def _differences(total: xr.Dataset, direct: xr.Dataset, kind: str) -> list[Contrast]:
    run, other, found = run_of(total), run_of(direct), []
    able, chain = ~structural_of(total), run.strategy is not None
    columns = [end for end in [end_of(total)] if end >= 0] if chain else range(run.grid.shape[1])
    rows = {name: row for row, name in enumerate(other.grid.layers)}
    for row, layer in enumerate(run.grid.layers):
        for column in columns:
            there = 0 if chain else column
            if layer in rows and able[row, column]:
                label = run.layer_label(row) if chain else run.label((row, column))
                name = ALL if chain else run.grid.columns[column]
                weights = {
                    "total": unit(total, row, column),
                    "direct": -unit(direct, rows[layer], there),
                }
                found.append(Contrast(label, weights, layer, name, kind, either=True))
    return found


def sums(runs: Runs) -> list[Contrast]:
    """All single positions of a layer, added up, minus all of them at once."""
    single, whole = runs["single"], runs["whole"]
    run, other, found = run_of(single), run_of(whole), []
    rows = {name: row for row, name in enumerate(other.grid.layers)}
    able = ~structural_of(single)
    for row, layer in enumerate(run.grid.layers):
        if layer in rows and able[row].any():
            weights = np.zeros(run.grid.shape)
            weights[row] = able[row]
            terms = {"single": weights, "whole": -unit(whole, rows[layer], 0)}
            found.append(
                Contrast(run.layer_label(row), terms, layer, None, "sum minus whole", either=True)
            )
    return found


def early_late_layers(runs: Runs) -> list[Contrast]:
    """The lower half of the layers minus the upper half."""
    early, late = _halves(runs["run"])
    if not (early.any() and late.any()):
        return []
    weights = _mean(runs["run"], early) - _mean(runs["run"], late)
    return [
        Contrast("early minus late layers", {"run": weights}, kind="early minus late", either=True)
    ]


def early_late_positions(runs: Runs) -> list[Contrast]:
    """The first half of the positions minus the last; a middle one is in neither."""
    data = runs["run"]
    columns, rows = np.arange(len(run_of(data).grid.columns)), _whole(data)
    middle = len(columns) // 2
    if not (middle and rows.any()):
        return []
    early, late = columns < middle, columns >= len(columns) - middle
    weights = _mean(data, rows, early) - _mean(data, rows, late)
    return [
        Contrast(
            "early minus late positions", {"run": weights}, kind="early minus late", either=True
        )
    ]


def each_against_others(runs: Runs) -> list[Contrast]:
    """Each position minus the mean of the others."""
    data = runs["run"]
    grid, rows = run_of(data).grid, _whole(data)
    places = np.arange(len(grid.columns))
    if len(places) < 2 or not rows.any():
        return []
    return [
        Contrast(
            f"position {name} minus the others",
            {"run": _mean(data, rows, places == place) - _mean(data, rows, places != place)},
            None, name, "minus the others", either=True,
        )
        for place, name in enumerate(grid.columns)
    ]  # fmt: skip


def layers_by_positions(runs: Runs) -> list[Contrast]:
    """Early minus late layers at each position, minus the same over all positions."""
    data = runs["run"]
    grid, (early, late) = run_of(data).grid, _halves(data)
    places = np.arange(len(grid.columns))
    if len(places) < 2 or not (early.any() and late.any()):
        return []
    everywhere = _mean(data, early) - _mean(data, late)
    return [
        Contrast(
            f"position {name}, early minus late layers",
            {"run": _mean(data, early, places == p) - _mean(data, late, places == p) - everywhere},
            None, name, "interaction", either=True,
        )
        for p, name in enumerate(grid.columns)
    ]  # fmt: skip


def _mean(data: xr.Dataset, rows: Mask, columns: Mask | None = None) -> Array:
    """Equal weights on some rows and columns, that add up to 1."""
    chosen = np.ones(run_of(data).grid.shape[1], dtype=bool) if columns is None else columns
    weights = np.outer(rows, chosen).astype(np.float64)
    return np.asarray(weights / weights.sum())


def _whole(data: xr.Dataset) -> Mask:
    """Rows in which every cell can have an effect; the thoughts' own row counts only if alone."""
    layers = np.array(run_of(data).grid.layers)
    rows = ~structural_of(data).any(axis=1)
    return np.asarray(rows & ((layers != THOUGHT) | (len(layers) == 1)), dtype=bool)


def _halves(data: xr.Dataset) -> tuple[Mask, Mask]:
    """Whole rows of the lower and of the upper half of the layers."""
    names = run_of(data).grid.layers
    number = np.array([int(n) if n.isdigit() else -1 for n in names])
    whole, depth = _whole(data), number.max() + 1
    return whole & (2 * number < depth), whole & (2 * number >= depth)
