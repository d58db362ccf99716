"""The page: its data against the datasets, and the page itself in a browser, without a network."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import report_maker as maker
import results_maker

from codi_patching.analysis.checks import Check, judged
from codi_patching.analysis.report import build_report
from codi_patching.reporting.figures import first_figure
from codi_patching.reporting.page import page_text, write_page
from codi_patching.reporting.page_data import MEANS, mark_changes, numbers, page_data
from codi_patching.reporting.runs import ReportOptions, compare_folders
from codi_patching.results.dataset import pairs_of

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
POSITION = "position, recomputed"
HOSTILE = "</script><img src=x onerror=alert(1)>&'\"{}"


def report(**changed):
    return maker.report_of(
        {
            POSITION: maker.dataset(**changed),
            "layer, frozen": maker.dataset(maker.run("layer"), **changed),
            "relay": maker.dataset(maker.run("iterative", columns=3), **changed),
        }
    )


def data_of(text):
    return json.loads(re.search(r"^const data = (.*);$", text, re.MULTILINE).group(1))


@pytest.fixture(scope="module")
def made():
    return report()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, made)
    return path


def test_the_data_in_the_page_are_the_datasets(made, page_file):
    data = data_of(page_file.read_text(encoding="utf-8"))
    assert data["first"] == POSITION
    for run, summary in zip(data["runs"], made.summaries.values(), strict=True):
        assert run["id"] == summary.label
        parts = maker.parts(summary.data)
        effect = np.minimum.reduce([part.mean(0) for part in parts.values()]).ravel()
        shown = np.array(run["means"]["content_effect"], dtype=float)
        np.testing.assert_allclose(shown, effect, atol=5e-4)
        kl = summary.data.kl_divergence.sel(arm="own").values
        free = np.isfinite(effect)
        mean = np.array(run["means"]["kl_divergence"], dtype=float)
        np.testing.assert_allclose(mean[free], kl.mean(0).ravel()[free], atol=5e-4)
        own = np.array(run["pairs"]["kl"], dtype=float)
        np.testing.assert_allclose(own, kl.reshape(10, -1), atol=5e-4)
        over = np.array(run["pairs"]["control"], dtype=float)[:, free]
        np.testing.assert_allclose(over, parts["control"].reshape(10, -1)[:, free], atol=5e-4)
        assert [c == "1" for c in run["structural"]] == (~free).tolist()


def test_restored_pairs_and_their_strata(made):
    run = page_data(made)["runs"][0]
    data = made.summaries[POSITION].data
    said = data.predicts_clean.values
    expected = ((said[..., 0] == 1) & (said[..., 1] == 0)).reshape(10, -1)
    expected[:, 5] = False  # nothing reads it
    assert [[c == "1" for c in pair] for pair in run["pairs"]["restored"]] == expected.tolist()
    rows = [(steps, name) for steps, name, _ in run["strata"]["rows"]]
    known = zip(data.num_steps.values, data.changed_step.values, strict=True)
    of_pairs = [rows[place] for place in run["pairs"]["stratum"]]
    assert of_pairs == [(int(steps), f"step {int(step)}") for steps, step in known]


def test_a_study_of_57_pairs_and_six_runs_is_at_most_a_megabyte_and_a_half():
    grid = maker.run(layers=16, columns=5)
    chain = maker.run("iterative", layers=16, columns=5)
    layer = maker.run("layer", layers=16)
    runs = dict.fromkeys("ab", grid) | dict.fromkeys("cd", chain)
    runs |= dict.fromkeys("ef", layer)
    made = maker.report_of({n: maker.dataset(run, pairs=57) for n, run in runs.items()})
    assert len(page_text(made).encode()) < 1.5e6


def test_each_direction_shows_its_own_questions_and_answers():
    runs = {
        POSITION: results_maker.make(results_maker.run_of("position"), pairs=8),
        "position, noising": results_maker.make(
            results_maker.run_of("position", direction="noising"), pairs=8, seed=1
        ),
    }
    data = page_data(build_report(list(runs.values())))
    assert [run["side"] for run in data["runs"]] == [0, 1]
    assert len(data["pairs"]) == 2
    for side, made in zip(data["pairs"], runs.values(), strict=True):
        metric = "clean_probability" if made is runs[POSITION] else "corrupted_probability"
        for shown, known in zip(side, pairs_of(made), strict=True):
            assert shown["answers"] == [known.source_answer, known.base_answer]
            assert shown["runs"][0][1] == pytest.approx(known.base[metric], abs=5e-4)


def test_means_are_rounded_once():
    assert numbers(np.array([0.45498, np.nan, 1e-9]), MEANS) == [0.45498, None, 0]
    assert f"{numbers(np.array([0.45498]))[0]:.2f}" != "0.45"  # as three digits would print it


def test_checks_that_were_not_made_are_not_said_to_hold(made, page_file):
    assert ">all checks hold<" in page_file.read_text(encoding="utf-8")
    absent = Check("cells made again", "the same", "none was made again", "not made")
    other = judged("ceiling", "", "no ceiling was run", None)  # does not apply: nothing to make
    own = made.checks[POSITION]
    text = page_text(replace(made, checks={POSITION: (*own, absent, other)}))
    assert 'class="not-made">checks that were made hold; 1 was not made<' in text
    assert "all checks hold" not in text
    failed = judged("self-patch", "0", "1", False)
    text = page_text(replace(made, checks={POSITION: (failed, absent)}))
    assert 'class="fail">1 of the checks fail<' in text


def test_a_comparison_keeps_nothing_of_an_earlier_one_and_names_files_plainly(tmp_path):
    folders = []
    for place, name in enumerate(("org/A", "other/A")):
        run = results_maker.run_of(model=name, checkpoint_sha256=f"{place}" * 64)
        records = results_maker.records_of(run, pairs=12, seed=place)
        folders.append(results_maker.write(tmp_path / f"run{place}", run, records))
    out = tmp_path / "comparison"
    compare_folders(folders, out, ReportOptions(figures=False))
    names = {path.stem for path in (out / "tables").iterdir()}
    carried = {name for name in names if name.startswith("carried")}
    assert len(carried) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    assert (out / "report.html").is_file()
    compare_folders(folders[:1], out, ReportOptions(figures=False, page=False))
    left = {path.stem for path in (out / "tables").iterdir()}
    assert not carried & left
    assert not (out / "report.html").exists()


def test_changed_parts_of_questions_are_marked():
    first, second = mark_changes("Tom has 3 pens.", "Tom has 3.5 pens.")
    assert first == [["Tom has ", 0], ["3", 1], [" pens.", 0]]
    assert second[1] == ["3.5", 1]


def test_the_order_is_answer_picture_table_rest(page_file):
    text = page_file.read_text(encoding="utf-8")
    places = [text.index(part) for part in ('class="answer"', 'id="picture"', "<table", "<details")]
    assert places == sorted(places)
    order = re.findall(r'<details id="(\w+)"', text)
    wanted = ["methods", "checks", "limits", "files", "pairs", "cells", "maps"]
    assert [name for name in order if name != "more"] == wanted


# -- in a browser -------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Opens a page; no test may leave an error in it, or ask for anything from outside."""
    problems, requests, pages = [], [], []

    def open_page(path, width=1280, height=800, anchor=""):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri() + anchor, timeout=120_000)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert problems == []
    assert all(url.startswith(("file:", "data:")) for url in requests)


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    runs = {POSITION: maker.run(layers=16, columns=5), "frozen": maker.run(layers=16, columns=5)}
    path = tmp_path_factory.mktemp("large") / "report.html"
    write_page(path, maker.report_of({k: maker.dataset(run, pairs=30) for k, run in runs.items()}))
    return path


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_picture_is_within_the_first_screen(open_page, large_file, width, height):
    page = open_page(large_file, width, height)
    box = page.locator("#map table").bounding_box()
    assert box["y"] + box["height"] <= height
    assert box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_browser
