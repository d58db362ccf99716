"""Every figure against its numbers: places, ends, names, legends and titles, none of them equal.

Grids are not square and no two values agree, so that what is transposed, reversed, shifted or of
another arm or panel is another picture. Expected numbers are numpy's, or written down.
"""

from dataclasses import replace

import numpy as np
import pytest
import report_maker as maker
import xarray as xr
from made_reports import claim
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from codi_patching.analysis.findings import (
    Carried,
    Course,
    Entry,
    Finding,
    StrataFinding,
    StrataTable,
    Stratum,
)
from codi_patching.reporting.canvas import DARK, PALE
from codi_patching.reporting.carried import draw_over_layers, draw_table, two_tables
from codi_patching.reporting.comparison_figures import draw_by_layer, draw_parts, last_iteration
from codi_patching.reporting.content import (
    ceiling_of,
    claims_of,
    draw_content,
    effect_name,
    main_run,
    marks_of,
    strata_of,
)
from codi_patching.reporting.effects_figure import KL, RECOVERY, draw_measure
from codi_patching.reporting.figures import draw_figures, first_figure, pair_sheets
from codi_patching.reporting.layer_tables import draw_carried
from codi_patching.reporting.maps import (
    cell_mask,
    column_kind,
    column_names,
    draw_cells,
    label_axes,
    notes_on,
    number,
    outline,
    put_dots,
    scale_of,
    segments,
    write_values,
)
from codi_patching.reporting.plot import plot
from codi_patching.reporting.profiles import Profile, draw_profiles, profile_of, shade_claimed
from codi_patching.reporting.trajectories import bundles, draw_cosines, draw_lines

POSITION = "position, recomputed"
LAYER = "layer, frozen"


@pytest.fixture(scope="module")
def report():
    return maker.report_of(
        {
            POSITION: maker.dataset(),
            LAYER: maker.dataset(maker.run("layer", zeros=((2, 0),))),
            "relay": maker.dataset(maker.run("iterative", columns=3)),
        }
    )


def axes_of():
    return Figure(figsize=(5, 4)).subplots()


def labels(axes, which):
    return [label.get_text() for label in getattr(axes, f"get_{which}ticklabels")()]


def written(axes):
    """Texts by their place, `(x, y)`."""
    return {tuple(map(float, text.get_position())): text.get_text() for text in axes.texts}


def image(axes, place=0):
    return np.asarray(axes.images[place].get_array().filled(np.nan))


def mean_of(data, metric, arm="own"):
    """Of every cell over pairs, by numpy; what is zero by construction is not drawn."""
    mean = np.mean(data[metric].sel(arm=arm).values, axis=0)
    return np.where(data.attrs["run"].grid.structural, np.nan, mean)


def effect_of(data):
    return np.minimum.reduce([part.mean(0) for part in maker.parts(data).values()])


def bars(container):
    """Points of error bars and their ends, `(x, y, low, high)` each."""
    (segments,) = (line.get_segments() for line in container.lines[2])
    x, y = container.lines[0].get_data()
    ends = [(part[0][1], part[1][1]) if len(part) else (np.nan, np.nan) for part in segments]
    return [(a, b, *end) for a, b, end in zip(x, y, ends)]


def hatches(axes):
    return {(p.get_x(), p.get_y()): p.get_hatch() for p in axes.patches if p.get_hatch()}


# -- maps ---------------------------------------------------------------------------------------

DEEP = maker.run(layers=5, columns=2, zeros=((4, 1),))
VALUES = np.array([[0.11, 0.62], [0.23, 0.74], [0.35, np.nan], [0.47, 0.86], [0.59, 0.98]])


def test_a_map_hatches_zeros_and_dots_what_is_undefined_at_their_cells():
    axes = axes_of()
    draw_cells(axes, VALUES, DEEP, scale_of(VALUES, 0.1))
    shown = VALUES.copy()
    shown[4, 1] = np.nan
    np.testing.assert_array_equal(image(axes), shown)
    assert axes.images[0].origin == "lower"
    assert hatches(axes) == {(0.5, 3.5): "//////", (0.5, 1.5): "...."}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("thought", "layer")


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (8, list(range(8))),
        (9, [0, 3, 6, 8]),
        (16, [0, 3, 6, 9, 12, 15]),
        (24, [0, 3, 6, 9, 12, 15, 18, 21, 23]),
        (32, [0, 6, 12, 18, 24, 30]),
    ],
)
def test_layers_are_named_at_their_own_rows(rows, named):
    axes = axes_of()
    label_axes(axes, maker.run(layers=rows, columns=20, zeros=()))
    assert list(axes.get_yticks()) == named
    assert labels(axes, "y") == list(map(str, named))
    assert labels(axes, "x") == [f"z{place}" for place in range(0, 20, 2)]
    assert list(axes.get_xticks()) == list(range(0, 20, 2))


def test_the_row_of_thoughts_is_named_z():
    run = maker.run(layers=2, columns=3, zeros=())
    grid = replace(run.grid, layers=("thought", "0"))
    axes = axes_of()
    label_axes(axes, replace(run, grid=grid))
    assert labels(axes, "y") == ["z", "0"]


def test_agreeing_neighbours_are_labelled_by_their_median_in_their_middle():
    values = np.array([[0.500, 0.004], [0.501, 0.006], [0.514, 0.30], [0.40, 12.34]])
    axes = axes_of()
    write_values(axes, values, scale_of(values, 0.1), 12.0)
    assert written(axes) == {
        (0, 1): "0.50", (0, 3): "0.40", (1, 0.5): "0.01", (1, 2): "0.30", (1, 3): "12.3",
    }  # fmt: skip
    assert list(written(axes_percent(values))) == [(0, 1), (0, 3), (1, 2), (1, 3)]
    narrow = axes_of()
    write_values(narrow, values, scale_of(values, 0.1), 2.5)
    assert list(written(narrow)) == [(0, 1)]  # three rows of 2.5 points have room for a number


def test_neighbours_agree_as_a_whole_and_large_numbers_have_a_digit_less():
    assert list(segments(np.array([0.50, 0.51, 0.52, 0.53]))) == [(0, 1), (2, 3)]
    assert [number(value) for value in (9.99, -9.99, 12.34, -12.34)] == [
        "9.99", "-9.99", "12.3", "-12.3",
    ]  # fmt: skip


def axes_percent(values):
    axes = axes_of()
    write_values(axes, values, scale_of(values, 0.1), 12.0, percent=True)
    assert written(axes)[1, 2] == "30"
    return axes


