"""Keeps each batch of the lens on disk as it is read, and writes its folder when all are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from codi_patching.callbacks.results import run_on_rank_zero
from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.lens import LensExperiment
from codi_patching.reporting.lens_report import report_lens
from codi_patching.results.folder import FolderLock, check_writable
from codi_patching.results.lens import LensRun
from codi_patching.results.lens_store import LensBatches, finish_lens, prepare_lens
from codi_patching.results.records import ExcludedPair


class LensWriter(pl.Callback):
    """Writes `lens_results.json` and the maps of hit rates.

    The same command resumes where a killed one stopped. Where no pair has reasoning steps the file
    names them all as excluded, so that a study goes on.

    Args:
        dir: Output folder; `results/lens` if not given.
        overwrite: Whether results that are there may be replaced.
        figures: Whether to draw the maps.

    Attributes:
        folder: The output folder.
        finished: Whether its results are complete.
    """

    def __init__(
        self, dir: str | None = None, overwrite: bool = False, figures: bool = True
    ) -> None:
        self.folder, self.overwrite = Path(dir or "results/lens"), overwrite
        self.figures, self.finished = figures, False
        self._batches = LensBatches(self.folder)
        self._run: LensRun | None = None
        self._lock: FolderLock | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the folder ready, and leave out of the data what is done already.

        Raises:
            ResultsError: The folder cannot be written, or is another run's.
        """
        assert isinstance(pl_module, LensExperiment)
        run_on_rank_zero(trainer, self._take_folder)
        pl_module.load()
        asked = pl_module.describe()
        self._run, self.finished, found = run_on_rank_zero(
            trainer, lambda: prepare_lens(self.folder, asked, self.overwrite)
        )
        if found:
            rank_zero_info(found)
        data = pl_module.datamodule
        done = [b for b in data.batches if self.finished or self._cached(b) is not None]
        data.leave_out([batch.first for batch in done])

    def _take_folder(self) -> None:
        check_writable(self.folder, "--results.dir")
        self._lock = FolderLock(self.folder)
        self._lock.acquire()

    def _cached(self, batch: PairBatch) -> object:
        return self._batches.read(batch.first, [pair.pair_id for pair in batch.pairs])

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: PairBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        for result in outputs:
            if isinstance(result, ExcludedPair):
                rank_zero_warn(f"pair {result.pair_id} left out: {result.reason}")
        self._batches.write(batch.first, outputs)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file and the maps, and say what is read.

        Here and not at the end of prediction: a process without batches has no such end.

        Raises:
            ResultsError: A process kept its pairs elsewhere.
        """
        trainer.strategy.barrier()
        run_on_rank_zero(trainer, self._write)
        self.finished = True
        self._release()

    def _write(self) -> None:
        assert self._run is not None
        if not self.finished:
            finish_lens(self.folder, self._run, self._batches)
        print(report_lens(self.folder, self.figures))
        self._batches.remove()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give up the folder; a run of which nothing is kept leaves nothing behind."""
        if self._lock is not None and not self.finished and not self._batches.any():
            self._batches.remove()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
