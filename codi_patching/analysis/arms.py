"""One experiment's results as arrays, and the small views of them that statistics need.

A grid always has two axes, layers and columns. Columns are latent positions, iterations of a chain,
or the single column `all` of layer patching. Values are kept pair by pair; nothing is reduced here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codi_patching.results.schema import ALL, Grid, cell_label, makes_thoughts

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

THOUGHT = "thought"
"""Name of the row that patches the thoughts themselves, what enters layer 0."""


@dataclass(frozen=True)
class Arm:
    """The results of one experiment, pair by pair.

    Attributes:
        name: Label for sentences, such as `position patching (recomputed)`.
        experiment: `layer`, `position` or `iterative`.
        strategy: `relay` or `cumulative`; None if it is no chain.
        latents: `frozen` or `recomputed`.
        direction: `denoising` or `noising`.
        source: `clean`, `zero`, `mean` or `random_pair`.
        control: What the control patched: `sibling`, `random_pair`, `mixed` or `none`.
        site: What is overwritten, such as `resid_post`.
        layers: Names of the rows; `thought` may be the first, then `0`, `1`, ….
        columns: Names of the columns; `all` alone for layer patching.
        pair_ids: Names of the pairs.
        groups: One for each pair; pairs that share a question share a group.
        values: For each metric `(pairs, layers, columns)`, the own patch; NaN is undefined.
        control_values: The same with the control's activations; empty without a control, rows of
            NaN for pairs without one.
        base: For each metric `(pairs,)`, the unpatched base run.
        source_run: For each metric `(pairs,)`, the unpatched source run.
        ceiling: For each metric `(pairs,)`, all thoughts as in the source run.
        ceiling_control: The same with the control's thoughts.
        structural: Cells that cannot have an effect, `(layers, columns)`.
    """

    name: str
    experiment: str
    strategy: str | None
    latents: str
    direction: str
    source: str
    control: str
    site: str
    layers: tuple[str, ...]
    columns: tuple[str, ...]
    pair_ids: tuple[str, ...]
    groups: tuple[str, ...]
    values: Mapping[str, Array]
    control_values: Mapping[str, Array]
    base: Mapping[str, Array]
    source_run: Mapping[str, Array]
    ceiling: Mapping[str, Array]
    ceiling_control: Mapping[str, Array]
    structural: Mask

    @property
    def probability(self) -> str:
        """Metric of the primary estimand: the probability of the source run's answer."""
        return "clean_probability" if self.direction == "denoising" else "corrupted_probability"

    @property
    def hit(self) -> str:
        """Metric of whether the source run's answer is predicted."""
        return "predicts_clean" if self.direction == "denoising" else "predicts_corrupted"

    @property
    def setting(self) -> tuple[str, str, str]:
        """What two arms must have in common to be set side by side: site, direction and source."""
        return self.site, self.direction, self.source

    def has_control(self, metric: str) -> bool:
        """Whether the same patches were run with the control's activations."""
        return self.control != "none" and metric in self.control_values

    def last_columns(self) -> NDArray[np.int_]:
        """Of each row the last column that is no structural zero; -1 if all are, `(layers,)`."""
        indices = np.where(self.structural, -1, np.arange(len(self.columns)))
        return np.asarray(indices.max(axis=1), dtype=np.int_)

    def end(self) -> Arm:
        """Of a chain, the last iteration that can have an effect: one column, `end`."""
        last = self.last_columns()

        def pick(values: Mapping[str, Array]) -> dict[str, Array]:
            index = last[None, :, None]
            return {key: np.take_along_axis(v, index, axis=2) for key, v in values.items()}

        return replace(
            self,
            name=f"the end of {self.name}",
            columns=("end",),
            values=pick(self.values),
            control_values=pick(self.control_values),
            structural=(last < 0)[:, None],
        )

    def layer_name(self, row: int) -> str:
        """A row, named for what is patched there."""
        if self.layers[row] == THOUGHT:
            return "the thoughts themselves"
        name = f"layer {self.layers[row]}"
        if not makes_thoughts(self.layers, row, self.latents == "recomputed", self.site):
            return name
        thoughts = "thought" if self.strategy == "relay" else "thoughts"
        return f"{name} (makes the next {thoughts})"

    def cell_name(self, row: int, column: int) -> str:
        """A cell, named for what is patched there; see `cell_label`."""
        if self.columns[column] in (ALL, "end"):
            return self.layer_name(row)
        kind = "iteration" if self.experiment == "iterative" else "position"
        grid = Grid(self.layers, kind, self.columns)
        return cell_label(grid, (row, column), self.latents == "recomputed", self.site)

    def aligned(self, pair_ids: Sequence[str], groups: Mapping[str, str]) -> Arm:
        """The same arm over other pairs, in their order; NaN for those that it did not run."""
        known = {name: index for index, name in enumerate(self.pair_ids)}
        index = np.array([known.get(name, -1) for name in pair_ids])

        def pick(values: Mapping[str, Array]) -> dict[str, Array]:
            return {key: _rows(np.asarray(v, dtype=np.float64), index) for key, v in values.items()}

        return replace(
            self,
            pair_ids=tuple(pair_ids),
            groups=tuple(groups[name] for name in pair_ids),
            values=pick(self.values),
            control_values=pick(self.control_values),
            base=pick(self.base),
            source_run=pick(self.source_run),
            ceiling=pick(self.ceiling),
            ceiling_control=pick(self.ceiling_control),
        )


def _rows(values: Array, index: NDArray[np.int_]) -> Array:
    chosen = values[index].copy()
    chosen[index < 0] = np.nan
    return chosen


def align(arms: Iterable[Arm]) -> list[Arm]:
    """All arms over the union of their pairs, in one order, so that rows are the same pairs."""
    arms = list(arms)
    groups: dict[str, str] = {}
    for arm in arms:
        for pair, group in zip(arm.pair_ids, arm.groups, strict=True):
            groups.setdefault(pair, group)
    return [arm.aligned(list(groups), groups) for arm in arms]


def pick_arms(
    arms: Iterable[Arm],
    experiment: str | None = None,
    latents: str | None = None,
    strategy: str | None = None,
    setting: tuple[str, str, str] | None = None,
) -> list[Arm]:
    """The arms that agree with everything that is given."""
    return [
        arm
        for arm in arms
        if (experiment is None or arm.experiment == experiment)
        and (latents is None or arm.latents == latents)
        and (strategy is None or arm.strategy == strategy)
        and (setting is None or arm.setting == setting)
    ]


def settings_of(arms: Iterable[Arm]) -> list[tuple[str, str, str]]:
    """The settings that occur, in order of appearance."""
    return list(dict.fromkeys(arm.setting for arm in arms))


def command(
    experiment: str,
    latents: str | None = None,
    strategy: str | None = None,
    direction: str | None = None,
) -> str:
    """The command that makes an arm."""
    words = ["codi-patching predict --config", f"configs/{experiment}.yaml"]
    folder = experiment
    for key, value in (("latents", latents), ("strategy", strategy), ("direction", direction)):
        if value is not None:
            words.append(f"--model.{key} {value}")
            folder += f"_{value}"
    return " ".join([*words, f"--results.dir results/{folder}"])


def command_of(arm: Arm) -> str:
    """The command that makes an arm again."""
    latents = None if arm.experiment == "iterative" else arm.latents
    direction = None if arm.direction == "denoising" else arm.direction
    return command(arm.experiment, latents, arm.strategy, direction)
