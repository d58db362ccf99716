"""Which patches restore which pairs, and how many of a stratum they restore."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from codi_patching.analysis.effects import cells_of, of_run
from codi_patching.results.dataset import CONTROL, has_control, structural_of
from codi_patching.results.description import Array, Mask

LEAST = 4
"""Independent pairs that it takes for a test; with fewer, counts alone."""


@dataclass(frozen=True)
class Count:
    """How many pairs are restored, in all and in independent units.

    Attributes:
        restored: Pairs.
        n: Of so many.
        unit_restored: Groups of pairs that share a question, each with its share restored.
        units: Of so many; the same as of pairs where none share a question.
    """

    restored: int = 0
    n: int = 0
    unit_restored: float = 0.0
    units: int = 0

    def __add__(self, other: Count) -> Count:
        """Both together."""
        return Count(
            self.restored + other.restored,
            self.n + other.n,
            self.unit_restored + other.unit_restored,
            self.units + other.units,
        )

    @property
    def rate(self) -> float:
        """Share of the pairs; 0 without any."""
        return self.restored / self.n if self.n else 0.0

    @property
    def tested(self) -> bool:
        """Whether there are enough of them."""
        return self.units >= LEAST

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % interval of the rate."""
        return exact_interval(self.unit_restored, self.units)

    def chance(self, rate: float) -> float:
        """Probability of as many or more at a rate: P(Bin(units, rate) ≥ restored)."""
        least = math.floor(self.unit_restored + 1e-9)
        return float(special.bdtrc(least - 1, self.units, rate)) if least else 1.0


@cache
def exact_interval(restored: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of a rate by Clopper and Pearson (1934), Biometrika 26, 404.

    Args:
        restored: Successes; of units, not always a whole number.
        n: Trials.
        level: Confidence level.

    Returns:
        Its ends; 0 and 1 without trials.

    Example:
        >>> low, high = exact_interval(0, 14)  # high = 1 - 0.025 ** (1 / 14)
        >>> low, round(high, 4)
        (0.0, 0.2316)
    """
    tail = (1 - level) / 2
    low = float(special.betaincinv(restored, n - restored + 1, tail)) if restored > 0 else 0.0
    high = float(special.betaincinv(restored + 1, n - restored, 1 - tail)) if restored < n else 1.0
    return low, high


@dataclass(frozen=True)
class Restored:
    """Which patches restore which pairs, `(pairs, layers, columns)`, 0 or 1.

    Attributes:
        own: The source answer is said with the own patch, and neither with the control's nor
            unpatched; 0 where it is not known.
        control: Said with the control's patch alone.
        by_chance: Said with the control's patch, whatever the own one does.
        known: Whether it is known: of the own patch, and of the control's where the run has one.
        structural: `(layers, columns)`.
        layers: Their names.
        columns: Their names.
    """

    own: Array
    control: Array
    by_chance: Array
    known: Array
    structural: Mask
    layers: tuple[str, ...]
    columns: tuple[str, ...]

    @classmethod
    def of(cls, data: xr.Dataset, metric: str) -> Restored:
        """From a run.

        Args:
            data: See `results.dataset`.
            metric: Whether the source answer is said.
        """
        own = cells_of(data, metric)
        control = cells_of(data, metric, CONTROL) if has_control(data) else np.zeros_like(own)
        known = np.isfinite(own) & np.isfinite(control)
        unpatched = of_run(data, "base", metric)[:, None, None] == 1
        said, other = (own == 1) & ~unpatched, (control == 1) & ~unpatched
        return cls(
            own=(said & ~other & known).astype(np.float64),
            control=(other & ~said & known).astype(np.float64),
            by_chance=(other & known).astype(np.float64),
            known=known.astype(np.float64),
            structural=structural_of(data),
            layers=tuple(map(str, data["layer"].values)),
            columns=tuple(map(str, data["column"].values)),
        )


def counts_of(
    restored: Restored, layer: int, members: Array, groups: NDArray[np.int_]
) -> Iterator[list[Count]]:
    """Of every stratum, the counts of each column of a layer.

    Args:
        restored: Which patches restore which pairs.
        layer: Its row.
        members: `(strata, pairs)`, 1 where a pair is of the stratum.
        groups: `(pairs,)`.
    """
    own, known = restored.own[:, layer], restored.known[:, layer]
    for member in members:
        rows = np.flatnonzero(member)
        unit = np.equal.outer(np.unique(groups[rows]), groups[rows]).astype(np.float64)
        sizes = unit @ known[rows]
        shares = (unit @ own[rows]) / np.maximum(sizes, 1)
        yield [
            Count(int(k), int(n), round(float(units), 9), int(of))
            for k, n, units, of in zip(
                own[rows].sum(0), known[rows].sum(0), shares.sum(0), (sizes > 0).sum(0), strict=True
            )
        ]