def test_dots_and_outlines_are_at_their_cells():
    mask = np.zeros((4, 2), dtype=bool)
    mask[3, 0] = mask[1, 1] = True
    axes = axes_of()
    put_dots(axes, mask, np.zeros((4, 2)), scale_of(np.zeros((4, 2)), 0.1))
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[1.43, 1.36], [0.43, 3.36]])
    outline(axes, mask)
    ends = np.concatenate(axes.collections[1].get_segments())
    assert {tuple(end) for end in ends} == {
        (x + a, y + b) for x, y in ((0, 3), (1, 1)) for a in (-0.5, 0.5) for b in (-0.5, 0.5)
    }


@pytest.mark.parametrize(
    ("values", "end", "ends"),
    [
        ([0.02], None, (0.0, 0.1)), ([0.3], None, (0.0, 0.3)), ([0.3], 0.8, (0.0, 0.8)),
        ([0.9], 0.8, (0.0, 0.9)), ([0.4, -0.019], None, (0.0, 0.4)),
        ([0.4, -0.021], None, (-0.4, 0.4)), ([0.2, -0.7, np.nan], 0.3, (-0.7, 0.7)),
    ],
)  # fmt: skip
def test_ends_of_scales(values, end, ends):
    norm = scale_of(np.array([values]), 0.1, end).norm
    assert (norm.vmin, norm.vmax) == ends


def test_notes_name_the_last_layer_and_zeros():
    last = "Layer 4 is the last: only the next thought reads its output."
    hatched = "Hatched: zero by construction, nothing reads this state."
    assert notes_on(DEEP) == [hatched, last]
    assert notes_on(replace(DEEP, latents="frozen", grid=maker.run(zeros=()).grid)) == []
    assert notes_on(replace(DEEP, grid=replace(DEEP.grid, structural_zeros=()))) == [last]


# -- what each thought carries ------------------------------------------------------------------

STRATA = (Stratum(2, 1, 7), Stratum(2, 2, 8), Stratum(3, 2, 9))


def entries(*rows):
    return tuple(
        tuple(Entry(k, s.n, 0.0, 1.0, k > 4, 0) for k in row)
        for s, row in zip(STRATA, rows, strict=True)
    )


def table(layer, *rows, steps=()):
    carried = tuple(Carried(str(c), step, (), 0, 9, 0, 0) for c, step in enumerate(steps))
    return StrataTable(POSITION, layer, STRATA, ("0", "1"), entries(*rows), carried, 3, 100)


TABLES = (
    table("0", (7, 1), (6, 0), (2, 5), steps=(1, 2)),
    table("1", (0, 6), (3, 8), (9, 4), steps=(2, None)),
    table("2", (0, 6), (3, 8), (9, 4), steps=(2, None)),
)


def with_tables(report, tables=TABLES, main=0):
    """The report with other tables of what each thought carries."""
    own = Finding(
        "strata", 3, "yes", (POSITION,),
        strata=StrataFinding(tables[main], tables, 0.001, 0.9, 0.9),
    )  # fmt: skip
    rest = [f for f in report.findings if f.key != "strata"]
    return replace(report, findings=(own, *rest))


def boxes(axes):
    """Colours of boxes by their lower left corner and width."""
    return {
        tuple(np.round((p.get_x(), p.get_y(), p.get_width()), 3)): p.get_facecolor()
        for p in axes.patches
        if isinstance(p, Rectangle)
    }


HEIGHTS = (0.0, -1.0, -2.35)
"""Of the rows of `STRATA`, with a gap between 2 and 3 steps."""


def test_a_table_has_each_count_at_its_stratum_and_column():
    axes = axes_of()
    draw_table(axes, STRATA, TABLES[0].entries, ["z0", "z1"])
    counts = {place: text for place, text in written(axes).items() if "/" in text}
    assert counts == {
        (0, 0.0): "7/7", (1, 0.0): "1/7", (0, -1.0): "6/8", (1, -1.0): "0/8",
        (0, -2.35): "2/9", (1, -2.35): "5/9",
    }  # fmt: skip
    assert boxes(axes) == {
        (round(x - 0.47, 3), round(y - 0.45, 3), 0.94): to_rgba(DARK if (x, y) in dark else PALE)
        for x in (0, 1)
        for y in HEIGHTS
        for dark in [{(0, 0.0), (0, -1.0), (1, -2.35)}]
    }
    assert list(axes.get_yticks()) == list(HEIGHTS)
    assert labels(axes, "y") == ["step 1", "step 2", "step 2"]
    assert labels(axes, "x") == ["z0", "z1"]
    brackets = [line.get_ydata() for line in axes.lines]
    np.testing.assert_allclose(brackets, [[-1.4, 0.4], [-2.75, -1.95]])
    groups = [t for t in axes.texts if "step" in t.get_text()]
    assert [t.get_text() for t in groups] == ["2-step\nproblems", "3-step"]
    np.testing.assert_allclose([t.xy[1] for t in groups], [-0.5, -2.35])


def test_rows_whose_steps_are_unknown_are_named_and_have_no_bracket():
    strata = (
        Stratum(3, None, 7),
        Stratum(None, None, 9),
        Stratum(None, None, 8, (), ("kind", "long enough to be cut")),
    )
    axes = axes_of()
    draw_table(axes, strata, TABLES[0].entries, ["z0", "z1"])
    assert labels(axes, "y") == ["step unknown", "all pairs", "kind = long enough t…"]
    assert [t.get_text() for t in axes.texts if "-step" in t.get_text()] == ["3-step"]
    np.testing.assert_allclose([line.get_ydata() for line in axes.lines], [[-0.4, 0.4]])


def test_over_layers_neighbours_that_agree_are_one_box():
    single = [replace(t, entries=tuple(row[:1] for row in t.entries)) for t in TABLES]
    single.append(replace(single[0], layer="3", entries=entries((6,), (3,), (9,))))
    axes = axes_of()
    draw_over_layers(axes, single, 40.0)
    counts = {place: text for place, text in written(axes).items() if "/" in text}
    assert counts == {
        (0, 0.0): "7/7", (1.5, 0.0): "0/7", (3, 0.0): "6/7", (0, -1.0): "6/8", (2, -1.0): "3/8",
        (0, -2.35): "2/9", (2, -2.35): "9/9",
    }  # fmt: skip
    assert boxes(axes)[0.53, -2.8, 2.94] == to_rgba(DARK)
    narrow = axes_of()
    draw_over_layers(narrow, single, 5.0)  # "3/8" takes 11.7 points: two layers are too narrow
    assert "0/7" not in written(narrow).values()
    assert written(narrow)[2, -1.0] == "3/8"


