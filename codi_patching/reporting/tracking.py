"""A run's results for experiment trackers, as plain data, and which tracker gets what.

    W&B           tables of cells, aggregate, validity and findings; figures; flat summary; effects
                  by layer as series; the results folder as an artifact; the description as config
    TensorBoard   the summary's scalars, effects by layer, the maps
    CSV           a row for each pair and cell
    MLflow        parameters, the summary, effects by layer, figures and tables as artifacts
    others        parameters and the summary

A logger is known by the name of its class, so that none of them need be installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from codi_patching.analysis.checks import Check
from codi_patching.analysis.intervals import mean_and_deviation
from codi_patching.analysis.summary import (
    LEAST_CONTENT,
    aggregate_rows,
    content_effect,
    content_size,
    effects_by_layer,
    mean_kl,
    rank_cells,
    source_probability,
)
from codi_patching.analysis.validity import check_run
from codi_patching.reporting.evidence import COLUMNS, FindingLike, finding_row
from codi_patching.reporting.figures import CAPTIONS
from codi_patching.reporting.names import run_name
from codi_patching.results.files import plain
from codi_patching.results.read import Results
from codi_patching.results.schema import RunDescription
from codi_patching.results.tables import cell_columns, cell_rows


@dataclass(frozen=True)
class Table:
    """Rows for a tracker.

    Attributes:
        columns: Their names.
        rows: A value for each column; undefined ones are None.
    """

    columns: list[str]
    rows: list[list[Any]]


def cells_table(results: Results) -> Table:
    """A row for each pair and cell."""
    columns = cell_columns(results)
    return Table(columns, [plain([row[c] for c in columns]) for row in cell_rows(results)])


def aggregate_table(folder: Path, run: RunDescription) -> Table:
    """A row for each measure and cell over pairs, of a folder's `aggregate.json`."""
    summary = json.loads((folder / "aggregate.json").read_text(encoding="utf-8"))
    return _table(list(aggregate_rows(summary, run)))


def validity_table(checks: Sequence[Check]) -> Table:
    """A row for each check."""
    return _table([vars(check) for check in checks])


def findings_table(findings: Sequence[FindingLike]) -> Table:
    """A row for each finding."""
    columns = [*COLUMNS, "sentence"]
    return Table(columns, [list(plain(finding_row(f)).values()) for f in findings])


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(rows[0]) if rows else []
    return Table(columns, [plain([row[column] for column in columns]) for row in rows])


def scalars(
    results: Results, checks: Sequence[Check], findings: Sequence[FindingLike] = ()
) -> dict[str, float]:
    """A few numbers that sum a run up, to sort and plot runs by; none is NaN."""
    metric = source_probability(results.run)
    found: dict[str, float] = {
        "num_pairs": len(results.pair_ids),
        "excluded": len(results.run.excluded),
        "checks_failed": sum(check.status == "fail" for check in checks),
    }
    for run in ("base", "source", "ceiling"):
        mean = mean_and_deviation(results.unpatched(run, metric))[0]
        found[f"source_answer_probability/{run}"] = float(mean)
    if best := rank_cells(content_size(results), 1, LEAST_CONTENT):
        names = ("content_over_unpatched", "content_over_control")
        found["largest_content/effect"] = float(content_size(results)[best[0]])
        for name, part in zip(names, content_effect(results)):
            if part is not None:
                found[f"largest_content/{name}"] = float(mean_and_deviation(part)[0][best[0]])
    if best := rank_cells(mean_kl(results), 1):
        for name in ("kl_divergence", "recovery", "prediction_change_rate"):
            mean = mean_and_deviation(results.values[name])[0][best[0]]
            found[f"largest_kl/{name}"] = float(mean)
    for verdict in ("yes", "no", "undecided"):
        found[f"findings/{verdict}"] = sum(f.verdict == verdict for f in findings)
    return {name: value for name, value in found.items() if value == value}


def leading_cells(results: Results) -> dict[str, str]:
    """The cells that lead, in words."""
    best = {
        "largest_content/cell": rank_cells(content_size(results), 1, LEAST_CONTENT),
        "largest_kl/cell": rank_cells(mean_kl(results), 1),
    }
    return {name: results.run.label(cells[0]) for name, cells in best.items() if cells}


