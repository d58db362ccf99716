"""Figures show their data: arrays, extents, tick labels and printed numbers, of a grid of 3 × 2."""

from dataclasses import replace

import numpy as np
import pytest
import report_maker as maker
import results_maker
import xarray as xr
from matplotlib.colors import to_rgba

from codi_patching.analysis.findings import (
    Claim,
    Comparison,
    Entry,
    Finding,
    StrataFinding,
    StrataTable,
    Stratum,
)
from codi_patching.analysis.report import build_report
from codi_patching.errors import InputError
from codi_patching.reporting.canvas import DARK, PALE, new_figure, save_figure
from codi_patching.reporting.carried import draw_table, joined, layers_of, two_tables
from codi_patching.reporting.comparison_figures import draw_by_layer, draw_parts, parts_finding
from codi_patching.reporting.effects_figure import RECOVERY
from codi_patching.reporting.figures import draw_figures, first_figure, pair_sheets
from codi_patching.reporting.lens_figure import _SCALE as GREENS
from codi_patching.reporting.lens_figure import draw_hit_rates, read_cells
from codi_patching.reporting.maps import outline, scale_of, segments
from codi_patching.reporting.plot import KINDS, plot
from codi_patching.results.dataset import run_of

POSITION = "position, recomputed"


def texts(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def image(axes):
    return np.asarray(axes.images[0].get_array().filled(np.nan))


@pytest.fixture(scope="module")
def report():
    return maker.report_of(
        {
            POSITION: maker.dataset(),
            "layer, frozen": maker.dataset(maker.run("layer")),
            "relay": maker.dataset(maker.run("iterative", columns=3)),
        }
    )


@pytest.fixture(scope="module")
def content(report):
    return first_figure(report, POSITION)


def effect_of(data):
    parts = maker.parts(data)
    return np.minimum.reduce([part.mean(0) for part in parts.values()])


def test_the_map_has_layers_upwards_and_the_means_of_the_dataset(report, content):
    axes = content.axes[0]
    data = report.summaries[POSITION].data
    np.testing.assert_allclose(image(axes), effect_of(data))
    assert axes.images[0].origin == "lower"
    assert list(axes.images[0].get_extent()) == [-0.5, 1.5, -0.5, 2.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["z0", "z1"]
    assert np.isnan(image(axes)[2, 1])  # nothing reads the last layer at the last position


def test_every_number_on_the_map_is_that_of_its_cell(report, content):
    axes = content.axes[0]
    values = effect_of(report.summaries[POSITION].data)
    written = {
        (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text()
        for text in axes.texts
    }
    assert written == {cell: f"{v:.2f}" for cell, v in np.ndenumerate(values) if np.isfinite(v)}
    assert len(set(written.values())) == 5


def test_the_scale_ends_at_the_ceiling(report, content):
    figure = content
    lead = report.finding("ceiling").lead.lead
    assert figure.axes[0].images[0].norm.vmax == pytest.approx(lead.mean)
    assert any(f"ceiling\n{lead.mean:.2f}" == axes.get_title("left") for axes in figure.axes)


def test_a_run_of_another_study_is_not_on_the_scale_of_this_ceiling(report):
    assert "relay" not in report.finding("ceiling").runs  # as with noising beside denoising
    figure = first_figure(report, "relay")
    largest = np.nanmax(effect_of(report.summaries["relay"].data))
    assert figure.axes[0].images[0].norm.vmax == pytest.approx(largest)


@pytest.mark.parametrize("label", ["layer, frozen", "relay"])
def test_a_first_figure_says_what_is_found_in_its_own_run(report, label):
    alone = first_figure(maker.report_of({label: report.summaries[label].data}), label)
    figure = first_figure(report, label)
    assert figure.get_suptitle() == alone.get_suptitle()
    assert figure.get_supxlabel() == alone.get_supxlabel()


def test_two_models_are_on_one_scale(report):
    labels = [f"{model}: {POSITION}" for model in "AB"]
    data = report.summaries[POSITION].data
    weak = data.assign(clean_probability=0.05 + 0.2 * (data.clean_probability - 0.05))
    weak["run_clean_probability"] = data.run_clean_probability.copy()
    weak["run_clean_probability"].loc[{"run": "ceiling"}] -= 0.4
    alone = [maker.report_of(dict([run])) for run in zip(labels, (data, weak))]
    findings = [replace(f, model=m) for m, own in zip("AB", alone) for f in own.findings]
    layer = report.summaries["layer, frozen"]
    summaries = {}
    for model, own in zip("AB", alone):  # the first figure is of what findings are of
        summaries |= {f"{model}: layer, frozen": layer} | own.summaries
    both = replace(report, summaries=summaries, findings=tuple(findings), models=("A", "B"))
    figures = dict(draw_figures(both))
    ends = [figures[f"content_{place}"].axes[0].images[0].norm.vmax for place in (1, 2)]
    ceilings = [own.finding("ceiling").lead.lead.mean for own in alone]
    assert ceilings == pytest.approx([0.7, 0.3])
    assert ends == pytest.approx([0.7, 0.7])


def with_ties(report, unclaimed=()):
    """All cells tie with the largest; some of them are not claimed."""
    finding = report.finding("cells", POSITION)
    claims = tuple(
        replace(c, verdict="at most") if c.name in unclaimed else replace(c, verdict="rises")
        for c in finding.claims
    )
    changed = replace(finding, claims=claims, tied=tuple(c.name for c in claims))
    return replace(report, findings=tuple(changed if f is finding else f for f in report.findings))


def test_claimed_cells_that_tie_have_dots_and_no_line_of_their_own(report):
    figure = first_figure(with_ties(report, ["layer 1, position 1"]), POSITION)
    axes = figure.axes[0]
    dots = next(c for c in axes.collections if not hasattr(c, "get_segments"))
    places = {(round(y - 0.36), round(x - 0.43)) for x, y in dots.get_offsets()}
    assert places == {(0, 0), (0, 1), (1, 0), (2, 0)}  # not (2, 1), zero by construction
    lines = [c for c in axes.collections if hasattr(c, "get_segments")]
    assert [line.get_linewidth()[0] for line in lines] == [0.6]
    note = " ".join(figure.get_supxlabel().split())
    assert "Dots: 4 cells not shown to be below the largest." in note


def test_a_largest_cell_that_stands_alone_has_no_dot(report, content):
    assert len(report.finding("cells", POSITION).tied) == 1
    dots = [c for c in content.axes[0].collections if not hasattr(c, "get_segments")]
    assert all(len(own.get_offsets()) == 0 for own in dots)
    assert "Dots" not in content.get_supxlabel()


def test_margins_are_means_over_layers_and_positions(report, content):
    axes = content.axes[0]
    above, beside = axes.child_axes
    values = effect_of(report.summaries[POSITION].data)
    np.testing.assert_allclose([b.get_height() for b in above.patches], np.nanmean(values, 0))
    np.testing.assert_allclose([b.get_width() for b in beside.patches], np.nanmean(values, 1))


def test_the_table_beside_it_has_the_counts_of_its_strata(report, content):
    figure = content
    axes = next(a for a in figure.axes if "Restored" in a.get_title(loc="left"))
    # of 10 pairs two in each stratum; those at even places are restored where base > 0.3
    table = report.finding("strata", POSITION).strata.main
    expected = [f"{e.restored}/{e.n}" for row in table.entries for e in row]
    assert [t for t in texts(axes) if "/" in t] == expected
    assert expected[:4] == ["2/2", "2/2", "0/2", "0/2"]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["step 1", "step 2", "step 1", "step 2", "step 3"]
    assert "2-step\nproblems" in texts(axes)


def test_only_entries_that_count_are_dark():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    strata = (Stratum(2, 1, 7), Stratum(2, 2, 5))
    rows = (
        (Entry(7, 7, 0.6, 1.0, True, 0), Entry(3, 7, 0.1, 0.8, False, 0)),
        (Entry(0, 5, 0.0, 0.5, False, 0), Entry(5, 5, 0.5, 1.0, True, 0)),
    )
    draw_table(axes, strata, rows, ["z0", "z1"])
    colours = [patch.get_facecolor() for patch in axes.patches]
    assert colours == [to_rgba(c) for c in (DARK, PALE, PALE, DARK)]


def tables(*counts):
    """A table a layer, of one stratum and one column."""
    made = []
    for layer, k in enumerate(counts):
        entry = ((Entry(k, 5, 0.0, 1.0, k > 3, 0),),)
        step = maker.Carried("0", 1 if k > 3 else 2 if k else None, (), k, 5, 0, 0)
        made.append(StrataTable("a", str(layer), (Stratum(2, 1, 5),), ("0",), entry, (step,), 0, 5))
    return tuple(made)


def test_layers_with_the_same_counts_are_one_table():
    groups = joined(tables(5, 5, 4, 5))
    assert [layers_of(group) for group in groups] == ["layers 0 to 1", "layer 2", "layer 3"]


def test_the_second_table_is_of_layers_that_carry_another_step():
    made = tables(5, 5, 2, 3, 3, 0)
    shown = two_tables(StrataFinding(made[0], made, 0.001, 1.0, 1.0))
    assert [layers_of(group) for group in shown] == ["layers 0 to 1", "layers 3 to 4"]
    alike = tables(5, 4, 5)
    assert len(two_tables(StrataFinding(alike[0], alike, 0.001, 1.0, 1.0))) == 1


def test_neighbours_that_agree_are_labelled_once():
    column = np.array([0.50, 0.51, 0.505, 0.30, np.nan, 0.30])
    assert list(segments(column)) == [(0, 2), (3, 3), (5, 5)]


def test_an_outline_goes_round_a_region_and_not_between_its_cells():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    outline(axes, np.array([[True, True], [False, False]]))
    lines = {tuple(map(tuple, line)) for line in axes.collections[0].get_segments()}
    assert ((0.5, -0.5), (0.5, 0.5)) not in lines
    assert lines == {
        ((-0.5, -0.5), (0.5, -0.5)),
        ((0.5, -0.5), (1.5, -0.5)),
        ((-0.5, 0.5), (0.5, 0.5)),
        ((0.5, 0.5), (1.5, 0.5)),
        ((-0.5, -0.5), (-0.5, 0.5)),
        ((1.5, -0.5), (1.5, 0.5)),
    }


def test_a_map_of_nothing_looks_like_nothing():
    assert scale_of(np.array([[0.001]]), 0.1).norm.vmax == 0.1
    signed = scale_of(np.array([[0.2, -0.3]]), 0.1)
    assert (signed.norm.vmin, signed.norm.vmax) == (-0.3, 0.3)
    assert signed.colours(signed.norm(0.0))[:3] == pytest.approx((1, 1, 1), abs=0.02)


def test_where_a_layer_is_one_cell_both_comparisons_are_drawn(report):
    label = "layer, frozen"
    axes = first_figure(report, label).axes[0]
    parts = maker.parts(report.summaries[label].data)
    shown = [container.lines[0].get_ydata() for container in axes.containers]
    for line, part in zip(shown, parts.values(), strict=True):
        np.testing.assert_allclose(line, part.mean(0)[:, 0])
    at = [container.lines[0].get_xdata() for container in axes.containers]
    assert (at[0] != at[1]).all()  # none hidden behind the other


def parts_at(layer, numbers):
    """Direct, mediated and total at a layer: means over the unpatched run and the control."""
    for kind, (verdict, *means) in numbers.items():
        pairs = zip(("unpatched", "control"), means)
        compared = [Comparison(a, mean, mean - 0.1, mean + 0.1, 9, 1, 10, 10) for a, mean in pairs]
        yield Claim(f"layer {layer}", verdict, tuple(compared), 0.5, 0.5, layer, kind=kind)


def test_direct_and_mediated_add_up_to_total_and_are_hollow_where_not_claimed():
    claims = [
        *parts_at("0", {
            "direct": ("rises", 0.5, 0.6), "mediated": ("at most", 0.2, 0.05),
            "total": ("rises", 0.7, 0.65),
        }),
        *parts_at("1", {"mediated": ("rises", 0.4, 0.3), "total": ("rises", 0.4, 0.3)}),
    ]  # fmt: skip
    finding = Finding("direct", 4, "yes", ("layer, frozen", "layer, recomputed"), claims[0])
    figure = draw_parts(replace(finding, claims=tuple(claims)))
    axes = figure.axes[0]
    direct, mediated, total = (c.lines[0].get_ydata() for c in axes.containers)
    assert (direct[0], mediated[0], total[0]) == (0.6, 0.05, 0.65)
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [np.isfinite(line.get_ydata()).tolist() for line in hollow] == [
        [False, False], [True, False], [False, False],
    ]  # fmt: skip
    note = " ".join(figure.get_supxlabel().split())
    assert "relative to the control's patch" in note
    assert "Zero by construction: direct at layer 1." in note
    alone = [replace(c, comparisons=c.comparisons[:1]) for c in claims]
    figure = draw_parts(replace(finding, claims=tuple(alone)))
    assert [c.lines[0].get_ydata()[0] for c in figure.axes[0].containers] == [0.5, 0.2, 0.7]
    assert "relative to the unpatched run" in " ".join(figure.get_supxlabel().split())


def test_parts_of_several_positions_a_layer_are_not_drawn_as_one(report):
    claims = list(parts_at("0", {"mediated": ("rises", 0.4, 0.3)}))
    one = Finding("direct", 4, "yes", ("a", "b"), claims[0], tuple(claims))
    several = replace(one, claims=(*claims, *claims))
    assert parts_finding(replace(report, findings=(several,))) is None
    assert parts_finding(replace(report, findings=(several, one))) is one


def test_chains_side_by_side_are_at_the_same_iteration():
    relay = maker.run("iterative", columns=3)  # its last layer is zero at the last iteration
    every = maker.run("iterative", columns=3, zeros=(), strategy="cumulative")
    frozen = maker.run("layer", zeros=((2, 0),))
    runs = {"relay": relay, "cumulative": every, "layer, frozen": frozen}
    report = maker.report_of({label: maker.dataset(run) for label, run in runs.items()})
    figure = draw_by_layer(report)
    axes = figure.axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["relay, iteration 1", "cumulative, iteration 1", "layer, frozen"]
    for container, label in zip(axes.containers, ("relay", "cumulative")):
        own = effect_of(report.summaries[label].data)[:, 1]
        np.testing.assert_allclose(container.lines[0].get_ydata(), own)
    note = " ".join(figure.get_supxlabel().split())
    assert note.endswith("Zero by construction: layer, frozen at layer 2.")


@pytest.mark.parametrize("scale", [
    scale_of(np.array([0.0, 1.0]), 0.1), scale_of(np.array([-1.0, 1.0]), 0.1), GREENS,
])  # fmt: skip
def test_numbers_contrast_with_their_cells(scale):
    def light(colour):
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for value in np.linspace(scale.norm.vmin, scale.norm.vmax, 101):
        pair = light(to_rgba(scale.text_on(value))), light(scale.colours(scale.norm(value)))
        assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def test_trajectories_start_unpatched_and_follow_the_means(report):
    alone = replace(report, summaries={"relay": report.summaries["relay"]})
    figure = dict(draw_figures(alone))["trajectories"]
    axes = figure.axes[0]
    values = effect_of(report.summaries["relay"].data)
    lines = [line for line in axes.lines if len(line.get_ydata()) == 4]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "0", "1", "2"]
    for line, row in zip(lines, values, strict=True):
        np.testing.assert_allclose(line.get_ydata(), [0.0, *row])
    looks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(looks) == 3


def test_disruption_has_own_and_control_on_one_scale(report):
    alone = replace(report, summaries={POSITION: report.summaries[POSITION]})
    figure = dict(draw_figures(alone))["effects"]
    data = report.summaries[POSITION].data
    for axes, arm in zip(figure.axes, ("own", "control")):
        mean = data.kl_divergence.sel(arm=arm).values.mean(0)
        np.testing.assert_allclose(image(axes)[:2], mean[:2])
    assert figure.axes[0].images[0].norm is figure.axes[1].images[0].norm


def test_sheets_are_sorted_and_named_by_stratum_and_show_content(report):
    summary = report.summaries[POSITION]
    figures = dict(pair_sheets(summary))
    assert list(figures) == ["sheet_01"]
    axes = figures["sheet_01"].axes[0]
    said = texts(axes)
    assert said[:3] == ["2-step problems, step 1 changed (2)", "pair_00", "pair_05"]
    assert "3-step problems, step 3 changed (2)" in said
    own = np.minimum.reduce(list(maker.parts(summary.data).values()))
    np.testing.assert_allclose(np.asarray(axes.images[1].get_array().filled(np.nan)), own[5])


@pytest.fixture(scope="module")
def with_lens():
    rates = np.linspace(0.02, 0.9, 12).reshape(2, 3, 2)
    lens = maker.dataset(maker.run(top=5))
    hits = xr.Dataset(
        {
            "own": (("step", "layer", "column"), rates),
            "chance": (("step", "layer", "column"), rates / 10),
            "pairs": ("step", [10, 6]),
        },
        {"step": [1, 2], "layer": ["0", "1", "2"], "column": ["0", "1"]},
    )
    runs = {POSITION: maker.dataset(), "layer, frozen": maker.dataset(maker.run("layer"))}
    return maker.report_of(runs, lens, hits)


def test_the_lens_has_own_above_chance_for_each_step(with_lens):
    figure = dict(draw_figures(with_lens))["lens_hit_rates"]
    rates = with_lens.hit_rates
    for place, (arm, step) in enumerate((a, s) for a in ("own", "chance") for s in (1, 2)):
        axes = figure.axes[place]
        shown = image(axes)
        expected = rates[arm].sel(step=step).values.copy()
        expected[2, 1] = np.nan
        np.testing.assert_allclose(shown, expected)
    assert figure.axes[1].get_title(loc="left") == "step 2, n = 6"


def test_only_what_is_read_more_often_than_chance_is_outlined(with_lens):
    made = [
        maker.Claim(f"{row}", verdict, (), 0.01, 0.5, str(row), "0", "read", "rate", 1)
        for row, verdict in enumerate(("rises", "less often", "more often"))
    ]
    acts = replace(made[0], column="1", kind="acts where it differs")
    made.append(acts)
    finding = Finding("read", 6, "yes", ("lens",), claims=tuple(made))
    report = replace(with_lens, findings=(finding,))
    cells = read_cells(report, maker.run(zeros=()), 1)
    assert cells[:, 0].tolist() == [True, False, True]
    assert not cells[:, 1].any()
    notes = [" ".join(draw_hit_rates(r).get_supxlabel().split()) for r in (report, with_lens)]
    outlined = ["Outlined: more often than chance, claimed." in note for note in notes]
    assert outlined == [True, False]


def test_which_figures_there_are(report, with_lens):
    def names(report):
        return [name for name, _ in draw_figures(report)]

    assert names(report) == ["content", "carried", "by_layer"]
    assert names(with_lens) == ["content", "carried", "lens_hit_rates"]
    unread = replace(with_lens, hit_rates=with_lens.hit_rates.isel(step=[]))
    assert names(unread) == ["content", "carried"]
    alone = replace(report, summaries={"relay": report.summaries["relay"]})
    assert names(alone) == [
        "content", "carried", "effects", "recovery", "trajectories", "trajectories_cosine",
    ]  # fmt: skip
    relay = alone.summaries["relay"]
    without = [name for name in run_of(relay.data).metrics if not name.startswith("cosine")]
    relay = replace(relay, data=relay.data.copy())
    relay.data.attrs = {"run": replace(run_of(relay.data), metrics=tuple(without))}
    assert names(replace(alone, summaries={"relay": relay}))[-1] == "trajectories"
    fewer = tuple(
        name for name in run_of(alone.summaries["relay"].data).metrics if name != RECOVERY
    )
    short = maker.dataset(maker.run("iterative", columns=1, zeros=(), metrics=fewer))
    assert names(maker.report_of({"relay": short}))[2:] == ["effects", "trajectories"]


@pytest.mark.parametrize(("width", "inches"), [("column", 3.3), ("page", 6.8)])
def test_plot_gives_axes_of_a_papers_width_with_text_that_can_be_read(report, width, inches):
    axes = plot(report, "content", width)
    figure = axes[0].figure
    assert figure.get_figwidth() <= inches
    figure.draw_without_rendering()
    sizes = [t.get_fontsize() for a in axes for t in [*a.texts, a.title, *a.get_xticklabels()]]
    assert min(sizes) >= 6
    beyond = figure.get_tightbbox()
    assert beyond.x0 > -0.02
    assert beyond.x1 < figure.get_figwidth() + 0.02


def test_plot_says_what_it_does_not_have(report):
    with pytest.raises(InputError, match="expected a kind of content, "):
        plot(report, "pie")
    with pytest.raises(InputError, match="expected a width of column, page, got 'poster'"):
        plot(report, width="poster")
    with pytest.raises(InputError, match="expected a run of position, recomputed, layer, frozen"):
        plot(report, run="other")
    with pytest.raises(InputError, match="these results have no figure 'effects'"):
        plot(replace(report, summaries={}), "effects")
    for kind in {*KINDS} & {"decomposition", "lens_hit_rates"}:
        with pytest.raises(InputError, match=f"no figure '{kind}'"):
            plot(report, kind)


def test_the_same_figure_is_the_same_bytes_and_text_stays_text(report, tmp_path):
    for name in ("one", "two"):
        save_figure(first_figure(report, POSITION), tmp_path / name, ("png", "pdf", "svg"))
    for ending in ("png", "pdf", "svg"):
        first, second = (tmp_path / f"{name}.{ending}" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
    assert ">step 1<" in (tmp_path / "one.svg").read_text()
    assert b"Software" not in (tmp_path / "one.png").read_bytes()
    pdf = (tmp_path / "one.pdf").read_bytes()
    assert b"/Subtype /Type3" not in pdf  # outlines, which journals refuse
    assert b"/CIDFontType2" in pdf


def test_a_figure_is_named_without_its_ending_alone_and_as_fine_as_is_asked(tmp_path):
    (path,) = save_figure(new_figure(2.0, 1.0), tmp_path / "gpt2.v1.pdf", ("png",), dpi=50)
    assert path == tmp_path / "gpt2.v1.png"
    width, height = (int.from_bytes(path.read_bytes()[at : at + 4]) for at in (16, 20))
    assert (width, height) == (100, 50)


def test_hostile_names_are_drawn_as_text(tmp_path):
    data = maker.dataset(replace(maker.run(), model="$x_{$ evil"), ids="$\\frac{{{}}}")
    report = maker.report_of({POSITION: data})
    for name, figure in [*draw_figures(report), *pair_sheets(report.summaries[POSITION])]:
        save_figure(figure, tmp_path / name)


def test_without_steps_or_control_the_map_stands_alone():
    data = maker.dataset(control=False)
    data["num_steps"][:] = np.nan
    figure = first_figure(maker.report_of({POSITION: data}), POSITION)
    assert not any("Restored" in axes.get_title(loc="left") for axes in figure.axes)


def test_a_chain_without_any_change_is_titled_by_its_bound():
    """Not by the number of questions that could not be asked of it."""
    run = results_maker.run_of("iterative")
    report = build_report([results_maker.make(run, pairs=40, seed=7)])
    finding = report.finding("chain")
    assert not any(claim.claimed for claim in finding.claims)
    most = max(claim.bound for claim in finding.claims)
    title = " ".join(first_figure(report, "relay").get_suptitle().split())
    assert title == (
        f"Nothing is claimed: no change along the chain is shown, each is at most {most:.2g}."
    )
