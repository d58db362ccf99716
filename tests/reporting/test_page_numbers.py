"""The numbers of the page, and those that its script shows for what is clicked, against datasets.

The grid is not square, no two means agree, and a mean is no median.
"""

import json
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import report_maker as maker
import results_maker
import xarray as xr
from test_page import browser, needs_browser, open_page  # noqa: F401

from codi_patching.analysis.checks import Check
from codi_patching.analysis.report import build_report
from codi_patching.reporting.claims_in_words import claim_details
from codi_patching.reporting.page import page_text, script_json, write_page
from codi_patching.reporting.page_data import (
    LABELS,
    PAIRS,
    flags,
    lens_data,
    mark_changes,
    numbers,
    page_data,
    short_of,
    strata_data,
)
from codi_patching.reporting.rows import more_rows, table_rows
from codi_patching.results.dataset import pairs_of

POSITION = "position, recomputed"
LAYER = "layer, frozen"


def planted():
    """A run of 3 layers × 2 positions whose strata, ties, controls and runs all differ."""
    data = maker.dataset()
    own, control = ({"arm": arm} for arm in ("own", "control"))
    says = data["predicts_clean"]
    says.loc[own] = 0.0
    says.loc[control] = 0.0
    for pair, layer, column, arm in (
        (0, 0, 0, own), (5, 0, 0, own), (1, 0, 1, own), (6, 0, 1, own), (5, 1, 1, own),
        (2, 1, 1, control), (0, 2, 0, own), (7, 2, 0, own), (2, 2, 0, own),
    ):  # fmt: skip
        cell = {**arm, "pair": data.pair[pair], "layer": str(layer), "column": str(column)}
        says.loc[cell] = 1.0
    for name, level in (
        ("base", 0.011), ("source", 0.91), ("ceiling", 0.35), ("ceiling_control", 0.123),
    ):  # fmt: skip
        unpatched = level + 0.002 * np.arange(10) ** 1.5
        data["run_clean_probability"].loc[{"run": name}] = unpatched
    return data


@pytest.fixture(scope="module")
def made():
    data = planted()
    report = maker.report_of({POSITION: data, LAYER: maker.dataset(maker.run("layer"))})
    cells = report.finding("cells", POSITION)
    claims = tuple(
        replace(
            c, verdict="at most" if n == 1 else "rises", p=0.011 * (n + 1), bound=0.3 + 0.07 * n
        )
        for n, c in enumerate(cells.claims)
    )
    tied = (claims[0].name, claims[3].name)
    changed = replace(cells, claims=claims, tied=tied, lead=claims[0])
    return replace(report, findings=tuple(changed if f is cells else f for f in report.findings))


@pytest.fixture(scope="module")
def run(made):
    return page_data(made)["runs"][0]


def test_names_and_places_of_a_grid(run):
    assert (run["layers"], run["columns"], run["column"]) == (
        ("0", "1", "2"),
        ["z0", "z1"],
        "thought",
    )
    assert run["names"][:4] == [f"layer {n}, position {p}" for n in "01" for p in "01"]
    effect = np.array(run["means"]["content_effect"], dtype=float)
    assert run["best"] == int(np.nanargmax(effect)) == 4
    assert run["structural"] == "000001"


def test_every_measure_is_named_scaled_and_the_mean_of_its_cells(made, run):
    data = made.summaries[POSITION].data
    free = [flag == "0" for flag in run["structural"]]
    wanted = {
        "kl_divergence": ("KL to unpatched, nats", 0.05), "recovery": ("recovery", 0.1),
        "clean_probability": ("P(clean answer)", 0.1), "predicts_clean": ("says clean answer", 0.1),
    }  # fmt: skip
    shown = {name: (label, least) for name, label, least in run["measures"]}
    for name, (label, least) in wanted.items():
        assert shown[name] == (label, least)
        assert shown[f"control_{name}"] == (f"control: {label}", least)
        for arm, key in (("own", name), ("control", f"control_{name}")):
            mean = data[name].sel(arm=arm).values.mean(0).ravel()[free]
            told = np.array(run["means"][key], dtype=float)[free]
            np.testing.assert_allclose(told, mean, rtol=1e-5, atol=5e-4)
    assert list(shown)[:2] == ["content_effect", "content_over_unpatched"]


