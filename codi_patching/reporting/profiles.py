"""Effects by layer: points with intervals, an arm each with a colour, a marker and a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from codi_patching.analysis.findings import Against, Claim
from codi_patching.analysis.report import Report
from codi_patching.reporting.canvas import MARKERS, SERIES, SOFT
from codi_patching.results.dataset import has_control, run_of, structural_of
from codi_patching.results.description import THOUGHT, Array, Mask

AGAINST: dict[Against, str] = {
    "unpatched": "relative to the unpatched run",
    "control": "to the control's patch",
    "chance": "to chance",
}


@dataclass(frozen=True)
class Profile:
    """A mean by layer.

    Attributes:
        name: Of the arm, for the legend.
        mean: `(layers,)`, NaN where there is none.
        low: Lower ends of intervals.
        high: Upper ends.
        unclaimed: Layers of which nothing is claimed, if that is known.
    """

    name: str
    mean: Array
    low: Array
    high: Array
    unclaimed: Mask | None = None


def profile_of(
    name: str, claims: Sequence[Claim], layers: Sequence[str], against: Against | None = None
) -> Profile:
    """A profile from claims about layers.

    Args:
        name: Of the arm.
        claims: At most one a layer is drawn: the first.
        layers: Names of the layers, in order.
        against: Which comparison; the one that the claim leads with if not given.
    """
    values, claimed = np.full((3, len(layers)), np.nan), np.zeros(len(layers), dtype=bool)
    for claim in reversed(claims):
        found = [c for c in claim.comparisons if against in (None, c.against)]
        if claim.layer in layers and found:
            shown = claim.lead if against is None else found[0]
            values[:, layers.index(claim.layer)] = shown.mean, shown.low, shown.high
            claimed[layers.index(claim.layer)] = claim.claimed
    mean, low, high = values
    return Profile(name, mean, low, high, ~claimed)


def draw_profiles(
    axes: Axes, profiles: Sequence[Profile], layers: Sequence[str], hollow: bool = False
) -> None:
    """Points with intervals, side by side within each layer so that none hides another.

    Args:
        axes: To draw on.
        profiles: An arm each.
        layers: Names of the layers, in order.
        hollow: Whether markers are hollow where nothing is claimed.
    """
    width = 0.7 / max(len(profiles), 2)
    for place, profile in enumerate(profiles):
        at = np.arange(len(layers)) + width * (place - (len(profiles) - 1) / 2)
        colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
        known = np.isfinite(profile.low) & np.isfinite(profile.high) & np.isfinite(profile.mean)
        ends = np.stack([profile.mean - profile.low, profile.high - profile.mean])
        spread = np.where(known, ends, 0.0).clip(0)
        axes.errorbar(
            at, profile.mean, yerr=spread, fmt=marker, color=colour, elinewidth=0.7, lw=0,
            ms=3.2, label=profile.name, mec="white", mew=0.3,
        )  # fmt: skip
        if hollow and profile.unclaimed is not None:
            mean = np.where(profile.unclaimed, profile.mean, np.nan)
            axes.plot(at, mean, marker, ms=3.2, mfc="white", mec=colour, mew=0.8, zorder=3)
    layer_axis(axes, layers)


def layer_axis(axes: Axes, layers: Sequence[str], most: int = 32) -> None:
    """A horizontal axis of layers, thinned where there are many, with a line at 0."""
    axes.axhline(0, color=SOFT, lw=0.6, zorder=0)
    step = max(1, -(-len(layers) // most))
    names = ["z" if name == THOUGHT else name for name in layers]
    axes.set_xticks(range(0, len(layers), step), names[::step])
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_xlabel("layer")


def draw_comparisons(axes: Axes, report: Report, label: str, narrow: bool = False) -> None:
    """The content effect of a run in which a layer is one cell, relative to both.

    With the intervals of the claims where there are claims, else with those of the table.

    Args:
        axes: To draw on.
        report: What is drawn.
        label: Of the run.
        narrow: Whether the axes are of one column of a paper.
    """
    summary = report.summaries[label]
    layers, finding = run_of(summary.data).grid.layers, report.finding("cells", label)
    kinds: list[Against] = ["unpatched"]
    if has_control(summary.data):
        kinds.append("control")
    profiles = []
    for against in kinds:
        if finding and finding.claims:
            profiles.append(profile_of(AGAINST[against], finding.claims, layers, against))
            continue
        own = summary.table[f"content_over_{against}"].isel(column=0)
        shown = [own.sel(statistic=s).values for s in ("mean", "ci_low", "ci_high")]
        profiles.append(Profile(AGAINST[against], *shown))
    draw_profiles(axes, profiles, layers)
    top = max([0.1, *(float(np.nanmax(p.high, initial=0.0)) for p in profiles)])
    low = min([0.0, *(float(np.nanmin(p.low, initial=0.0)) for p in profiles)])
    axes.set_ylim(min(1.05 * low, -0.06 * top), 1.08 * top)
    axes.set_ylabel("probability")
    if narrow:
        axes.legend(loc="upper right", frameon=False, borderaxespad=0.1)
        axes.set_ylim(top=1.55 * top)
        layer_axis(axes, layers, 12)
    else:
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
        axes.legend(ncols=2, frameon=False, **place)
    for row in np.flatnonzero(structural_of(summary.data).all(1)):
        axes.axvspan(row - 0.5, row + 0.5, fill=False, hatch="//////", ec=SOFT, lw=0)


def shade_claimed(axes: Axes, claims: Sequence[Claim], layers: Sequence[str]) -> None:
    """Shade the layers of which something is claimed."""
    for claim in claims:
        if claim.claimed and claim.layer in layers:
            row = layers.index(claim.layer)
            axes.axvspan(row - 0.5, row + 0.5, color="#dce8f4", lw=0, zorder=-1)
