"""What follows a run, in one explicit order: everything that is derived from its results folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from codi_patching.callbacks.loggers import SafeLogger
from codi_patching.callbacks.results import (
    ResultsWriter,
    as_experiment,
    pairs_data,
    run_on_rank_zero,
)
from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.base import Experiment
from codi_patching.results.description import ResultsError
from codi_patching.results.folder import check_writable
from codi_patching.results.layout import has_results

if TYPE_CHECKING:
    from codi_patching.reporting.runs import Made


class Report(pl.Callback):
    """Makes tables, checks, figures, page and documents once the results are written.

    Of any experiment. The same is made from the folder alone by `codi-patching report`.

    Args:
        figures: Whether to draw figures.
        pair_sheets: Whether to draw sheets of single pairs.
        page: Whether to write `report.html`.
        top: Cells in rankings.
        docs: Folder of reports, journal and inventory; none are written if not given.
        name: Of the report; by model, data and experiment if not given.
        compare_with: Folders of other results to compare with, those that are there.
        comparison_dir: Where the comparison is written.
        format: Of figures, one or several of png, pdf and svg; png if not given.
        strata: Fields of the file of pairs that tell strata apart, beside its chains.

    Attributes:
        failed: Whether a check of validity failed.
    """

    def __init__(
        self,
        figures: bool = True,
        pair_sheets: bool = True,
        page: bool = True,
        top: int = 5,
        docs: str | None = None,
        name: str | None = None,
        compare_with: list[str] | None = None,
        comparison_dir: str = "results/comparison",
        format: list[str] | None = None,
        strata: list[str] | None = None,
    ) -> None:
        from codi_patching.reporting.names import check_report_name
        from codi_patching.reporting.runs import ReportOptions

        self.options = ReportOptions(
            figures=figures,
            pair_sheets=pair_sheets and figures,
            page=page,
            top=top,
            docs=Path(docs) if docs else None,
            formats=tuple(format or ["png"]),
            strata=tuple(strata or ()),
        )
        check_report_name(name)
        self.name = name
        self.compare_with = [Path(folder) for folder in compare_with or []]
        self.comparison_dir = Path(comparison_dir)
        self.failed = False
        self._pairs_done = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out before the work what would fail after it; keep the folder until the end.

        Raises:
            ResultsError: A folder cannot be written, or pairs do not have a field of strata.
        """
        if self.options.strata:
            run_on_rank_zero(trainer, lambda: self._check_strata(trainer))
        if (writer := _writer(trainer)) is not None:
            writer.released_later = True
        if self.options.docs is not None:
            docs = self.options.docs
            run_on_rank_zero(trainer, lambda: check_writable(docs, "[[report.docs]]"))
        if self.compare_with:
            folder = self.comparison_dir
            run_on_rank_zero(trainer, lambda: check_writable(folder, "[[report.comparison_dir]]"))

    def _check_strata(self, trainer: pl.Trainer) -> None:
        from codi_patching.reporting.runs import check_strata

        check_strata((pair.fields for pair in pairs_data(trainer).kept), self.options.strata)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: PairBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say to trackers how many pairs this process has done, and what they show so far."""
        self._pairs_done += len(batch.pairs)
        told = [logger for logger in trainer.loggers if not isinstance(_inner(logger), CSVLogger)]
        if not told:
            return
        running = {"pairs_done": float(self._pairs_done)}
        if trainer.world_size == 1:  # elsewhere it would wait for the others, which go on
            running |= _largest(as_experiment(pl_module))
        for logger in told:
            logger.log_metrics(running, self._pairs_done)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Report; the results are on disk, measured now or before."""
        writer = _writer(trainer)
        if writer is None:
            return
        writer.teardown(trainer, pl_module, stage)  # whichever of the two the trainer calls first
        try:
            if writer.finished and trainer.is_global_zero:
                self._report(trainer, writer.folder)
        finally:
            writer.release()

    def _report(self, trainer: pl.Trainer, folder: Path) -> None:
        from codi_patching.reporting.runs import report_folder

        report = report_folder(folder, self.options, self.name)
        print(report.text)
        self.failed = report.failed
        for logger in trainer.loggers:
            if isinstance(logger, SafeLogger):
                logger.start()
                logger.ask(lambda inner: _log(inner, folder, report))
            else:
                _log(logger, folder, report)
        took = [one for one in trainer.loggers if not getattr(one, "failed", False)]
        if took:
            rank_zero_info(f"logged to {', '.join(map(_describe_logger, took))}")
        self._compare(folder)

    def _compare(self, own: Path) -> None:
        """Compare; what is missing or does not belong together costs a warning, not the run."""
        from codi_patching.reporting.runs import compare_folders

        others = [f for f in self.compare_with if f.resolve() != own.resolve()]
        there = [folder for folder in others if has_results(folder)]
        if missing := [str(folder) for folder in others if folder not in there]:
            rank_zero_info(f"not compared with {', '.join(missing)}: no results there")
        if not there:
            return
        try:
            report = compare_folders([own, *there], self.comparison_dir, self.options)
        except ResultsError as error:
            rank_zero_warn(f"no comparison: {error}")
        else:
            print(report.text)
            self.failed = self.failed or report.failed


def _writer(trainer: pl.Trainer) -> ResultsWriter | None:
    return next((c for c in trainer.callbacks if isinstance(c, ResultsWriter)), None)


def _inner(logger: Logger) -> Logger:
    return logger.inner if isinstance(logger, SafeLogger) else logger


def _largest(experiment: Experiment) -> dict[str, float]:
    """Of each metric the largest value of its mean map so far, of the own patches."""
    metrics = getattr(experiment, "metrics", {})
    maps = {name: metric.compute()[0] for name, metric in metrics.items() if metric.update_called}
    known = {name: values[torch.isfinite(values)] for name, values in maps.items()}
    return {f"running_max/{name}": v.max().item() for name, v in known.items() if v.numel()}


def _describe_logger(logger: Logger) -> str:
    inner, where = _inner(logger), logger.save_dir
    if isinstance(inner, WandbLogger):  # which writes elsewhere where it may not write there
        where = getattr(inner.experiment, "dir", where)
    return f"{type(inner).__name__} ({where}, {logger.name})"


def _log(logger: Logger, folder: Path, report: Made) -> None:
    """Hand a run's results to a logger."""
    from codi_patching.reporting.trackers import log_to

    log_to(logger, folder, report.report)
