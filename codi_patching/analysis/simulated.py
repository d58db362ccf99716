"""Results whose truth is known: without any effect, and with planted ones.

A kind of noise says how the probability of the source run's answer changes under the own patch and
under the control when no content is carried; all kinds make the two exchangeable, or leave the own
patch without any change. A shape says where a content effect is planted. `expected_arms` holds the
expected values themselves, so that the truth of every contrast comes from the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codi_patching.analysis.arms import Arm, Array, Mask

Generator = np.random.Generator
Noise = Callable[[Generator, tuple[int, int, int]], tuple[Array, Array]]

KINDS_OF_ARMS = (
    ("layer patching (frozen)", "layer", None, "frozen"),
    ("layer patching (recomputed)", "layer", None, "recomputed"),
    ("position patching (frozen)", "position", None, "frozen"),
    ("position patching (recomputed)", "position", None, "recomputed"),
    ("the relay chain", "iterative", "relay", "recomputed"),
    ("the cumulative chain", "iterative", "cumulative", "recomputed"),
)
PAIRS, LAYERS, COLUMNS = 57, 16, 5


def heavy_tails(rng: Generator, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Changes from a t distribution with two degrees of freedom, squeezed into -0.5..0.5."""
    own, control = (
        0.5 * np.tanh(0.1 * np.asarray(rng.standard_t(2, shape), np.float64)) for _ in range(2)
    )
    return own, control