def test_claims_stand_at_their_cells(made, run):
    claims = made.finding("cells", POSITION).claims
    assert run["claims"] == {
        n: [c.verdict, c.claimed, claim_details(c), c.p, c.bound, n in (0, 3)]
        for n, c in enumerate(claims)
    }
    assert run["ceiling"] == made.finding("ceiling").lead.lead.mean


def test_tables_of_strata_have_counts_layers_and_which_comes_first(made, run):
    strata = made.finding("strata", POSITION).strata
    told = run["strata"]
    assert told["rows"] == [[s, f"step {c}", 2] for s, c in maker.STRATA]
    shown = {tuple(t["layers"]): t["entries"] for t in told["tables"]}
    assert shown == {
        (t.layer,): [[[e.restored, e.n, int(e.counts)] for e in row] for row in t.entries]
        for t in strata.others
    }
    assert told["first"][0] == strata.main.layer
    assert shown[("0",)][0] == [[2, 2, 1], [0, 2, 0]]


def test_pairs_have_their_own_arms_and_states(made, run):
    data = made.summaries[POSITION].data
    pairs = run["pairs"]
    assert pairs["ids"] == [f"pair_{n:02d}" for n in range(10)]
    np.testing.assert_allclose(
        np.array(pairs["kl"]), data.kl_divergence.sel(arm="own").values.reshape(10, 6), atol=5e-4
    )
    states = [["0"] * 6 for _ in range(10)]
    for pair, place in ((0, 0), (5, 0), (1, 1), (6, 1), (5, 3), (0, 4), (7, 4), (2, 4)):
        states[pair][place] = "1"
    states[2][3] = "2"
    assert pairs["restored"] == ["".join(own) for own in states]
    for key, part in maker.parts(data).items():
        shown = np.array(pairs[key], dtype=float)[:, :5]
        np.testing.assert_allclose(shown, part.reshape(10, 6)[:, :5], atol=5e-4)


def test_a_pairs_runs_answers_and_control_are_its_own(made):
    shown = page_data(made)["pairs"][0]
    for pair, known in zip(shown, pairs_of(made.summaries[POSITION].data), strict=True):
        assert pair["answers"] == [known.source_answer, known.base_answer]
        assert pair["control"] == ["sibling", known.control.question, known.control.answer]
        assert "".join(text for text, _ in pair["source"]) == known.source_question
        assert pair["runs"] == [
            [name, short_of(own["clean_probability"])]
            for name, own in (
                ("unpatched", known.base), ("source run", known.source),
                ("all thoughts at once", known.ceiling),
                ("all the control's thoughts", known.ceiling_control),
            )
        ]  # fmt: skip
    assert len({tuple(pair["runs"][place][1] for place in range(4)) for pair in shown}) >= 1


def test_the_lens_on_the_page_is_by_step_and_arm():
    rates = np.array([0.12, 0.23, 0.34, 0.45, 0.56, 0.67, 0.78, 0.89, 0.15, 0.26, 0.37, 0.48])
    own = rates.reshape(2, 3, 2)
    dims = ("step", "layer", "column")
    hits = xr.Dataset({"own": (dims, own), "chance": (dims, own / 5)}, {"step": [1, 2]})
    told = lens_data(maker.dataset(maker.run(top=5)), hits)
    assert [m[:2] for m in told["measures"]] == [
        ["own_1", "read: step 1"], ["chance_1", "chance: step 1"],
        ["own_2", "read: step 2"], ["chance_2", "chance: step 2"],
    ]  # fmt: skip
    for step in (1, 2):
        np.testing.assert_allclose(told["means"][f"own_{step}"], own[step - 1].ravel())
        np.testing.assert_allclose(told["means"][f"chance_{step}"], own[step - 1].ravel() / 5)


