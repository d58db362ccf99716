"""One page to look at, without a network: findings, maps, every pair, validity.

Drawn in the browser by plotly.js, which is inside the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from codi_patching.analysis.checks import Check, count_checks
from codi_patching.reporting.evidence import FindingLike, is_open
from codi_patching.reporting.names import counted, data_name, model_name, title
from codi_patching.reporting.page_data import PAIRS, arm_data, by_layer_data, pair_data
from codi_patching.reporting.page_lens import lens_data
from codi_patching.reporting.templates import FOLDER, environment
from codi_patching.results.files import plain, text_file
from codi_patching.results.lens import LensResults
from codi_patching.results.read import Results

PAGE = "report.html"


def write_page(
    path: Path,
    arms: Mapping[str, Results],
    checks: Mapping[str, Sequence[Check]],
    findings: Sequence[FindingLike] = (),
    heading: str = "",
    lens: LensResults | None = None,
) -> None:
    """Write the page.

    Args:
        path: Of the page.
        arms: Results by label, the first of which names the pairs.
        checks: Of validity, by what they are of.
        findings: What the page opens on.
        heading: Title of the page; that of the first arm if not given.
        lens: What the lens read of the same pairs, if it was run.
    """
    first = next(iter(arms.values()))
    pairs = pair_data(first)
    read = None if lens is None else lens_data(lens, arms, findings)
    data = {
        "arms": [arm_data(label, r, findings, len(arms) == 1) for label, r in arms.items()],
        "pairs": pairs,
        "byLayer": by_layer_data(arms) if len(arms) > 1 else [],
        "lens": read,
    }
    text = environment().get_template("page.html.j2").render(
        title=heading or title(first.run),
        head=_head(first, len(arms)),
        style=_asset("page.css"),
        plotly=_plotly(),
        script=_asset("page.js"),
        arms=data["arms"],
        by_layer=bool(data["byLayer"]),
        lens=read,
        controlled=bool(first.control),
        pairs=len(pairs),
        left_out=max(0, len(first.pair_ids) - PAIRS),
        answered=[f for f in findings if not is_open(f)],
        open_questions=[f for f in findings if is_open(f)],
        checks=[(name, check) for name, own in checks.items() for check in own],
        counts=count_checks([check for own in checks.values() for check in own]),
        data=Markup(json.dumps(plain(data), ensure_ascii=False).replace("<", "\\u003c")),
    )  # fmt: skip
    with text_file(path) as file:
        file.write(text)


def _plotly() -> Markup:
    """The library that draws."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())


def _asset(name: str) -> Markup:
    """A file that goes into the page as it is."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def _head(results: Results, arms: int) -> str:
    """What the page is about, in a sentence or two."""
    run = results.run
    base, source = ("corrupted", "clean") if run.clean_is_source else ("clean", "corrupted")
    given = f"those of the {source} question" if run.source == "clean" else f"source {run.source}"
    runs = f" {arms} runs." if arms > 1 else ""
    return (
        f"{counted(len(results.pair_ids), 'pair')} from {data_name(run)}; model "
        f"{model_name(run)}, weights {run.checkpoint_sha256[:12]}….{runs} Activations in the run "
        f"of the {base} question are overwritten by {given}."
    )
