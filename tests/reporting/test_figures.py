"""Figures show what the numbers are; no text lies over other text or outside."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from results_maker import make, run_of

from codi_patching.reporting.chains import Highlight
from codi_patching.reporting.figures import draw_effects, draw_figures, draw_recovery, save_figure
from codi_patching.reporting.maps import PASSING, RANKED, scale_of
from codi_patching.reporting.sheets import pair_sheets
from codi_patching.reporting.side_by_side import (
    at_end,
    decompositions,
    draw_by_layer,
    draw_decomposition,
)

RUNS = {
    "thought": run_of(layers=4, columns=3, thought=True),
    "layer": run_of("layer", layers=16),
    "tiny layer": run_of("layer", layers=3),
    "relay": run_of("iterative", layers=6, columns=5),
}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def frames(axes, colour):
    found = [p for p in axes.patches if isinstance(p, Rectangle) and not p.get_hatch()]
    return [
        (round(p.get_y() + 0.44), round(p.get_x() + 0.46))
        for p in found
        if to_hex(p.get_edgecolor()) == to_hex(colour)
    ]


def boxes(figure):
    """Titles, axis labels, tick labels, legends and notes, where they are drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = []
    for axes in figure.axes:
        ticks = [label for axis in (axes.xaxis, axes.yaxis) for label in tick_labels(axis)]
        legends = axes.get_legend().get_texts() if axes.get_legend() else []
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *ticks, *legends]
    found += figure.texts
    for legend in figure.legends:
        found += legend.get_texts()
    shown = [text for text in found if text is not None and text.get_text().strip()]
    return {
        f"{text.get_text()[:30]} #{i}": text.get_window_extent(renderer)
        for i, text in enumerate(shown)
        if text.get_visible()
    }