def test_models_are_on_one_scale_and_have_their_own_pairs(made):
    data = made.summaries[POSITION].data
    weak = data.assign(clean_probability=0.3 * data.clean_probability)
    other = maker.dataset(text="Ann has {} plums.")
    report = maker.report_of({f"A: {POSITION}": data, f"B: {POSITION}": weak, "B: more": other})
    told = page_data(replace(report, models=("A", "B")))["runs"]
    ends = [max(run["ceiling"] or 0, np.nanmax(np.array(run["means"]["content_effect"], float)))
            for run in told]  # fmt: skip
    assert [run["end"] for run in told] == pytest.approx([max(ends)] * 3)
    assert [run["side"] for run in told] == [0, 0, 1]
    assert [run["end"] for run in page_data(report)["runs"]] == [0, 0, 0]


def test_the_scale_of_models_holds_what_is_below_0_too(made):
    data = made.summaries[POSITION].data
    falls = data.assign(clean_probability=data.clean_probability - 0.9)
    report = maker.report_of({f"A: {POSITION}": falls, f"B: {POSITION}": falls})
    report = replace(report, models=("A", "B"), findings=())
    lowest = min(np.nanmin(part.mean(0)) for part in maker.parts(falls).values())
    assert page_data(report)["runs"][0]["end"] == pytest.approx(-lowest)


def test_pairs_are_of_their_steps_where_a_field_tells_strata_too():
    run, described = results_maker.run_of(), []
    for place, each in enumerate(results_maker.records_of(run, pairs=6, strata=((2, 1), (2, 2)))):
        known = replace(each.description, fields={"kind": "xxy"[place % 3]})
        described.append(replace(each, description=known))
    report = build_report([results_maker.in_memory(run, described)], strata=("kind",))
    (told,) = page_data(report)["runs"]
    rows = [[2, "step 1", 3], [2, "step 2", 3], [None, "kind = x", 4], [None, "kind = y", 2]]
    assert told["strata"]["rows"] == rows
    assert told["pairs"]["stratum"] == [0, 1, 0, 1, 0, 1]


def test_the_page_prints_rows_checks_runs_and_what_was_left_out(made):
    text = page_text(made)
    assert text.count("pairs; at most 0.37</td>") == 1  # of what is not claimed its bound
    (claimed,) = re.findall(r"<td>layer 1, position 0.*?</td><td>rises</td><td>(.*?)</td>", text)
    assert unescape(claimed) == "; ".join(claim_details(made.finding("cells", POSITION).claims[2]))
    for row in [*table_rows(made), *more_rows(made)]:
        if not row.command:
            line = re.escape(row.question) + ".*?" + re.escape(row.answer) + "</td>"
            narrow = f"p {row.p}, " * (row.p not in ("", "–")) + f"n {row.n}" * bool(row.n)
            span = f'<span class="narrow">{narrow}</span>'
            line += rf'<td class="n">{re.escape(row.estimate)}{span}</td>'
            line += f'<td class="n hide">{row.p}</td><td class="n hide">{row.n}</td>'
            assert re.search(line, text, re.DOTALL), row
    assert text.index(table_rows(made)[0].question) < text.index("More questions (")
    claim = made.finding("cells", POSITION).claims[1]
    assert f"<td>{claim.name}</td><td>at most</td>" in text
    assert "<td>0.022</td>" in text
    assert "10 pairs · 2 runs" in text
    assert "weights 7c548f5bcec7 · pairs word-problems, bcbcbcbcbcbc" in text
    assert "seed 42" in text
    assert "more pairs are in the results file" not in text
    frozen = text.partition("<h2>layer, frozen</h2>")[2].partition("</details>")[0]
    assert "what is measured is the direct effect" in frozen
    check = made.checks[POSITION][0]
    seen = replace(check, expected="wanted", seen="found")
    text = page_text(replace(made, checks={POSITION: (seen,)}))
    assert "<td>wanted</td><td>found</td>" in text


