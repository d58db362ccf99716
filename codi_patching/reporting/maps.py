"""A map of a grid's cells: layers upwards, as in the model, positions to the right.

Effects from 0 up have a sequential scale, those with a sign a diverging one centred on 0. A scale
never ends below what is too small to matter, so that a map of nothing looks like nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from codi_patching.analysis.summary import rank_cells
from codi_patching.results.schema import Array, Grid, RunDescription

LEAST_KL = 0.05
LEAST_PROBABILITY = 0.10
"""What is too small to matter, in nats and in probability: scales go up to this at least."""

RANKED, PASSING = "tab:red", "#e69f00"


@dataclass(frozen=True)
class Scale:
    """From values to colours.

    Attributes:
        norm: From values to 0..1.
        colours: From 0..1 to colours.
    """

    norm: Normalize
    colours: Colormap

    def is_dark(self, value: float) -> bool:
        """Whether white text reads better on a value's colour, by its relative luminance."""
        red, green, blue = self.colours(self.norm(value))[:3]
        return bool(0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5)


def scale_of(values: Array, diverging: bool, least: float) -> Scale:
    """The scale of values, up to `least` at least."""
    finite = np.abs(values[np.isfinite(values)])
    bound = max(float(finite.max(initial=0.0)), least)
    if diverging:
        return Scale(Normalize(-bound, bound), colormaps["RdBu_r"])
    return Scale(Normalize(0.0, bound), colormaps["viridis"])


def draw_cells(axes: Axes, values: Array, grid: Grid, scale: Scale, numbers: bool = True) -> None:
    """Draw a map; NaN cells are blank, structural zeros hatched.

    Args:
        axes: To draw on.
        values: `(layers, columns)`.
        grid: Names and structural zeros.
        scale: Of the colours.
        numbers: Whether every cell has its number.
    """
    shown = np.where(grid.structural, np.nan, values)
    axes.imshow(
        shown, origin="lower", aspect="auto", norm=scale.norm, cmap=scale.colours,
        interpolation="nearest",
    )  # fmt: skip
    small = bool(np.nanmax(np.abs(shown), initial=0.0) < 0.1)
    for (row, column), value in np.ndenumerate(shown):
        if grid.structural[row, column]:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", ec="0.6", lw=0))
        elif numbers and np.isfinite(value):
            axes.text(
                column, row, cell_number(value, small), ha="center", va="center", fontsize=8,
                color="white" if scale.is_dark(value) else "black",
                alpha=1.0 if abs(value) >= 0.005 or small else 0.55,
            )  # fmt: skip


def cell_number(value: float, small: bool = False) -> str:
    """A cell's value in at most seven characters.

    Args:
        value: To print.
        small: Whether the whole map is of values under 0.1, which then have two digits.

    Example:
        >>> [cell_number(v) for v in (0.0, 1e-13, -0.002, 0.5, -12.4)]
        ['0', '<.01', '>-.01', '0.50', '-12']
        >>> [cell_number(v, small=True) for v in (0.0066, 0.0, 1.3e-7)]
        ['0.0066', '0', '<1e-4']
    """
    if value == 0:
        return "0"
    if small:
        if abs(value) >= 1e-4:
            return f"{value:.2g}"
        return "<1e-4" if value > 0 else ">-1e-4"
    if abs(value) < 0.005:
        return "<.01" if value > 0 else ">-.01"
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.0f}"


def leading(kl: Array, count: int) -> list[tuple[int, int]]:
    """The cells with the largest mean KL, none under 1 % of the largest."""
    most = float(np.nanmax(kl, initial=0.0))
    return [cell for cell in rank_cells(kl, count) if kl[cell] > 0.01 * most]


def mark_ranks(axes: Axes, cells: Sequence[tuple[int, int]]) -> None:
    """Frame cells and number them by their rank."""
    for rank, (row, column) in enumerate(cells, 1):
        _frame(axes, row, column, RANKED)
        axes.text(
            column - 0.42, row + 0.38, f"#{rank}", ha="left", va="top", fontsize=6.5,
            color="white", bbox={"boxstyle": "round,pad=0.12", "fc": RANKED, "ec": "none"},
        )  # fmt: skip


def mark_passing(axes: Axes, cells: Sequence[tuple[int, int]]) -> None:
    """Frame cells whose effect is beyond the threshold."""
    for row, column in cells:
        _frame(axes, row, column, PASSING)


def _frame(axes: Axes, row: int, column: int, colour: str) -> None:
    corner = (column - 0.46, row - 0.44)
    axes.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, ec=colour, lw=1.8))


def label_axes(axes: Axes, run: RunDescription) -> None:
    """Ticks with the names of layers and columns; the thinned ones of a deep model."""
    grid = run.grid
    rows, columns = grid.shape
    step = max(1, -(-rows // 48))
    axes.set_yticks(range(0, rows, step), grid.layers[::step])
    step = max(1, -(-columns // 24))
    axes.set_xticks(range(0, columns, step), grid.columns[::step])
    axes.set_xlabel("latent position" if grid.column == "position" else grid.column)
    axes.set_ylabel("layer")


def notes_on(run: RunDescription, zeros: str = "Hatched") -> list[str]:
    """What a reader of a map must know of its cells; `zeros` is how those that are 0 look."""
    notes = []
    if run.grid.structural_zeros:
        notes.append(f"{zeros}: zero by construction, nothing reads this state.")
    if run.latents == "recomputed" and run.site == "resid_post":
        last = run.grid.layers[-1]
        patched = {
            "position": "a patch at position p is a patch of thought p + 1",
            "layer": "patches there are patches of the thoughts after the first",
            "relay": "iteration N patches thought N + 1",
            "cumulative": "iteration N patches thoughts 1 to N + 1",
        }[run.arm]
        notes.append(
            f"Layer {last} is the last: nothing but the next thought reads its output, so there "
            f"{patched}."
        )
    return notes


def write_notes(figure: Figure, notes: Sequence[str]) -> None:
    """Write notes under a figure, as wide as it is."""
    width = int(figure.get_figwidth() * 16)
    lines = [line for note in notes for line in textwrap.wrap(note, width)]
    if lines:
        figure.supxlabel("\n".join(lines), fontsize=7.5, color="0.25", x=0.02, ha="left")


def heading(figure: Figure, *lines: str) -> None:
    """A title over a whole figure, no wider than it is."""
    width = int(figure.get_figwidth() * 11)
    wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
    figure.suptitle("\n".join(wrapped), fontsize=11)