def test_the_first_figure_has_its_two_tables_in_order(report):
    figure = first_figure(with_tables(report), POSITION)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes[1:3]}
    assert list(panels) == ["b  Restored at layer 0", "c  Restored at layers 1 to 2"]
    first, second = panels.values()
    assert written(first)[0, 0.0] == "7/7"
    assert written(second)[1, 0.0] == "6/7"
    assert (labels(first, "y")[0], labels(second, "y")) == ("step 1", ["", "", ""])
    assert labels(second, "x") == ["z0", "z1"]


def test_the_other_table_is_above_if_there_is_one_there():
    below, main, above = (
        table(str(n), (k, 0), (0, 0), (0, 0), steps=(step, None))
        for n, (k, step) in enumerate(((7, 2), (6, 1), (5, 3)))
    )
    long = replace(below, layer="3")
    both = StrataFinding(main, (below, main, above), 0.1, 0.9, 0.9)
    assert [group[0].layer for group in two_tables(both)] == ["1", "2"]
    longest = StrataFinding(main, (main, above, below, long), 0.1, 0.9, 0.9)
    assert [group[0].layer for group in two_tables(longest)] == ["1", "0"]
    nothing = table("2", (0, 0), (0, 0), (0, 0), steps=(None, None))
    alone = StrataFinding(main, (main, nothing), 0.1, 0.9, 0.9)
    assert [group[0].layer for group in two_tables(alone)] == ["1"]


def test_tables_of_every_layer_go_upwards_from_the_lowest(report):
    tables = (*TABLES, table("3", (1, 2), (3, 4), (5, 6)), table("4", (6, 5), (4, 3), (2, 1)))
    figure = draw_carried(with_tables(report, tables), POSITION)
    assert "of those of the stratum. Dark: more than chance allows." in note_of(figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Layer 0", "Layers 1 to 2", "Layer 3", "Layer 4", "", ""]
    assert [written(axes)[0, -2.35] for axes in figure.axes[:4]] == ["2/9", "9/9", "5/9", "2/9"]
    assert [written(axes)[0, 0.0] for axes in figure.axes[:4]] == ["7/7", "0/7", "1/7", "6/7"]
    assert [bool(labels(axes, "y")[0]) for axes in figure.axes[:4]] == [True, False, False, True]
    assert labels(figure.axes[0], "y") == ["step 1", "step 2", "step 2"]
    narrow = draw_carried(with_tables(report, tables), POSITION, "column")
    places = [axes.get_subplotspec().rowspan.start for axes in narrow.axes]
    assert places == [0, 1, 2, 3]
    assert len(draw_carried(with_tables(report, TABLES), POSITION).axes) == 2


# -- profiles -----------------------------------------------------------------------------------

ARMS = [
    Profile(name, *np.array(shown))
    for name, shown in {
        "one": ([0.1, 0.2, 0.4], [0.0, 0.15, 0.1], [0.3, 0.55, 0.5]),
        "two": ([0.7, np.nan, 0.9], [0.6, np.nan, np.nan], [0.75, np.nan, np.nan]),
        "three": ([-0.1, -0.3, 0.0], [-0.2, -0.8, -0.1], [0.1, -0.2, 0.05]),
    }.items()
]


def test_points_with_intervals_stand_at_their_layers_with_the_legend_in_order():
    axes = axes_of()
    draw_profiles(axes, ARMS, ["0", "1", "2"])
    names = axes.get_legend_handles_labels()[1]
    assert names == ["one", "two", "three"]
    width = 0.7 / 3
    for place, (container, arm) in enumerate(zip(axes.containers, ARMS, strict=True)):
        x = np.arange(3) + width * (place - 1)
        low = np.where(np.isnan(arm.low), arm.mean, arm.low)
        high = np.where(np.isnan(arm.high), arm.mean, arm.high)
        np.testing.assert_allclose(bars(container), np.stack([x, arm.mean, low, high], 1))
    looks = [(c.lines[0].get_marker(), c.lines[0].get_color()) for c in axes.containers]
    assert len({marker for marker, _ in looks}) == len({colour for _, colour in looks}) == 3
    assert labels(axes, "x") == ["0", "1", "2"]
    assert list(axes.get_xticks()) == [0, 1, 2]
    for hollow in (False, True):  # only where that is asked
        axes = axes_of()
        unclaimed = replace(ARMS[0], unclaimed=np.array([False, True, False]))
        draw_profiles(axes, [unclaimed], ["0", "1", "2"], hollow)
        own = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
        assert [np.isfinite(line.get_ydata()).tolist() for line in own] == (
            [[False, True, False]] * hollow
        )


def test_profiles_of_claims_are_of_the_comparison_that_is_asked():
    claims = [claim("2", None, "at most", mean=0.2, other=0.3), claim("0", None, mean=0.9)]
    claims += [claim("0", None, "at most", mean=0.6)]  # the first is drawn
    lead = profile_of("x", claims, ["0", "1", "2"])
    np.testing.assert_allclose(lead.mean, [0.4, np.nan, 0.2])
    control = profile_of("x", claims, ["0", "1", "2"], "control")
    np.testing.assert_allclose(control.mean, [0.4, np.nan, 0.3])
    np.testing.assert_allclose(control.low, [0.3, np.nan, 0.2])
    np.testing.assert_allclose(control.high, [0.5, np.nan, 0.4])
    own = profile_of("x", claims, ["0", "1", "2"], "unpatched")
    np.testing.assert_allclose(own.mean, [0.9, np.nan, 0.2])
    assert own.unclaimed.tolist() == [False, True, True]


def test_only_claimed_layers_are_shaded():
    axes = axes_of()
    shade_claimed(axes, [claim("1", None), claim("3", None, "at most")], ["1", "2", "3"])
    assert [(p.get_x(), p.get_width()) for p in axes.patches] == [(-0.5, 1.0)]


def test_where_a_layer_is_one_cell_the_profile_has_its_intervals_and_names(report):
    axes = first_figure(report, LAYER).axes[0]
    parts = maker.parts(report.summaries[LAYER].data)
    claims = report.finding("cells", LAYER).claims
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["relative to the unpatched run", "to the control's patch"]
    for container, (against, part) in zip(axes.containers, parts.items(), strict=True):
        shown = np.array(bars(container))[:, 1:]
        np.testing.assert_allclose(shown[:2, 0], part.mean(0)[:2, 0])
        own = [next(c for c in k.comparisons if c.against == against) for k in claims]
        np.testing.assert_allclose(shown[:2, 1:], [(c.low, c.high) for c in own])
    assert [patch.get_x() for patch in axes.patches if patch.get_hatch()] == [1.5]
    low, high = axes.get_ylim()
    assert low < 0 < np.nanmax([c.high for k in claims for c in k.comparisons]) < high


def test_without_claims_the_profile_has_the_tables_intervals(report):
    bare = replace(report, findings=())
    summary = report.summaries[LAYER]
    axes = draw_content(bare, LAYER).axes[0]
    for container, key in zip(axes.containers, ("unpatched", "control"), strict=True):
        own = summary.table[f"content_over_{key}"].isel(column=0)
        expected = [own.sel(statistic=s).values for s in ("mean", "ci_low", "ci_high")]
        np.testing.assert_allclose(np.array(bars(container))[:2, 1:], np.transpose(expected)[:2])


def test_tables_below_a_profile_are_at_their_layers(report):
    single = [replace(t, run=LAYER, columns=("all",)) for t in TABLES]
    single = [replace(t, entries=tuple(r[:1] for r in t.entries), carried=()) for t in single]
    own = Finding(
        "strata", 3, "yes", (LAYER,),
        strata=StrataFinding(single[0], tuple(single), 0.001, 0.9, 0.9),
    )  # fmt: skip
    figure = first_figure(replace(report, findings=(own, report.finding("cells", LAYER))), LAYER)
    assert written(figure.axes[1])[0, 0.0] == "7/7"
    assert written(figure.axes[1])[1.5, 0.0] == "0/7"
    shaded = [p.get_x() for p in figure.axes[0].patches if not p.get_hatch()]
    claimed = [c for c in report.finding("cells", LAYER).claims if c.claimed]
    assert shaded == [int(c.layer) - 0.5 for c in claimed]


# -- the first figure ---------------------------------------------------------------------------


def test_margins_bars_and_the_ceiling_are_on_the_maps_scale(report):
    lead = report.finding("ceiling").lead
    low = replace(lead, comparisons=tuple(replace(c, mean=0.3) for c in lead.comparisons))
    changed = replace(report.finding("ceiling"), lead=low, claims=(low,))
    others = [f for f in report.findings if f.key != "ceiling"]
    figure = first_figure(replace(report, findings=(changed, *others)), POSITION, end=0.9)
    above, beside = figure.axes[0].child_axes
    assert figure.axes[0].images[0].norm.vmax == 0.9
    assert above.get_ylim() == beside.get_xlim() == (0.0, 0.9)
    values = effect_of(report.summaries[POSITION].data)
    at = {round(b.get_y() + b.get_height() / 2): b.get_width() for b in beside.patches}
    assert at == pytest.approx(dict(enumerate(np.nanmean(values, 1))))
    bar = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("ceiling"))
    assert bar.get_title(loc="left") == "ceiling\n0.30"
    assert [line.get_ydata()[0] for line in bar.lines] == [0.3]


