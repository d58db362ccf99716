"""What to patch: which activation, of which run, into which cell of the patched run.

Activation patching runs one question and overwrites chosen activations by those of another run.
A *cell* is one (layer, latent position). At layer l the site is the output of decoder block l on
the residual stream; the extra layer `THOUGHT` is the latent thought itself, which enters layer 0.
An effect of 0 at a cell means that nothing read after it depends on the difference there; a
recovery of 1 means that this cell alone restores the other run's answer. See arXiv 2309.16042 and
2404.15255 for the practice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

THOUGHT = -1
"""The layer number of the latent thought z_p itself; `"thought"` in results."""

Latents = Literal["frozen", "recomputed"]
"""Whether the thoughts after a patched cell stay the baseline's or are generated anew."""


@dataclass(frozen=True)
class Activations:
    """What one run of a question had in its latent positions.

    Attributes:
        thoughts: z, `(K, hidden)`.
        resid: Output of every block, `(L, K, hidden)`.
    """

    thoughts: Tensor
    resid: Tensor

    def at(self, layer: int, position: int) -> Tensor:
        """The activation of one cell, `(hidden,)`; `layer` may be `THOUGHT`."""
        source = self.thoughts if layer == THOUGHT else self.resid[layer]
        return source[position]

    def to(self, dtype: torch.dtype) -> Activations:
        """The same in another precision."""
        return Activations(self.thoughts.to(dtype), self.resid.to(dtype))

    def plus(self, other: Activations) -> Activations:
        """The sum, cell by cell."""
        return Activations(self.thoughts + other.thoughts, self.resid + other.resid)

    @classmethod
    def zeros_like(cls, other: Activations) -> Activations:
        """Zero vectors in every cell."""
        return cls(torch.zeros_like(other.thoughts), torch.zeros_like(other.resid))


Cell = tuple[int, int]
"""A layer (or `THOUGHT`) and a latent position."""


@dataclass(frozen=True)
class Generated:
    """The activation that an earlier row of the same call has in the patched cell."""

    row: int


@dataclass(frozen=True)
class Patch:
    """One overwritten cell: `values`, `(hidden,)` or generated, at `(layer, position)`."""

    layer: int
    position: int
    values: Tensor | Generated


PatchSet = Sequence[Patch]
"""One patched run: all its patches. An empty row is an unpatched run."""


def patches_from(activations: Activations, layer: int, positions: Sequence[int]) -> list[Patch]:
    """Patch `positions` of one layer with the activations of another run."""
    return [Patch(layer, p, activations.at(layer, p)) for p in positions]


def all_patches(activations: Activations) -> list[Patch]:
    """Patch every cell: the thoughts, and the output of every layer at every position.

    Keys and values of the latent positions are then those that the other run's states make: nothing
    of the thoughts is the patched run's own, at whatever layer they are read.
    """
    layers, positions = activations.resid.shape[:2]
    rows = (patches_from(activations, layer, range(positions)) for layer in range(-1, layers))
    return [patch for row in rows for patch in row]


def shifted(patch_sets: Sequence[PatchSet], rows: int) -> list[list[Patch]]:
    """The same rows after others: what a row generates is found `rows` further on."""
    return [
        [
            replace(patch, values=Generated(patch.values.row + rows))
            if isinstance(patch.values, Generated)
            else patch
            for patch in row
        ]
        for row in patch_sets
    ]


def check_rows(rows: Sequence[PatchSet], num_layers: int, num_latents: int) -> None:
    """Refuse cells that do not exist or are patched twice in a row, and values not yet generated.

    Raises:
        ValueError: Naming the cell and the grid, or the rows.
    """
    for index, row in enumerate(rows):
        cells = [(patch.layer, patch.position) for patch in row]
        for layer, position in cells:
            if not (THOUGHT <= layer < num_layers and 0 <= position < num_latents):
                raise ValueError(
                    f"expected a layer in 0..{num_layers - 1} (or {THOUGHT} for the thought) and "
                    f"a position in 0..{num_latents - 1}, got layer {layer}, position {position}"
                )
        if len(set(cells)) != len(cells):
            raise ValueError(f"expected each cell once in a row, got {cells}")
        for patch in row:
            if isinstance(patch.values, Generated) and not 0 <= patch.values.row < index:
                raise ValueError(
                    f"expected row {index} to be patched with what an earlier row generated, got "
                    f"row {patch.values.row}"
                )