def test_limits_of_every_run_stand_on_the_page():
    zero = results_maker.run_of(source="zero", control="none")
    runs = [results_maker.make(run, pairs=4) for run in (results_maker.run_of(), zero)]
    assert "The source zero leaves the distribution" in page_text(build_report(runs))


def test_pairs_beyond_the_most_are_counted(monkeypatch, made):
    monkeypatch.setattr("codi_patching.reporting.page.PAIRS", 7)
    assert PAIRS == 500
    assert "3 more pairs are in the results file alone." in page_text(made)


# -- the data of other runs -----------------------------------------------------------------------


def alone(data, label=POSITION, *findings):
    """A report of one run with these findings alone."""
    made = maker.report_of({label: maker.dataset(pairs=2)})
    return replace(made, summaries={label: maker.summary(label, data)}, findings=findings)


def test_a_run_without_claims_control_or_strata_has_its_map_and_pairs():
    data = maker.dataset(control=False, pairs=3)
    told = page_data(alone(data))
    (run,) = told["runs"]
    assert (run["claims"], run["ceiling"], run["strata"]) == ({}, None, None)
    assert "stratum" not in run["pairs"]
    assert "control" not in run["pairs"]
    assert [name for name, _, _ in run["measures"] if "control" in name] == []
    said = data.predicts_clean.sel(arm="own").values.reshape(3, 6)
    states = ["".join(str(int(value)) for value in pair[:5]) + "0" for pair in said]
    assert run["pairs"]["restored"] == states
    assert any("1" in state for state in states)
    assert told["first"] == POSITION
    bare = alone(data)
    summary = replace(bare.summaries[POSITION], top_content=())
    (run,) = page_data(replace(bare, summaries={POSITION: summary}))["runs"]
    assert run["best"] == 0


@pytest.mark.parametrize("source", ["zero", "random_pair"])
def test_nothing_is_restored_by_what_is_no_clean_run(source):
    data = maker.dataset(replace(maker.run(), source=source), pairs=2)
    (run,) = page_data(alone(data))["runs"]
    assert "restored" not in run["pairs"]


def test_a_pair_without_control_has_none_and_only_the_runs_that_were_made():
    data = maker.dataset(pairs=2)
    pairs = data["description"].values
    pairs[1] = replace(pairs[1], control=None, ceiling_control={}, unknown_words=("fox",))
    (shown,) = page_data(alone(data))["pairs"]
    assert shown[1]["control"] is None
    assert [name for name, _ in shown[1]["runs"]] == [
        "unpatched", "source run", "all thoughts at once",
    ]  # fmt: skip
    assert [pair["unknown"] for pair in shown] == [(), ("fox",)]
    pairs[0] = replace(pairs[0], control=replace(pairs[0].control, kind="random_pair"))
    assert page_data(alone(data))["pairs"][0][0]["control"][0] == "random pair"


def test_only_so_many_pairs_are_on_the_page(monkeypatch, made):
    monkeypatch.setattr("codi_patching.reporting.page_data.PAIRS", 3)
    told = page_data(made)
    run = told["runs"][0]
    assert [len(side) for side in told["pairs"]] == [3]
    assert {len(values) for values in run["pairs"].values()} == {3}


def test_the_run_that_is_shown_first_is_that_of_the_strata_or_cells(made):
    findings = [f for f in made.findings if f.key != "strata"]
    of_layer = [f for f in findings if f.key != "cells" or "layer, frozen" in f.runs]
    assert page_data(replace(made, findings=tuple(of_layer)))["first"] == "layer, frozen"
    others = replace(made.finding("strata"), runs=("gone", "layer, frozen"))
    assert page_data(replace(made, findings=(others, *findings)))["first"] == "layer, frozen"
    assert page_data(replace(made, findings=()))["first"] == POSITION
    lens = replace(made, summaries={}, findings=(), lens=results_lens(), hit_rates=hits_of(2))
    assert page_data(lens)["first"] == "lens"
    assert page_data(replace(made, summaries={}))["first"] == ""


