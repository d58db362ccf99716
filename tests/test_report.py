"""Reports, frames and the page say what is in the results."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import codi_patching as cp
from codi_patching.analysis.overview import implications, negative_cells, unlike_the_rest
from codi_patching.callbacks.page import mark_changes, write_page
from codi_patching.callbacks.report import replace_entry, title_of, write_report
from codi_patching.callbacks.templates import with_interval
from codi_patching.data.records import ResultsError
from codi_patching.data.results import read_results
from codi_patching.experiments.position import PositionPatching

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "docs" / "results"


def test_a_pair_unlike_the_rest():
    kl = np.ones((9, 2)) * np.arange(9)[:, None] / 100
    kl[4] = 5
    (found,) = unlike_the_rest(kl, [f"p{i}" for i in range(9)])
    assert (found.pair_id, found.value) == ("p4", 5.0)
    # means 0, .01, .02, .03, 5, .05, .06, .07, .08: quartiles .02 and .07, fence .07 + 3 × .05
    assert found.fence == pytest.approx(0.22)


def test_cells_of_negative_recovery():
    recovery = np.array([[-0.2, 0.1, -9.0], [-0.3, -0.1, -9.0], [np.nan, 0.1, -9.0]])
    structural = np.array([False, False, True])
    ((cell, mean, low, high),) = negative_cells(recovery, structural, 0)
    assert (cell, mean) == ((0,), pytest.approx(-0.25))
    assert low <= mean <= high < 0


def test_implications_by_hand():
    kl = np.zeros((4, 2, 2))
    kl[:, 1, 0] = [2, 2, 4, 4]
    said = implications(kl, kl > 3, np.zeros((2, 2), bool), "ab", "01", "position", 0)
    assert said[0].startswith("Layer b has the largest mean effect, 1.5 nats [")
    assert "the later half of the layers has 100% of the sum" in said[0]
    assert said[1].startswith("Mean KL over layers, nats, by position: 0: 1.5 [")
    assert said[2] == (
        "Patching layer b, position 0 changes the most probable token at 50% of the answers' "
        "tokens."
    )
    nothing = implications(kl * 0, kl > 9, np.zeros((2, 2), bool), "ab", "01", "position", 0)
    assert nothing == ["No cell has an effect beyond rounding: nothing can be said of where."]


def test_entries_are_replaced_in_place(tmp_path):
    path = tmp_path / "journal.md"
    for name, text in (("a", "one\n"), ("b", "two\n"), ("a", "three \\1\n")):
        replace_entry(path, name, text, "# Journal\n")
    assert path.read_text() == (
        "# Journal\n\n<!-- entry a -->\nthree \\1\n<!-- end of a -->\n"
        "\n<!-- entry b -->\ntwo\n<!-- end of b -->\n"
    )


@pytest.mark.parametrize("name", ["layer", "position", "iterative_cumulative", "iterative"])
def test_shipped_reports_are_what_the_shipped_results_say(tmp_path, name):
    """Written again from the results alone, byte for byte; so are their entries, in place."""
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    comparison = docs / "results" / "comparison" if name == "iterative" else None
    path = write_report(docs / "results" / name, docs, comparison)
    for written in (path, docs / "research_journal.md", docs / "DATA_INVENTORY.md"):
        shipped = ROOT / "docs" / written.relative_to(docs)
        assert written.read_text() == shipped.read_text()
    assert not read_results(docs / "results" / name).changed


def test_a_report_about_another_model_is_not_replaced(tmp_path):
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    path = docs / "experiments" / "10-30_llama_gsm8k_layer_patching.md"
    path.write_text(path.read_text().replace("7c548f5bcec7", "000000000000"))
    before = path.read_bytes()
    with pytest.raises(ResultsError, match="about another model or other data"):
        write_report(docs / "results" / "layer", docs)
    assert path.read_bytes() == before


def test_one_pair_has_no_interval_but_a_mean():
    assert with_interval({"mean": 0.25, "ci_low": math.nan, "ci_high": math.nan}) == "0.25"
    assert with_interval({"mean": 1.0, "ci_low": 0.5, "ci_high": 2}) == "1 [0.5, 2]"
    assert with_interval({"mean": None, "ci_low": None, "ci_high": None}) == "undefined"


def test_a_control_has_a_report_of_its_own(checkpoint, predict):
    results = predict(PositionPatching(checkpoint, source="random_pair", direction="noising"))
    assert title_of(results) == "10-30_llama_gsm8k_position_patching_noising_random_pair"


def test_links_of_reports_lead_somewhere():
    files = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    links = [(f, link) for f in files for link in re.findall(r"\]\(([^)#]+)\)", f.read_text())]
    assert len(links) > 20
    for file, link in links:
        assert link.startswith("http") or (file.parent / link).exists(), f"{file}: {link}"


def test_frames_are_the_results():
    frames, results = cp.load_results(SHIPPED / "position"), read_results(SHIPPED / "position")
    assert len(frames.cells) == 57 * 80
    for metric, values in results.values.items():
        np.testing.assert_array_equal(frames.cells[metric], values.reshape(-1))
        np.testing.assert_allclose(frames.grid(metric), np.nanmean(values, axis=0), rtol=1e-12)
    assert list(frames.grid().index) == [str(layer) for layer in range(16)]
    assert (
        frames.pairs.loc["pair_00", "patched_answer"]
        == results.baseline["pair_00"]["patched_answer"]
    )
    top = frames.aggregate.query("metric == 'kl_divergence'").nlargest(1, "mean").iloc[0]
    assert (top.layer, top.position) == ("15", "3")
    layer = cp.load_results(SHIPPED / "layer")
    assert layer.grid().shape == (16, 1)


def test_frames_of_changed_files_warn(tmp_path):
    shutil.copytree(SHIPPED / "layer", tmp_path / "layer")
    path = tmp_path / "layer" / "results.csv"
    path.write_text(path.read_text().replace("0.1", "0.2", 1))
    with pytest.warns(UserWarning, match=r"results.csv in .* changed since"):
        cp.load_results(tmp_path / "layer")


@pytest.mark.slow
def test_the_example_runs():
    run = [sys.executable, ROOT / "docs" / "example.py"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("codi-tiny 57 pairs")
    assert "KL 1" in done.stdout


def test_the_changed_number_is_marked():
    giving, patched = mark_changes("She has 1,430 pens.", "She has 7 pens, or 8.")
    assert giving == [("She has ", False), ("1,430", True), (" pens", False), (".", False)]
    assert [text for text, changed in patched if changed] == ["7", ", or 8"]
    assert "".join(text for text, _ in patched) == "She has 7 pens, or 8."


CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture
def open_page():
    """Opens pages in a real browser, without a network; no test may leave an error in one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1250, "height": 900})
        problems, requests = [], []
        page.on(
            "console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else 0
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))

        def open_page(path):
            page.goto(path.as_uri())
            return page

        yield open_page
        browser.close()
    assert problems == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)


