"""Keeps each batch of pairs on disk as it is measured, and writes the results file when all are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.describe import describe_run
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.results.folder import (
    FolderLock,
    check_writable,
    folder_name,
    prepare_folder,
)
from codi_patching.results.layout import derived_files
from codi_patching.results.read import Results, read_results
from codi_patching.results.records import ExcludedPair, PairResult, Records
from codi_patching.results.schema import ResultsError, RunDescription
from codi_patching.results.store import write_run

T = TypeVar("T")

_BYTES_A_VALUE = 64
"""A value of a cell takes about so much: 8 kept, 30 as JSON, 20 in the table."""


class ResultsWriter(pl.Callback):
    """Writes the results folder of a patching experiment.

    The same command resumes where a killed one stopped, with the same bytes at the end. With
    several processes each keeps its own batches, and the first writes the files.

    Args:
        dir: Output folder; `results/<experiment>` if not given.
        overwrite: Whether results that are there may be replaced.
        folder_by_run: Whether each run gets a folder of its own inside `dir`, named by what is run:
            sweeps and loops do not collide, and the same command finds its folder again.

    Attributes:
        folder: The output folder.
        finished: Whether its results are complete.
    """

    def __init__(
        self, dir: str | None = None, overwrite: bool = False, folder_by_run: bool = False
    ) -> None:
        self.dir, self.overwrite, self.folder_by_run = dir, overwrite, folder_by_run
        self.folder = Path()
        self.finished = False
        self._ran = 0
        self._run: RunDescription | None = None
        self._lock: FolderLock | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the folder ready, leave out of the data what is done already, and count it.

        Raises:
            ResultsError: The folder cannot be written, or is another run's.
        """
        experiment = _as_experiment(pl_module)
        self.folder = Path(self.dir or f"results/{experiment.name}")
        self._records = Records(self.folder)
        if not self.folder_by_run:
            run_on_rank_zero(trainer, self._take_folder)
        experiment.load()
        asked = describe_run(experiment)
        if self.folder_by_run:
            self.folder = self.folder / folder_name(asked)
            self._records = Records(self.folder)
            run_on_rank_zero(trainer, self._take_folder)
        self._run, self.finished = run_on_rank_zero(
            trainer, lambda: self._prepare(asked, experiment)
        )
        shared = self.finished or self._records.begun() == self._run
        if not trainer.strategy.reduce_boolean_decision(shared):
            raise ResultsError(
                f"expected {self.folder} to be the same folder for all processes: set "
                "--results.dir to storage that all nodes share"
            )
        batches = experiment.datamodule.batches
        done = batches if self.finished else [b for b in batches if self._cached(b) is not None]
        experiment.datamodule.leave_out([batch.first for batch in done])
        if trainer.is_global_zero and not self.finished:
            # Not at the start of prediction, which does not come where no batch is missing.
            for result in self._records:
                experiment.load_cached(result)

    def _take_folder(self) -> None:
        check_writable(self.folder, "--results.dir")
        self._lock = FolderLock(self.folder)
        self._lock.acquire()

    def _prepare(
        self, asked: RunDescription, experiment: PatchingExperiment
    ) -> tuple[RunDescription, bool]:
        """The run as it was begun, and whether it is complete."""
        needed = _needed_bytes(asked, experiment)
        run, finished, sentence = prepare_folder(self.folder, asked, self.overwrite, needed)
        if sentence:
            rank_zero_info(sentence)
        return run, finished

    def _cached(self, batch: PairBatch) -> Sequence[PairResult | ExcludedPair] | None:
        """A batch that an earlier run of the same command measured."""
        return self._records.read(batch.first, [p.pair_id for p in batch.pairs], activations=False)

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
        self._records.write(batch.first, outputs)
        self._ran += 1

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the files, and check the two ways to the mean maps against each other.

        Here and not at the end of prediction: a process without batches has no such end.

        Raises:
            ResultsError: No pair could be run, or a process kept its pairs elsewhere.
        """
        trainer.strategy.barrier()
        measured = not self.finished
        run_on_rank_zero(trainer, self._write if measured else lambda: None)
        if measured:
            _check_means(_as_experiment(pl_module), trainer, self.folder)
        self.finished = True
        if trainer.is_global_zero:
            self._records.remove()
        self._release()

    def _write(self) -> None:
        assert self._run is not None
        old = derived_files(self.folder)
        write_run(self.folder, self._run, self._records)
        for stale in old:
            stale.unlink()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give up the folder; a run of which nothing is kept leaves nothing behind."""
        if self._lock is not None and not self._records.any():
            self._records.remove()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()


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


def _needed_bytes(run: RunDescription, experiment: PatchingExperiment) -> int:
    """About what a run writes."""
    values = run.grid.size * len(run.metrics) * _BYTES_A_VALUE
    values *= 1 if run.control == "none" else 2
    kept = 0
    if run.experiment == "iterative":
        parameter = next(experiment.model.parameters())
        hidden = experiment.model.backbone.config.hidden_size
        kept = 2 * math.prod(run.grid.shape) * hidden * parameter.itemsize
    return run.num_pairs * (values + kept)


def _as_experiment(module: pl.LightningModule) -> PatchingExperiment:
    if not isinstance(module, PatchingExperiment):
        raise TypeError(f"expected a PatchingExperiment, got {type(module).__name__}")
    return module


def _check_means(experiment: PatchingExperiment, trainer: pl.Trainer, folder: Path) -> None:
    """The metrics' maps and the means of what was written are two ways to the same numbers."""
    maps = {name: value.cpu().numpy() for name, value in experiment.metrics.compute().items()}
    if not trainer.is_global_zero:
        return
    results: Results = read_results(folder)
    for metric, values in results.values.items():
        known = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            mean = np.where(known, values, 0).sum(0) / known.sum(0)
        np.testing.assert_allclose(maps[metric], mean, rtol=1e-6, atol=1e-9, err_msg=metric)
