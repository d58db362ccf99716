"""Keeps each batch of pairs on disk as it is measured, and has its folder written when all are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.base import Experiment
from codi_patching.results.batches import Batches, ExcludedPair, RunT
from codi_patching.results.folder import FolderLock, check_writable, prepare_folder
from codi_patching.results.schema import ResultsError

T = TypeVar("T")


class FolderWriter(pl.Callback, ABC, Generic[RunT]):
    """Writes the results folder of an experiment.

    The same command resumes where a killed one stopped, with the same bytes at the end. With
    several processes each keeps its own batches, and the first writes the files.

    Args:
        overwrite: Whether results that are there may be replaced.

    Attributes:
        folder: The output folder, known from `setup` on.
        finished: Whether its results are complete.
        released_later: Whether another callback calls `release`, after it has used the folder.
    """

    batches: Batches[RunT, Any]

    def __init__(self, overwrite: bool) -> None:
        self.overwrite, self.folder, self.finished = overwrite, Path(), False
        self.released_later = False
        self._run: RunT | None = None
        self._lock: FolderLock | None = None

    @abstractmethod
    def open(self, trainer: pl.Trainer, experiment: Experiment) -> RunT:
        """Load the experiment, choose and `take` its folder, and describe what is to be run."""

    @abstractmethod
    def write(self, run: RunT) -> None:
        """Write the measured files, in the first process; all batches are kept."""

    def needed_bytes(self, run: RunT, experiment: Experiment) -> int:
        """About what a run writes."""
        return 0

    def resume(self, experiment: Experiment) -> None:
        """Count what an earlier run of the same command measured, in the first process."""

    def conclude(self, trainer: pl.Trainer, experiment: Experiment) -> None:
        """What follows when the files are there, measured now or before, in all processes."""

    def take(self, trainer: pl.Trainer, batches: Batches[RunT, Any]) -> None:
        """Keep a folder for this run alone.

        Raises:
            ResultsError: It cannot be written, or another run has it.
        """
        self.batches, self.folder = batches, batches.output
        run_on_rank_zero(trainer, self._lock_folder)

    def _lock_folder(self) -> None:
        check_writable(self.folder, "--results.dir")
        lock = FolderLock(self.folder)
        lock.acquire()
        self._lock = lock  # only now: what is of another run is not touched

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the folder ready, leave out of the data what is done already, and count it.

        Raises:
            ResultsError: The folder cannot be written, or is another run's.
        """
        experiment = as_experiment(pl_module)
        asked = self.open(trainer, experiment)
        experiment.forget()
        needed = self.needed_bytes(asked, experiment)
        self._run, self.finished, found = run_on_rank_zero(
            trainer, lambda: prepare_folder(self.batches, asked, self.overwrite, needed)
        )
        if found:
            rank_zero_info(found)
        shared = self.finished or self.batches.begun() == self._run
        if not trainer.strategy.reduce_boolean_decision(shared):
            raise ResultsError(
                f"expected {self.folder} to be the same folder for all processes: set "
                "--results.dir to storage that all nodes share"
            )
        every = experiment.datamodule.batches
        done = every if self.finished else [b for b in every if self._is_kept(b)]
        experiment.datamodule.leave_out([batch.first for batch in done])
        if trainer.is_global_zero and not self.finished:
            # Not at the start of prediction, which does not come where no batch is missing.
            self.resume(experiment)

    def _is_kept(self, batch: PairBatch) -> bool:
        return self.batches.read(batch.first, [pair.pair_id for pair in batch.pairs]) is not None

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
        self.batches.write(batch.first, outputs)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the files.

        Here and not at the end of prediction: a process without batches has no such end.

        Raises:
            ResultsError: No pair could be run, or a process kept its pairs elsewhere.
        """
        trainer.strategy.barrier()
        if not self.finished:
            run_on_rank_zero(trainer, self._write)
        self.conclude(trainer, as_experiment(pl_module))
        self.finished = True
        if trainer.is_global_zero:
            self.batches.remove()
        if not self.released_later:
            self.release()

    def _write(self) -> None:
        assert self._run is not None
        self.write(self._run)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give up the folder; a run of which nothing is kept leaves nothing behind."""
        if self._lock is not None and not self.batches.any():
            self.batches.remove()
        self.release()

    def release(self) -> None:
        """Give up the folder."""
        if self._lock is not None:
            self._lock.release()


def as_experiment(module: pl.LightningModule) -> Experiment:
    """The module of a run.

    Raises:
        TypeError: It is another module.
    """
    if not isinstance(module, Experiment):
        raise TypeError(f"expected an Experiment, got {type(module).__name__}")
    return module


def run_on_rank_zero(trainer: pl.Trainer, action: Callable[[], T]) -> T:
    """Do something in the first process alone; what it gives, or its error, comes to all.

    Raises:
        ResultsError: The action raised one, or an `OSError`.
    """
    value, refusal = None, ""
    if trainer.is_global_zero:
        try:
            value = action()
        except (ResultsError, OSError) as error:
            refusal = str(error)
    value, refusal = trainer.strategy.broadcast((value, refusal))
    if refusal:
        raise ResultsError(refusal)
    return value