def results_lens():
    return maker.dataset(maker.run(experiment="lens", top=5), pairs=2)


def hits_of(steps, arms=("own", "chance")):
    values = np.linspace(0.1, 0.9, steps * 6).reshape(steps, 3, 2)
    dims = ("step", "layer", "column")
    return xr.Dataset(dict.fromkeys(arms, (dims, values)), {"step": range(1, steps + 1)})


def test_the_lens_has_the_arms_that_it_has_and_no_claims_of_its_own():
    told = lens_data(results_lens(), hits_of(1, ("own",)))
    assert [key for key, _, _ in told["measures"]] == ["own_1"]
    assert told["title"].endswith("among the 5 most probable tokens")
    assert (told["id"], told["column"], told["columns"]) == ("lens", "thought", ["z0", "z1"])
    assert told["names"][3] == "layer 1, position 1"
    assert told["structural"] == "000001"
    assert (told["best"], told["side"], told["end"], told["pairs"]) == (0, 0, 0, {})


def test_places_outside_the_thoughts_are_positions():
    run = maker.run(positions="all")
    run = replace(run, grid=replace(run.grid, columns=("number", "0")))
    (told,) = page_data(alone(maker.dataset(run, pairs=2)))["runs"]
    assert (told["column"], told["columns"]) == ("position", ["number", "z0"])
    assert told["names"][1] == "layer 0, position 0"


def test_tables_of_strata_of_one_layer_stand_alone(made):
    strata = made.finding("strata", POSITION).strata
    told = strata_data(replace(strata, others=()))
    assert told["first"] == [strata.main.layer]
    assert [table["layers"] for table in told["tables"]] == [[strata.main.layer]]


def test_measures_are_of_what_their_names_say():
    said = {name: set(re.findall(r"\w+", label)) for name, label in LABELS.items()}
    for name, words in said.items():
        named = {"clean", "corrupted", "control", "source", "unpatched"} & {*name.split("_")}
        assert named <= words
    assert "unpatched" in said["kl_divergence"]


def test_small_and_undefined_numbers():
    assert [short_of(v) for v in (0.0005, -0.0005, 0.00049, -0.0004, None, float("nan"))] == [
        0.0005, -0.0005, 0, 0, None, None,
    ]  # fmt: skip
    assert short_of(0.123456, 4) == 0.1235
    assert repr(short_of(3.0)) == "3"
    assert repr(short_of(1234.5)) == "1230"
    assert numbers(np.array([[0.1, np.nan], [2.0, 0.0]])) == [0.1, None, 2, 0]
    assert flags(np.array([[True, False], [False, True]])) == "1001"


@pytest.mark.parametrize(
    ("first", "second", "marked"),
    [
        ("He has 1,200 pens.", "He has 1,300 pens.", (["1,200"], ["1,300"])),
        ("He has 3 pens", "He has 3 pens", ([], [])),
        ("He has pens", "He has 3 red pens", ([], ["3 red "])),
        ("3-4", "5-4", (["3"], ["5"])),
    ],
)
def test_what_differs_is_marked_whole(first, second, marked):
    sides = mark_changes(first, second)
    assert tuple([text for text, own in side if own] for side in sides) == marked
    assert tuple("".join(text for text, _ in side) for side in sides) == (first, second)


def test_text_in_a_script_cannot_end_it():
    text = script_json({"a": "</script><!-- & \u2028\u2029", "b": float("nan"), "c": (1, 2)})
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == {"a": "</script><!-- & \u2028\u2029", "b": None, "c": [1, 2]}
    assert " " not in text.replace("script> ", "").replace("-- ", "").partition('"b"')[2]