def test_margins_show_what_is_below_0_and_a_ceiling_there_is_no_mark(report):
    data = maker.dataset()
    data["clean_probability"].loc[{"arm": "own"}] -= 0.9
    below = claim(mean=-0.1, other=-0.2)
    ceiling = replace(report.finding("ceiling"), lead=below, claims=(below,))
    made = replace(maker.report_of({POSITION: data}), findings=(ceiling,))
    figure = first_figure(made, POSITION)
    above, beside = figure.axes[0].child_axes
    values = effect_of(data)
    lowest = min(np.nanmean(values, 0).min(), np.nanmean(values, 1).min())
    assert above.get_ylim()[0] == beside.get_xlim()[0] == pytest.approx(lowest)
    assert not any("ceiling" in axes.get_title(loc="left") for axes in figure.axes)


def note_of(figure):
    return " ".join(figure.get_supxlabel().split())


def test_the_note_tells_of_marks_that_are_there_and_of_what_columns_are(report):
    shown = note_of(first_figure(report, POSITION))
    assert "Bars: means over layers and positions." in shown
    restored = "Restored: pairs with the source answer; dark: more than chance allows."
    assert restored in shown
    heads = maker.run(grid=replace(maker.run().grid, column="head"))
    figure = first_figure(maker.report_of({POSITION: maker.dataset(heads)}), POSITION)
    assert "Bars: means over layers and heads." in note_of(figure)
    cells_of = report.finding("cells", LAYER)
    shown = note_of(first_figure(replace(report, findings=(cells_of,)), LAYER))
    assert "Shaded: claimed." in shown
    nothing = tuple(replace(c, verdict="at most") for c in cells_of.claims)
    cells_of = replace(cells_of, lead=nothing[0], claims=nothing, answer="at most")
    shown = note_of(first_figure(replace(report, findings=(cells_of,)), LAYER))
    assert "Shaded" not in shown


def test_only_claimed_cells_are_outlined(report):
    finding = report.finding("cells", POSITION)
    some = ("layer 0, position 1", "layer 2, position 0 (makes thought 1)")
    claims = tuple(
        replace(c, verdict="rises" if c.name in some else "at most") for c in finding.claims
    )
    changed = replace(finding, claims=claims)
    findings = tuple(changed if f is finding else f for f in report.findings)
    axes = first_figure(replace(report, findings=findings), POSITION).axes[0]
    lines = next(c for c in axes.collections if hasattr(c, "get_segments"))
    ends = {tuple(end) for end in np.concatenate(lines.get_segments())}
    assert ends == {
        (x + a, y + b) for x, y in ((1, 0), (0, 2)) for a in (-0.5, 0.5) for b in (-0.5, 0.5)
    }


def test_a_label_does_not_go_across_an_outline(report):
    data = maker.dataset()
    data["clean_probability"].loc[{"arm": "own"}] = 0.5
    data["clean_probability"].loc[{"arm": "control"}] = 0.0
    made = maker.report_of({POSITION: data})
    finding = made.finding("cells", POSITION)
    claims = tuple(
        replace(c, verdict="rises" if c.layer == "0" else "at most") for c in finding.claims
    )
    changed = replace(finding, claims=claims)
    findings = tuple(changed if f is finding else f for f in made.findings)
    axes = first_figure(replace(made, findings=findings), POSITION).axes[0]
    assert {y for x, y in written(axes) if x == 0} == {0, 1.5}


def test_what_was_run_stands_in_the_note(report):
    made = with_tables(report)
    note = " ".join(first_figure(made, POSITION).get_supxlabel().split())
    said = "codi-tiny, 10 pairs, position patching, recomputed; control: sibling, which restores"
    assert f"{said} 9 of 300." in note  # of three layers
    data = maker.dataset()
    data["control_kind"] = data["control_kind"].astype("U11")
    data["control_kind"][:5], data["control_kind"][9] = "random_pair", ""  # the last has none
    mixed = maker.report_of({POSITION: data})
    note = " ".join(first_figure(mixed, POSITION).get_supxlabel().split())
    assert "control: random pair and sibling" in note


