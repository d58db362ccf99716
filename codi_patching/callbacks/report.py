"""Writes what a run found for people to read, from its results files alone.

    <docs>/experiments/<title>.md    method, results, figures, errors, validity, implications
    <docs>/research_journal.md       an entry: TLDR, top findings, links
    <docs>/DATA_INVENTORY.md         an entry: each file, its structure, how to load it

An entry stands between two comments and is replaced in place. The templates are in
`assets/templates`; whatever they say is computed.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from codi_patching.analysis.overview import (
    cell_label,
    implications,
    negative_cells,
    unlike_the_rest,
)
from codi_patching.callbacks.comparison import Comparison
from codi_patching.callbacks.loggers import run_name
from codi_patching.callbacks.results import check_writable, on_first, written_results
from codi_patching.callbacks.templates import environment, with_interval
from codi_patching.data.records import ResultsError
from codi_patching.data.results import (
    Results,
    aggregate,
    cells_of,
    entries,
    read_results,
    results_name,
    text_file,
)

_TITLES = {
    "research_journal.md": "# Research journal\n\nAn entry for each experiment.\n",
    "DATA_INVENTORY.md": "# Data inventory\n\nThe files of each experiment.\n",
}
_METHODS = {
    "layer": "For each pair and layer, the outputs of that layer at all latent positions are "
    "overwritten at once by {given}.",
    "position": "For each pair, the output of every single layer at every single latent position "
    "is overwritten by {given}, one cell at a time.",
    "relay": "For each pair and layer a chain of runs: iteration 0 overwrites position 0 by "
    "{given}; each later iteration N overwrites position N alone, by what the iteration before it "
    "generated there.",
    "cumulative": "For each pair and layer a chain of runs: iteration N holds positions 0 to N at "
    "{given}; the later thoughts are generated.",
}
_GIVEN = {
    "clean": "the pair's other question's activations there",
    "zero": "zeros",
    "mean": "the mean activations there over the giving questions of all pairs",
    "random_pair": "the activations there of another pair, drawn from the seed (a control)",
}
_THOUGHT = ' The row "thought" is of the latent thoughts themselves, before the first layer.'
_FROZEN = {
    "frozen": " Thoughts after the patch stay those of the unpatched run (frozen latents).",
    "recomputed": " Thoughts after the patch are generated anew (recomputed latents).",
}
_FILES = {
    "results.csv": "every metric of every pair and cell, a row each",
    "aggregate.json": "mean, deviation, 95 % interval over pairs of each cell; the top cells",
    "validity.json": "each check: expected, seen, status",
    "activations.safetensors": "for each pair what its iterations generated, "
    "(layers, iterations − 1, hidden)",
    "SHA256SUMS": "of the data files, for `sha256sum --check`",
    "kl_divergence.png": "map of the mean KL",
    "recovery.png": "map of the mean recovery",
    "trajectory_kl_divergence.png": "KL along the chain",
    "trajectory_recovery.png": "recovery along the chain",
    "trajectory_cosine_to_clean.png": "generated activations against the other question's",
    "trajectory_cosine_to_corrupted.png": "generated activations against the unpatched run's",
}


class ReportWriter(pl.Callback):
    """Writes the report of a run, if it is told where.

    Args:
        docs: Folder of reports, journal and inventory; none are written if not given.
    """

    def __init__(self, docs: str | None = None) -> None:
        self.docs = docs

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out before the work whether the folder can be written.

        Raises:
            ResultsError: It cannot.
        """
        if self.docs is not None:
            docs = Path(self.docs)
            on_first(trainer, lambda: check_writable(docs, "--report.docs"))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write; results and figures are on disk."""
        if self.docs is None or not trainer.is_global_zero:
            return
        folder, _ = written_results(trainer)
        compared = next(c for c in trainer.callbacks if isinstance(c, Comparison))
        comparison = Path(compared.dir) if compared.made else None
        try:
            path = write_report(folder, Path(self.docs), comparison)
        except ResultsError as error:
            rank_zero_warn(f"no report: {error}")
            return
        rank_zero_info(f"report: {path}, and entries in {', '.join(_TITLES)}")


def title_of(results: Results) -> str:
    """Name of an experiment's report, with what is unusual about it; relay is *the* iterative."""
    metadata = results.metadata
    kind = metadata["experiment"] + "_cumulative" * (metadata["strategy"] == "cumulative")
    usual = "frozen" if metadata["experiment"] == "layer" else "recomputed"
    others = {"latents": usual, "direction": "denoising", "source": "clean"}
    unusual = [f"_{metadata[key]}" for key, value in others.items() if metadata[key] != value]
    return run_name(kind) + "".join(unusual)


