"""Results of the lens without a model: hits that are planted cell by cell.

    lens = make_lens(pairs=24, planted={(0, 2, 1): 0.75})    # step, layer, position: share of pairs

Where nothing is planted no result is among the most probable tokens, neither the pair's own nor
another pair's.
"""

from results_maker import SHA, run_of

from codi_patching.results.lens import LensRecord, LensResults, LensRun, StepLens

HIT, MISS = 0, 9


def lens_run(layers=4, columns=3, **changed):
    """Of the model and pairs of `results_maker`."""
    run = run_of(layers=layers, columns=columns)
    own = {
        "model": run.model,
        "model_type": run.model_type,
        "num_layers": layers,
        "num_latents": columns,
        "checkpoint_sha256": SHA,
        "checkpoint": dict(run.checkpoint),
        "data": run.data,
        "data_sha256": run.data_sha256,
        "seed": run.seed,
        "precision": run.precision,
        "device": dict(run.device),
        "versions": dict(run.versions),
        "code": run.code,
        "top": 5,
        "num_pairs": 0,
    }
    return LensRun(**{**own, **changed})


def make_lens(
    pairs=24, layers=4, columns=3, steps=2, planted=None, chance=None, excluded=None, **changed
):
    """Results in memory.

    Args:
        pairs: How many, named as those of `results_maker`.
        layers: L.
        columns: K.
        steps: Reasoning steps of every pair; the last one differs between its two questions.
        planted: Share of pairs whose own result is read, by step, layer and position.
        chance: The same for another pair's.
        excluded: Reasons by id; these pairs have no record.
        changed: Fields of the run.
    """
    records = [
        LensRecord(
            f"pair_{row:02d}",
            f"Max collects {row + 25} stamps.",
            tuple(
                StepLens(
                    result=str(row),
                    tokens=(row,),
                    ranks=_ranks(planted or {}, step, row / pairs, layers, columns),
                    whole=[MISS] * columns,
                    chance_result=str(row + 100),
                    chance_ranks=_ranks(chance or {}, step, row / pairs, layers, columns),
                    corrupted_result=str(row + (step == steps - 1)),
                )
                for step in range(steps)
            ),
            [[["x"]] * columns] * layers,
            f"pair_{row:02d}",
        )
        for row in range(pairs)
        if f"pair_{row:02d}" not in (excluded or {})
    ]
    run = lens_run(layers, columns, num_pairs=len(records), excluded=excluded or {}, **changed)
    return LensResults(run, tuple(records))


def _ranks(shares, step, place, layers, columns):
    """A hit in the first so many pairs."""
    return [
        [HIT if place < shares.get((step, i, j), 0.0) else MISS for j in range(columns)]
        for i in range(layers)
    ]
