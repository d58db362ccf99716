import numpy as np
import pytest
from matplotlib.patches import Rectangle

from codi_patching.analysis.figures import cell_map, layer_profile

VALUES = np.array([[0.5, 2.0], [1.0, np.nan], [0.1, 0.7]])
NONE = np.zeros((3, 2), dtype=bool)


def texts(figure):
    return [t.get_text() for t in figure.axes[0].texts]


def test_every_cell_has_its_number_and_the_top_cells_their_rank():
    figure = cell_map(VALUES, ["0", "1", "2"], ["0", "1"], NONE, "title", "nats", top=2)
    assert texts(figure) == ["0.50", "2.00", "1.00", "0.10", "0.70", "#1", "#2"]
    frames = [p for p in figure.axes[0].patches if p.get_edgecolor()[0] > 0.8]
    assert [(round(p.get_x()), round(p.get_y())) for p in frames] == [(1, 0), (0, 1)]


def test_cells_without_an_effect_have_no_rank():
    values = np.array([[0.0, -2.0], [1.0, 0.001], [0.0, 0.0]])
    figure = cell_map(values, ["0", "1", "2"], ["0", "1"], NONE, "t", "l", diverging=True, top=5)
    assert [t for t in texts(figure) if t.startswith("#")] == ["#1"]


def test_layers_run_upwards():
    figure = cell_map(VALUES, ["0", "1", "2"], ["0", "1"], NONE, "title", "nats")
    low, high = figure.axes[0].get_ylim()
    assert low < high
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["0", "1", "2"]


def test_structural_zeros_are_hatched_without_a_number():
    structural = NONE.copy()
    structural[2, 1] = True
    figure = cell_map(VALUES, ["0", "1", "2"], ["0", "1"], structural, "title", "nats", top=5)
    assert "0.70" not in texts(figure)
    hatched = [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_hatch()]
    assert [(p.get_x(), p.get_y()) for p in hatched] == [(0.5, 1.5)]
    assert "by construction" in figure.get_supxlabel()


def test_recovery_is_centred_on_zero():
    figure = cell_map(VALUES - 1, ["0", "1", "2"], ["0", "1"], NONE, "t", "l", diverging=True)
    norm = figure.axes[0].images[0].norm
    assert (norm.vmin, norm.vcenter, norm.vmax) == (-1.0, 0.0, 1.0)


def test_maps_of_zeros_and_of_nothing_can_be_drawn():
    for values in (np.zeros((3, 2)), np.full((3, 2), np.nan)):
        for diverging in (False, True):
            cell_map(
                values, ["0", "1", "2"], ["0", "1"], NONE, "t", "l", diverging=diverging, top=5
            ).canvas.draw()


def test_a_profile_has_a_bar_a_layer_with_its_interval():
    mean = np.array([1.0, 3.0, 9.0])
    structural = np.array([False, False, True])
    figure = layer_profile(mean, mean - 0.5, mean + 1, ["0", "1", "2"], structural, "t", "nats", 1)
    axes = figure.axes[0]
    bars = [p.get_height() for p in axes.patches if isinstance(p, Rectangle) and not p.get_hatch()]
    assert bars[:3] == [1.0, 3.0, 0.0]
    segments = axes.collections[0].get_segments()
    assert segments[0][:, 1].tolist() == pytest.approx([0.5, 2.0])