def write_report(folder: Path, docs: Path, comparison: Path | None = None) -> Path:
    """Write or replace the report of a results folder, and its entries.

    Args:
        folder: The results.
        docs: Where reports, journal and inventory are.
        comparison: Folder of a comparison that the results took part in.

    Returns:
        The report.

    Raises:
        ResultsError: There is a report of that name about another model or other data.
    """
    described = describe(folder, docs, comparison)
    path = docs / "experiments" / f"{described['title']}.md"
    _refuse_other(path, described["metadata"])
    path.parent.mkdir(parents=True, exist_ok=True)
    templates = environment()
    with text_file(path) as file:
        file.write(templates.get_template("report.md.j2").render(described))
    for name, template in (
        ("research_journal.md", "journal.md.j2"),
        ("DATA_INVENTORY.md", "inventory.md.j2"),
    ):
        text = templates.get_template(template).render(described)
        replace_entry(docs / name, described["title"], text.strip() + "\n", _TITLES[name])
    return path


def _refuse_other(path: Path, metadata: Mapping[str, Any]) -> None:
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    of_this = all(metadata[key][:12] in known for key in ("checkpoint_sha256", "data_sha256"))
    if known and not of_this:
        raise ResultsError(
            f"{path} is about another model or other data: set --report.docs to another folder"
        )


def replace_entry(path: Path, name: str, text: str, heading: str) -> None:
    """Put an entry into a file in place of the one of that name, or at its end.

    Args:
        path: A Markdown file; made with `heading` if it is not there.
        name: Of the entry.
        text: Its content.
        heading: Start of a new file.
    """
    content = path.read_text(encoding="utf-8") if path.exists() else heading
    start, end = f"<!-- entry {name} -->\n", f"<!-- end of {name} -->\n"
    entry = f"{start}{text}{end}"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(content):
        content = pattern.sub(lambda _: entry, content, count=1)
    else:
        content = f"{content}\n{entry}"
    with text_file(path) as file:
        file.write(content)


def describe(folder: Path, docs: Path, comparison: Path | None) -> dict[str, Any]:
    """All that the templates name."""
    results = read_results(folder)
    metadata, grid = results.metadata, results.metadata["grid"]
    summary = aggregate(results, 5)
    kl, structural = results.values["kl_divergence"], results.structural
    baseline = [results.baseline[pair] for pair in results.pair_ids]
    validity = json.loads((folder / "validity.json").read_text(encoding="utf-8"))["checks"]
    there = [name for name in _FILES if (folder / name).exists()]
    beside = docs / "experiments"
    figures = [
        (_FILES[name], os.path.relpath(folder / name, beside))
        for name in there
        if name.endswith(".png")
    ]
    data = metadata["config"]["data"]["pairs"]
    results_file = results_name(metadata["experiment"])
    kind = metadata["strategy"] or metadata["experiment"]
    found = json.loads((comparison / "comparison.json").read_text("utf-8")) if comparison else {}
    return {
        "title": title_of(results),
        "metadata": metadata,
        "grid": grid,
        "model": Path(metadata["model"]).name,
        "data": Path(data).name if data else "the pairs that ship with codi_patching",
        "pairs": len(results.pair_ids),
        "cells": math.prod(grid["shape"]),
        "num_layers": sum(layer != "thought" for layer in grid["layers"]),
        "method": _METHODS[kind].format(given=_GIVEN[metadata["source"]])
        + _FROZEN[metadata["latents"]]
        + _THOUGHT * ("thought" in grid["layers"]),
        "settings": _settings(metadata),
        "tldr": _tldr(results, summary),
        "top": summary["top_cells"],
        "right_giving": int(sum(run["giving"]["predicts_clean"] for run in baseline)),
        "right_patched": int(sum(run["baseline"]["predicts_corrupted"] for run in baseline)),
        "figures": figures,
        "excluded": metadata["excluded"],
        "filtered": metadata["filtered"]["equal_answers"],
        "outliers": _outliers(results),
        "negative": _negative(results),
        "undefined": int(np.isnan(results.values["recovery"]).reshape(len(kl), -1).all(1).sum()),
        "validity": validity,
        "failed": sum(check["status"] == "fail" for check in validity),
        "implications": implications(
            kl, results.values["prediction_change_rate"], structural, grid["layers"],
            grid["positions"], grid["column"], metadata["seed"],
        ),
        "findings": found.get("findings", []),
        "comparison": os.path.relpath(comparison, beside) if comparison else "",
        "folder": os.path.relpath(folder, beside),
        "data_folder": os.path.relpath(folder, docs),
        "root": f"{docs.name}/" if docs.name else "",
        "files": [(results_file, "everything: metadata, unpatched runs, each metric of each cell")]
        + [(name, _FILES[name]) for name in there],
        "results_file": results_file,
        "example": _example(folder / results_file, metadata),
    }  # fmt: skip


