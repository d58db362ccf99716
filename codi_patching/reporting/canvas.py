"""How figures look and how they are written: widths, fonts, colours, files.

Widths are those of one and of two columns of a paper; every text is 6 points or more at them.
Colours are told apart by people who do not see red or green, and by their lightness in print.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

from codi_patching.results.files import atomic_write

Width = Literal["column", "page"]
WIDTHS: dict[Width, float] = {"column": 3.3, "page": 6.8}
"""In inches."""

INK, SOFT, PALE = "#16202c", "#5a6673", "#e8f0f8"
DARK = "#084a91"
"""Of entries that count."""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#000000")
"""Of arms, after Okabe and Ito; always with a marker of its own too."""

MARKERS = "os^Dv*P"

SMALL, NORMAL, LARGE = 6.0, 7.0, 8.0
"""Font sizes in points: numbers in cells, text, titles."""

_STYLE: dict[str, Any] = {
    "font.size": NORMAL, "axes.titlesize": NORMAL, "axes.labelsize": NORMAL,
    "xtick.labelsize": NORMAL - 0.5, "ytick.labelsize": NORMAL - 0.5,
    "legend.fontsize": NORMAL - 0.5,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.edgecolor": SOFT,
    "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "xtick.color": INK, "ytick.color": INK, "text.color": INK,
    "axes.labelcolor": INK, "lines.linewidth": 1.0, "lines.markersize": 3.5, "hatch.linewidth": 0.5,
    "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "codi-patching",
    "pdf.fonttype": 42,
    "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
}  # fmt: skip

_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and write as all figures of this package are."""
    with mpl.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that finds room for its labels by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def lines_of(text: str, width: float, size: float) -> str:
    """Text in lines no wider than a width in inches, at a font size in points."""
    fitting = max(20, int(width * 72 / (0.54 * size)))
    lines = textwrap.wrap(text, fitting)
    if len(lines) == 2:  # of equal length rather than one long and one of a word
        lines = textwrap.wrap(text, min(fitting, int(0.56 * len(text)) + 6))
    return "\n".join(lines)


def put_title(figure: Figure, title: str) -> None:
    """The sentence that a figure shows, above all of its axes."""
    width = figure.get_figwidth()
    head = lines_of(title, width, LARGE * 1.06)
    figure.suptitle(head, x=0.01, ha="left", fontsize=LARGE, fontweight="bold")


def put_note(figure: Figure, note: str) -> None:
    """What was run and how to read it, under all of a figure's axes."""
    text = lines_of(note, figure.get_figwidth(), NORMAL - 0.5)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=NORMAL - 0.5, color=SOFT)


def save_figure(
    figure: Figure, path: Path, formats: Sequence[str] = ("png",), dpi: int = 200
) -> list[Path]:
    """Write a figure, the same figure as the same bytes; text stays text in vector files.

    Args:
        figure: To write.
        path: Where, whatever its ending.
        formats: Endings: `png`, `pdf`, `svg`.
        dpi: Of PNG.

    Returns:
        The files that were written.
    """
    written = []
    with style():
        for ending in formats:
            target = path.with_name(f"{path.name.removesuffix(path.suffix)}.{ending}")
            with atomic_write(target) as partial:
                figure.savefig(partial, format=ending, dpi=dpi, metadata=_METADATA.get(ending))
            written.append(target)
    return written