def test_the_main_run_is_that_of_what_is_carried(report):
    assert main_run(report) == POSITION
    layers = [report.finding("cells", LAYER), report.finding("strata", POSITION)]
    assert main_run(replace(report, findings=tuple(layers))) == POSITION
    last = [f for f in report.findings if f.key not in ("strata", "cells")]
    assert main_run(replace(report, findings=tuple(last))) == "relay"
    assert main_run(replace(report, findings=())) == next(iter(report.summaries))


# -- one run's other figures --------------------------------------------------------------------


@pytest.mark.parametrize(("measure", "head"), [
    (KL, "Disruption: mean KL(patched ‖ unpatched)"), (RECOVERY, "Recovery"),
])  # fmt: skip
def test_a_measure_has_the_own_patch_left_and_the_controls_right(report, measure, head):
    data = report.summaries[POSITION].data
    figure = draw_measure(report.summaries[POSITION], measure)
    own, control, bar = figure.axes
    assert (own.get_title(loc="left"), control.get_title(loc="left")) == (
        "own patch", "control's patch",
    )  # fmt: skip
    np.testing.assert_allclose(image(own), mean_of(data, measure))
    np.testing.assert_allclose(image(control), mean_of(data, measure, "control"))
    assert own.images[0].norm.vmax == pytest.approx(np.nanmax(mean_of(data, measure)))
    assert set(written(control).values()) == {
        f"{v:.2f}" for v in mean_of(data, measure, "control").ravel() if np.isfinite(v)
    }
    assert figure.get_suptitle().startswith(head)
    assert figure.get_suptitle().endswith("10 pairs")
    assert bar.get_ylabel() == {KL: "KL (nats)", RECOVERY: "recovery"}[measure]
    kind = {KL: "Disruption says how much", RECOVERY: "Recovery rises too"}[measure]
    assert figure.get_supxlabel().startswith(kind)
    assert "Hatched: zero by construction" in note_of(figure)


@pytest.mark.parametrize("measure", [KL, RECOVERY])
def test_a_measure_of_whole_layers_has_both_arms_with_intervals(report, measure):
    summary = report.summaries[LAYER]
    axes = draw_measure(summary, measure).axes[0]
    assert axes.get_ylabel() == {KL: "KL (nats)", RECOVERY: "recovery"}[measure]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["own patch", "control's patch"]
    for container, key in zip(axes.containers, (measure, f"control_{measure}"), strict=True):
        own = summary.table[key].isel(column=0)
        expected = [own.sel(statistic=s).values for s in ("mean", "ci_low", "ci_high")]
        np.testing.assert_allclose(np.array(bars(container))[:, 1:], np.transpose(expected))


def test_a_small_measure_ends_at_what_matters(report):
    data = maker.dataset()
    for name in ("kl_divergence", "recovery"):
        data[name] = data[name] / 100
    summary = maker.summary(POSITION, data)
    ends = [draw_measure(summary, m).axes[0].images[0].norm.vmax for m in (KL, RECOVERY)]
    assert ends == [0.05, 0.10]
    data["kl_divergence"].loc[{"arm": "control"}] += 2.0
    end = draw_measure(maker.summary(POSITION, data), KL).axes[0].images[0].norm.vmax
    assert end == pytest.approx(np.nanmax(mean_of(data, "kl_divergence", "control")))


def test_chains_have_their_panels_lines_and_legends(report):
    figure = dict(draw_figures(replace(report, summaries={"relay": report.summaries["relay"]})))
    data = report.summaries["relay"].data
    left, right = figure["trajectories"].axes
    assert left.get_title(loc="left") == "a  Rise of P(clean answer)"
    assert right.get_title(loc="left") == "b  Disruption: KL (nats)"
    for axes, values in ((left, effect_of(data)), (right, mean_of(data, "kl_divergence"))):
        shown = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 4]
        np.testing.assert_allclose(shown, np.insert(values, 0, 0.0, axis=1))
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["0", "1", "2"]
    title = " ".join(figure["trajectories"].get_suptitle().split())
    assert title.startswith("Along the chain. Iterative patching, relay of codi-tiny on")
    assert title.endswith(", 10 pairs")
    cosines = draw_cosines(report, "relay")
    for axes, name in zip(cosines.axes, ("clean", "corrupted"), strict=True):
        assert axes.get_title(loc="left")[3:] == f"Cosine to the {name} run"
        shown = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 2][:3]
        expected = mean_of(data, f"cosine_to_{name}")[:, :-1]
        np.testing.assert_allclose([y for y in shown if y[0] != 0 or y[1] != 0], expected)
        assert labels(axes, "x") == ["0", "1"]


def test_lines_that_agree_are_one_their_mean_named_by_their_layers():
    values = np.array([[0.0, 0.50, 0.10], [0.0, 0.52, 0.11], [0.0, 0.90, 0.3], [0.0, 0.2, 0.95]])
    axes = axes_of()
    draw_lines(axes, values, ["4", "5", "6", "7"], 0.1)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["4 to 5", "6", "7"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.0, 0.51, 0.105])
    np.testing.assert_allclose(axes.lines[1].get_ydata(), values[2])
    np.testing.assert_allclose(axes.get_ylim(), [-0.06 * 0.95, 1.06 * 0.95])
    assert bundles(values, 0.019) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    small = axes_of()
    draw_lines(small, values / 100, ["4", "5", "6", "7"], 0.1)
    np.testing.assert_allclose(small.get_ylim(), [-0.006, 0.106])
    low = axes_of()  # what agrees is relative to the panel's height
    draw_lines(low, values / 50, ["4", "5", "6", "7"], 0.1)
    assert [text.get_text() for text in low.get_legend().get_texts()] == ["4 to 5", "6", "7"]
    assert bundles(np.array([[0.0], [0.03], [0.06]]), 0.05) == [(0, 1), (2, 2)]