def test_the_page_says_where_a_run_is_and_what_its_checks_gave(made):
    data = made.summaries[POSITION].data.copy()
    data.attrs = {**data.attrs, "folder": "/some/place/position"}
    checks = [Check(str(n), "0", "1", status) for n, status in enumerate(
        ("fail", "fail", "not made", "pass")
    )]  # fmt: skip
    summary = replace(made.summaries[POSITION], data=data)
    one = replace(made, summaries={POSITION: summary}, checks={POSITION: tuple(checks)})
    text = page_text(one)
    made_with = (
        "weights 7c548f5bcec7 · pairs word-problems, bcbcbcbcbcbc · code 0.2.0, c0dec0dec0de"
    )
    assert f"folder position · {made_with} · seed 42 · precision 32-true<" in text
    assert "/some/place" not in text
    assert "2 of the checks fail" in text
    assert "· 1 run" not in text
    assert "folder position" not in page_text(made)


# -- what a click shows -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("numbers") / "report.html"
    write_page(path, made)
    return path


def shown(value):
    return f"{value:.3g}".replace("e-0", "e-")


@needs_browser
def test_the_script_shows_each_number_at_its_place(open_page, page_file, made, run):  # noqa: F811
    page = open_page(page_file)
    rows = page.locator("#map tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["2", "1", "0"]
    means = run["means"]["content_effect"]
    for row, line in zip((2, 1, 0), rows, strict=True):
        own = [v for v in means[2 * row : 2 * row + 2] if v is not None]
        assert line.split()[1:] == [f"{v:.2f}" for v in own]
    assert page.locator("#map tfoot").inner_text().split() == ["z0", "z1"]
    places = page.evaluate(
        "[...document.querySelectorAll('#map button')].map(b => b.dataset.place)"
    )
    assert places == ["4", "5", "2", "3", "0", "1"]
    tied = page.evaluate("[...document.querySelectorAll('.tied')].map(b => b.dataset.place)")
    assert sorted(tied) == ["0", "3"]
    label = page.get_attribute('#map [data-place="2"]', "aria-label")
    assert label == f"layer 1, position 0: {shown(means[2])}, claimed"
    assert "Dots: 2 cells" in page.inner_text("#reading")
    ends = page.locator("#map .ends span").all_inner_texts()
    assert ends == ["0", f"{shown(max(v for v in means if v is not None))}; all thoughts at once "
                    f"{shown(run['ceiling'])}"]  # fmt: skip
    page.select_option("#measure", "kl_divergence")
    page.wait_for_function("document.querySelector('#map caption').innerText.startsWith('KL')")
    kl = run["means"]["kl_divergence"]
    label = page.get_attribute('#map [data-place="1"]', "aria-label")
    assert label.startswith(f"layer 0, position 1: {shown(kl[1])}")


@needs_browser
def test_a_clicked_cell_shows_its_claim_and_pairs(open_page, page_file, made, run):  # noqa: F811
    page = open_page(page_file)
    page.click('#map [data-place="1"]')
    page.wait_for_selector("#cell h2")
    said = page.inner_text("#cell")
    assert page.inner_text("#cell h2") == "layer 0, position 1"
    assert "Not claimed, at most 0.37: at most, p = 0.022." in said
    assert "2-step problems, step 2: 2 of 2 restored" in said
    assert "2-step problems, step 1: 0 of 2 restored" in said
    page.click('#map [data-place="3"]')
    page.wait_for_function("document.querySelector('#cell h2').innerText.includes('layer 1')")
    said = page.inner_text("#cell")
    assert "Claimed: rises, p = 0.044." in said
    assert "2-step problems, step 1: 1 of 2 restored" in said
    assert "3-step problems, step 1: 0 of 2 restored" in said
    rise = shown(run["pairs"]["unpatched"][5][3])
    labels = {
        name: page.get_attribute(f"#cell .chips button >> text={name}", "aria-label")
        for name in ("pair_05", "pair_02")
    }
    assert labels["pair_05"] == f"pair_05: restored, rise {rise}"
    assert labels["pair_02"].startswith("pair_02: restored by the control's patch")
    page.click("#cell .chips button >> text=pair_05")
    page.wait_for_selector("#pair h2")
    pair = pairs_of(made.summaries[POSITION].data)[5]
    said = page.inner_text("#pair")
    assert f"source, answer {pair.source_answer}: {pair.source_question}" in said
    assert f"patched, answer {pair.base_answer}: {pair.base_question}" in said
    control = pair.control
    assert f"control, a sibling, answer {control.answer}: {control.question}" in said
    heads = page.locator("#pair caption").all_inner_texts()
    assert heads == ["rise over the unpatched run", "rise over the control's patch",
                     "KL to the unpatched run, nats"]  # fmt: skip
    for place, key in enumerate(("unpatched", "control", "kl")):
        own = page.locator("#pair .panels > div").nth(place).locator('[data-place="2"]')
        value = run["pairs"][key][5][2]
        assert own.get_attribute("aria-label") == f"layer 1, position 0: {shown(value)}"


@needs_browser
def test_tables_beside_the_map_and_in_folds(open_page, page_file, made, run):  # noqa: F811
    page = open_page(page_file)
    strata = made.finding("strata", POSITION).strata
    page.click('#map [data-place="0"]')
    panel = page.locator("#first, #second", has_text="Restored at layer 0")
    first = panel.locator("tr button").all_inner_texts()
    table = next(t for t in strata.others if t.layer == "0")
    assert first == [f"{e.restored}/{e.n}" for row in table.entries for e in row]
    looks = panel.locator("tr button").evaluate_all("all => all.map(b => b.className)")
    dark = ["counts" in look for look in looks]
    assert dark == [e.counts for row in table.entries for e in row]
    captions = page.locator(".strata caption").all_inner_texts()
    assert captions[0] == f"Restored at layer {strata.main.layer}"
    page.click("#cells summary")
    page.wait_for_selector("#all-cells table")
    keys = [name for name, _, _ in run["measures"]]
    line = page.locator("#all-cells tr").nth(3).locator("td").all_inner_texts()
    assert line == ["layer 1, position 0", *(shown(run["means"][key][2]) for key in keys)]
    page.click("#pairs summary")
    page.wait_for_selector("#all-pairs table")
    pair = pairs_of(made.summaries[POSITION].data)[0]
    line = page.locator("#all-pairs tr").nth(1).locator("td").all_inner_texts()
    assert line == ["pair_00", pair.source_question, pair.source_answer, pair.base_question,
                    pair.base_answer]  # fmt: skip


@needs_browser
def test_what_falls_is_orange_and_what_agrees_is_labelled_in_the_middle(open_page, tmp_path):  # noqa: F811
    data = maker.dataset(maker.run(layers=5, columns=2, zeros=()))
    column = np.array([0.40, 0.404, 0.41, -0.3, 0.2])
    data["clean_probability"].loc[{"arm": "own"}] = 0.05 + np.stack([column, column / 3], 1)
    data["clean_probability"].loc[{"arm": "control"}] = 0.05
    report = replace(maker.report_of({POSITION: data}), findings=())
    write_page(tmp_path / "report.html", report)
    page = open_page(tmp_path / "report.html")
    buttons = page.locator("#map button")
    texts = buttons.evaluate_all("all => all.map(b => [b.dataset.place, b.innerText.trim()])")
    first = {int(place): text for place, text in texts if text and int(place) % 2 == 0}
    assert first == {2: "0.40", 6: "-0.30", 8: "0.20"}  # the median
    colours = dict(page.evaluate(
        "[...document.querySelectorAll('#map button')].map(b => [b.dataset.place, "
        "b.style.backgroundColor.match(/\\d+/g).map(Number)])"
    ))  # fmt: skip
    assert colours["6"][0] > colours["6"][2]
    assert colours["0"][0] < colours["0"][2]
    ends = page.locator("#map .ends span").all_inner_texts()
    assert ends == ["-0.41", "0.41"]
    bar = page.evaluate("document.querySelector('#map .bar').style.background")
    first, *_, last = re.findall(r"rgb\((\d+), \d+, (\d+)\)", bar)
    assert int(first[0]) > int(first[1])
    assert int(last[0]) < int(last[1])
