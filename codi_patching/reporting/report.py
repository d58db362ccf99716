"""What a run found, for people to read, from its folder alone.

    <docs>/experiments/<name>.md     methods, results, figures, errors, validity, limits
    <docs>/research_journal.md       an entry: TLDR, top findings, links
    <docs>/DATA_INVENTORY.md         an entry: each file, its structure, how to load it

Whatever the templates in `assets/templates` say is computed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codi_patching.analysis.checks import count_checks
from codi_patching.analysis.intervals import ROUNDING
from codi_patching.analysis.outliers import negative_cells, outlier_pairs
from codi_patching.analysis.summary import LEAST_CONTENT, aggregate
from codi_patching.analysis.validity import check_run, unknown_words
from codi_patching.reporting.entries import replace_entry
from codi_patching.reporting.evidence import FindingLike
from codi_patching.reporting.figures import CAPTIONS
from codi_patching.reporting.names import counted, data_name, kind, model_name, run_name, title
from codi_patching.reporting.templates import environment
from codi_patching.reporting.wording import VERDICTS, limits, methods
from codi_patching.results.files import text_file
from codi_patching.results.layout import get_cell
from codi_patching.results.read import Results, entries, read_results, results_file
from codi_patching.results.schema import ResultsError, RunDescription

JOURNAL, INVENTORY = "research_journal.md", "DATA_INVENTORY.md"

_HEADINGS = {
    JOURNAL: "# Research journal\n\nAn entry for each experiment.\n",
    INVENTORY: "# Data inventory\n\nThe files of each experiment.\n",
}
_FILES = {
    "results.csv": "every metric of every pair and cell, own and control, a row each",
    "aggregate.json": "mean, deviation, 95 % interval over pairs of each cell; the top cells",
    "paired_tests.csv": "t-test and Wilcoxon's signed-rank test of each cell, uncorrected; no "
    "sentence rests on them",
    "validity.json": "each check: expected, seen, status",
    "findings.json": "questions, verdicts, and the claims that they rest on",
    "activations.safetensors": "for each pair what its iterations generated, "
    "(layers, iterations − 1, hidden)",
    "SHA256SUMS": "of the measured files, for `sha256sum --check`",
    "report.html": "one page with all of it, for a browser",
    "pairs": "KL of single pairs, twenty a sheet",
}


def write_report(
    folder: Path, docs: Path, findings: Sequence[FindingLike] = (), name: str | None = None
) -> Path:
    """Write or replace the report of a results folder, and its entries.

    Args:
        folder: The results, with what is derived from them.
        docs: Where reports, journal and inventory are.
        findings: That the run takes part in.
        name: Of the report; by model, data and experiment if not given.

    Returns:
        The report.

    Raises:
        ResultsError: There is a report of that name about another model or other data.
    """
    results = read_results(folder)
    name = name or run_name(results.run)
    described = describe(results, folder, docs, findings, name)
    path = docs / "experiments" / f"{name}.md"
    _refuse_other(path, results.run)
    path.parent.mkdir(parents=True, exist_ok=True)
    templates = environment()
    with text_file(path) as file:
        file.write(templates.get_template("report.md.j2").render(described))
    for file_name, template in ((JOURNAL, "journal.md.j2"), (INVENTORY, "inventory.md.j2")):
        text = templates.get_template(template).render(described)
        replace_entry(docs / file_name, name, text.strip() + "\n", _HEADINGS[file_name])
    return path


PROTOCOL = "<!-- protocol"
"""Start of a page that says how a run will be made; the run's report replaces it."""


def _refuse_other(path: Path, run: RunDescription) -> None:
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    of_this = all(sha[:12] in known for sha in (run.checkpoint_sha256, run.data_sha256))
    if known and not of_this and not known.startswith(PROTOCOL):
        raise ResultsError(
            f"{path} is about another model or other data: set --report.docs to another folder"
        )


def describe(
    results: Results, folder: Path, docs: Path, findings: Sequence[FindingLike], name: str
) -> dict[str, Any]:
    """All that the templates name."""
    run, summary, checks = results.run, aggregate(results), check_run(results)
    beside = docs / "experiments"
    measured = results_file(folder).name
    return {
        "name": name,
        "title": title(run),
        "run": run,
        "model": model_name(run),
        "data": data_name(run),
        "pairs": len(results.pair_ids),
        "num_layers": sum(layer != "thought" for layer in run.grid.layers),
        "methods": methods(results),
        "settings": _settings(results),
        "tldr": _tldr(results, summary),
        "summary": summary,
        "controlled": bool(results.control),
        "findings": findings,
        "verdicts": VERDICTS,
        "figures": _figure_links(folder, beside),
        "outliers": _outliers(results),
        "negative": negative_cells(results),
        "free": int((~results.structural).sum()),
        "undefined": int(np.isnan(results.values["recovery"]).all(axis=(1, 2)).sum()),
        "unknown": unknown_words(results),
        "checks": checks,
        "counts": count_checks(checks),
        "failed": [check for check in checks if check.status == "fail"],
        "limits": limits(results),
        "folder": os.path.relpath(folder, beside),
        "data_folder": os.path.relpath(folder, docs),
        "root": f"{docs.name}/" if docs.name else "",
        "files": _list_files(folder, measured),
        "results_file": measured,
        "example": _example(folder / measured, run),
    }