def test_sheets_show_each_pair_at_its_place_on_one_scale():
    data = maker.dataset(pairs=60, ids="p{:02d}")
    data["clean_probability"].loc[{"arm": "own"}] -= 0.3
    figures = dict(pair_sheets(maker.summary(POSITION, data)))
    assert list(figures) == ["sheet_01", "sheet_02"]
    own = np.minimum.reduce(list(maker.parts(data).values()))
    # 12 pairs in each of five strata, nine in a row: two rows a stratum, six rows a sheet
    rows = [[s + 5 * k for k in some] for s in range(5) for some in (range(9), range(9, 12))]
    for name, shown in (("sheet_01", rows[:6]), ("sheet_02", rows[6:])):
        axes = figures[name].axes[0]
        for place, pair in enumerate(pair for row in shown for pair in row):
            np.testing.assert_allclose(image(axes, place), own[pair])
        extents = [im.get_extent() for im in axes.images]
        places = [(1.25 * x, -1.75 * y) for y, row in enumerate(shown) for x in range(len(row))]
        np.testing.assert_allclose(extents, [(x, x + 1, y, y + 1) for x, y in places])
        assert {im.origin for im in axes.images} == {"lower"}
        assert {(im.norm.vmin, im.norm.vmax) for im in axes.images} == {(-1.0, 1.0)}
        named = {p: t for p, t in written(axes).items() if t.startswith("p")}
        pairs = [f"p{pair:02d}" for row in shown for pair in row]
        assert named == {(x, y + 1.06): name for (x, y), name in zip(places, pairs)}
    first = figures["sheet_01"].axes[0]
    assert written(first)[0, 1.36] == "2-step problems, step 1 changed (12)"
    assert min(hatches(first)) == (0.5, -8.75 + 2 / 3)
    note = " ".join(figures["sheet_01"].get_supxlabel().split())
    assert note.startswith("Each map: layers 0 to 2 upwards, positions 0 to 1 to the right;")
    assert "Orange to brown" in note


def test_sheets_of_rises_have_no_colours_of_falls_and_say_what_is_unknown_of_steps():
    data = maker.dataset(pairs=10, ids="a_long_name_of_{:02d}")
    data["clean_probability"].values[:] = 0.0  # 0.05 below the unpatched run
    data["num_steps"].values[:], data["changed_step"].values[:] = 3, np.nan
    ((_, figure),) = pair_sheets(maker.summary(POSITION, data))
    axes = figure.axes[0]
    assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (0.0, 1.0)
    assert "Orange" not in note_of(figure)
    said = written(axes)
    assert said[0, 1.36] == "3-step problems, step unknown (10)"
    assert said[0, 1.06] == "a_long_name_o…"
    assert len(axes.images) == 10  # nine in the first row
    data["num_steps"].values[:] = np.nan
    ((_, figure),) = pair_sheets(maker.summary(POSITION, data))
    assert written(figure.axes[0])[0, 1.36] == "all pairs (10)"


# -- the lens -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_lens():
    rates = np.array([0.12, 0.23, 0.34, 0.45, 0.56, 0.67, 0.78, 0.89, 0.15, 0.26, 0.37, 0.48])
    rates = rates.reshape(2, 3, 2)
    dims = ("step", "layer", "column")
    hits = xr.Dataset(
        {"own": (dims, rates), "chance": (dims, rates / 4), "pairs": ("step", [10, 6])},
        {"step": [1, 2], "layer": ["0", "1", "2"], "column": ["0", "1"]},
    )
    data = maker.dataset()
    runs = {LAYER: maker.dataset(maker.run("layer")), POSITION: data}
    lens = maker.dataset(maker.run(top=5, zeros=()))
    read = [
        maker.Claim("a", "rises", (), 0.01, 0.5, "1", "0", "read", "rate", 1),
        maker.Claim("b", "rises", (), 0.01, 0.5, "2", "1", "read", "rate", 2),
    ]
    finding = Finding("read", 6, "yes", (POSITION, "lens"), claims=tuple(read))
    return maker.report_of(runs, lens, hits, more=(finding,))


@pytest.fixture(scope="module")
def lens_figures(with_lens):
    return dict(draw_figures(with_lens))


def outlined(axes):
    """Middles of the outlined cells, each alone."""
    lines = [c for c in axes.collections if hasattr(c, "get_segments")]
    ends = [end for c in lines for part in c.get_segments() for end in part]
    return tuple(np.mean(ends, 0)) if ends else None


def test_the_lens_has_a_column_a_step_in_percent(with_lens, lens_figures):
    figure = lens_figures["lens_hit_rates"]
    rates = with_lens.hit_rates
    for place, (arm, step) in enumerate((a, s) for a in ("own", "chance") for s in (1, 2)):
        axes, expected = figure.axes[place], rates[arm].sel(step=step).values
        np.testing.assert_allclose(image(axes), expected)
        shown = {(x, y): f"{100 * expected[int(y), int(x)]:.0f}" for x, y in written(axes)}
        assert written(axes) == shown
        assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax) == (0.0, 1.0)
    titles = [axes.get_title(loc="left") for axes in figure.axes[:4]]
    assert titles == ["step 1, n = 10", "step 2, n = 6", "chance", "chance"]
    assert [outlined(axes) for axes in figure.axes[:4]] == [(0, 1), (1, 2), None, None]
    note = " ".join(figure.get_supxlabel().split())
    assert "is among the 5 most probable tokens" in note


def test_beside_the_lens_stands_the_run_that_is_asked(with_lens, lens_figures):
    figure = lens_figures["lens_and_patching"]
    one, two, patched = figure.axes[:3]
    np.testing.assert_allclose(image(one), with_lens.hit_rates["own"].sel(step=1))
    np.testing.assert_allclose(image(two), with_lens.hit_rates["own"].sel(step=2))
    assert written(two)[1, 1] == "26"
    np.testing.assert_allclose(image(patched), effect_of(with_lens.summaries[POSITION].data))
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    assert titles == ["read: step 1", "read: step 2", "Rise of P(clean answer)"]
    assert [outlined(axes) for axes in (one, two)] == [(0, 1), (1, 2)]
    assert "What can be read need not be used. On the right, outlined:" in note_of(figure)


# -- several runs -------------------------------------------------------------------------------


def test_whole_layers_have_the_smaller_gain_with_its_interval_layers_in_order():
    frozen = maker.dataset(maker.run("layer", layers=11, zeros=((10, 0),)))
    chain = maker.dataset(maker.run("iterative", layers=11, columns=3, zeros=((10, 2),)))
    report = maker.report_of({LAYER: frozen, "relay": chain})
    figure = draw_by_layer(report)
    axes = figure.axes[0]
    assert labels(axes, "x") == list(map(str, range(11)))  # by number, not "0", "1", "10", "2"
    for container, (label, column) in zip(axes.containers, ((LAYER, 0), ("relay", 1))):
        table = report.summaries[label].table
        control = table["content_over_control"].isel(column=column)
        own = table["content_over_unpatched"].isel(column=column)
        smaller = xr.where(control.sel(statistic="mean") < own.sel(statistic="mean"), control, own)
        expected = np.stack([smaller.sel(statistic=s) for s in ("mean", "ci_low", "ci_high")], 1)
        shown = np.array(bars(container))[:, 1:]
        last = 10 if label == LAYER else 11
        np.testing.assert_allclose(shown[:last], expected[:last])
        assert np.isnan(shown[last:, 0]).all()
    assert "Zero by construction: layer, frozen at layer 10." in " ".join(
        figure.get_supxlabel().split()
    )