def tick_labels(axis):
    """Those that are drawn."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def check_no_overlap(figure):
    found = boxes(figure)
    width, height = figure.canvas.get_width_height()
    for name, box in found.items():
        assert box.x0 >= -1, name
        assert box.y0 >= -1, name
        assert box.x1 <= width + 1, name
        assert box.y1 <= height + 1, name
    for (name, box), (other, another) in combinations(found.items(), 2):
        across = min(box.x1, another.x1) - max(box.x0, another.x0)
        down = min(box.y1, another.y1) - max(box.y0, another.y0)
        assert across < 1 or down < 1, f"{name} over {other}"


@pytest.mark.parametrize("name", ["thought", "layer", "tiny layer", "relay"])
def test_nothing_overlaps(name):
    results = make(RUNS[name], planted={(1, 0): 0.4}, disrupting={(2, 0): 2.0})
    highlight = Highlight(("1",), "Highlighted: layer 1, as an example.")
    for _, figure in draw_figures(results, 5, [(1, 0)], highlight):
        check_no_overlap(figure)


def test_the_map_of_kl_has_ranks_and_the_map_of_content_its_frames():
    planted = {(1, 0): 0.4, (2, 2): 0.2}
    results = make(run_of(), planted=planted, disrupting={(0, 1): 9.0})
    left, right, *_ = draw_effects(results, 2, [(1, 0)]).axes
    assert frames(left, RANKED) == [(0, 1), (1, 0)]
    assert [t for t in texts(left) if t.startswith("#")] == ["#1", "#2"]
    assert frames(right, PASSING) == [(1, 0)]
    hatched = [p for p in right.patches if p.get_hatch()]
    assert [(p.get_x(), p.get_y()) for p in hatched] == [(1.5, 2.5)]
    size = np.nanmax(np.array(left.images[0].get_array()))
    assert size == pytest.approx(results.values["kl_divergence"][:, 0, 1].mean())


def test_a_map_says_what_its_marks_are():
    results = make(run_of(), planted={(1, 0): 0.4})

    def note(passing):
        return draw_effects(results, 5, passing)._supxlabel.get_text()

    assert "No test of single cells was made." in note(None)
    assert "In no cell is the content effect shown to be" in note([])
    assert "Orange: the content effect is beyond the threshold" in note([(1, 0)])
    assert "Hatched: zero by construction" in note(None)
    assert "a patch at position p is a patch of thought p + 1" in note(None).replace("\n", " ")


def test_weak_effects_look_weak():
    weak = scale_of(np.array([1e-13, 2e-4]), False, 0.05)
    assert (weak.norm.vmin, weak.norm.vmax) == (0.0, 0.05)
    signed = scale_of(np.array([-0.01]), True, 0.1)
    assert (signed.norm.vmin, signed.norm.vmax) == (-0.1, 0.1)
    results = make(run_of("iterative"))
    figure = dict(draw_figures(results, 5, None, Highlight()))["trajectories"]
    assert figure.axes[0].get_ylim()[1] >= 0.05
    assert figure.axes[1].get_ylim()[1] >= 0.1


def test_small_numbers_are_not_zero():
    results = make(run_of(layers=3), planted={(0, 0): 0.4})
    shown = texts(draw_effects(results, 0, None).axes[0])
    assert "<.01" in shown
    assert "0" not in shown


def test_layers_run_upwards_with_their_names():
    axes = draw_recovery(make(run_of(layers=3))).axes[0]
    low, high = axes.get_ylim()
    assert low < high
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "1", "2"]


def test_a_profile_has_a_bar_a_layer_and_both_comparisons():
    results = make(run_of("layer", layers=4), planted={(1, 0): 0.4})
    left, right = draw_effects(results, 1, [(1, 0)]).axes
    bars = [p.get_height() for p in left.patches if isinstance(p, Rectangle) and not p.get_hatch()]
    mean = results.values["kl_divergence"].mean(0)[:, 0]
    np.testing.assert_allclose(bars[:4], [*mean[:3], 0.0])
    assert [line.get_label() for line in right.lines[:1]] == ["over the unpatched run"]
    names = [text.get_text() for text in right.get_legend().get_texts()]
    assert names == [
        "over the unpatched run",
        "over the control",
        "content effect beyond the threshold",
    ]


def test_trajectories_start_unpatched_and_name_what_is_thick():
    results = make(run_of("iterative", layers=3, columns=3), planted={(1, 0): 0.3, (1, 2): 0.5})
    figures = dict(draw_figures(results, 5, None, Highlight(("1",), "Because.")))
    left, right, _ = figures["trajectories"].axes
    assert [t.get_text() for t in left.get_xticklabels()] == ["none", "0", "1", "2"]
    line = right.lines[1].get_ydata()
    assert line[0] == 0
    assert line[3] == pytest.approx(0.48, abs=0.1)
    assert texts(left) == ["layer 1"]
    assert figures["trajectories"]._supxlabel.get_text().startswith("Because.")
    assert len(left.lines[2].get_xdata()) == 3  # the last layer's last iteration cannot have any
    points = [t.get_text() for t in figures["trajectories_cosine"].axes[0].get_xticklabels()]
    assert points == ["0→1", "1→2"]


@pytest.mark.parametrize("name", ["thought", "layer", "relay"])
def test_sheets_have_every_pair_once_on_one_scale(name):
    results = make(RUNS[name], pairs=23, disrupting={(1, 0): 2.0})
    sheets = dict(pair_sheets(results))
    assert list(sheets) == ["sheet_01", "sheet_02"]
    titles = [t for sheet in sheets.values() for t in texts(sheet.axes[0]) if "pair_" in t]
    assert [t.split("\n")[0] for t in titles] == list(results.pair_ids)
    assert titles[0].startswith("pair_00\n8 into 3, max ")
    check_no_overlap(sheets["sheet_02"])


def test_a_sheet_of_a_pair_with_a_weak_effect_looks_weak():
    results = make(run_of(layers=3), pairs=1)
    (sheet,) = dict(pair_sheets(results)).values()
    bar = sheet.axes[1]
    assert bar.get_ylim() == (0.0, 0.05)
    image = np.array(sheet.axes[0].images[0].get_array())
    assert image[..., :3].max() <= 0.81  # near the dark end, and the grey of a structural zero


def test_total_is_direct_plus_mediated():
    frozen = make(run_of("layer", layers=3), planted={(0, 0): 0.2})
    whole = make(run_of("layer", layers=3, latents="recomputed"), planted={(0, 0): 0.5}, seed=1)
    figure = draw_decomposition(frozen, whole, "codi-tiny")
    left, right = figure.axes
    for axes in (left, right):
        direct, mediated, total = (line.get_ydata() for line in axes.lines[:9:3])
        np.testing.assert_allclose(direct + mediated, total, atol=1e-12)
        assert direct[2] == 0  # with frozen thoughts nothing reads the last layer
    restored = whole.values["clean_probability"][:, 0, 0] - whole.unpatched(
        "base", "clean_probability"
    )
    assert left.lines[6].get_ydata()[0] == pytest.approx(restored.mean())
    check_no_overlap(figure)
    other = replace(whole, pair_ids=tuple(f"other_{name}" for name in whole.pair_ids))
    with pytest.raises(ValueError, match="the same pairs"):
        draw_decomposition(frozen, other, "")
    assert list(decompositions({"a": frozen, "b": other}, "")) == []


def test_layers_stand_at_their_names_whichever_rows_a_run_has():
    frozen = make(run_of("layer", layers=3), planted={(0, 0): 0.5})
    run = run_of("layer", layers=3, latents="recomputed", thought=True)
    whole = make(run, planted={(1, 0): 0.5})  # layer 0 too: the thoughts' row comes first
    both = {"a": frozen, "b": whole}
    figure = draw_by_layer(both, "Whole layers")
    for axes in figure.axes:
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names[1:] == ["0", "1", "2"]
        points = [line for line in axes.lines if line.get_label() in both]
        at = [round(line.get_xdata()[np.argmax(line.get_ydata())]) for line in points]
        assert [names[place] for place in at] == ["0", "0"]
    ((_, figure),) = decompositions(both, "")
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]
        assert [int(np.argmax(line.get_ydata())) for line in axes.lines[:9:6]] == [0, 0]


def test_arms_that_belong_together_are_decomposed():
    frozen = make(run_of("layer", layers=3))
    chain = make(run_of("iterative", layers=3, strategy="cumulative"))
    assert [n for n, _ in decompositions({"a": frozen, "b": chain}, "")] == ["decomposition"]
    assert list(decompositions({"a": frozen}, "")) == []
    check_no_overlap(draw_by_layer({"a": frozen, "b": chain}, "Whole layers"))


def test_the_end_of_a_chain_is_its_last_cell_that_can_have_an_effect():
    relay = make(run_of("iterative", layers=2, columns=3), pairs=1)
    values = np.arange(6.0).reshape(1, 2, 3)
    assert at_end(relay, values).tolist() == [[2.0, 4.0]]
    frozen = make(run_of("layer", layers=2), pairs=1)
    assert at_end(frozen, values[:, :, :1]).tolist() == [[0.0, 0.0]]


def test_the_same_figure_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_figure(draw_recovery(make(run_of())), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in (tmp_path / "a.png").read_bytes()