def _figure_links(folder: Path, beside: Path) -> list[tuple[str, str]]:
    """Captions of the figures that a folder has, and the way to them from a report's folder."""
    paths = [(caption, folder / f"{figure}.png") for figure, caption in CAPTIONS.items()]
    return [(caption, os.path.relpath(path, beside)) for caption, path in paths if path.exists()]


def _list_files(folder: Path, measured: str) -> list[tuple[str, str]]:
    """The files that a folder has, each with what it is."""
    listed = [(measured, "the measurements: run, unpatched runs, each metric of each cell")]
    listed += [(file, what) for file, what in _FILES.items() if _is_there(folder / file)]
    traces = [(path.name, "every patch of one pair") for path in folder.glob("trace_*.csv")]
    drawn = [(f"{name}.png", what) for name, what in CAPTIONS.items()]
    return listed + sorted(traces) + [entry for entry in drawn if (folder / entry[0]).exists()]


def _is_there(path: Path) -> bool:
    """Whether there is such a file, or a folder with something in it."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _settings(results: Results) -> list[tuple[str, Any]]:
    run = results.run
    runs = len(results.pair_ids) * (run.grid.size + 1)
    rows: list[tuple[str, Any]] = [("experiment", kind(run))]
    keys = ("site", "latents", "direction", "source", "seed", "precision")
    rows += [(key, getattr(run, key)) for key in keys]
    rows += [("control, as asked for", run.control)]
    rows += [
        ("grid", f"{run.grid.shape[0]} layers × {counted(run.grid.shape[1], run.grid.column)}"),
        ("cells that cannot have an effect", len(run.grid.structural_zeros)),
        ("patched runs", f"{runs * (2 if results.control else 1):,}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in run.versions.items())),
        ("code", f"codi_patching {run.code.version}, sources {run.code.sha256[:12]}…"),
    ]
    return rows


def _tldr(results: Results, summary: dict[str, Any]) -> str:
    """The two leading cells, each by its own measure: estimates, which nothing has tested."""
    said = f"{title(results.run)}, {counted(len(results.pair_ids), 'pair')}. "
    content = summary["top_content"][:1]
    if content:
        cells = counted(int((~results.structural).sum()), "cell")
        said += (
            f"Of {cells} the largest estimate of the content effect, the rise of the probability "
            f"of the source run's answer, is {content[0]['content_effect']:.3f}, at "
            f"{content[0]['name']}"
        )
        said += " (the smaller of two comparisons)" if results.control else ""
        said += "; as the largest of many it is biased upwards, and nothing tests it here. "
    else:
        said += (
            "No cell raises the probability of the source run's answer by "
            f"{LEAST_CONTENT:g} or more. "
        )
    if summary["top_cells"]:
        top = summary["top_cells"][0]
        kl = top["kl_divergence"]
        said += (
            f"The largest mean KL is at {top['name']}: its median over pairs is {kl['median']:.3g}"
        )
        if not math.isnan(kl["median_low"]):
            said += f" [{kl['median_low']:.3g}, {kl['median_high']:.3g}]"
        said += (
            f" nats, and the five largest pairs have {kl['share_of_5_largest']:.0%} of the mean."
        )
    else:
        said += f"No cell has a mean KL beyond rounding ({ROUNDING:g} nats)."
    return said


def _outliers(results: Results) -> list[dict[str, Any]]:
    by_id = dict(zip(results.pair_ids, results.pairs))
    return [
        {
            "pair_id": outlier.pair_id,
            "value": outlier.value,
            "fence": outlier.fence,
            "source": by_id[outlier.pair_id].source_answer,
            "base": by_id[outlier.pair_id].base_answer,
        }
        for outlier in outlier_pairs(results)[:8]
    ]


def _example(path: Path, run: RunDescription) -> str:
    """The file's shape: some metadata, one pair, one cell."""
    (_, baseline), (pair_id, cells) = (next(entries(path, k)) for k in ("baseline", "results"))
    layer, column = run.grid.layers[0], run.grid.columns[0]
    cell = get_cell(cells, run.grid, layer, column)
    at_layer = cell if run.grid.whole_layers else {column: cell, "…": "…"}
    shown = {
        "metadata": {"experiment": run.experiment, "latents": run.latents, "…": "…"},
        "baseline": {pair_id: baseline, "…": "…"},
        "results": {pair_id: {layer: at_layer, "…": "…"}, "…": "…"},
    }
    return json.dumps(shown, indent=1, ensure_ascii=False)