def _settings(metadata: Mapping[str, Any]) -> list[tuple[str, Any]]:
    keys = ("latents", "direction", "source", "seed", "precision")
    rows = [(key, metadata[key]) for key in keys]
    if metadata["strategy"]:
        rows.insert(0, ("strategy", metadata["strategy"]))
    grid = metadata["grid"]
    rows.append(("grid", " × ".join(map(str, grid["shape"]))))
    rows.append(("cells that cannot have an effect", len(grid["structural_zeros"])))
    rows.append(("patched runs", metadata["num_pairs"] * math.prod(grid["shape"])))
    rows.append(("versions", ", ".join(f"{k} {v}" for k, v in metadata["versions"].items())))
    return rows


def _tldr(results: Results, summary: Mapping[str, Any]) -> str:
    metadata, top = results.metadata, summary["top_cells"][0]
    where = cell_label(top["layer"], metadata["grid"]["column"], top["position"])
    kl, recovery = top["kl_divergence"], top["recovery"]
    kind = " ".join(filter(None, [metadata["strategy"], metadata["experiment"]]))
    return (
        f"{kind.capitalize()} patching ({metadata['latents']} latents) of "
        f"{Path(metadata['model']).name}, {metadata['num_pairs']} pairs: the largest mean effect "
        f"is at {where}, KL {with_interval(kl)} nats, recovery {recovery['mean']:.3f}."
    )


def _outliers(results: Results) -> list[dict[str, Any]]:
    found = unlike_the_rest(results.values["kl_divergence"], results.pair_ids)[:8]
    answers = {
        pair: f"{run['giving_answer']}, {run['patched_answer']}"
        for pair, run in results.baseline.items()
    }
    return [
        {"pair_id": o.pair_id, "value": o.value, "fence": o.fence, "answers": answers[o.pair_id]}
        for o in found
    ]


def _negative(results: Results) -> list[dict[str, Any]]:
    grid = results.metadata["grid"]
    seed = results.metadata["seed"]
    cells = negative_cells(results.values["recovery"], results.structural, seed)
    names = {
        cell: cell_label(layer, grid["column"], position)
        for cell, layer, position in cells_of(results.metadata)
    }
    return [
        {"name": names[cell], "mean": mean, "low": low, "high": high}
        for cell, mean, low, high in cells
    ]


def _example(path: Path, metadata: Mapping[str, Any]) -> str:
    """The file's shape: some metadata, one pair, one cell."""
    (_, baseline), (pair_id, cells) = (next(entries(path, k)) for k in ("baseline", "results"))
    layer = metadata["grid"]["layers"][0]
    cell = cells[layer]
    if metadata["grid"]["positions"]:
        position = metadata["grid"]["positions"][0]
        cell = {position: cell[position], "…": "…"}
    shown = {
        "metadata": {
            "experiment": metadata["experiment"],
            "latents": metadata["latents"],
            "…": "…",
        },
        "baseline": {pair_id: baseline, "…": "…"},
        "results": {pair_id: {layer: cell, "…": "…"}, "…": "…"},
    }
    return json.dumps(shown, indent=1, ensure_ascii=False)