def test_the_smaller_gain_may_be_below_zero():
    data = maker.dataset(maker.run("layer", zeros=()))
    data["clean_probability"].loc[{"arm": "own"}] = 0.15  # 0.10 over the unpatched run
    data["clean_probability"].loc[{"arm": "control"}] = 0.55
    axes = draw_by_layer(maker.report_of({LAYER: data})).axes[0]
    np.testing.assert_allclose([mean for _, mean, *_ in bars(axes.containers[0])], [-0.4] * 3)


def test_a_gain_of_which_one_is_unknown_is_unknown():
    """As the content effect of that layer is."""
    data = maker.dataset(maker.run("layer", zeros=()))
    data["clean_probability"].loc[{"arm": "own"}] = 0.01  # under the unpatched run
    data["clean_probability"].loc[{"arm": "control", "layer": "1"}] = np.nan
    report = maker.report_of({LAYER: data})
    drawn = [mean for _, mean, *_ in bars(draw_by_layer(report).axes[0].containers[0])]
    effect = report.summaries[LAYER].table["content_effect"].values[:, 0]
    np.testing.assert_allclose(drawn, effect)
    assert np.isnan(drawn).tolist() == [False, True, False]


def test_chains_are_judged_at_the_iteration_at_which_they_are_drawn():
    relay = maker.run("iterative", columns=3, zeros=((-1, 2),))
    report = maker.report_of({"relay": maker.dataset(relay)})
    claims = [claim("0", "1"), claim("1", "2"), claim("2", "1", "at most")]
    courses = tuple(Course(c.layer, "none", (c,), None) for c in claims)
    chain = Finding("chain", 5, "yes", ("relay",), courses=courses)
    assert title_of(report, chain) == "P(source answer) rises at layer 0, in every run."


def test_chains_are_drawn_where_none_is_zero_whichever_comes_first():
    relay, all_of_it = (
        maker.dataset(maker.run("iterative", columns=3, zeros=zeros)) for zeros in (((-1, 2),), ())
    )
    for runs in ((relay, all_of_it), (all_of_it, relay)):
        assert last_iteration(maker.report_of(dict(zip("ab", runs, strict=True)))) == "1"
    assert last_iteration(maker.report_of({"b": all_of_it})) == "2"


def test_the_row_of_thoughts_is_the_first_of_the_layers():
    run = maker.run("layer", zeros=())
    run = replace(run, grid=replace(run.grid, layers=("thought", "0", "1")))
    axes = draw_by_layer(maker.report_of({LAYER: maker.dataset(run)})).axes[0]
    assert labels(axes, "x") == ["z", "0", "1"]
    assert axes.get_ylabel() == "rise of P(source answer)"


def layered(label, verdicts, kind="content", key="cells", bound=0.07):
    claims = [claim(str(n), "all", v, kind=kind, bound=bound) for n, v in enumerate(verdicts)]
    return Finding(key, 2, "yes", (label,), claims[0], tuple(claims))


def title_of(report, *findings):
    figure = draw_by_layer(replace(report, findings=findings))
    return " ".join(figure.get_suptitle().split())


def test_the_title_over_whole_layers_says_what_is_claimed_of_each_run():
    runs = {LAYER: maker.run("layer"), "layer, recomputed": maker.run("layer", zeros=())}
    chains = {"relay": "relay", "cumulative": "cumulative"}
    runs |= {k: maker.run("iterative", columns=3, zeros=(), strategy=s) for k, s in chains.items()}
    report = maker.report_of({label: maker.dataset(run) for label, run in runs.items()})
    up, no = "rises", "at most"
    effects = [claim(layer, "2", up) for layer in "012"] + [claim("0", "1", up)]
    courses = [Course(c.layer, "fades", (c,), None) for c in effects]
    cumulative = Finding("chain", 5, "yes", ("cumulative",), courses=tuple(courses))
    relay = Finding("chain", 5, "at most", ("relay",), courses=(
        Course("0", "none", (claim("0", "2", no), claim("0", "0", up)), None),
    ))  # fmt: skip
    frozen = layered(LAYER, [up, up, no])
    every = layered("layer, recomputed", [up, "more often", up])
    assert title_of(report, frozen, every, relay, cumulative) == (
        "P(source answer) rises at layers 0 and 1 (layer, frozen), no layer (relay), layers 0 to 2 "
        "(others)."
    )
    two = maker.report_of({k: report.summaries[k].data for k in (LAYER, "layer, recomputed")})
    assert title_of(two, frozen, layered("layer, recomputed", [up, up, no])) == (
        "P(source answer) rises at layers 0 and 1, in every run."
    )
    nothing = layered(LAYER, [no, no, "no"]), layered("layer, recomputed", [no] * 3, bound=0.13)
    assert title_of(two, *nothing) == (
        "Nothing is claimed: no layer is shown to act, a rise of P(source answer) is at most 0.13."
    )
    few = layered(LAYER, ["counts"] * 3), layered("layer, recomputed", ["counts"] * 3)
    assert title_of(two, *few) == "Too few pairs for any claim: counts stand alone."
    assert title_of(two) == "Content effect of whole layers, each run"


def test_the_title_over_parts_says_which_are_claimed():
    def said(**verdicts):
        claims = [
            claim(str(n), "all", v, kind=kind, bound=0.1 + 0.01 * n)
            for kind, own in verdicts.items()
            for n, v in enumerate(own)
        ]
        finding = Finding("direct", 4, "yes", (LAYER, "all"), claims[0], tuple(claims))
        figure = draw_parts(finding)
        note = note_of(figure)
        assert "Direct: later thoughts are frozen. Total: they are made anew." in note
        assert "Mediated: total minus direct, pair by pair." in note
        assert "All relative to the control's patch." in note
        assert figure.axes[0].get_ylabel() == "rise of P(source answer)"
        assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == list(verdicts)
        return " ".join(figure.get_suptitle().split())

    up, no, down = "rises", "at most", "falls"
    assert said(direct=[up, up, no], mediated=[no, no, up], total=[up] * 3) == (
        "The effect of whole layers is direct at layers 0 and 1 and mediated at layer 2."
    )
    assert said(direct=[up, up], mediated=[no, down]) == (
        "The effect of whole layers is direct at layers 0 and 1 and against the source answer "
        "mediated at layer 1."
    )
    assert said(direct=[no, no], mediated=[no, no], total=[up, up]) == (
        "Nothing is claimed: no direct or mediated effect is shown, each at most 0.11."
    )
    few = "Too few pairs for any claim: counts stand alone."
    assert said(direct=["counts"], mediated=["counts"]) == few


