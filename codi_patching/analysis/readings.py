"""What the lens read, pair by pair, as arrays for the statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from codi_patching.analysis.arms import Array

LENS = "the lens"
"""What findings call it in their `arms`."""

LENS_COMMAND = "codi-patching predict --config configs/lens.yaml --results.dir results/lens"


@dataclass(frozen=True)
class Readings:
    """Whether the result of each reasoning step is read at each cell. S steps.

    Attributes:
        top: Among so many most probable tokens.
        layers: Names of the rows.
        columns: Names of the latent positions.
        pair_ids: Names of the pairs.
        own: 1 where the pair's own result is read, else 0, `(pairs, S, layers, columns)`; NaN where
            the pair has no such step.
        chance: The same for another pair's result of that step; NaN also where there is none.
        differs: Whether the step's result differs between the pair's two questions, 1 or 0,
            `(pairs, S)`; NaN where that is not known.
        first_tokens: Whether some results have several tokens, of which the first is looked for.
        excluded: Reasons of pairs that could not be read, by id.
    """

    top: int
    layers: tuple[str, ...]
    columns: tuple[str, ...]
    pair_ids: tuple[str, ...]
    own: Array
    chance: Array
    differs: Array
    first_tokens: bool = False
    excluded: Mapping[str, str] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """S."""
        return self.own.shape[1]

    def aligned(self, pair_ids: Sequence[str]) -> Readings:
        """The same over other pairs, in their order; NaN for those that were not read."""
        places = {name: row for row, name in enumerate(self.pair_ids)}
        known = [row for row, name in enumerate(pair_ids) if name in places]
        rows = [places[pair_ids[row]] for row in known]

        def pick(values: Array) -> Array:
            chosen = np.full((len(pair_ids), *values.shape[1:]), np.nan)
            chosen[known] = values[rows]
            return chosen

        return replace(
            self,
            pair_ids=tuple(pair_ids),
            own=pick(self.own),
            chance=pick(self.chance),
            differs=pick(self.differs),
        )
