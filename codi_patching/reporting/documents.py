"""What was found, as Markdown: a report, and its entries in journal and inventory.

<docs>/experiments/<name>.md     answer, picture, table; then claims, methods, checks, limits
<docs>/research_journal.md       an entry: the answer, a line for each question, links
<docs>/DATA_INVENTORY.md         an entry: each file, its structure, how to load it
<comparison>/comparison.md       the report of several runs together, beside their figures
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import xarray as xr

from codi_patching.analysis.checks import count_checks
from codi_patching.analysis.report import Report
from codi_patching.reporting.claims_in_words import heading
from codi_patching.reporting.entries import replace_entry, text_of
from codi_patching.reporting.methods import limits, methods
from codi_patching.reporting.names import counted, data_name, kind, model_name, run_name
from codi_patching.reporting.rows import more_rows, once, table_rows
from codi_patching.reporting.sentences import headline
from codi_patching.reporting.templates import environment
from codi_patching.results.dataset import (
    ATTENTION,
    KNOCKOUT,
    has_control,
    is_knockout,
    pairs_of,
    patches,
    run_of,
)
from codi_patching.results.description import ResultsError, RunDescription
from codi_patching.results.files import text_file
from codi_patching.results.layout import FIGURES, LENS_RESULTS, derived_files, results_file
from codi_patching.results.pair_descriptions import PairDescription
from codi_patching.results.read import cell_of, entries

JOURNAL, INVENTORY = "research_journal.md", "DATA_INVENTORY.md"
COMPARISON = "comparison.md"

PROTOCOL = "<!-- protocol"
"""Start of a page that says how a run will be made; the run's report replaces it."""

_HEADINGS = {
    JOURNAL: "# Research journal\n\nAn entry for each experiment.\n",
    INVENTORY: "# Data inventory\n\nThe files of each experiment.\n",
}
CAPTIONS = {
    "content": "where the content is, and what each thought carries",
    "carried": "what each thought carries, by layer",
    "effects": "where patches disrupt: mean KL to the unpatched run",
    "recovery": "mean recovery, the normalised logit difference",
    "trajectories": "effects along the chain, a line for each layer",
    "trajectories_cosine": "generated activations against the clean and the corrupted run's",
    "lens_hit_rates": "how often each step's result is read, beside chance",
    "knockout": "what the answer loses where an edge of attention is cut",
    "attention": "where the token before the answer looks, beside where patching acts",
    "attention_heads": "which heads of that token look at which thought",
    "by_layer": "whole layers, each run",
    "decomposition": "direct, mediated and total effect by layer",
    "lens_and_patching": "what is read, beside where patching acts",
}
"""Of figures, by the beginning of their file's name."""

_FILES = {
    "results.csv": "every metric of every pair and cell, own and control, a row each",
    "aggregate.json": "mean, deviation, 95 % interval over pairs of each cell; the top cells",
    "paired_tests.csv": "t-test and Wilcoxon's signed-rank test of each cell, uncorrected; no "
    "sentence rests on them",
    "validity.json": "each check: expected, seen, status",
    "findings.json": "questions, answers, and the claims that they rest on",
    "activations.safetensors": "for each pair what its iterations generated, "
    "(layers, iterations − 1, hidden); of attention the share of every head, "
    "(readers, layers, heads, attended)",
    "SHA256SUMS": "of the measured files, for `sha256sum --check`",
    "report.html": "one page with all of it, for a browser",
    "tables": "the report's tables as CSV and LaTeX",
    "pairs": "effects of single pairs, by stratum",
}