def third_zeros(rng: Generator, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Normal changes, a third of them exactly 0."""
    own, control = (
        np.where(rng.random(shape) < 1 / 3, 0.0, rng.normal(0, 0.1, shape)) for _ in range(2)
    )
    return own, control


def rounding(rng: Generator, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Changes of 1e-13, more in some columns than in others."""
    scale = 1e-13 * np.exp(rng.normal(0, 1, shape[1:]))
    return scale * (1 + rng.random(shape)), scale * rng.random(shape)


def shared_noise(rng: Generator, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Most of a pair's change is the same at every layer and column."""
    pair = (shape[0], 1, 1)
    own, control = (rng.normal(0, 0.2, pair) + rng.normal(0, 0.05, shape) for _ in range(2))
    return own, control


def unequal_spread(rng: Generator, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Equal means, spread that grows with the layer from 0.01 to 0.4."""
    spread = np.linspace(0.01, 0.4, shape[1])[None, :, None]
    own, control = (rng.normal(0, 1, shape) * spread for _ in range(2))
    return own, control


def rare_flips(rng: Generator, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """In 4 % of the pairs the answer flips, now with the own patch, now with the control."""
    own, control = (np.where(rng.random(shape) < 0.04, 0.9, 0.0) for _ in range(2))
    return own, control


def strangers_disrupt(rng: Generator, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """The own patch does nothing, the control takes away half of the probability or more."""
    return rng.normal(0, 0.02, shape), -0.25 - 0.1 * rng.random(shape)


def both_raise(rng: Generator, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """Own and control raise the answer alike, more at late layers: its prior, not its content."""
    size = np.linspace(0.0, 0.4, shape[1])[None, :, None]
    own, control = (size * rng.beta(1, 1, shape) * 2 for _ in range(2))
    return own, control


def skewed(rng: Generator, shape: tuple[int, int, int]) -> tuple[Array, Array]:
    """A small rise in most pairs and a large fall in a few, mean 0; or the other way round."""
    way = np.where(np.arange(shape[2]) % 2 == 0, 1.0, -1.0)
    own, control = (way * np.where(rng.random(shape) < 0.1, -0.45, 0.05) for _ in range(2))
    return own, control


NO_EFFECT: dict[str, Noise] = {
    "heavy tails": heavy_tails,
    "a third exact zeros": third_zeros,
    "rounding noise": rounding,
    "layers share their noise": shared_noise,
    "equal means, unequal spread": unequal_spread,
    "rare flips": rare_flips,
    "strangers disrupt": strangers_disrupt,
    "own and strangers raise alike": both_raise,
    "skewed": skewed,
}


@dataclass(frozen=True)
class Planted:
    """A content effect.

    Attributes:
        size: Mean rise of the probability where it is planted.
        shape: `cell`, `position` or `band`.
        deviation: Standard deviation over pairs.
    """

    size: float
    shape: str
    deviation: float = 0.3

    def grid(self, experiment: str, strategy: str | None, shape: tuple[int, int]) -> Array:
        """Where and how much, `(layers, columns)`; 1 is the size."""
        layers, columns = shape
        middle, steps = columns // 2, np.arange(columns)
        grid = np.zeros(shape)
        if self.shape == "band":
            rows = slice(0, layers // 2)
            courses = {
                ("layer", None): np.ones(columns),
                ("position", None): np.full(columns, 1.0),
                ("iterative", "relay"): 1 - steps / max(columns - 1, 1),
                ("iterative", "cumulative"): (steps + 1) / columns,
            }
        else:
            first = layers // 4
            rows = slice(first, first + 1) if self.shape == "cell" else slice(first, 3 * first)
            courses = {
                ("layer", None): np.ones(columns),
                ("position", None): (steps == middle) * 1.0,
                ("iterative", "relay"): (steps == middle) * 1.0,
                ("iterative", "cumulative"): (steps >= middle) * 1.0,
            }
        grid[rows] = courses[experiment, strategy]
        return grid


def simulate(kind: str, seed: int, planted: Planted | None = None, pairs: int = PAIRS) -> list[Arm]:
    """All six arms of a study.

    Args:
        kind: Of noise, a key of `NO_EFFECT`.
        seed: Of everything drawn.
        planted: A content effect on top of it.
        pairs: How many.
    """
    rng = np.random.default_rng(seed)
    base = 0.3 + 0.1 * rng.random(pairs)
    return [_arm(arm, rng, NO_EFFECT[kind], planted, base) for arm in KINDS_OF_ARMS]


def expected_arms(planted: Planted) -> list[Arm]:
    """The expected values of a planted effect in noise of mean 0, as arms of a single pair."""
    return [_arm(arm, None, None, planted, np.array([0.35])) for arm in KINDS_OF_ARMS]


def _arm(
    kind: tuple[str, str, str | None, str],
    rng: Generator | None,
    noise: Noise | None,
    planted: Planted | None,
    base: Array,
) -> Arm:
    name, experiment, strategy, latents = kind
    columns = ("all",) if experiment == "layer" else tuple(map(str, range(COLUMNS)))
    shape = (len(base), LAYERS, len(columns))
    own, control = (
        noise(rng, shape) if noise and rng is not None else (np.zeros(shape), np.zeros(shape))
    )
    if planted is not None:
        grid = planted.size * planted.grid(experiment, strategy, shape[1:])
        spread = planted.deviation * (grid != 0)
        drawn = rng.normal(0, 1, shape) * spread if rng is not None else np.zeros(shape)
        own = own + grid + drawn
    structural = _structural(experiment, strategy, latents, shape[1:])
    own, control = (np.where(structural, 0.0, change) for change in (own, control))
    ids = tuple(f"pair {i}" for i in range(len(base)))
    logits = np.full(len(base), 3.0)
    ceiling = {"clean_probability": base + (0.0 if planted is None else planted.size)}
    return Arm(
        name, experiment, strategy, latents, "denoising", "clean", "sibling", "resid_post",
        tuple(map(str, range(LAYERS))), columns, ids, ids,
        _metrics(rng, base, own), _metrics(rng, base, control),

        {
            "clean_probability": base,
            "predicts_clean": (base > 0.5).astype(np.float64),
            "answer_logit_difference": -logits,
        },
        {"clean_probability": np.ones(len(base)), "answer_logit_difference": logits},
        ceiling, {"clean_probability": base}, structural,
    )  # fmt: skip


def _metrics(rng: Generator | None, base: Array, change: Array) -> dict[str, Array]:
    """Every metric that findings read, from the change of the probability."""
    probability = base[:, None, None] + change
    shape = change.shape
    if rng is None:
        kl = np.zeros(shape)
    else:
        kl = np.where(rng.random(shape) < 0.3, 0.0, np.exp(rng.normal(-3, 2, shape)))
    return {
        "clean_probability": probability,
        "predicts_clean": (probability > 0.5).astype(np.float64),
        "answer_logit_difference": -3.0 + 6 * change,
        "kl_divergence": kl,
    }


def _structural(
    experiment: str, strategy: str | None, latents: str, shape: tuple[int, int]
) -> Mask:
    """Cells whose state nothing reads, with the residual stream patched."""
    structural = np.zeros(shape, dtype=bool)
    if latents == "frozen":
        structural[-1] = True
    elif experiment == "position" or strategy == "relay":
        structural[-1, -1] = True
    return structural
