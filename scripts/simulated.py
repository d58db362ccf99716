"""Results whose truth is known: without any effect, and with planted ones.

A planted effect stands on noise of some kind (see `noise`) in cells of the two runs of position
patching, so that the other runs are empty beside structured ones. `expected` has the expected
values themselves, so that the truth of every claim comes from the same code as the claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from noise import (
    GROUPED,
    LAYERS,
    MEANS,
    NO_EFFECT,
    Generator,
    Shape,
)

from codi_patching.analysis.knocked_out import DIRECT, THROUGH
from codi_patching.results.dataset import knockout_dataset, patching_dataset
from codi_patching.results.description import ALL, Array, Code, Grid, Mask, RunDescription
from codi_patching.results.pair_descriptions import Control, KnockoutPair, PairDescription

ARMS: tuple[tuple[str, str | None, str], ...] = (
    ("layer", None, "frozen"),
    ("layer", None, "recomputed"),
    ("position", None, "frozen"),
    ("position", None, "recomputed"),
    ("iterative", "relay", "recomputed"),
    ("iterative", "cumulative", "recomputed"),
)
"""Experiment, strategy and latents of the runs of a study."""

METRICS = (
    "kl_divergence",
    "l2_difference",
    "prediction_change_rate",
    "answer_logit_difference",
    "kl_to_source",
    "recovery",
    "predicts_clean",
    "predicts_corrupted",
    "clean_probability",
    "corrupted_probability",
)

COLUMNS = 5

BASE = 0.35
"""Probability of the source run's answer in the unpatched run."""

FLIP = 0.95
"""Rise where an answer flips."""

HOLDS: Mapping[int, tuple[int, ...]] = {
    2: (1, 1, 0, 0, 0),
    3: (1, 1, 2, 2, 0),
    4: (1, 1, 2, 2, 3),
}
"""Of planted strata, by number of steps, the step whose result each position holds; 0 for none."""


@dataclass(frozen=True)
class Planted:
    """A content effect, in cells of the runs of position patching.

    Attributes:
        mean: Mean rise of the probability; of flips, the share of pairs.
        flips: Whether the probability rises from next to 0 to next to 1 in a share of the pairs;
            else by normal amounts with a standard deviation of 0.3.
        control: Of flips, the share of pairs in which the control's patch does the same.
    """

    mean: float
    flips: bool = False
    control: float = 0.0

    @property
    def base(self) -> float:
        """Probability in the unpatched run."""
        return 0.02 if self.flips else BASE

    def draw(self, rng: Generator, shape: Shape) -> tuple[Array, Array]:
        """Rises with the own patch and with the control's, in every cell."""
        if not self.flips:
            return rng.normal(self.mean, 0.3, shape), np.zeros(shape)
        own, control = (rng.random(shape) < share for share in (self.mean, self.control))
        return np.where(own, FLIP, 0.0), np.where(control, FLIP, 0.0)

    @property
    def expected(self) -> tuple[float, float]:
        """Their means."""
        return (FLIP * self.mean, FLIP * self.control) if self.flips else (self.mean, 0.0)


