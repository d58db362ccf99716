"""One page to look at, without a network: the answer, the picture, the table, then the rest.

The script of the page draws the picture from data that stand inside the page; nothing is fetched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import xarray as xr
from markupsafe import Markup

from codi_patching.analysis.checks import count_checks
from codi_patching.analysis.report import Report
from codi_patching.reporting.claims_in_words import heading
from codi_patching.reporting.methods import limits, methods
from codi_patching.reporting.names import counted, data_name
from codi_patching.reporting.page_data import PAIRS, page_data
from codi_patching.reporting.rows import more_rows, once, table_rows
from codi_patching.reporting.sentences import headline
from codi_patching.reporting.templates import FOLDER, environment
from codi_patching.results.dataset import run_of
from codi_patching.results.files import plain, text_file


def write_page(path: Path, report: Report) -> None:
    """Write the page of a report, of one run or of several."""
    with text_file(path) as file:
        file.write(page_text(report))


def page_text(report: Report) -> str:
    """The page of a report as HTML."""
    runs = report.datasets
    first = next(iter(runs.values()))
    checks = [(name, check) for name, own in report.checks.items() for check in own]
    return environment().get_template("page.html.j2").render(
        title=heading(report),
        facts=_facts(first, len(runs)),
        counts=count_checks([check for _, check in checks]),
        failing=sum(check.status == "fail" for _, check in checks),
        not_made=sum(check.status == "not made" for _, check in checks),
        answer=headline(report),
        rows=table_rows(report),
        more=more_rows(report),
        once=once(report),
        checks=checks,
        methods={label: methods(data) for label, data in runs.items()},
        limits=list(dict.fromkeys(said for data in runs.values() for said in limits(data))),
        runs={label: _made_with(data) for label, data in runs.items()},
        left_out=max(0, first.sizes["pair"] - PAIRS),
        style=_asset("page.css"),
        script=_asset("page.js"),
        data=script_json(page_data(report)),
    )  # fmt: skip


def script_json(content: Any) -> Markup:
    """Plain data as JSON that may stand inside a script: nothing in it ends the script."""
    text = json.dumps(plain(content), ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _asset(name: str) -> Markup:
    """A file of ours that goes into the page as it is."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def _facts(data: xr.Dataset, runs: int) -> list[str]:
    said = [counted(data.sizes["pair"], "pair")]
    return said if runs == 1 else [*said, counted(runs, "run")]


def _made_with(data: xr.Dataset) -> list[tuple[str, str]]:
    """With what a run was made, and where its files are."""
    run = run_of(data)
    folder = data.attrs.get("folder")
    return [
        *([("folder", Path(folder).name)] if folder else []),
        ("weights", run.checkpoint_sha256[:12]),
        ("pairs", f"{data_name(run)}, {run.data_sha256[:12]}"),
        ("code", f"{run.code.version}, {run.code.sha256[:12]}"),
        ("seed", str(run.seed)),
        ("precision", run.precision),
    ]
