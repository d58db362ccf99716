"""Noise of many kinds, without any content effect.

A kind says how the probability of the source run's answer changes with the own patch and with the
control's when no content is carried: the two are exchangeable, or the own patch leaves the answer
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from codi_patching.results.description import Array

Generator = np.random.Generator
Shape = tuple[int, int, int]
Noise = Callable[[Generator, Shape], tuple[Array, Array]]
"""Changes with the own patch and with the control's, of a shape `(pairs, layers, columns)`."""

LAYERS = 16
"""Of simulated models."""


def heavy_tails(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """Changes from a t distribution with two degrees of freedom, squeezed into -0.3..0.3."""
    own, control = (
        0.3 * np.tanh(0.2 * np.asarray(rng.standard_t(2, shape), np.float64)) for _ in range(2)
    )
    return own, control


def third_zeros(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """Normal changes, a third of them exactly 0."""
    own, control = (
        np.where(rng.random(shape) < 1 / 3, 0.0, rng.normal(0, 0.1, shape)) for _ in range(2)
    )
    return own, control


def rounding(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """Changes of 1e-13, more in some columns than in others."""
    scale = 1e-13 * np.exp(rng.normal(0, 1, shape[1:]))
    return scale * (1 + rng.random(shape)), scale * rng.random(shape)


def shared_noise(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """Most of a pair's change is the same at every layer and column."""
    pair = (shape[0], 1, 1)
    own, control = (rng.normal(0, 0.15, pair) + rng.normal(0, 0.05, shape) for _ in range(2))
    return own, control


def unequal_spread(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """Equal means, spread that grows with the layer from 0.01 to 0.2."""
    spread = np.linspace(0.01, 0.2, shape[1])[None, :, None]
    own, control = (rng.normal(0, 1, shape) * spread for _ in range(2))
    return own, control


def rare_flips(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """In 4 % of the pairs the answer flips, now with the own patch, now with the control's."""
    own, control = (np.where(rng.random(shape) < 0.04, 0.6, 0.0) for _ in range(2))
    return own, control


def flips_alike(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """In 30 % of the pairs the answer flips, whichever patch it is."""
    own, control = (np.where(rng.random(shape) < 0.3, 0.6, 0.0) for _ in range(2))
    return own, control


def strangers_disrupt(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """The own patch does nothing, the control's takes away half of the probability or more."""
    return rng.normal(0, 0.02, shape), -0.2 - 0.1 * rng.random(shape)


def both_raise(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """Own and control raise the answer alike, more at late layers: its prior, not its content."""
    size = np.linspace(0.0, 0.3, shape[1])[None, :, None]
    own, control = (2 * size * rng.random(shape) for _ in range(2))
    return own, control


def skewed(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """A small rise in most pairs and a large fall in a few, mean 0; or the other way round."""
    way = np.where(np.arange(shape[2]) % 2 == 0, 1.0, -1.0)
    own, control = (way * np.where(rng.random(shape) < 0.1, -0.27, 0.03) for _ in range(2))
    return own, control


def rarely_skewed(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """The same with 2 % of the pairs: many columns see none of them."""
    own, control = (np.where(rng.random(shape) < 0.02, -0.294, 0.006) for _ in range(2))
    return own, control


def at_the_boundary(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """Probabilities that are next to 0 and can only rise, by little in most pairs."""
    own, control = (0.6 * rng.beta(0.05, 3, shape) for _ in range(2))
    return own, control


def groups_share(rng: Generator, shape: Shape) -> tuple[Array, Array]:
    """Three pairs share a question, and most of their change."""
    own, control = (
        np.repeat(rng.normal(0, 0.15, (-(-shape[0] // 3), *shape[1:])), 3, axis=0)[: shape[0]]
        + rng.normal(0, 0.03, shape)
        for _ in range(2)
    )
    return own, control


NO_EFFECT: Mapping[str, Noise] = {
    "heavy tails": heavy_tails,
    "a third exact zeros": third_zeros,
    "rounding noise": rounding,
    "layers share their noise": shared_noise,
    "equal means, unequal spread": unequal_spread,
    "rare flips": rare_flips,
    "flips alike": flips_alike,
    "strangers disrupt": strangers_disrupt,
    "own and strangers raise alike": both_raise,
    "skewed": skewed,
    "rarely skewed": rarely_skewed,
    "at the boundary": at_the_boundary,
    "groups share": groups_share,
}

GROUPED = ("groups share",)
"""Kinds in which three pairs share a question."""

_RAISED = np.linspace(0.0, 0.3, LAYERS)[:, None]

MEANS: Mapping[str, tuple[Array | float, Array | float]] = {
    "rare flips": (0.04 * 0.6, 0.04 * 0.6),
    "flips alike": (0.3 * 0.6, 0.3 * 0.6),
    "strangers disrupt": (0.0, -0.25),
    "own and strangers raise alike": (_RAISED, _RAISED),
    "at the boundary": (0.6 * 0.05 / 3.05, 0.6 * 0.05 / 3.05),
}
"""Mean changes, own and control, `(layers, 1)`, of the kinds in which they are not 0."""