def planted_cells(columns: int) -> Mask:
    """Half of the layers at one position."""
    cells = np.zeros((LAYERS, columns), dtype=bool)
    cells[LAYERS // 4 : 3 * LAYERS // 4, columns // 2] = columns > 1
    return cells


def simulate(
    kind: str | None, seed: int, pairs: int = 57, planted: Planted | None = None
) -> list[xr.Dataset]:
    """All runs of a study.

    Args:
        kind: Of noise, a key of `NO_EFFECT`; None for none.
        seed: Of everything drawn.
        pairs: How many.
        planted: A content effect on top of it.
    """
    rng = np.random.default_rng(seed)
    steps = draw_steps(rng, pairs)
    groups = [row // 3 if kind in GROUPED else row for row in range(pairs)]
    made = []
    for arm in ARMS:
        run = run_description(*arm)
        shape = (pairs, *run.grid.shape)
        own, control = NO_EFFECT[kind](rng, shape) if kind else (np.zeros(shape), np.zeros(shape))
        if planted is not None and run.experiment == "position":
            cells = planted_cells(shape[2])
            rises = planted.draw(rng, shape)
            own, control = own + rises[0] * cells, control + rises[1] * cells
        base = BASE if planted is None else planted.base
        made.append(dataset(run, base, own, control, steps, groups))
    return made


def expected(kind: str | None, pairs: int = 57, planted: Planted | None = None) -> list[xr.Dataset]:
    """The same with every value at its mean, in all pairs: the truth of every estimate."""
    steps = draw_steps(np.random.default_rng(0), pairs)
    made = []
    for arm in ARMS:
        run = run_description(*arm)
        means = [
            np.zeros((pairs, *run.grid.shape)) + mean for mean in MEANS.get(kind or "", (0, 0))
        ]
        if planted is not None and run.experiment == "position":
            cells = planted_cells(len(run.grid.columns))
            means = [m + cells * rise for m, rise in zip(means, planted.expected, strict=True)]
        base = BASE if planted is None else planted.base
        made.append(dataset(run, base, means[0], means[1], steps, range(pairs)))
    return made


def simulate_strata(
    seed: int, rate: float, background: float = 0.0, pairs: int = 57, shuffle: bool = False
) -> xr.Dataset:
    """Position patching of a model whose thoughts hold results as `HOLDS` has it.

    Args:
        seed: Of everything drawn.
        rate: At which a patch restores the pairs whose change reaches what it holds.
        background: At which any other patch, and the control's, does.
        pairs: How many.
        shuffle: Whether labels are permuted, so that nothing is left to find.
    """
    rng = np.random.default_rng(seed)
    steps = draw_steps(rng, pairs)
    run = run_description("position", None, "recomputed")
    held = np.array([HOLDS[length] for length, _ in steps])[:, None, :]
    reached = np.array([step for _, step in steps])[:, None, None] <= held
    shape = (pairs, *run.grid.shape)
    own = rng.random(shape) < np.where(reached, rate, background)
    control = rng.random(shape) < background
    if shuffle:
        steps = [steps[row] for row in rng.permutation(pairs)]
    return dataset(
        run, 0.02, np.where(own, FLIP, 0.0), np.where(control, FLIP, 0.0), steps, range(pairs)
    )


EDGES = (DIRECT, "numbers->readout", THROUGH, *(f"{p}->readout" for p in range(COLUMNS)))
"""Of simulated cuts, all in all layers at once."""


def simulate_cuts(kind: str | None, seed: int, pairs: int = 57, fall: float = 0.0) -> xr.Dataset:
    """Cut edges of a model whose answer falls where the readout cannot see its thoughts.

    Args:
        kind: Of noise, a key of `NO_EFFECT`; None for none.
        seed: Of everything drawn.
        pairs: How many.
        fall: Mean by which it falls there, with a standard deviation of 0.3.
    """
    rng = np.random.default_rng(seed)
    shape = (pairs, 1, len(EDGES))
    own, control = NO_EFFECT[kind](rng, shape) if kind else (np.zeros(shape), np.zeros(shape))
    if fall:
        own = own - rng.normal(fall, 0.3, shape) * (np.array(EDGES) == THROUGH)
    groups = [row // 3 if kind in GROUPED else row for row in range(pairs)]
    return _cuts(own, control, draw_steps(rng, pairs), groups)


def expected_cuts(kind: str | None, pairs: int = 57, fall: float = 0.0) -> xr.Dataset:
    """The same with every value at its mean, in all pairs."""
    shape = (pairs, 1, len(EDGES))
    means = [np.ravel(mean)[0] for mean in MEANS.get(kind or "", (0, 0))]  # of the first layer
    own, control = (np.zeros(shape) + mean for mean in means)
    own = own - fall * (np.array(EDGES) == THROUGH)
    return _cuts(own, control, draw_steps(np.random.default_rng(0), pairs), range(pairs))


def _cuts(
    own: Array, control: Array, steps: Sequence[tuple[int, int]], groups: Sequence[int]
) -> xr.Dataset:
    """Results from changes of the probability of the run's own answer, uncut at 1/2."""
    run = replace(
        run_description("knockout", None, "recomputed"),
        grid=Grid((ALL,), "edge", EDGES), num_pairs=len(own),
    )  # fmt: skip
    control = np.where(np.array(EDGES) == DIRECT, np.nan, control)  # nothing is left to cut
    ids = [f"pair_{row}" for row in range(len(own))]
    known = zip(groups, steps, strict=True)
    pairs = [
        KnockoutPair(
            "", "1", "2", _whole_run(0.5), 4, (1, 2, 3), (1,), (2, 3),
            {edge: (2,) for edge in EDGES if edge != DIRECT}, str(group), length, step,
        )
        for group, (length, step) in known
    ]  # fmt: skip
    values, others = (_metrics(0.5 + change) for change in (own, control))
    return knockout_dataset(run, ids, pairs, values, others)


def draw_steps(rng: Generator, pairs: int) -> list[tuple[int, int]]:
    """Number of steps, two to four, and changed step of each pair."""
    lengths = rng.integers(2, 5, pairs)
    return [(int(length), int(rng.integers(1, length + 1))) for length in lengths]


def run_description(experiment: str, strategy: str | None, latents: str) -> RunDescription:
    """A run on a simulated model."""
    columns = (ALL,) if experiment == "layer" else tuple(map(str, range(COLUMNS)))
    layers = tuple(map(str, range(LAYERS)))
    last, end = LAYERS - 1, len(columns) - 1
    zeros: tuple[tuple[int, int], ...] = ()
    if latents == "frozen":
        zeros = tuple((last, column) for column in range(len(columns)))
    elif experiment == "position" or strategy == "relay":
        zeros = ((last, end),)
    kind = "iteration" if experiment == "iterative" else "position"
    return RunDescription(
        experiment=experiment,
        strategy=strategy,
        latents=latents,
        direction="denoising",
        source="clean",
        control="sibling",
        site="resid_post",
        model="simulated",
        model_type="none",
        num_latents=COLUMNS,
        checkpoint_sha256="0" * 64,
        checkpoint={},
        data="simulated",
        data_sha256="0" * 64,
        seed=42,
        precision="64-true",
        device={"kind": "cpu"},
        versions={},
        code=Code("0" * 64, "0"),
        grid=Grid(layers, kind, columns, zeros),
        metrics=METRICS,
        num_pairs=0,
    )


def dataset(
    run: RunDescription,
    base: float,
    own: Array,
    control: Array,
    steps: Sequence[tuple[int, int]],
    groups: Sequence[int],
) -> xr.Dataset:
    """Results from changes of the source answer's probability.

    Args:
        run: Whose.
        base: Probability in the unpatched runs.
        own: Changes with the own patch, `(pairs, layers, columns)`.
        control: With the control's.
        steps: Number of steps and changed step of each pair.
        groups: Of each pair.
    """
    ids = [f"pair_{row}" for row in range(len(own))]
    cells = [np.where(run.grid.structural, 0.0, change) for change in (own, control)]
    known = zip(ids, groups, steps, strict=True)
    pairs = [
        PairDescription(
            base_question="",
            source_question="",
            base_answer="1",
            source_answer="2",
            base_answer_tokens=(1,),
            source_answer_tokens=(2,),
            group=str(group),
            base=_whole_run(base),
            source=_whole_run(0.95),
            ceiling=_whole_run(base),
            ceiling_control=_whole_run(base),
            control=Control("sibling", "", "3", pair_id),
            num_steps=length,
            changed_step=step,
        )
        for pair_id, group, (length, step) in known
    ]
    values, others = (_metrics(base + change) for change in cells)
    return patching_dataset(run, ids, pairs, values, others)


def _whole_run(probability: float) -> dict[str, float | None]:
    return {name: float(value) for name, value in _metrics(np.array(probability)).items()}


def _metrics(probability: Array) -> dict[str, Array]:
    """Every metric, as follows from the probability of the source run's answer."""
    said = (probability > 0.5).astype(np.float64)
    known = {
        "clean_probability": probability,
        "corrupted_probability": 0.95 - probability,
        "predicts_clean": said,
        "predicts_corrupted": 1 - said,
        "answer_logit_difference": 6 * probability - 3,
        "recovery": probability / 0.95,
    }
    return {metric: known.get(metric, np.zeros_like(probability)) for metric in METRICS}
