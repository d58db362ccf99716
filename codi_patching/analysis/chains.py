"""What an iterative chain does along its iterations, from claims about its content effect.

With e_N the content effect after iteration N and `last` the last iteration that can have one, a
chain

- compounds if e_last - e_0 lies beyond the threshold,
- fades if it lies beyond minus the threshold,
- saturates if e_0 lies beyond the threshold and e_last - e_0 inside plus and minus it,
- has no effect if every e_N lies inside.

Otherwise it is undecided. A compounding chain reaches its plateau at the earliest iteration s such
that e_last - e_s, e_last - e_(s+1), … all lie inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from codi_patching.analysis.claims import Claim

Course = Literal["compounds", "fades", "saturates", "no effect", "undecided"]


@dataclass(frozen=True)
class Chain:
    """One layer's chain.

    Attributes:
        layer: Name of the layer.
        effects: Content effect after each iteration that can have one.
        changes: e_last - e_s for each earlier iteration s, from 0 on.
    """

    layer: str
    effects: tuple[Claim, ...]
    changes: tuple[Claim, ...]

    @property
    def course(self) -> Course:
        """What the chain does."""
        change = self.changes[0] if self.changes else None
        if change is not None and change.verdict == "yes":
            return "compounds" if (change.estimate or 0.0) > 0 else "fades"
        if all(claim.verdict == "no" for claim in self.effects):
            return "no effect"
        if change is not None and change.verdict == "no" and self.effects[0].verdict == "yes":
            return "saturates"
        return "undecided"

    @property
    def plateau(self) -> str | None:
        """The iteration from which on nothing more is added; None if the chain adds to the end."""
        if self.course != "compounds":
            return None
        reached = None
        for change in reversed(self.changes):
            if change.verdict != "no":
                break
            reached = change.column
        return reached


def split_chains(
    layers: Sequence[str], effects: Sequence[Claim], changes: Sequence[Claim]
) -> list[Chain]:
    """The chains of some layers, from the claims about all of them in order of iterations."""
    return [
        Chain(
            layer,
            tuple(claim for claim in effects if claim.layer == layer),
            tuple(claim for claim in changes if claim.layer == layer),
        )
        for layer in layers
        if any(claim.layer == layer for claim in effects)
    ]
