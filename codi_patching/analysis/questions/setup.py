"""What all questions start from, and the contrasts that several of them use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from codi_patching.analysis.arms import (
    THOUGHT,
    Arm,
    Array,
    Mask,
    pick_arms,
    settings_of,
)
from codi_patching.analysis.effects import Comparisons, content, mean_over
from codi_patching.analysis.families import Contrasts
from codi_patching.analysis.readings import Readings
from codi_patching.analysis.verdicts import Thresholds, Unit

Setting = tuple[str, str, str]

DIFFERENCE = (1.0, 2.0)
"""Reach of a difference of two content effects: of (own − base) − (own′ − base), in which the base
cancels, and of (own − control) − (own′ − control′)."""


@dataclass(frozen=True)
class Setup:
    """Arms over the same pairs, and the options.

    Attributes:
        arms: All of them, aligned.
        thresholds: See `Thresholds`.
        seed: Of everything drawn.
        readings: What the lens read of the same pairs, if it was run.
    """

    arms: tuple[Arm, ...]
    thresholds: Thresholds
    seed: int
    readings: Readings | None = None

    def settings(self) -> list[Setting]:
        """Site, direction and source of the arms; arms of two settings are not compared."""
        return settings_of(self.arms)

    def find(
        self,
        experiment: str,
        latents: str | None = None,
        strategy: str | None = None,
        setting: Setting | None = None,
    ) -> list[Arm]:
        """The arms that agree with everything that is given."""
        return pick_arms(self.arms, experiment, latents, strategy, setting)

    def one(
        self,
        experiment: str,
        latents: str | None = None,
        strategy: str | None = None,
        setting: Setting | None = None,
    ) -> Arm | None:
        """The first such arm, if there is one."""
        return next(iter(self.find(experiment, latents, strategy, setting)), None)

    def whole(self, latents: str, setting: Setting) -> Arm | None:
        """All positions of a layer at once: layer patching, or a cumulative chain's end."""
        arm = self.one("layer", latents, None, setting)
        if arm is None and latents == "recomputed":
            chain = self.one("iterative", None, "cumulative", setting)
            return None if chain is None else chain.end()
        return arm


def cell_contrasts(
    arm: Arm,
    thresholds: Thresholds,
    metric: str | None = None,
    unit: Unit = "probability",
    kind: str = "content",
) -> Contrasts:
    """The content effect of every cell that can have one."""
    keep = ~arm.structural
    where = [(int(i), int(j)) for i, j in np.argwhere(keep)]
    return Contrasts(
        tuple(arm.cell_name(i, j) for i, j in where),
        content(arm, metric).columns(keep),
        "content",
        unit,
        thresholds.of(unit),
        kind,
        arm.control,
        tuple((arm.layers[i], arm.columns[j]) for i, j in where),
    )


def layer_content(arm: Arm, metric: str | None = None, structural: float = np.nan) -> Comparisons:
    """The content effect of each layer, mean over its columns, `(pairs, layers)`."""
    return content(arm, metric, structural).apply(lambda values: mean_over(values, 2))


def common_layers(first: Arm, second: Arm) -> list[tuple[str, int, int]]:
    """Layers that both arms have: name, row in the first, row in the second."""
    rows = {name: row for row, name in enumerate(second.layers)}
    return [(name, row, rows[name]) for row, name in enumerate(first.layers) if name in rows]


def halves(arm: Arm) -> tuple[Mask, Mask]:
    """Rows of the lower and of the upper half of the layers; the thoughts' row is in neither."""
    names = [int(name) if name != THOUGHT else -1 for name in arm.layers]
    number = np.array(names)
    depth = number.max() + 1
    return (number >= 0) & (2 * number < depth), 2 * number >= depth


def contrast(
    names: Sequence[str],
    comparisons: Comparisons,
    thresholds: Thresholds,
    kind: str,
    control: str,
    cells: Sequence[tuple[str | None, str | None]] = (),
    unit: Unit = "probability",
    threshold: float | None = None,
    reach: tuple[float, float] = DIFFERENCE,
) -> Contrasts:
    """Contrasts of content effects, which may go either way."""
    limit = thresholds.of(unit) if threshold is None else threshold
    return Contrasts(
        tuple(names),
        comparisons,
        "direction",
        unit,
        limit,
        kind,
        control,
        tuple(cells),
        reach=reach,
    )


def stacked(values: Sequence[Array]) -> Array:
    """Columns side by side, `(pairs, columns)`."""
    return np.stack(list(values), axis=1)
