"""Figures of several runs together: effects by layer, and the parts of the total effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codi_patching.analysis.cell_intervals import mean_and_deviation, mean_intervals
from codi_patching.analysis.summary import content_effect, groups_of
from codi_patching.reporting.maps import LEAST_KL, LEAST_PROBABILITY, heading, write_notes
from codi_patching.reporting.names import counted
from codi_patching.reporting.profiles import draw_intervals, layer_axis
from codi_patching.results.read import Results
from codi_patching.results.schema import Array

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:pink")
MARKERS = "osD^vP"


def at_end(results: Results, values: Array) -> Array:
    """Of values `(pairs, layers, columns)` each layer's last column that can have an effect.

    Returns:
        `(pairs, layers)`; 0 for layers that cannot have any.
    """
    open_ = ~results.structural
    last = np.where(open_.any(1), open_.shape[1] - 1 - open_[:, ::-1].argmax(1), 0)
    chosen = np.take_along_axis(values, last[None, :, None], axis=2)[:, :, 0]
    return np.where(open_.any(1), chosen, 0.0)


def draw_by_layer(arms: Mapping[str, Results], head: str) -> Figure:
    """Mean KL and content effect of whole layers, an arm each, with 95 % intervals.

    Args:
        arms: Layer patching and chains by label; chains at their last iteration.
        head: Title over the figure.
    """
    layers = next(iter(arms.values())).run.grid.layers
    figure = Figure(figsize=(3.4 + 0.62 * len(layers), 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (label, results) in enumerate(arms.items()):
        kl = at_end(results, results.values["kl_divergence"])
        _series(left, place, len(arms), [kl], results, label)
        parts = [at_end(results, part) for part in content_effect(results) if part is not None]
        _series(right, place, len(arms), parts, results, label)
    for axes, name, unit, least in (
        (left, "Disruption: mean KL(patched ‖ unpatched)", "KL (nats)", LEAST_KL),
        (right, "Content effect", "rise of P(source answer)", LEAST_PROBABILITY),
    ):
        layer_axis(axes, layers)
        _reach(axes, least)
        axes.set_title(name, fontsize=9.5)
        axes.set_ylabel(unit)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=4, fontsize=8, frameon=False)
    heading(figure, head)
    write_notes(figure, ["Means over pairs with 95 % intervals."])
    return figure


def _series(
    axes: Axes, place: int, of: int, parts: list[Array], results: Results, label: str
) -> None:
    """One series over layers: of its comparisons the smaller mean, and the smaller ends."""
    mean = np.minimum.reduce([mean_and_deviation(part)[0] for part in parts])
    groups, seed = groups_of(results), results.run.seed
    ends = [mean_intervals(part, groups, seed) for part in parts]
    low, high = (np.minimum.reduce([end[side] for end in ends]) for side in (0, 1))
    at = np.arange(len(mean)) + 0.76 / of * (place - (of - 1) / 2)
    colour = COLOURS[place % len(COLOURS)]
    marker = MARKERS[place % len(MARKERS)]
    axes.plot(at, mean, marker, ms=4.2, color=colour, label=label)
    draw_intervals(axes, at, mean, low, high, colour)


def decompositions(arms: Mapping[str, Results], head: str) -> Iterator[tuple[str, Figure]]:
    """A decomposition for each setting that has a frozen and a recomputed arm of whole layers."""
    direct: dict[tuple[str, ...], Results] = {}
    total: dict[tuple[str, ...], Results] = {}
    for results in arms.values():
        run = results.run
        setting = (run.site, run.direction, run.source)
        if run.arm == "layer" and run.latents == "frozen":
            direct.setdefault(setting, results)
        elif run.arm == "layer" or (run.arm == "cumulative" and setting not in total):
            total[setting] = results
    for setting, frozen in direct.items():
        if setting in total:
            words_of = [
                part for part in setting if part not in ("resid_post", "denoising", "clean")
            ]
            yield (
                "_".join(["decomposition", *words_of]),
                draw_decomposition(frozen, total[setting], " ".join([head, *words_of])),
            )


def draw_decomposition(direct: Results, total: Results, head: str) -> Figure:
    """Direct, mediated and total effect on the source answer's probability, by layer.

    Direct: later thoughts are frozen. Total: they are recomputed. Mediated: total minus direct,
    pair by pair; what the recomputed thoughts add. Over the unpatched run, and over the control.

    Args:
        direct: Layer patching with frozen latents.
        total: Layer patching with recomputed latents, or the cumulative chain, which ends in it.
        head: Title over the figure.

    Raises:
        ValueError: The two share no pair, or their grids have other layers.
    """
    shared = [pair for pair in direct.pair_ids if pair in set(total.pair_ids)]
    if not shared or direct.run.grid.layers != total.run.grid.layers:
        raise ValueError("expected two runs on the same pairs and layers")
    rows = [[r.pair_ids.index(pair) for pair in shared] for r in (direct, total)]
    groups = [groups_of(direct)[row] for row in rows[0]]
    layers = direct.run.grid.layers
    both = list(zip(content_effect(direct), content_effect(total)))
    shown = [
        (name, [at_end(r, part)[row] for r, part, row in zip((direct, total), pair, rows)])
        for name, pair in zip(("over the unpatched run", "over the control"), both)
        if pair[0] is not None and pair[1] is not None
    ]
    figure = Figure(figsize=(3.4 + 0.31 * len(layers) * len(shown), 4.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, (name, (frozen, recomputed)) in zip(panels, shown):
        parts = {
            "direct (thoughts frozen)": frozen,
            "mediated (what recomputed thoughts add)": recomputed - frozen,
            "total (thoughts recomputed)": recomputed,
        }
        for place, (label, values) in enumerate(parts.items()):
            mean = mean_and_deviation(values)[0]
            low, high = mean_intervals(values, groups, direct.run.seed)
            at = np.arange(len(layers)) + 0.22 * (place - 1)
            axes.plot(at, mean, MARKERS[place], ms=4.2, color=COLOURS[place], label=label)
            draw_intervals(axes, at, mean, low, high, COLOURS[place])
        layer_axis(axes, layers)
        _reach(axes, LEAST_PROBABILITY)
        axes.set_title(name, fontsize=9.5)
    panels[0].set_ylabel("rise of P(source answer)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=3, fontsize=8, frameon=False)
    heading(
        figure, head, f"direct, mediated and total effect by layer, {counted(len(shared), 'pair')}"
    )
    write_notes(figure, ["Means over pairs with 95 % intervals; all positions of a layer patched."])
    return figure


def _reach(axes: Axes, least: float) -> None:
    """An axis that goes as far as what is too small to matter at least."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.1 * least), max(high, least))
