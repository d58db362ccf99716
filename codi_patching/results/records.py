"""What a pair gave, on its way from measuring to the files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from codi_patching.results.description import Array
from codi_patching.results.pair_descriptions import (
    AttentionPair,
    KnockoutPair,
    LensPair,
    PairDescription,
)


@dataclass
class ExcludedPair:
    """A pair that could not be run, and why."""

    pair_id: str
    reason: str


@dataclass
class PairRecord:
    """What a pair gave.

    Attributes:
        pair_id: The pair.
        description: What is known of it.
        values: Of patching and of cut edges, for each metric a value for each cell, `(layers,
            columns)`; of the lens `rank`, `(S, L, K)`, and `whole_rank`, `(S, K)`; of attention
            `attention` and `strongest`, `(readers, L, attended)`. NaN where undefined.
        control: The same with the control's activations, or `rank` of chance; empty without one.
        activations: Generated activations worth keeping, in the model's dtype; of attention the
            shares of every head.
        trace: Rows of a table that follows every patch of this pair.
    """

    pair_id: str
    description: PairDescription | LensPair | AttentionPair | KnockoutPair
    values: dict[str, Array]
    control: dict[str, Array] = field(default_factory=dict)
    activations: Tensor | None = None
    trace: list[dict[str, Any]] = field(default_factory=list)

    def to(self, *_: object, **__: object) -> PairRecord:
        """Itself: it is on the CPU.

        Lightning moves what `predict` gives there, part by part where there is no such method, and
        refuses the frozen dataclasses inside.
        """
        return self
