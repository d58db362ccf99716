"""Results folders as arms: the one place where the statistics meet the files."""

from __future__ import annotations

import numpy as np

from codi_patching.analysis.arms import Arm
from codi_patching.analysis.readings import Readings
from codi_patching.results.lens import LensResults, hits
from codi_patching.results.read import Results
from codi_patching.results.schema import Array, PairDescription, RunDescription


def arm_name(run: RunDescription) -> str:
    """What sentences call an experiment: `position patching (recomputed thoughts)`."""
    kind = f"{run.strategy} patching" if run.strategy else f"{run.experiment} patching"
    name = f"{kind} ({run.latents} thoughts)" if run.strategy is None else kind
    if run.site != "resid_post":
        name += f" of {run.site}"
    return name if run.direction == "denoising" else f"{name}, {run.direction}"


def as_arm(results: Results) -> Arm:
    """Results as arrays for the statistics."""
    run, metrics = results.run, results.run.metrics

    def unpatched(which: str) -> dict[str, Array]:
        known = {metric for pair in results.pairs for metric in getattr(pair, which)}
        return {metric: results.unpatched(which, metric) for metric in metrics if metric in known}

    return Arm(
        name=arm_name(run),
        experiment=run.experiment,
        strategy=run.strategy,
        latents=run.latents,
        direction=run.direction,
        source=run.source,
        control=control_used(results.pairs) if results.control else "none",
        site=run.site,
        layers=run.grid.layers,
        columns=run.grid.columns,
        pair_ids=results.pair_ids,
        groups=tuple(pair.group for pair in results.pairs),
        values=results.values,
        control_values=results.control,
        base=unpatched("base"),
        source_run=unpatched("source"),
        ceiling=unpatched("ceiling"),
        ceiling_control=unpatched("ceiling_control"),
        structural=results.structural,
    )


def as_readings(results: LensResults) -> Readings:
    """Results of the lens as arrays for the statistics."""
    records, (layers, positions) = results.records, results.shape
    own = chance = np.empty((0, 0, layers, positions))
    if records:
        own, chance = hits(records, results.run.top)
    differs = np.full(own.shape[:2], np.nan)
    for row, record in enumerate(records):
        for place, step in enumerate(record.steps):
            if step.corrupted_result:
                differs[row, place] = step.result != step.corrupted_result
    return Readings(
        top=results.run.top,
        layers=tuple(map(str, range(layers))),
        columns=tuple(map(str, range(positions))),
        pair_ids=results.pair_ids,
        own=own,
        chance=chance,
        differs=differs,
        first_tokens=any(len(step.tokens) > 1 for r in records for step in r.steps),
        excluded=results.run.excluded,
    )


def control_used(pairs: tuple[PairDescription, ...]) -> str:
    """Which control the pairs got: `sibling`, `random_pair`, `mixed` or `none`."""
    kinds = {pair.control.kind for pair in pairs if pair.control is not None}
    if not kinds:
        return "none"
    return kinds.pop() if len(kinds) == 1 else "mixed"
