"""What is said of a folder of the lens alone: its maps, and where each step is read most often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codi_patching.reporting.figures import save_figure
from codi_patching.reporting.lens_figures import draw_hit_rates
from codi_patching.reporting.names import counted, data_name, model_name
from codi_patching.results.lens import HitRates, LensResults, read_lens

HIT_RATES = "lens_hit_rates.png"
_NAMED = 5


@dataclass(frozen=True)
class Reading:
    """Where a step's result is read most often.

    Attributes:
        step: From 1.
        pairs: That have the step.
        layer: The layer.
        position: The latent position.
        own: Share of pairs in which it is read, 0..1.
        chance: The same of another pair's result; NaN without one.
    """

    step: int
    pairs: int
    layer: int
    position: int
    own: float
    chance: float


def report_lens(folder: Path, figures: bool = True) -> str:
    """Draw the maps of a folder of the lens; returns what it shows, for the console.

    Raises:
        ResultsError: There are no results of the lens, or a file cannot be written.
    """
    results = read_lens(folder)
    rates = results.rates()
    (folder / HIT_RATES).unlink(missing_ok=True)
    if figures and rates is not None:
        save_figure(draw_hit_rates(rates, _head(results)), folder / HIT_RATES)
    return "\n".join([*_text(results, rates), f"written to {folder}"])


def clearest(rates: HitRates) -> Iterator[Reading]:
    """Of every step the cell where it is read most often; as the largest it is biased upwards."""
    for step, own in enumerate(rates.own):
        layer, position = np.unravel_index(np.nanargmax(own), own.shape)
        chance = float(rates.chance[step][layer, position])
        yield Reading(
            step + 1, rates.pairs[step], int(layer), int(position),
            float(own[layer, position]), chance,
        )  # fmt: skip


def _head(results: LensResults) -> str:
    pairs = counted(len(results.records), "pair")
    return f"Lens of {model_name(results.run)} on {data_name(results.run)}, {pairs}"


def _text(results: LensResults, rates: HitRates | None) -> Iterator[str]:
    yield f"{_head(results)}; a hit is a result among the {results.run.top} most probable tokens"
    excluded = results.run.excluded
    if rates is None:
        yield "no pair could be read"
    for found in clearest(rates) if rates is not None else ():
        chance = "" if np.isnan(found.chance) else f", another pair's in {found.chance:.0%}"
        yield (
            f"  step {found.step} is read most often at layer {found.layer}, position "
            f"{found.position}: in {found.own:.0%} of {counted(found.pairs, 'pair')}{chance}"
        )
    yield f"excluded: {counted(len(excluded), 'pair')}" if excluded else "excluded: none"
    yield from (f"  {pair}: {reason}" for pair, reason in list(excluded.items())[:_NAMED])
    if len(excluded) > _NAMED:
        yield f"  and {len(excluded) - _NAMED} more"
