"""What follows a run, in one explicit order: everything that is derived from its results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from codi_patching.callbacks.folder import run_on_rank_zero
from codi_patching.callbacks.loggers import SafeLogger
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairBatch
from codi_patching.reporting.pipeline import ReportOptions
from codi_patching.reporting.runs import RunReport, compare_folders, report_folder
from codi_patching.reporting.tracking import log_to
from codi_patching.results.folder import check_writable
from codi_patching.results.layout import has_results
from codi_patching.results.schema import ResultsError


class Report(pl.Callback):
    """Makes tables, checks, figures, page and documents once the results are written.

    The same is made from the folder alone by `codi-patching report`.

    Args:
        figures: Whether to draw PNG files.
        pair_sheets: Whether to draw sheets of single pairs.
        page: Whether to write `report.html`; it takes 5 MB, most of it plotly.js.
        top: Cells in rankings.
        docs: Folder of reports, journal and inventory; none are written if not given.
        name: Of the report; by model, data and experiment if not given.
        compare_with: Folders of other results to compare with, those that are there.
        comparison_dir: Where the comparison is written.

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
    ) -> None:
        self.options = ReportOptions(
            figures, pair_sheets and figures, page, top, Path(docs) if docs else None
        )
        self.name = name
        self.compare_with = [Path(folder) for folder in compare_with or []]
        self.comparison_dir = Path(comparison_dir)
        self.failed = False
        self._pairs_done = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out before the work whether folders can be written; keep the results' until the end.

        Raises:
            ResultsError: One cannot.
        """
        if (writer := _writer(trainer)) is not None:
            writer.released_later = True
        if self.options.docs is not None:
            docs = self.options.docs
            run_on_rank_zero(trainer, lambda: check_writable(docs, "--report.docs"))
        if self.compare_with:
            folder = self.comparison_dir
            run_on_rank_zero(trainer, lambda: check_writable(folder, "--report.comparison_dir"))

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: PairBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say to trackers how many pairs are done, in this process."""
        self._pairs_done += len(batch.pairs)
        for logger in trainer.loggers:
            inner = logger.inner if isinstance(logger, SafeLogger) else logger
            if not isinstance(inner, CSVLogger):
                logger.log_metrics({"pairs_done": self._pairs_done}, self._pairs_done)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Report; the results are on disk, measured now or before."""
        writer = _writer(trainer)
        if writer is None:
            return
        try:
            if writer.finished and trainer.is_global_zero:
                self._report(trainer, writer)
        finally:
            writer.release()

    def _report(self, trainer: pl.Trainer, writer: ResultsWriter) -> None:
        report = report_folder(writer.folder, self.options, self.name)
        print(report.text)
        self.failed = report.failed
        for logger in trainer.loggers:
            if isinstance(logger, SafeLogger):
                logger.start()
                logger.ask(lambda inner: _log(inner, writer.folder, report))
            else:
                _log(logger, writer.folder, report)
        took = [one for one in trainer.loggers if not getattr(one, "failed", False)]
        if took:
            rank_zero_info(f"logged to {', '.join(map(_describe_logger, took))}")
        self._compare(writer.folder)

    def _compare(self, own: Path) -> None:
        """Compare; what is missing or does not belong together costs a warning, not the run."""
        others = [f for f in self.compare_with if f.resolve() != own.resolve()]
        there = [folder for folder in others if has_results(folder)]
        if missing := [str(folder) for folder in others if folder not in there]:
            rank_zero_info(f"not compared with {', '.join(missing)}: no results there")
        if not there:
            return
        try:
            report = compare_folders([own, *there], self.comparison_dir)
        except ResultsError as error:
            rank_zero_warn(f"no comparison: {error}")
        else:
            print(report.text)
            self.failed = self.failed or report.failed


def _writer(trainer: pl.Trainer) -> ResultsWriter | None:
    return next((c for c in trainer.callbacks if isinstance(c, ResultsWriter)), None)


def _describe_logger(logger: Logger) -> str:
    inner = logger.inner if isinstance(logger, SafeLogger) else logger
    where = logger.save_dir
    if isinstance(inner, WandbLogger):  # which writes elsewhere where it may not write there
        where = getattr(inner.experiment, "dir", where)
    return f"{type(inner).__name__} ({where}, {logger.name})"


def _log(logger: Logger, folder: Path, report: RunReport) -> None:
    """Hand a run's results to a logger."""
    results = next(iter(report.results.values()))
    log_to(logger, folder, results, report.findings, report.checks)
