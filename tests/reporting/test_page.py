"""The page in a real browser, without a network: nothing fails, everything fits a phone."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from findings_maker import FINDINGS, WHERE, MadeClaim
from lens_maker import make_lens
from results_maker import make, run_of

from codi_patching.analysis.validity import check_run
from codi_patching.reporting.page import write_page
from codi_patching.reporting.page_data import mark_changes

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
SHOWN = "id => document.getElementById(id).data[0].z"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS.split()
        )
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Opens a page; no test may leave an error in it, or ask for anything from outside."""
    problems, requests, pages = [], [], []

    def open_page(path, width=1250):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on(
            "console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else 0
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri(), timeout=120_000)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert problems == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)


@pytest.fixture(scope="module")
def arms():
    foxes = {"unknown_words": ("<b>foxes</b>",)}
    return {
        "position": make(run_of(), planted={(2, 1): 0.4}, one_pair=foxes),
        "relay": make(run_of("iterative"), planted={(2, 0): 0.2, (2, 1): 0.4}),
        "cumulative": make(run_of("iterative", strategy="cumulative"), planted={(2, 2): 0.4}),
    }


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, arms):
    path = tmp_path_factory.mktemp("page") / "report.html"
    checks = {label: check_run(results) for label, results in arms.items()}
    write_page(path, arms, checks, (replace(WHERE, arms=("position",)), *FINDINGS[1:]))
    return path


def test_it_opens_on_the_findings_and_the_map_of_content(open_page, page_file, arms):
    page = open_page(page_file)
    text = page.inner_text("body")
    assert text.index("What was found") < text.index("Which positions and layers carry") < 700
    assert text.index("Content effect") < text.index("One pair")
    assert "0.38 probability [0.30, 0.45], p = 0.0002, n = 24 pairs, threshold 0.10" in text
    assert page.inner_text(".finding code") == "layer 2, position 1"
    assert page.inner_text("summary >> nth=1") == "1 more that these runs cannot answer"
    shown = np.array(page.evaluate(SHOWN, "content-0"), dtype=float)
    assert np.unravel_index(np.nanargmax(shown), shown.shape) == (2, 1)
    assert np.isnan(shown[3, 2])
    frames = page.evaluate(
        "document.getElementById('content-0').layout.shapes.map(s => [s.y0, s.x0])"
    )
    assert frames == [[1.56, 0.54]]
    assert page.evaluate("document.getElementById('content-1').layout.shapes.length") == 0
    assert "KL(patched ‖ unpatched)" in text
    assert "unpatched to the patched" not in text


def test_measures_pairs_and_runs_can_be_chosen(open_page, page_file, arms):
    page = open_page(page_file)
    page.select_option("#measure-0", "control_clean_probability")
    shown = np.array(page.evaluate(SHOWN, "map-0"), dtype=float)
    mean = arms["position"].control["clean_probability"].mean(0)
    np.testing.assert_allclose(shown[:3], mean[:3], rtol=1e-4)
    assert page.inner_text("#unknown") == "Words that the model does not know: <b>foxes</b>"
    page.select_option("#pair", "pair_02")
    page.select_option("#arm", "1")
    assert page.inner_text("#source mark") == "27"
    assert page.inner_text("#base-answer") == "5"
    assert page.inner_text("#control-head") == "Control, a sibling (answer 52)"
    assert page.inner_text("#runs").splitlines()[1].startswith("base run\t0.02")
    kl = np.array(page.evaluate(SHOWN, "pair-kl"), dtype=float)
    expected = arms["relay"].values["kl_divergence"][2]
    np.testing.assert_allclose(kl[:3], expected[:3], rtol=1e-4)
    limits = page.evaluate(
        "['pair-content', 'pair-kl'].map(i => document.getElementById(i).data[0].zmax)"
    )
    assert limits[0] == 1
    largest = arms["relay"].values["kl_divergence"].max((1, 2))
    assert limits[1] == pytest.approx(np.percentile(largest, 95))
    assert len(page.evaluate("document.getElementById('chain-kl-1').data[0].y")) == 4
    assert len(page.evaluate("document.getElementById('by-layer').data")) == 2