def test_the_text_outside_folds_is_short(open_page, large_file):
    page = open_page(large_file)
    words = page.evaluate(
        "[...document.querySelectorAll('.grid, select')].forEach(e => e.remove()),"
        "document.body.innerText.split(/\\s+/).length"
    )
    assert words < 700


@needs_browser
def test_a_cell_shows_its_numbers_and_pairs_and_stands_in_the_address(open_page, page_file, made):
    page = open_page(page_file)
    page.click('#map [data-place="3"]')
    page.wait_for_selector("#cell h2")
    assert page.inner_text("#cell h2") == "layer 1, position 1"
    said = page.inner_text("#cell")
    claim = next(
        c for c in made.finding("cells", POSITION).claims if c.name.endswith("1, position 1")
    )
    assert f"up in {claim.comparisons[0].up} and down in 0 of 10 pairs" in said
    assert "2-step problems, step 1: 2 of 2 restored" in said
    assert "2-step problems, step 2: 0 of 2 restored" in said
    page.click("#cell .chips button >> text=pair_05")
    page.wait_for_selector("#pair h2")
    assert page.inner_text("#pair mark >> nth=0") == "35"
    assert page.inner_text("#pair mark >> nth=1") == "25"
    assert page.evaluate("location.hash").endswith("layer=1&position=z1&pair=pair_05")


