"""Pictures of cells and bars in a notebook: each number, name and colour at its place."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from codi_patching.reporting.notebook import INK, bars_svg, cells_svg, colour, framed


def parts(svg, tag):
    return ET.fromstring(svg).findall(f".//{{*}}{tag}")


def texts(svg):
    return {
        (float(node.get("x")), float(node.get("y"))): node.text for node in parts(svg, "text")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.5, "#789dc4"), (2.0, "#084a91"), (-2.0, "#b4460a"), (-0.5, "#ce9b81")],
)
def test_colours_go_from_pale_to_dark_or_orange(share, shown):
    assert colour(share) == shown


def test_a_map_has_the_first_layer_at_the_bottom_and_its_names_at_their_cells():
    values = np.array([[0.1, 0.2, 0.3], [-0.4, np.nan, 0.15]])
    zeros = np.array([[False, False, True], [False, False, False]])
    svg = cells_svg(values, ["thought", 0], "abc", title="mean", zeros=zeros)
    rects = parts(svg, "rect")
    said = [rect.find("{*}title").text for rect in rects]
    assert said == [
        "0, a: -0.40", "0, b: –", "0, c: 0.15", "thought, a: 0.10", "thought, b: 0.20",
        "thought, c: 0.30",
    ]  # fmt: skip
    filled = [rect.get("fill") for rect in rects]
    assert filled == [colour(v) for v in (-1.0, np.nan, 0.375, 0.25, 0.5, 0.75)]
    assert [float(rect.get("x")) for rect in rects] == [46, 68, 90] * 2
    assert [float(rect.get("y")) for rect in rects] == [18] * 3 + [33] * 3
    shown = texts(svg)
    assert shown[2, 11] == "mean, to 0.40"
    assert [shown[42, 30], shown[42, 45]] == ["0", "thought"]
    assert [shown[x, 59] for x in (42, 57, 79, 101)] == ["position", "a", "b", "c"]
    assert shown[101, 44] == "–"
    assert list(shown.values()).count("–") == 1


def test_texts_of_cells_are_short_and_white_on_dark():
    values = np.array([[1.0, 0.5], [0.2, -0.6]])
    words = [["seventeen", "x"], ["<y>", "z"]]
    svg = cells_svg(values, "01", "01", title="t", texts=words, zeros=np.ones((2, 2), dtype=bool))
    inks = {node.text: node.get("fill") for node in parts(svg, "text")}
    assert (inks["sevente"], inks["z"]) == ("#ffffff", "#ffffff")
    assert (inks["x"], inks["<y>"]) == (INK, INK)
    assert "–" not in inks
    hostile = cells_svg(values, ["<b>", "&"], ["</title>", "'"], title="<i>")
    assert parts(hostile, "rect")[3].find("{*}title").text == "<b>, ': 0.50"


@pytest.mark.parametrize(("layers", "kept"), [(24, 24), (25, 13), (49, 17)])
def test_many_layers_are_thinned(layers, kept):
    svg = cells_svg(np.zeros((layers, 1)), range(layers), "0", title="t")
    assert len(parts(svg, "rect")) == kept
    assert parts(svg, "rect")[-1].find("{*}title").text.startswith("0, ")
    heights = {int(rect.get("height")) for rect in parts(svg, "rect")}
    assert heights == {10}


def test_bars_are_as_long_as_their_shares():
    svg = bars_svg({"one": {"base": 0.25, "own": 1.5}, "two": {"base": float("nan"), "own": -0.5}})
    widths = [float(rect.get("width")) for rect in parts(svg, "rect")]
    assert widths == [120, 30, 120, 120, 120, 0, 120, 0]
    said = [node.text for node in parts(svg, "text")]
    assert said == ["one", "base", "0.25", "own", "1.50", "two", "base", "–", "own", "-0.50"]
    places = [float(rect.get("y")) for rect in parts(svg, "rect")[::2]]
    assert places == [17, 32, 65, 80]


def test_a_frame_has_facts_where_there_are_any():
    assert framed("a<b", {}, []) == "<div><b>a&lt;b</b><div></div></div>"
    shown = framed("t", {"k": "<v>"}, ["PICTURE", "OTHER"])
    assert "<th style='text-align:left'>k</th><td style='text-align:left'>&lt;v&gt;</td>" in shown
    assert shown.index("PICTURE") < shown.index("OTHER")
