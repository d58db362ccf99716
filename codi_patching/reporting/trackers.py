"""A run's results for experiment trackers, and which tracker gets what.

    W&B           tables of cells, aggregate, validity and findings; figures; flat summary; effects
                  by layer as series; the results folder as an artifact; the description as config
    TensorBoard   the summary's scalars, effects by layer, the figures
    CSV           a row for each pair and cell
    MLflow        parameters, the summary, effects by layer, figures and tables as artifacts
    others        parameters and the summary

A logger is known by the name of its class, so that none of them need be installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from codi_patching.analysis.report import Report, Summary
from codi_patching.reporting.aggregate import aggregate_rows
from codi_patching.reporting.names import run_name
from codi_patching.reporting.rows import table_rows
from codi_patching.results.dataset import run_of
from codi_patching.results.files import plain
from codi_patching.results.layout import AGGREGATE, CELLS_CSV, FIGURES, VALIDITY
from codi_patching.results.tables import cell_rows

_BY_LAYER = ("kl_divergence", "content_effect")


def log_to(logger: Any, folder: Path, report: Report) -> None:
    """Give a logger of Lightning a run's results, in the way it shows them best.

    Args:
        logger: Whose class is, or is derived from, one that Lightning names.
        folder: With the measured files and what is derived from them.
        report: Of that folder.
    """
    kinds = {cls.__name__ for cls in type(logger).__mro__}
    if "WandbLogger" in kinds:
        _log_to_wandb(logger.experiment, folder, report)
        return
    data = dataset_of(report)
    logger.log_hyperparams(_parameters(data.attrs["run"].to_json()))
    summary = scalars(report)
    if "CSVLogger" in kinds and report.summaries:
        for step, row in enumerate(cell_rows(data)):
            logger.log_metrics({k: v for k, v in row.items() if v == v}, step)
    elif "TensorBoardLogger" in kinds:
        _log_to_tensorboard(logger.experiment, folder, report, summary)
    else:
        logger.log_metrics(summary, data.sizes["pair"])
        if "MLFlowLogger" in kinds:
            _log_to_mlflow(logger, folder, report)
    logger.save()


def dataset_of(report: Report) -> Any:
    """The dataset of a report of one run."""
    return next(iter(report.datasets.values()))


def scalars(report: Report) -> dict[str, float]:
    """A few numbers that sum a run up, to sort and plot runs by; none is NaN."""
    data = dataset_of(report)
    run = run_of(data)
    checks = [check for own in report.checks.values() for check in own]
    found: dict[str, float] = {
        "num_pairs": data.sizes["pair"],
        "excluded": len(run.excluded),
        "checks_failed": sum(check.status == "fail" for check in checks),
    }
    for finding in report.findings:
        if finding.lead is not None:
            found[f"{finding.key}/estimate"] = finding.lead.lead.mean
            found[f"{finding.key}/claimed"] = float(finding.lead.claimed)
    for summary in report.summaries.values():
        for name, cells in (("content", summary.top_content), ("kl", summary.top_kl)):
            if cells:
                measure = {"content": "content_effect", "kl": "kl_divergence"}[name]
                found[f"largest_{name}"] = float(means(summary, measure)[cells[0]])
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def means(summary: Summary, measure: str) -> np.ndarray:
    """The mean of a measure at every cell, `(layers, columns)`."""
    values = summary.table[measure]
    return values.sel(statistic="mean").values if "statistic" in values.dims else values.values


def leading_cells(report: Report) -> dict[str, str]:
    """The cells that lead, in words."""
    found = {}
    for summary in report.summaries.values():
        run = run_of(summary.data)
        for name, cells in (("content", summary.top_content), ("kl", summary.top_kl)):
            if cells:
                found[f"largest_{name}/cell"] = run.label(cells[0])
    return found


def layer_series(report: Report) -> Iterator[tuple[int, dict[str, float]]]:
    """For each layer its number and its effects, the largest over its columns."""
    for summary in report.summaries.values():
        for row, layer in enumerate(run_of(summary.data).grid.layers):
            values = {name: means(summary, name)[row] for name in _BY_LAYER}
            known = {n: float(np.nanmax(v)) for n, v in values.items() if np.isfinite(v).any()}
            if layer.isdigit():
                yield int(layer), known


def figure_paths(folder: Path) -> list[Path]:
    """The figures over all pairs that a folder has as PNG, in their order."""
    return [path for name in FIGURES if (path := folder / f"{name}.png").exists()]


def _tables(report: Report) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by the name of their table."""
    checks = [asdict(check) for own in report.checks.values() for check in own]
    rows = [
        {"question": r.question, "answer": r.answer, "estimate": r.estimate, "p": r.p, "n": r.n}
        for r in table_rows(report)
    ]
    tables: dict[str, list[Mapping[str, Any]]] = {"findings": [*rows], "validity": [*checks]}
    for summary in report.summaries.values():
        tables["cells"] = list(cell_rows(summary.data))
        tables["aggregate"] = list(aggregate_rows(summary))
    return tables


def _log_to_wandb(run: Any, folder: Path, report: Report) -> None:
    import wandb

    data = dataset_of(report)
    run.config.update(plain(run_of(data).to_json()), allow_val_change=True)
    for name, rows in _tables(report).items():
        columns: list[str | int] = [*rows[0]] if rows else []
        left = iter([plain([row[str(column)] for column in columns]) for row in rows])
        part = 0
        while some := list(islice(left, wandb.Table.MAX_ROWS)):
            key = f"{name}_{part}" if part else name
            run.log({key: wandb.Table(columns=columns, data=some)})
            part += 1
    run.log({f"figures/{p.stem}": wandb.Image(str(p)) for p in figure_paths(folder)})
    run.define_metric("layer", hidden=True)
    run.define_metric("by_layer/*", step_metric="layer")
    for layer, effects in layer_series(report):
        run.log({"layer": layer, **{f"by_layer/{name}": v for name, v in effects.items()}})
    run.summary.update({**scalars(report), **leading_cells(report)})
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", run_name(run_of(data)))
    artifact = wandb.Artifact(name, "results")
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != "."):
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def _log_to_tensorboard(
    writer: Any, folder: Path, report: Report, summary: Mapping[str, float]
) -> None:
    from matplotlib.image import imread

    for name, value in summary.items():
        writer.add_scalar(name, value, dataset_of(report).sizes["pair"])
    for layer, effects in layer_series(report):
        for name, value in effects.items():
            writer.add_scalar(f"by_layer/{name}", value, layer)
    for path in figure_paths(folder):
        writer.add_image(path.stem, imread(path)[..., :3], dataformats="HWC")


def _log_to_mlflow(logger: Any, folder: Path, report: Report) -> None:
    for layer, effects in layer_series(report):
        logger.log_metrics({f"by_layer/{name}": v for name, v in effects.items()}, layer)
    tables = [folder / name for name in (CELLS_CSV, AGGREGATE, VALIDITY)]
    for path in [*figure_paths(folder), *(table for table in tables if table.exists())]:
        logger.experiment.log_artifact(logger.run_id, str(path))


def _parameters(described: dict[str, Any]) -> dict[str, Any]:
    """A description in one level of keys, for loggers that have only that."""
    return dict(_flat(plain({**described, "excluded": ", ".join(described["excluded"])})))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}/{key}" if path else str(key))
    else:
        text = isinstance(value, list | dict | str)
        yield path, str(value)[:250] if text else value