@needs_browser
def test_an_address_opens_its_view_and_back_undoes(open_page, page_file):
    anchor = "#run=relay&measure=kl_divergence&layer=2&position=1&pair=pair_03"
    page = open_page(page_file, anchor=anchor)
    assert page.input_value("#run") == "relay"
    assert page.input_value("#measure") == "kl_divergence"
    assert page.inner_text("#cell h2").startswith("layer 2")
    assert page.inner_text("#pair h2") == "pair_03"
    page.select_option("#run", "layer, frozen")
    page.wait_for_function("!document.querySelector('#cell h2')")
    assert "run=layer" in page.evaluate("location.hash")
    page.go_back()
    page.wait_for_selector("#cell h2")
    assert page.input_value("#run") == "relay"


@needs_browser
def test_the_map_prints_the_numbers_of_the_figure(open_page, tmp_path):
    data = maker.dataset()
    near = [0.4546, 0.4549, 0.7049, 0.7051, 0.24951, 0.0]  # 0.05 is the unpatched run's
    data["clean_probability"].loc[{"arm": "own"}] = 0.05 + np.reshape(near, (3, 2))
    data["clean_probability"].loc[{"arm": "control"}] = 0.0
    report = maker.report_of({POSITION: data})
    write_page(tmp_path / "report.html", report)
    page = open_page(tmp_path / "report.html")
    shown = [text.strip() for text in page.locator("#map td button").all_inner_texts()]
    drawn = [text.get_text() for text in first_figure(report, POSITION).axes[0].texts]
    assert sorted(filter(None, shown)) == sorted(drawn)
    assert "0.45" in drawn


@needs_browser
def test_a_narrow_page_shows_p_and_whole_menus(open_page, page_file):
    page = open_page(page_file, 390, 844)
    assert page.locator(".questions .narrow").first.is_visible()
    assert "n 10" in page.locator(".questions .narrow").first.inner_text()
    fits = "e => e.scrollWidth <= e.clientWidth && e.getBoundingClientRect().right <= innerWidth"
    assert page.locator("#run").evaluate(fits)
    head = page.locator(".questions tr >> nth=0").bounding_box()
    assert head["height"] < 60
    wide = open_page(page_file)
    assert not wide.locator(".questions .narrow").first.is_visible()


@needs_browser
def test_it_can_be_used_with_the_keyboard(open_page, page_file):
    page = open_page(page_file)
    page.focus('#map [data-place="0"]')
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#cell h2")
    assert page.inner_text("#cell h2") == "layer 1, position 1"
    assert page.evaluate("document.activeElement.dataset.place") == "3"
    label = page.get_attribute('#map [data-place="3"]', "aria-label")
    assert label.startswith("layer 1, position 1: 0.")


@needs_browser
def test_questions_open_their_claims_and_links_their_folds(open_page, page_file):
    page = open_page(page_file)
    row = page.locator("tr.claims").first
    assert not row.is_visible()
    page.locator(".questions .opens").first.click()
    assert row.is_visible()
    page.click("text=methods >> nth=0")
    assert page.evaluate("document.getElementById('methods').open")
    for fold in ("pairs", "cells", "maps"):
        page.click(f"#{fold} summary")
        page.wait_for_selector(f"#all-{fold} table")


@needs_browser
def test_a_link_to_a_fold_draws_the_picture_too(open_page, page_file):
    page = open_page(page_file, anchor="#checks")
    assert page.evaluate("document.getElementById('checks').open")
    assert page.locator("#map button").count() == 6


@needs_browser
def test_hostile_ids_and_questions_are_text(open_page, tmp_path):
    run = replace(maker.run(), model=HOSTILE.replace("/", "|"))
    hostile = {"ids": HOSTILE, "text": f"{HOSTILE.replace('{}', '')} {{}} pears"}
    path = tmp_path / "report.html"
    write_page(path, maker.report_of({POSITION: maker.dataset(run, **hostile)}))
    page = open_page(path)
    page.click('#map [data-place="3"]')
    page.click("#cell .chips button >> nth=0")
    page.wait_for_selector("#pair h2")
    assert page.inner_text("#pair h2") == HOSTILE.replace("{}", "0")
    page.click("#pairs summary")
    assert page.locator("img").count() == 0
    page.reload()
    page.wait_for_selector("#pair h2")


@needs_browser
def test_a_run_without_steps_or_control_has_its_map(open_page, tmp_path):
    data = maker.dataset(control=False)
    data["num_steps"][:] = np.nan
    write_page(tmp_path / "report.html", maker.report_of({POSITION: data}))
    page = open_page(tmp_path / "report.html")
    page.click('#map [data-place="3"]')
    page.wait_for_selector("#cell .chips button")
    assert page.locator("#map button").count() == 6