# -- what a caller asks for ---------------------------------------------------------------------

STAIRS = tuple(
    replace(t, columns=tuple("01234"), carried=tuple(
        Carried(str(c), step, (), 9, 9, 0, 0) for c, step in enumerate((1, 1, 2, 2, 3))
    ) if t.layer != "2" else ())
    for t in TABLES
)  # fmt: skip


def test_a_column_has_a_title_of_two_lines(report):
    made = with_tables(report, STAIRS)
    title = first_figure(made, POSITION, "column").get_suptitle()
    assert " ".join(title.split()) == (
        "At layers 0 and 1, z0 and z1 carry the result of step 1, z2 and z3 step 2, z4 step 3."
    )
    assert title.count("\n") == 1
    bare = replace(made, findings=tuple(f for f in made.findings if f.key != "strata"))
    title = " ".join(first_figure(bare, POSITION, "column").get_suptitle().split())
    assert title.startswith("Single patches raise P(clean answer) at z0 at layers 0 to 2, z1 at")


def test_plot_draws_the_kind_run_and_width_that_are_asked(report):
    def heads(kind, **options):
        axes = plot(report, kind, **options)
        return axes[0].get_title(loc="left"), axes[0].figure

    data = report.summaries["relay"].data
    shown = plot(report, "effects", run="relay")[0]
    np.testing.assert_allclose(image(shown), mean_of(data, "kl_divergence"))
    turned = replace(report, summaries=dict(reversed(report.summaries.items())))
    shown = plot(turned, "effects", "column")[0]  # of the main run
    own = mean_of(report.summaries[POSITION].data, "kl_divergence")
    np.testing.assert_allclose(image(shown), own)
    assert shown.figure.get_figwidth() == 3.3
    shown = plot(report, "recovery", run="relay")[0]
    np.testing.assert_allclose(image(shown), mean_of(data, "recovery"))
    assert heads("trajectories", run="relay")[0] == "a  Rise of P(clean answer)"
    assert heads("trajectories_cosine", run="relay")[0] == "a  Cosine to the clean run"
    parts = Finding("direct", 4, "yes", (LAYER, "all"), claims=(claim("1", kind="direct"),))
    report = replace(report, findings=(*report.findings, parts))
    for kind, run in (
        ("by_layer", None),
        ("decomposition", None),
        ("trajectories", "relay"),
        ("carried", POSITION),
    ):
        for width, inches in (("column", 3.3), ("page", 6.8)):
            assert heads(kind, run=run, width=width)[1].get_figwidth() == inches


# -- what is marked -----------------------------------------------------------------------------


def test_marks_are_of_the_claims_about_content_of_cells_or_of_a_chain(report):
    up, other = claim("0", "0"), claim("1", "1")
    no, part = claim("2", "0", "at most"), claim("0", "1", kind="direct")
    names = tuple(each.name for each in (up, no, other))
    cells_of = Finding("cells", 2, "yes", (POSITION,), up, (up, other, no, part), names)

    def marked(*findings, run=POSITION):
        return claims_of(replace(report, findings=findings), run)

    assert marked(cells_of) == ((up, other, no), (up.name, other.name))
    assert marked(cells_of, run=LAYER) == ((), ())
    assert marked(replace(cells_of, tied=(up.name, no.name)))[1] == ()
    assert marked(replace(cells_of, lead=no))[1] == ()
    assert marked(replace(cells_of, lead=None))[1] == ()
    chain = Finding("chain", 5, "yes", ("relay",), up, (), names, courses=(
        Course("0", "fades", (up, other), None),
    ))  # fmt: skip
    assert marked(chain, run="relay") == ((up, other), (up.name, other.name))
    assert marks_of((up, no), ()) == ["Outlined: claimed."]
    assert marks_of((no,), ("a", "b")) == ["Dots: 2 cells not shown to be below the largest."]


def test_a_ceiling_is_of_its_run_and_a_number(report):
    assert ceiling_of(report, POSITION) == report.finding("ceiling").lead.lead.mean
    assert ceiling_of(report, LAYER) is None
    finding = report.finding("ceiling")
    assert ceiling_of(replace(report, findings=(replace(finding, lead=None),)), POSITION) is None
    unknown = claim(mean=np.nan, other=np.nan)
    made = replace(report, findings=(replace(finding, lead=unknown),))
    assert ceiling_of(made, POSITION) is None


def test_strata_of_a_run_are_those_whose_table_is_of_it(report):
    own = with_tables(report).finding("strata")
    both = replace(own, runs=(POSITION, LAYER))
    made = replace(report, findings=(both,))
    assert strata_of(made, POSITION) is own.strata
    assert strata_of(made, LAYER) is None
    empty = replace(own.strata, main=replace(own.strata.main, entries=()))
    assert strata_of(replace(report, findings=(replace(own, strata=empty),)), POSITION) is None


def test_what_falls_with_noising_is_the_other_answer(report):
    noising = maker.dataset(maker.run(direction="noising"), pairs=2)
    assert effect_name(maker.summary("x", noising)) == "Rise of P(corrupted answer)"
    assert effect_name(report.summaries[POSITION]) == "Rise of P(clean answer)"


def test_columns_are_thoughts_positions_or_heads():
    heads = replace(DEEP, grid=replace(DEEP.grid, column="head"))
    assert (column_kind(heads), column_names(heads)) == ("head", ["0", "1"])
    places = replace(DEEP, positions="all", grid=replace(DEEP.grid, columns=("number", "1")))
    assert (column_kind(places), column_names(places)) == ("position", ["number", "z1"])
    assert (column_kind(DEEP), column_names(DEEP)) == ("thought", ["z0", "z1"])
    assert notes_on(places)[1] == (
        "Layer 4 is the last: only the next thought, or before the answer the head, reads its "
        "output."
    )


def test_cells_of_claims_that_are_chosen():
    chosen = [claim("1", "0"), claim("2", "1", "no"), claim("9", "0"), claim(None, None)]
    mask = cell_mask(DEEP, chosen, lambda each: each.claimed)
    assert np.argwhere(mask).tolist() == [[1, 0]]
    assert not cell_mask(DEEP, (), lambda each: True).any()
