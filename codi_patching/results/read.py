"""Reading a results folder: its results file is the truth, all else derives from it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ijson
import numpy as np
import xarray as xr
from safetensors import safe_open

from codi_patching.results.dataset import (
    LENS,
    attention_dataset,
    knockout_dataset,
    lens_dataset,
    patching_dataset,
    run_of,
)
from codi_patching.results.description import Array, Grid, ResultsError, RunDescription
from codi_patching.results.files import changed_files
from codi_patching.results.head_shares import DAMAGED_TENSORS, check_heads
from codi_patching.results.layout import (
    ACTIVATIONS,
    ATTENTION_RESULTS,
    KNOCKOUT_RESULTS,
    LENS_RESULTS,
    results_file,
    results_name,
)
from codi_patching.results.pair_descriptions import (
    AttentionPair,
    KnockoutPair,
    LensPair,
    PairDescription,
)

_INCOMPLETE = (ValueError, KeyError, TypeError, AttributeError, OSError, ijson.JSONError)
"""What reading stumbles over in a file that is not as it should be."""


def read_results(folder: Path) -> xr.Dataset:
    """Read the results of a folder, of any experiment; see `dataset`.

    Raises:
        ResultsError: There is not exactly one results file, or it is not complete.
    """
    path = results_file(folder)
    try:
        data = _READERS.get(path.name, _read_patching)(path)
        if results_name(experiment := run_of(data).experiment) != path.name:
            raise ValueError(f"its metadata is of the experiment {experiment!r}")
        return data
    except _INCOMPLETE as error:
        reason = " ".join(str(error).split())
        raise ResultsError(f"{path} is not a complete results file: {reason}") from error


def read_description(folder: Path) -> RunDescription:
    """Read what was run alone, the first thing in a results file.

    Raises:
        ResultsError: There is not exactly one results file, or it does not begin so.
    """
    path = results_file(folder)
    try:
        with path.open("rb") as file:
            metadata = next(ijson.items(file, "metadata", use_float=True))
        return RunDescription.from_json(
            _lens_metadata(metadata) if path.name == LENS_RESULTS else metadata
        )
    except (*_INCOMPLETE, StopIteration) as error:
        reason = " ".join(str(error).split()) or "it has no metadata"
        raise ResultsError(f"{path} is not a complete results file: {reason}") from error


def entries(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    """The entries of `metadata`, `baseline`, `results` or `pairs`, one at a time."""
    seen: set[str] = set()
    with path.open("rb") as file:
        for name, value in ijson.kvitems(file, key, use_float=True):
            if name in seen:
                raise ValueError(f"{name!r} is there twice in {key}")
            seen.add(name)
            yield name, value


def cell_of(cells: Mapping[str, Any], grid: Grid, layer: str, column: str) -> Any:
    """A cell from where the files have it: without the level of columns if a layer is one cell."""
    return cells[layer] if grid.whole_layers else cells[layer][column]


def _read_patching(path: Path) -> xr.Dataset:
    run = RunDescription.from_json(dict(entries(path, "metadata")))
    if not run.metrics:
        raise ValueError("expected metrics in its metadata")
    described = {k: PairDescription.from_json(v) for k, v in entries(path, "baseline")}
    pair_ids, values, control = _read_values(path, run)
    lacking = [pair_id for pair_id in pair_ids if pair_id not in described]
    if lacking:
        raise ValueError(f"expected a baseline for each pair, got none for {lacking[0]!r}")
    if unmeasured := described.keys() - pair_ids:
        raise ValueError(f"expected results of each baseline, got none for {min(unmeasured)!r}")
    _check_count(run, pair_ids)
    pairs = [described[pair_id] for pair_id in pair_ids]
    changed = changed_files(path.parent)
    return patching_dataset(run, pair_ids, pairs, values, control, path.parent, changed)


def _check_count(run: RunDescription, pair_ids: Sequence[str]) -> None:
    """Refuse other pairs than were measured."""
    if len(pair_ids) != run.num_pairs:
        raise ValueError(f"expected {run.num_pairs} pairs as in its metadata, got {len(pair_ids)}")


def _read_values(
    path: Path, run: RunDescription
) -> tuple[list[str], dict[str, Array], dict[str, Array]]:
    """Ids, and for each metric `(pairs, layers, columns)`, own and control."""
    cells, pair_ids, any_control = list(run.grid.cells()), [], False
    own, control = array("d"), array("d")
    for pair_id, content in entries(path, "results"):
        pair_ids.append(pair_id)
        found = [cell_of(content, run.grid, layer, column) for _, layer, column in cells]
        where = f"pair {pair_id}"
        for metric in run.metrics:
            own.extend(_number(cell[metric], where) for cell in found)
            others = (cell.get("control") for cell in found)
            control.extend(math.nan if c is None else _number(c[metric], where) for c in others)
        any_control = any_control or any("control" in cell for cell in found)
    if not pair_ids:
        raise ValueError("expected at least one pair")
    shape = (len(pair_ids), len(run.metrics), *run.grid.shape)

    def by_metric(numbers: array[float]) -> dict[str, Array]:
        values = np.frombuffer(numbers).reshape(shape)
        return {metric: values[:, index] for index, metric in enumerate(run.metrics)}

    return pair_ids, by_metric(own), by_metric(control) if any_control else {}


def _read_lens(path: Path) -> xr.Dataset:
    run = RunDescription.from_json(_lens_metadata(dict(entries(path, "metadata"))))
    pair_ids, pairs = [], []
    ranks, chance, whole = [], [], []
    for pair_id, content in entries(path, "pairs"):
        steps = content["steps"]
        own = [_map(step["ranks"], run, pair_id) for step in steps]
        ranks.append(np.stack(own))
        chance.append(np.stack([_map(step["chance_ranks"], run, pair_id) for step in steps]))
        whole.append(np.array([step["whole"] for step in steps], dtype=np.float64))
        if whole[-1].shape != (len(steps), len(run.grid.columns)):
            raise ValueError(f"expected a whole rank for each column of pair {pair_id!r}")
        known = ("result", "tokens", "chance_result", "corrupted_result")
        texts = [{key: step[key] for key in known if key in step} for step in steps]
        described = {key: content[key] for key in ("question", "top", "group") if key in content}
        pairs.append(LensPair.from_json({**described, "steps": texts}))
        pair_ids.append(pair_id)
    _check_count(run, pair_ids)
    changed = changed_files(path.parent)
    return lens_dataset(run, pair_ids, pairs, ranks, chance, whole, path.parent, changed)


def _read_attention(path: Path) -> xr.Dataset:
    run = RunDescription.from_json(dict(entries(path, "metadata")))
    shape = (len(run.readers), len(run.grid.layers), len(run.attended))
    pair_ids, pairs = [], []
    values: dict[str, list[Array]] = {"attention": [], "strongest": []}
    for pair_id, content in entries(path, "pairs"):
        for name, of_all in values.items():
            of_all.append(np.array(content.pop(name), dtype=np.float64))
            if of_all[-1].shape != shape:
                raise ValueError(f"expected {name} of shape {shape} of pair {pair_id!r}")
        content.pop("pair_id")
        pairs.append(AttentionPair.from_json(content))
        if len(pairs[-1].tokens) != shape[2]:
            raise ValueError(f"expected tokens of {shape[2]} groups of pair {pair_id!r}")
        for look in pairs[-1].verified:
            if {*map(len, (look.shares, look.mean, look.strongest))} != {shape[2]}:
                raise ValueError(f"expected shares of {shape[2]} groups of pair {pair_id!r}")
            if look.reader not in run.readers or look.layer not in run.grid.layers:
                raise ValueError(f"expected a known reader and layer of pair {pair_id!r}")
        pair_ids.append(pair_id)
    _check_count(run, pair_ids)
    stacked = {name: np.array(of_all).reshape(-1, *shape) for name, of_all in values.items()}
    changed = changed_files(path.parent)
    heads = _heads(path.parent / ACTIVATIONS, run, pair_ids, pairs)
    return attention_dataset(run, pair_ids, pairs, stacked, heads, path.parent, changed)


def _heads(
    path: Path, run: RunDescription, pair_ids: Sequence[str], pairs: Sequence[AttentionPair]
) -> list[Array]:
    """Of each pair what single heads gave where they were read again, NaN where a file has none."""
    found = [np.full((len(pair.verified), len(run.attended)), np.nan) for pair in pairs]
    if not path.is_file():
        return found
    with suppress(*DAMAGED_TENSORS), safe_open(path, "numpy") as file:
        verified = (each for each in zip(pair_ids, pairs, found, strict=True) if each[1].verified)
        for pair_id, pair, kept in verified:
            shares = file.get_tensor(pair_id)
            check_heads(shares.shape, run)
            for row, look in enumerate(pair.verified):
                reader, layer = run.readers.index(look.reader), run.grid.layers.index(look.layer)
                kept[row] = shares[reader, layer, look.head]
    return found


def _read_knockout(path: Path) -> xr.Dataset:
    run = RunDescription.from_json(dict(entries(path, "metadata")))
    if not run.metrics:
        raise ValueError("expected metrics in its metadata")
    pair_ids, pairs = list[str](), list[KnockoutPair]()
    cells: dict[str, list[dict[str, Array]]] = {"own": [], "control": []}
    for pair_id, content in entries(path, "pairs"):
        measured = content.pop("cells")
        for arm, known in cells.items():
            known.append({m: _table(measured, arm, m, run, pair_id) for m in run.metrics})
        content.pop("pair_id")
        pairs.append(KnockoutPair.from_json(content))
        pair_ids.append(pair_id)
    _check_count(run, pair_ids)
    own, control = (
        {metric: np.stack([pair[metric] for pair in of_arm]) for metric in run.metrics}
        for of_arm in cells.values()
    )
    if not any(np.isfinite(values).any() for values in control.values()):
        control = {}
    changed = changed_files(path.parent)
    return knockout_dataset(run, pair_ids, pairs, own, control, path.parent, changed)


def _table(
    cells: Mapping[str, Any], arm: str, metric: str, run: RunDescription, pair_id: str
) -> Array:
    """A metric of one arm, `(layers, columns)`; NaN where the pair has no control."""
    if arm == "control" and arm not in cells:
        return np.full(run.grid.shape, np.nan)
    values = np.array(cells[arm][metric], dtype=np.float64)
    if values.shape != run.grid.shape:
        raise ValueError(f"expected {metric} of shape {run.grid.shape} of pair {pair_id!r}")
    return values


def _lens_metadata(content: dict[str, Any]) -> dict[str, Any]:
    """Metadata of the lens; those of older files do not have the keys of a run of patching."""
    if "grid" in content:
        return content
    layers, latents = content.pop("num_layers"), content["num_latents"]
    for key in ("reads", "hits", "chance"):
        content.pop(key, None)
    grid = {
        "layers": [str(layer) for layer in range(layers)],
        "column": "position",
        "columns": [str(position) for position in range(latents)],
    }
    fixed: dict[str, Any] = {
        "experiment": LENS, "strategy": None, "latents": "recomputed", "direction": "denoising",
        "source": "clean", "control": "none", "site": "resid_post", "metrics": [],
    }  # fmt: skip
    return {**content, **fixed, "grid": grid}


def _map(ranks: list[list[int]], run: RunDescription, pair_id: str) -> Array:
    """Ranks of a step, `(layers, columns)`; NaN where there is nothing to compare with."""
    if not ranks:
        return np.full(run.grid.shape, np.nan)
    values = np.array(ranks, dtype=np.float64)
    if values.shape != run.grid.shape:
        raise ValueError(f"expected ranks of shape {run.grid.shape} of pair {pair_id!r}")
    return values


def _number(value: Any, where: str) -> float:
    """A number; null, which is undefined, as NaN.

    Raises:
        TypeError: It is something else.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{where}: expected numbers or null, got {value!r}")
    return float(value)


_READERS = {
    LENS_RESULTS: _read_lens,
    ATTENTION_RESULTS: _read_attention,
    KNOCKOUT_RESULTS: _read_knockout,
}
"""Of the experiments that patch nothing."""
