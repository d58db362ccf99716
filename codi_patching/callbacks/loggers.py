"""Hands a run's results to the trainer's loggers: W&B, TensorBoard, CSV, MLflow.

    while pairs run   how many are done
    W&B               `cells`, a table with a row for each pair and cell; `aggregate`, a row for
                      each metric and cell; the figures; the summary with the top cells; the
                      configuration
    CSV               a row for each pair and cell
    others            a value for each metric and cell at the step of each pair; means at the last

The results are on disk before. A logger that fails, at whatever moment, costs a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, islice
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.image import imread

from codi_patching.callbacks.results import written_results
from codi_patching.data.pairs import Pair
from codi_patching.data.results import Results, aggregate, aggregate_rows, cells_of

_TOP = 5


def run_name(experiment: str) -> str:
    """Name of an experiment's run in a tracker."""
    return f"10-30_llama_gsm8k_{experiment}_patching"


def build_loggers(configured: Any) -> list[Logger]:
    """Loggers from their part of a configuration; one that cannot be made costs a warning.

    Args:
        configured: A class with arguments or a list of them; True for a `CSVLogger`; False or None
            for none.
    """
    if configured is True:
        return [CSVLogger("runs", name="csv")]
    made = []
    for one in configured if isinstance(configured, list) else filter(None, [configured]):
        try:
            arguments = {**one.get("init_args", {}), **one.get("dict_kwargs", {})}
            made.append(resolve_name(one.class_path)(**arguments))
        except Exception as error:  # whatever it raises
            _warn(one.class_path.rpartition(".")[2], error)
    return made


class ResultsLogger(pl.Callback):
    """Keeps the loggers out of the trainer's hands, so that none of them can end a run.

    Args:
        loggers: Beside those of the trainer, which are taken over.
    """

    def __init__(self, loggers: list[Logger] | None = None) -> None:
        self.loggers = list(loggers or [])
        self.done = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the loggers; nothing is started yet."""
        self.loggers = [*self.loggers, *trainer.loggers] if trainer.is_global_zero else []
        trainer.loggers = []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: list[Pair],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say how many pairs are done, in this process."""
        if batch_idx == 0:
            self._each(lambda logger: _start(logger, run_name(str(pl_module.name))))
        self.done += len(batch)
        self._each(lambda logger: _log_progress(logger, self.done))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log everything."""
        if self.loggers:
            folder, results = written_results(trainer)
            self._each(lambda logger: log_results(logger, folder, results))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the loggers."""
        self._each(lambda logger: _finish(logger, "success"))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close them after an error."""
        if self.done:
            self._each(lambda logger: _finish(logger, "failed"))

    def _each(self, action: Callable[[Logger], None]) -> None:
        """Do something with each logger; one that cannot is not asked again."""
        for logger in list(self.loggers):
            try:
                action(logger)
            except Exception as error:  # whatever a tracker raises, the results are what matters
                self.loggers.remove(logger)
                if isinstance(logger, WandbLogger):
                    _abandon_wandb()
                _warn(type(logger).__name__, error)


def _abandon_wandb() -> None:
    """Take back W&B's hook at exit, which would wait for a service that is gone."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


def _warn(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    rank_zero_warn(
        f"{name} failed and gets nothing more of this run; the results are not affected: {reason}"
    )


def log_results(logger: Logger, folder: Path, results: Results) -> None:
    """Log a run's results, in the way each logger shows them best.

    Args:
        logger: Of Lightning.
        folder: With the figures.
        results: What was run.
    """
    summary = aggregate(results, _TOP)
    figures = sorted(folder.glob("*.png"))
    if isinstance(logger, WandbLogger):
        _log_to_wandb(logger, results, summary, figures)
        return
    excluded = ", ".join(results.metadata["excluded"])  # ids, which are no names of parameters
    logger.log_hyperparams(dict(_flat({**results.metadata, "excluded": excluded[:250]})))
    if isinstance(logger, CSVLogger):
        for step, row in enumerate(_rows(results)):
            logger.log_metrics(row, step)
    else:
        for step, values in enumerate(_by_pair(results)):
            logger.log_metrics(values, step)
        logger.log_metrics({f"mean/{k}": v for k, v in _means(summary)}, len(results.pair_ids))
    for figure in figures:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(figure.stem, imread(figure)[..., :3], dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(figure))
    if isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(folder / "results.csv"))
    logger.save()