def write_documents(report: Report, folder: Path, docs: Path, name: str | None = None) -> Path:
    """Write or replace the report of a results folder, and its entries.

    Args:
        report: Of the folder.
        folder: The results, with what is derived from them.
        docs: Where reports, journal and inventory are.
        name: Of the report; by model, data and experiment if not given.

    Returns:
        The report's path.

    Raises:
        ResultsError: There is a report of that name about another model or other data.
    """
    data = _first(report)
    run = run_of(data)
    name = name or run_name(run)
    path = docs / "experiments" / f"{name}.md"
    _refuse_other(path, run)
    described = {
        **_described(report, path.parent, folder),
        **_inventory(data, folder),
        "name": name,
        "data_folder": os.path.relpath(folder, docs),
        "root": f"{docs.name}/" if docs.name else "",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _render("report.md.j2", path, described)
    for file_name, template in ((JOURNAL, "journal.md.j2"), (INVENTORY, "inventory.md.j2")):
        text = environment().get_template(template).render(described)
        replace_entry(docs / file_name, name, text.strip() + "\n", _HEADINGS[file_name])
    return path


def write_comparison_document(report: Report, folder: Path) -> Path:
    """Write `comparison.md`, with the figures that the folder has."""
    described = _described(report, folder, folder)
    runs = counted(len(report.datasets), "run")
    described |= {"title": f"{runs} of {heading(report)}", "folder": "", "settings": []}
    _render("report.md.j2", folder / COMPARISON, described)
    return folder / COMPARISON


def _render(template: str, path: Path, described: dict[str, Any]) -> None:
    with text_file(path) as file:
        file.write(environment().get_template(template).render(described))


def _first(report: Report) -> xr.Dataset:
    return next(iter(report.datasets.values()))


def _refuse_other(path: Path, run: RunDescription) -> None:
    known = text_of(path)
    of_this = all(sha[:12] in known for sha in (run.checkpoint_sha256, run.data_sha256))
    if known and not of_this and not known.startswith(PROTOCOL):
        raise ResultsError(
            f"{path} is about another model or other data: set [[report.docs]] to another folder"
        )


def _described(report: Report, beside: Path, folder: Path) -> dict[str, Any]:
    """All that the report's template names."""
    data = _first(report)
    run = run_of(data)
    checks = [(label, check) for label, own in report.checks.items() for check in own]
    return {
        "title": heading(report),
        "run": run,
        "models": _models(report),
        "data": data_name(run),
        "pairs": counted(data.sizes["pair"], "pair"),
        "labels": list(report.datasets),
        "answer": headline(report),
        "figures": figure_links(folder, beside),
        "rows": table_rows(report),
        "more": more_rows(report),
        "once": once(report),
        "strata": _strata(report),
        "methods": _each(methods, report),
        "settings": _settings(data),
        "excluded": {k: v for d in report.datasets.values() for k, v in run_of(d).excluded.items()},
        "unknown": {k: v for d in report.datasets.values() for k, v in _unknown_words(d).items()},
        "outliers": {k: s.outliers for k, s in report.summaries.items() if s.outliers},
        "checks": checks,
        "counts": count_checks([check for _, check in checks]),
        "failed": [(label, check) for label, check in checks if check.status == "fail"],
        "limits": _each(limits, report),
        "folder": os.path.relpath(folder, beside),
    }


def _each(say: Callable[[xr.Dataset], list[str]], report: Report) -> list[str]:
    """What is said of each run, every sentence once."""
    return list(dict.fromkeys(said for data in report.datasets.values() for said in say(data)))


def _models(report: Report) -> dict[str, RunDescription]:
    """A run of each model, by the model's name."""
    found: dict[str, RunDescription] = {}
    for label, data in report.datasets.items():
        run = run_of(data)
        found.setdefault(label.partition(": ")[0] if report.models else model_name(run), run)
    return found


def figure_links(folder: Path, beside: Path) -> list[tuple[str, str]]:
    """Captions of the figures that a folder has, and the way to them from a document's folder."""
    found = []
    for name, caption in CAPTIONS.items():
        paths = sorted(p for p in folder.glob(f"{name}*.png") if _begins(p.stem, name))
        found += [(caption, os.path.relpath(path, beside)) for path in paths]
    return found


def _begins(stem: str, name: str) -> bool:
    """Whether a file is of a figure's name, and of no longer name of another figure."""
    longer = [other for other in CAPTIONS if other.startswith(name) and other != name]
    return not any(stem.startswith(other) for other in longer)


def _strata(report: Report) -> list[dict[str, Any]]:
    """The tables of what each thought carries, at the layer of the largest effect."""
    tables = [f.strata.main for f in report.findings if f.strata is not None]
    return [
        {**vars(table), "rows": list(zip(table.strata, table.entries, strict=True))}
        for table in tables
    ]


def _settings(data: xr.Dataset) -> list[tuple[str, Any]]:
    run = run_of(data)
    rows: list[tuple[str, Any]] = [("experiment", kind(run))]
    keys = ("seed", "precision") if is_knockout(data) else ("site", "seed", "precision")
    rows += [(key, getattr(run, key)) for key in keys]
    rows += [
        ("grid", f"{run.grid.shape[0]} layers × {counted(run.grid.shape[1], run.grid.column)}")
    ]
    if patches(data):
        rows += [(key, getattr(run, key)) for key in ("latents", "direction", "source")]
        runs = data.sizes["pair"] * (run.grid.size + 1) * (2 if has_control(data) else 1)
        rows += [
            ("control, as asked for", run.control),
            ("cells that cannot have an effect", len(run.grid.structural_zeros)),
            ("patched runs", f"{runs:,}"),
        ]
    if is_knockout(data):
        runs = int(data[run.metrics[0]].notnull().sum())  # some edges have no control
        rows += [
            ("cells that cannot have an effect", len(run.grid.structural_zeros)),
            ("cut runs", f"{runs:,}"),
        ]
    versions = ", ".join(f"{k} {v}" for k, v in run.versions.items())
    code = f"codi_patching {run.code.version}, sources {run.code.sha256[:12]}…"
    return [*rows, ("versions", versions), ("code", code)]


def _unknown_words(data: xr.Dataset) -> dict[str, list[str]]:
    """Words that the tokenizer does not know, each with the ids of the pairs that have it."""
    found: dict[str, list[str]] = {}
    for pair_id, pair in zip(data["pair"].values, pairs_of(data)):
        for word in pair.unknown_words if isinstance(pair, PairDescription) else ():
            found.setdefault(word, []).append(str(pair_id))
    return found


def _inventory(data: xr.Dataset, folder: Path) -> dict[str, Any]:
    """What the inventory's entry names."""
    measured = results_file(folder)
    listed = [(measured.name, "the measurements: the run, and what each pair gave")]
    listed += [(name, what) for name, what in _FILES.items() if _is_there(folder / name)]
    listed += [(p.name, "every patch of one pair") for p in sorted(folder.glob("trace_*.csv"))]
    drawn = [p for p in derived_files(folder) if p.stem in FIGURES]
    listed += [(path.name, CAPTIONS.get(path.stem, "")) for path in drawn]
    return {
        "files": listed,
        "results_file": measured.name,
        "example": _example(measured, run_of(data)),
        "variables": [str(name) for name in list(data.data_vars)[:3]],
        "dims": [str(name) for name in data.dims],
    }


def _is_there(path: Path) -> bool:
    """Whether there is such a file, or a folder with something in it."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _example(path: Path, run: RunDescription) -> str:
    """The file's shape: some metadata, one pair, one cell."""
    shown: dict[str, Any] = {"metadata": {"experiment": run.experiment, "…": "…"}}
    if path.name == LENS_RESULTS:
        shown["pairs"] = {}
        for pair_id, pair in islice(entries(path, "pairs"), 1):  # none if none has steps
            step = {**pair["steps"][0], "ranks": [["…"]], "chance_ranks": [["…"]]}
            shown["pairs"] = {pair_id: {**pair, "top": [[["…"]]], "steps": [step, "…"]}, "…": "…"}
    elif run.experiment == ATTENTION:
        for pair_id, pair in islice(entries(path, "pairs"), 1):
            shares = {name: [[["…"]]] for name in ("attention", "strongest")}
            shown["pairs"] = {pair_id: {**pair, **shares, "verified": ["…"]}, "…": "…"}
    elif run.experiment == KNOCKOUT:
        for pair_id, pair in islice(entries(path, "pairs"), 1):
            cells = {arm: {run.metrics[0]: [["…"]], "…": "…"} for arm in pair["cells"]}
            drawn = dict(islice(pair["control_tokens"].items(), 2))
            short = {"cells": cells, "verified": ["…"], "control_tokens": {**drawn, "…": "…"}}
            shown["pairs"] = {pair_id: {**pair, **short}, "…": "…"}
    else:
        (_, baseline), (pair_id, cells) = (next(entries(path, k)) for k in ("baseline", "results"))
        layer, column = run.grid.layers[0], run.grid.columns[0]
        cell = cell_of(cells, run.grid, layer, column)
        at_layer = cell if run.grid.whole_layers else {column: cell, "…": "…"}
        shown["baseline"] = {pair_id: {**baseline, "verified": ["…"]}, "…": "…"}
        shown["results"] = {pair_id: {layer: at_layer, "…": "…"}, "…": "…"}
    return json.dumps(shown, indent=1, ensure_ascii=False).replace("```", "'''")