def test_it_fits_a_phone(open_page, page_file):
    page = open_page(page_file, width=390)
    page.wait_for_selector("#pair-kl .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for plot in page.query_selector_all(".plot"):
        box = plot.bounding_box()
        assert box is None or box["x"] + box["width"] <= 390


def test_a_page_of_one_run_without_findings_or_control(open_page, tmp_path):
    results = make(run_of("layer", control="none"), pairs=1)
    write_page(tmp_path / "one.html", {"layer": results}, {"layer": check_run(results)})
    page = open_page(tmp_path / "one.html")
    text = page.inner_text("body")
    assert "No question was tested here" in text
    assert "No control was run" in text
    assert page.inner_text("#control-head") == "This pair has no control."
    assert not page.is_visible("#pair-control")
    data = re.search(r"^const data = (.*);$", (tmp_path / "one.html").read_text(), re.MULTILINE)
    assert json.loads(data.group(1))["byLayer"] == []


@pytest.fixture(scope="module")
def lens_page(tmp_path_factory, arms):
    path = tmp_path_factory.mktemp("lens") / "report.html"
    checks = {label: check_run(results) for label, results in arms.items()}
    lens = make_lens(planted={(0, 0, 0): 0.25, (1, 2, 1): 0.75}, chance={(1, 2, 1): 0.5})
    kind, cell = "step 2 minus another pair's", {"layer": "2", "column": "1"}
    reading = MadeClaim("step 2 at layer 2, position 1", "yes", 0.25, kind=kind, **cell)
    found = replace(WHERE, claims=(reading,), arms=("position", "the lens"))
    write_page(path, arms, checks, (found, replace(WHERE, arms=("position",))), "", lens)
    return path


def test_the_lens_stands_beside_the_patching_map(open_page, lens_page):
    page = open_page(lens_page)
    text = page.inner_text("body")
    assert text.index("What each thought says") < text.index("position patching, recomputed")
    assert "among the 5 most probable tokens" in text
    assert page.inner_text("#lens-step").splitlines() == ["step 1 (24 pairs)", "step 2 (24 pairs)"]
    assert page.evaluate(SHOWN, "lens-own")[0][0] == 0.25
    page.select_option("#lens-step", "1")
    assert page.evaluate(SHOWN, "lens-own")[2][1] == 0.75
    assert page.evaluate(SHOWN, "lens-chance")[2][1] == 0.5
    frames = "id => document.getElementById(id).layout.shapes.map(s => [s.y0, s.x0])"
    assert page.evaluate(frames, "lens-own") == [[1.56, 0.54]]
    assert page.evaluate(frames, "lens-content") == [[1.56, 0.54]]
    assert page.inner_text("#lens-arm") == "position"
    np.testing.assert_array_equal(
        page.evaluate(SHOWN, "lens-content"), page.evaluate(SHOWN, "content-0")
    )
    boxes = [page.query_selector(f"#lens-{n}").bounding_box() for n in ("own", "chance", "content")]
    assert len({round(box["y"]) for box in boxes}) == 1  # side by side


def test_the_lens_fits_a_phone(open_page, lens_page):
    page = open_page(lens_page, width=400)
    page.wait_for_selector("#lens-content .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for name in ("own", "chance", "content"):
        box = page.query_selector(f"#lens-{name}").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
        assert box["height"] > 300


def test_the_changed_number_is_marked():
    source, base = mark_changes("She has 1,430 pens.", "She has 7 pens, or 8.")
    assert source == [("She has ", False), ("1,430", True), (" pens", False), (".", False)]
    assert [text for text, changed in base if changed] == ["7", ", or 8"]
    assert "".join(text for text, _ in base) == "She has 7 pens, or 8."
