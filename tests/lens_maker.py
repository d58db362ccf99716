"""Results of the lens without a model: hits that are planted cell by cell.

    lens = make_lens(pairs=24, planted={(0, 2, 1): 0.75})    # step, layer, position: share of pairs

Where nothing is planted no result is among the most probable tokens, neither the pair's own nor
another pair's.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from results_maker import run_of, write

from codi_patching.results.dataset import LENS, lens_dataset
from codi_patching.results.pair_descriptions import LensPair, ReadStep
from codi_patching.results.read import read_results
from codi_patching.results.records import PairRecord

HIT, MISS = 0, 9


def lens_run(layers=4, columns=3, **changed):
    """Of the model and pairs of `results_maker`."""
    run = run_of("position", layers, columns)
    read = {"experiment": LENS, "control": "none", "metrics": (), "top": 5}
    return replace(run, grid=replace(run.grid, structural_zeros=()), **{**read, **changed})


def lens_records(
    pairs=24, layers=4, columns=3, steps=2, planted=None, chance=None, excluded=(), alone=()
):
    """What each pair gave.

    Args:
        pairs: How many, named as those of `results_maker`.
        layers: L.
        columns: K.
        steps: Reasoning steps of every pair; the last one differs between its two questions.
        planted: Share of pairs whose own result is read, by step, layer and position.
        chance: The same for another pair's.
        excluded: These pairs have no record.
        alone: Ids of pairs without another to compare with.
    """
    return [
        _record(row, pairs, (steps, layers, columns), planted or {}, chance or {}, alone)
        for row in range(pairs)
        if f"pair_{row:02d}" not in excluded
    ]


def _record(row, pairs, shape, planted, chance, alone):
    pair_id, (steps, layers, columns) = f"pair_{row:02d}", shape
    other = "" if pair_id in alone else str(row + 100)
    read = tuple(
        ReadStep(str(row), (row,), other, str(row + (step == steps - 1))) for step in range(steps)
    )
    described = LensPair(
        f"Max collects {row + 25} stamps.", read, [[["x"]] * columns] * layers, pair_id
    )
    own = {"rank": _ranks(planted, row / pairs, shape)}
    own["whole_rank"] = np.full((steps, columns), float(MISS))
    control = {"rank": _ranks(chance, row / pairs, shape)} if other else {}
    return PairRecord(pair_id, described, own, control)


def make_lens(pairs=24, layers=4, columns=3, excluded=None, **options) -> xr.Dataset:
    """Results in memory; see `lens_records`; `excluded` gives reasons by id.

    Fields of the run can be given too.
    """
    known = ("steps", "planted", "chance", "alone")
    given = {name: options.pop(name) for name in known if name in options}
    records = lens_records(pairs, layers, columns, excluded=excluded or {}, **given)
    counted = {"num_pairs": len(records), "excluded": excluded or {}}
    run = lens_run(layers, columns, **{**counted, **options})
    nothing = np.full(run.grid.shape, np.nan)
    return lens_dataset(
        run,
        [r.pair_id for r in records],
        [r.description for r in records],
        [r.values["rank"] for r in records],
        [r.control.get("rank", np.stack([nothing] * len(r.values["rank"]))) for r in records],
        [r.values["whole_rank"] for r in records],
    )


def write_lens(folder: Path, pairs=24, layers=4, columns=3, excluded=None, **options) -> Path:
    """A folder of the lens; see `lens_records`."""
    records = lens_records(pairs, layers, columns, excluded=excluded or {}, **options)
    return write(folder, lens_run(layers, columns), records, excluded or {})


def written_lens(folder: Path, **options) -> xr.Dataset:
    """Results of the lens that were written and read again."""
    return read_results(write_lens(folder, **options))


def _ranks(shares, place, shape):
    """A hit in the first so many pairs."""
    ranks = np.full(shape, float(MISS))
    for cell, share in shares.items():
        if place < share:
            ranks[cell] = HIT
    return ranks