def _start(logger: Logger, name: str) -> None:
    """Open the logger, under the experiment's name if it has none."""
    if isinstance(logger, WandbLogger) and logger._wandb_init["name"] is None:
        logger._wandb_init["name"] = name
    if isinstance(logger, MLFlowLogger) and logger._run_name is None:
        logger._run_name = name
    logger.experiment  # noqa: B018  starts it


def _log_progress(logger: Logger, done: int) -> None:
    if isinstance(logger, WandbLogger):
        logger.experiment.log({"pairs_done": done})
    elif not isinstance(logger, CSVLogger):
        logger.log_metrics({"pairs_done": done}, done)


def _finish(logger: Logger, status: str) -> None:
    logger.finalize(status)
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=0 if status == "success" else 1)


def _log_to_wandb(
    logger: WandbLogger, results: Results, summary: dict[str, Any], figures: list[Path]
) -> None:
    import wandb

    run = logger.experiment
    run.config.update(results.metadata)
    column, metrics = results.metadata["grid"]["column"], results.metadata["metrics"]
    names = ["pair_id", "layer", column, "structural_zero", *metrics]
    rows = (list(row.values()) for row in _rows(results))
    for part in count():
        data = list(islice(rows, wandb.Table.MAX_ROWS))
        if not data:
            break
        table = wandb.Table(columns=names, data=data)
        run.log({f"cells_{part}" if part else "cells": table})
    statistics = ("mean", "std", "ci_low", "ci_high", "n")
    data = [
        [metric, layer, position, *(cell.get(name) for name in statistics)]
        for metric, layer, position, cell in aggregate_rows(summary)
    ]
    columns = ["metric", "layer", column, *statistics]
    run.log({"aggregate": wandb.Table(columns=columns, data=data)})
    run.log({f"figures/{figure.stem}": wandb.Image(str(figure)) for figure in figures})
    run.summary["num_pairs"] = summary["num_pairs"]
    run.summary["excluded"] = len(results.metadata["excluded"])
    for rank, cell in enumerate(summary["top_cells"], 1):
        top = {"layer": cell["layer"], column: cell["position"]}
        top |= {metric: cell[metric].get("mean") for metric in metrics}
        run.summary[f"top_{rank}"] = top


def _rows(results: Results) -> Iterator[dict[str, Any]]:
    """A row for each pair and cell; undefined values are None."""
    column = results.metadata["grid"]["column"]
    for index, pair_id in enumerate(results.pair_ids):
        for cell, layer, position in cells_of(results.metadata):
            values = {m: float(v[index][cell]) for m, v in results.values.items()}
            yield {
                "pair_id": pair_id,
                "layer": layer,
                column: position or "all",
                "structural_zero": int(results.structural[cell]),
                **{m: None if v != v else v for m, v in values.items()},
            }


def _by_pair(results: Results) -> Iterator[dict[str, float]]:
    """For each pair the value of every metric and cell that has one."""
    column = results.metadata["grid"]["column"]
    for index in range(len(results.pair_ids)):
        values = {
            f"{metric}/layer {layer}" + (f"/{column} {position}" if position else ""): float(v)
            for metric, own in results.values.items()
            for cell, layer, position in cells_of(results.metadata)
            for v in [own[index][cell]]
        }
        yield {name: v for name, v in values.items() if v == v}


def _means(summary: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for metric, layer, position, cell in aggregate_rows(summary):
        if cell["mean"] == cell["mean"]:
            yield f"{metric}/layer {layer}/{position}", float(cell["mean"])


def _flat(metadata: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested metadata as one level of `a/b` keys, for loggers that have only that."""
    if isinstance(metadata, dict) and metadata:
        for key, value in metadata.items():
            yield from _flat(value, f"{path}/{key}" if path else str(key))
    else:
        text = isinstance(metadata, list | dict)
        yield path, str(metadata)[:250] if text else metadata
