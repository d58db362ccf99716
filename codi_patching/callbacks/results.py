"""Writes the results folder of an experiment, batch by batch while it runs, whole at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from codi_patching.callbacks.processes import Processes, processes_of
from codi_patching.data.datamodule import PairBatch, PairsDataModule
from codi_patching.errors import InputError, path_text
from codi_patching.experiments.base import Experiment
from codi_patching.results.description import ResultsError, RunDescription
from codi_patching.results.folder import FolderLock, check_writable, prepare_folder
from codi_patching.results.identity import folder_name, run_sha256
from codi_patching.results.records import ExcludedPair, PairRecord
from codi_patching.results.store import Store
from codi_patching.results.write import write_run

T = TypeVar("T")


class ResultsWriter(pl.Callback):
    """Writes the results folder of an experiment.

    The same command resumes where a killed one stopped, with the same bytes at the end. With
    several processes each keeps its own batches, and the first writes the files.

    Args:
        dir: Output folder; `results/<experiment>` if not given.
        overwrite: Whether results that are there may be replaced.
        folder_by_run: Whether each run gets a folder of its own inside `dir`, named by what is run:
            sweeps and loops do not collide, and the same command finds its folder again.

    Attributes:
        folder: The output folder, known from `setup` on.
        finished: Whether its results are complete.
        released_later: Whether another callback calls `release`, after it has used the folder.

    Example:
        >>> import codi_patching as cp
        >>> from lightning.pytorch import Trainer
        >>> writer = cp.ResultsWriter("out")
        >>> trainer = Trainer(callbacks=[writer], logger=False, enable_progress_bar=False)
        >>> experiment, data = cp.LensExperiment(), cp.PairsDataModule(max_pairs=2)
        >>> trainer.predict(experiment, datamodule=data, return_predictions=False)
        >>> writer.finished, sorted(path.name for path in writer.folder.iterdir())
        (True, ['.lock', 'SHA256SUMS', 'lens_results.json'])
    """

    def __init__(
        self, dir: str | None = None, overwrite: bool = False, folder_by_run: bool = False
    ) -> None:
        self.dir = None if dir is None else path_text(dir, "results.dir")
        self.overwrite, self.folder_by_run = overwrite, folder_by_run
        self.folder, self.finished, self.released_later = Path(), False, False
        self._lock: FolderLock | None = None
        self._processes: Processes | None = None
        self._store = Store(self.folder)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the folder ready, and leave out of the data what is done already.

        Raises:
            ResultsError: The folder cannot be written, or is another run's.
        """
        experiment = as_experiment(pl_module)
        asked = self._open(trainer, experiment)
        experiment.forget()
        run, self.finished, found = run_on_rank_zero(
            trainer, lambda: prepare_folder(self._store, asked, self.overwrite)
        )
        if found:
            rank_zero_info(found)
        self._check_shared(trainer, run)
        data = pairs_data(trainer)
        kept = run_on_rank_zero(trainer, lambda: {} if self.finished else self._store.check())
        done = [batch for batch in data.batches if self.finished or _is_kept(batch, kept)]
        data.leave_out([batch.first for batch in done])
        if trainer.is_global_zero and not self.finished:
            # Not at the start of prediction, which does not come where no batch is missing.
            places = {batch.first + index for batch in done for index in range(len(batch.pairs))}
            records = (record for place, record in self._store.placed() if place in places)
            experiment.count(record for record in records if isinstance(record, PairRecord))

    def _open(self, trainer: pl.Trainer, experiment: Experiment) -> RunDescription:
        """Take the folder before the model is loaded, but where the model is in its name."""
        folder = Path(self.dir or f"results/{experiment.name}")
        if not self.folder_by_run:
            self._take(trainer, folder)
        experiment.load()
        asked = experiment.describe()
        if self.folder_by_run:
            self._take(trainer, folder / folder_name(asked))
        return asked

    def _take(self, trainer: pl.Trainer, folder: Path) -> None:
        """Keep a folder for this run alone.

        Raises:
            ResultsError: It cannot be written, or another run has it.
        """
        self.folder, self._store = folder, Store(folder)
        run_on_rank_zero(trainer, self._lock_folder)
        self._processes = processes_of(trainer, folder)
        self._processes.start()

    def _lock_folder(self) -> None:
        check_writable(self.folder, "[[results.dir]]")
        lock = FolderLock(self.folder)
        lock.acquire()
        self._lock = lock  # only now: what is of another run is not touched

    def _check_shared(self, trainer: pl.Trainer, run: RunDescription) -> None:
        begun = None if self.finished else self._store.begun()
        shared = self.finished or (begun is not None and run_sha256(begun) == run_sha256(run))
        if not trainer.strategy.reduce_boolean_decision(shared):
            raise ResultsError(
                f"expected {self.folder} to be the same folder for all processes: set "
                "[[results.dir]] to storage that all nodes share"
            )

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
        for record in outputs:
            if isinstance(record, ExcludedPair):
                rank_zero_warn(f"pair {record.pair_id} left out: {record.reason}")
        self._store.keep(batch.first, outputs)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the files.

        Here and not at the end of prediction: a process without batches has no such end.

        Raises:
            ResultsError: No pair could be run, or a process kept its pairs elsewhere.
        """
        trainer.strategy.barrier()
        if not self.finished:
            run_on_rank_zero(trainer, self._write)
        self._watch_no_more()
        self.finished = True
        if trainer.is_global_zero:
            self._store.remove()
        if not self.released_later:
            self.release()

    def _write(self) -> None:
        write_run(self.folder, self._store)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give up the folder; a run of which nothing is kept leaves nothing behind."""
        self._watch_no_more()
        if self._lock is not None and not self._store.any():
            self._store.remove()
        self.release()

    def _watch_no_more(self) -> None:
        if self._processes is not None:
            self._processes.stop()

    def release(self) -> None:
        """Give up the folder."""
        if self._lock is not None:
            self._lock.release()


def _is_kept(batch: PairBatch, kept: dict[int, str]) -> bool:
    """Whether all pairs of a batch are kept, be it by batches of another size."""
    places = enumerate(batch.pairs, batch.first)
    return all(kept.get(place) == pair.pair_id for place, pair in places)


def as_experiment(module: pl.LightningModule) -> Experiment:
    """The module of a run.

    Raises:
        TypeError: It is another module.
    """
    if not isinstance(module, Experiment):
        raise TypeError(f"expected an Experiment, got {type(module).__name__}")
    return module


def pairs_data(trainer: pl.Trainer) -> PairsDataModule:
    """The data of a run.

    Raises:
        TypeError: They are others.
    """
    data = trainer.datamodule
    if not isinstance(data, PairsDataModule):
        raise TypeError(f"expected a PairsDataModule, got {type(data).__name__}")
    return data


def run_on_rank_zero(trainer: pl.Trainer, action: Callable[[], T]) -> T:
    """Do something in the first process alone; what it gives, or its error, comes to all.

    Raises:
        ResultsError: The action raised one, or an `OSError`.
    """
    value, refusal = None, ""
    if trainer.is_global_zero:
        try:
            value = action()
        except InputError as error:
            refusal = error.args[0]  # as it was written, arguments to change marked
        except OSError as error:
            refusal = str(error)
    value, refusal = trainer.strategy.broadcast((value, refusal))
    if refusal:
        raise ResultsError(refusal)
    return value
