"""Panels of what each thought carries: how many pairs a patch restores, by the step that changed.

Rows are strata, grouped by the number of steps; columns are positions at one layer, or the layers
of a run in which a layer is one cell. Only entries that count are dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.transforms import ScaledTranslation

from codi_patching.analysis.findings import Entry, StrataFinding, StrataTable, Stratum
from codi_patching.reporting.canvas import DARK, INK, NORMAL, PALE, SMALL, SOFT

GAP = 0.35
"""Between groups of rows, in rows."""


def joined(tables: Sequence[StrataTable]) -> list[tuple[StrataTable, ...]]:
    """Tables of layers, neighbours with the same counts joined."""
    return [tuple(own) for _, own in groupby(tables, key=_counts)]


def _counts(table: StrataTable) -> tuple[object, ...]:
    return table.strata, tuple(
        tuple((e.restored, e.n, e.counts) for e in row) for row in table.entries
    )


def layers_of(tables: Sequence[StrataTable]) -> str:
    """Names of joined tables: `layer 6`, `layers 0 to 5`."""
    first, last = tables[0].layer, tables[-1].layer
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def two_tables(finding: StrataFinding) -> list[tuple[StrataTable, ...]]:
    """The tables to show first: that of the largest effect, and the other one that carries.

    The second is in the middle of the longest run of layers, above if there is one, whose thoughts
    carry other steps than at the first; there may be none.
    """
    groups = joined(finding.others or (finding.main,))
    main = next(g for g in groups if any(t.layer == finding.main.layer for t in g))
    at = groups.index(main)
    above = _another(groups[at + 1 :], main[0]) or _another(groups[:at], main[0])
    return [main, above] if above else [main]


def _another(
    groups: Sequence[tuple[StrataTable, ...]], main: StrataTable
) -> tuple[StrataTable, ...] | None:
    """Of the longest run of layers that carry something else, the largest group."""
    runs: list[list[tuple[StrataTable, ...]]] = []
    for steps, own in groupby(groups, key=lambda group: steps_of(group[0])):
        if any(step is not None for step in steps) and steps != steps_of(main):
            runs.append(list(own))
    if not runs:
        return None
    longest = max(runs, key=lambda run: sum(map(len, run)))
    return max(longest, key=len)


def steps_of(table: StrataTable) -> tuple[int | None, ...]:
    """The step that each position carries, as far as it is shown."""
    return tuple(carried.step for carried in table.carried)


def rows_of(strata: Sequence[Stratum]) -> list[float]:
    """Heights of the rows, from 0 downwards, with a gap where the number of steps changes."""
    heights, at = [], 0.0
    for place, stratum in enumerate(strata):
        if place:
            at -= 1 + GAP * (stratum.num_steps != strata[place - 1].num_steps)
        heights.append(at)
    return heights


def draw_table(
    axes: Axes,
    strata: Sequence[Stratum],
    entries: Sequence[Sequence[Entry]],
    columns: Sequence[str],
    names: bool = True,
    numbers: bool = True,
) -> None:
    """Draw a table, an entry for each stratum and column.

    Args:
        axes: To draw on.
        strata: The rows.
        entries: `[stratum][column]`.
        columns: Their names.
        names: Whether rows are named.
        numbers: Whether k/n stands in each entry.
    """
    heights = rows_of(strata)
    for height, row in zip(heights, entries, strict=True):
        for place, entry in enumerate(row):
            _draw_entry(axes, entry, place, place, height, numbers)
    axes.set_xlim(-0.55, len(columns) - 0.45)
    axes.set_xticks(range(len(columns)), columns)
    _name_rows(axes, strata, names)


def draw_over_layers(axes: Axes, tables: Sequence[StrataTable], width: float) -> None:
    """Draw tables of one column side by side; neighbours that agree are one entry.

    Args:
        axes: To draw on, its horizontal axis being that of the layers.
        tables: Of the layers, in their order.
        width: Of a layer, in points; counts that do not fit are left out.
    """
    strata = tables[0].strata
    for place, height in enumerate(rows_of(strata)):
        start = 0
        for _, own in groupby(tables, key=lambda table: table.entries[place][0]):
            length = len(list(own))
            entry = tables[start].entries[place][0]
            fits = length * width > 0.65 * SMALL * len(f"{entry.restored}/{entry.n}")
            _draw_entry(axes, entry, start, start + length - 1, height, fits)
            start += length
    _name_rows(axes, strata, True)


def _draw_entry(
    axes: Axes, entry: Entry, first: int, last: int, height: float, number: bool
) -> None:
    """A box from one column to another, with its count in the middle."""
    corner = (first - 0.47, height - 0.45)
    axes.add_patch(Rectangle(corner, last - first + 0.94, 0.9, lw=0, fc=colour_of(entry)))
    if number:
        axes.text(
            (first + last) / 2, height, f"{entry.restored}/{entry.n}", ha="center", va="center",
            fontsize=SMALL, color="white" if entry.counts else INK if entry.restored else SOFT,
        )  # fmt: skip


def _name_rows(axes: Axes, strata: Sequence[Stratum], names: bool) -> None:
    heights = rows_of(strata)
    axes.set_ylim(heights[-1] - 0.55, 0.55)
    axes.set_yticks(heights, [row_name(s) for s in strata] if names else [""] * len(strata))
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if names:
        _name_groups(axes, strata, heights)


def colour_of(entry: Entry) -> str:
    """Dark where an entry counts, else pale."""
    return DARK if entry.counts else PALE


def row_name(stratum: Stratum) -> str:
    """A row in words: `step 1`, `all pairs`, or a field of the file with its value."""
    if stratum.field is not None:
        return f"{_short(stratum.field[0])} = {_short(stratum.field[1])}"
    if stratum.changed_step is None:
        return "all pairs" if stratum.num_steps is None else "step unknown"
    return f"step {stratum.changed_step}"


def _short(text: str, most: int = 14) -> str:
    """Text, cut where it is long."""
    return text if len(text) <= most else text[: most - 1] + "…"


def groups_of_rows(strata: Sequence[Stratum]) -> Iterator[tuple[int | None, int, int]]:
    """Number of steps, first and last row of each group."""
    for steps, own in groupby(enumerate(strata), key=lambda item: item[1].num_steps):
        places = [place for place, _ in own]
        yield steps, places[0], places[-1]


def _name_groups(axes: Axes, strata: Sequence[Stratum], heights: Sequence[float]) -> None:
    """Number of steps, left of the names of the rows it is of."""
    longest = max(len(row_name(stratum)) for stratum in strata)
    points = 0.56 * (NORMAL - 0.5) * longest + 9
    figure = axes.get_figure()
    assert figure is not None
    shift = ScaledTranslation(-points / 72, 0, figure.dpi_scale_trans)
    transform = axes.get_yaxis_transform() + shift
    for steps, first, last in groups_of_rows(strata):
        if steps is None:
            continue
        low, high = heights[last] - 0.4, heights[first] + 0.4
        axes.plot([0, 0], [low, high], transform=transform, color=SOFT, lw=0.7, clip_on=False)
        axes.annotate(
            f"{steps}-step\nproblems" if last > first else f"{steps}-step",
            (0, (low + high) / 2), (-4, 0), xycoords=transform, textcoords="offset points",
            ha="right", va="center", fontsize=SMALL + 0.5, fontweight="bold",
        )  # fmt: skip