def layer_series(results: Results) -> Iterator[tuple[int, dict[str, float]]]:
    """For each layer its number and its effects, the largest over its columns."""
    series = effects_by_layer(results)
    for row, layer in enumerate(results.run.grid.layers):
        known = {name: float(v[row]) for name, v in series.items() if v[row] == v[row]}
        if layer.isdigit():
            yield int(layer), known


def figure_paths(folder: Path) -> list[Path]:
    """The figures over all pairs that a folder has, in their order."""
    return [path for name in CAPTIONS if (path := folder / f"{name}.png").exists()]


def log_to(
    logger: Any,
    folder: Path,
    results: Results,
    findings: Sequence[FindingLike] = (),
    checks: Sequence[Check] | None = None,
) -> None:
    """Give a logger of Lightning a run's results, in the way it shows them best.

    Args:
        logger: Whose class is, or is derived from, one that Lightning names.
        folder: With the measured files and what is derived from them.
        results: Of that folder.
        findings: That the run takes part in.
        checks: Of its validity; made if not given.
    """
    checks = check_run(results) if checks is None else checks
    kinds = {cls.__name__ for cls in type(logger).__mro__}
    if "WandbLogger" in kinds:
        _log_to_wandb(logger.experiment, folder, results, findings, checks)
        return
    logger.log_hyperparams(_parameters(results.run))
    summary = scalars(results, checks, findings)
    if "CSVLogger" in kinds:
        for step, row in enumerate(cell_rows(results)):
            logger.log_metrics({k: v for k, v in row.items() if v == v}, step)
    elif "TensorBoardLogger" in kinds:
        _log_to_tensorboard(logger.experiment, folder, results, summary)
    else:
        logger.log_metrics(summary, len(results.pair_ids))
        if "MLFlowLogger" in kinds:
            _log_to_mlflow(logger, folder, results)
    logger.save()


def _log_to_wandb(
    run: Any,
    folder: Path,
    results: Results,
    findings: Sequence[FindingLike],
    checks: Sequence[Check],
) -> None:
    import wandb

    run.config.update(plain(results.run.to_json()), allow_val_change=True)
    tables = {
        "cells": cells_table(results),
        "aggregate": aggregate_table(folder, results.run),
        "validity": validity_table(checks),
    }
    if findings:
        tables["findings"] = findings_table(findings)
    for name, table in tables.items():
        rows = iter(table.rows)
        part = 0
        while data := list(islice(rows, wandb.Table.MAX_ROWS)):
            key = f"{name}_{part}" if part else name
            run.log({key: wandb.Table(columns=list(table.columns), data=data)})
            part += 1
    run.log({f"figures/{p.stem}": wandb.Image(str(p)) for p in figure_paths(folder)})
    run.define_metric("layer", hidden=True)
    run.define_metric("by_layer/*", step_metric="layer")
    for layer, effects in layer_series(results):
        run.log({"layer": layer, **{f"by_layer/{name}": v for name, v in effects.items()}})
    run.summary.update({**scalars(results, checks, findings), **leading_cells(results)})
    artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", run_name(results.run)), "results")
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != "."):
        artifact.add_file(str(path))
    run.log_artifact(artifact)


def _log_to_tensorboard(
    writer: Any, folder: Path, results: Results, summary: Mapping[str, float]
) -> None:
    from matplotlib.image import imread

    for name, value in summary.items():
        writer.add_scalar(name, value, len(results.pair_ids))
    for layer, effects in layer_series(results):
        for name, value in effects.items():
            writer.add_scalar(f"by_layer/{name}", value, layer)
    for path in figure_paths(folder):
        writer.add_image(path.stem, imread(path)[..., :3], dataformats="HWC")


def _log_to_mlflow(logger: Any, folder: Path, results: Results) -> None:
    for layer, effects in layer_series(results):
        logger.log_metrics({f"by_layer/{name}": v for name, v in effects.items()}, layer)
    tables = [folder / name for name in ("results.csv", "aggregate.json", "validity.json")]
    for path in [*figure_paths(folder), *(table for table in tables if table.exists())]:
        logger.experiment.log_artifact(logger.run_id, str(path))


def _parameters(run: RunDescription) -> dict[str, Any]:
    """The description in one level of keys, for loggers that have only that."""
    described = {**run.to_json(), "excluded": ", ".join(run.excluded)}
    return dict(_flat(plain(described)))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}/{key}" if path else str(key))
    else:
        text = isinstance(value, list | dict | str)
        yield path, str(value)[:250] if text else value