def hover(page, plot, column, layer):
    """Move the mouse to a cell; what the page shows there."""
    page.locator(f"#{plot}").scroll_into_view_if_needed()
    x, y = page.evaluate(
        """([plot, column, layer]) => {
            const gd = document.getElementById(plot), size = gd._fullLayout._size;
            const box = gd.getBoundingClientRect(), axes = gd._fullLayout;
            return [box.left + size.l + axes.xaxis.c2p(axes.xaxis.d2c(column)),
                    box.top + size.t + axes.yaxis.c2p(axes.yaxis.d2c(layer))];
        }""",
        [plot, column, layer],
    )
    page.mouse.move(x - 3, y - 2)
    page.mouse.move(x, y)
    return page.locator(f"#{plot} .hoverlayer .hovertext").text_content()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_in_a_browser(open_page):
    page = open_page(SHIPPED / "comparison" / "report.html")
    results = json.loads((SHIPPED / "position" / "position_patching_results.json").read_text())
    aggregate = json.loads((SHIPPED / "position" / "aggregate.json").read_text())
    mean = aggregate["metrics"]["kl_divergence"]["15"]["3"]["mean"]
    shown = hover(page, "map-1", "3", "15")
    assert "layer 15, position 3" in shown
    assert float(re.search(r"kl_divergence (\S+?)(?=[a-z\n]|$)", shown)[1]) == pytest.approx(
        mean, rel=1e-5
    )
    pair_id = "pair_17"
    page.select_option("#pair", pair_id)
    assert page.locator("#giving-answer").inner_text() == "51"
    baseline = results["baseline"][pair_id]
    assert page.locator("#patched").inner_text() == baseline["patched_question"].replace("  ", " ")
    marked = page.locator("#patched mark").all_inner_texts()
    assert (marked, page.locator("#giving mark").all_inner_texts()) == (["5"], ["8"])
    shown = hover(page, "pair-map", "3", "12")
    value = results["results"][pair_id]["12"]["3"]["kl_divergence"]
    assert float(re.search(r"kl_divergence (\S+?)(?=[a-z\n]|$)", shown)[1]) == pytest.approx(
        value, rel=1e-5
    )
    page.select_option("#metric-1", "recovery")
    assert "mean recovery over pairs" in page.locator("#map-1 .gtitle").text_content()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("name", ["layer", "iterative"])
def test_the_page_of_one_run_and_a_question_that_would_break_it(open_page, tmp_path, name):
    results = read_results(SHIPPED / name)
    odd = "<!-- <script> 3 </script> & <b>pens</b>"
    results.baseline["pair_00"]["patched_question"] = odd
    write_page(tmp_path / "report.html", {name: results}, [])
    page = open_page(tmp_path / "report.html")
    assert page.locator("#patched").inner_text() == odd
    assert "layer 3" in hover(
        page, "map-0", results.metadata["grid"]["positions"][0] if name != "layer" else "all", "3"
    )
