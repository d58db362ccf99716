"""Progress of an experiment in runs, with pair, layer and position."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar

from codi_patching.callbacks.counting import Counting
from codi_patching.callbacks.results import as_experiment, pairs_data
from codi_patching.data.datamodule import PairBatch


class PatchingProgress(ProgressBar):
    """One tick for each run of the model that an experiment is about, on stderr.

    Where that is not a terminal, a line now and then.

    Args:
        refresh_rate: 0 for no progress at all.
        every: Seconds between lines where there is no terminal.
    """

    def __init__(self, refresh_rate: int = 1, every: float = 20.0) -> None:
        super().__init__()
        self.refresh_rate, self.every = refresh_rate, every
        self._enabled = refresh_rate > 0
        self._count: Counting | None = None
        self._first: dict[str, int] = {}
        self._after = 0

    def disable(self) -> None:
        """Show nothing, as in all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress, if it was asked for."""
        self._enabled = self.refresh_rate > 0

    @property
    def is_enabled(self) -> bool:
        """Whether anything is shown."""
        return self._enabled

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count what is to be done by this process."""
        if not self._enabled:
            return
        experiment = as_experiment(pl_module)
        mine = pairs_data(trainer).missing[trainer.global_rank :: trainer.world_size]
        total = experiment.runs_of_a_pair * sum(len(batch.pairs) for batch in mine)
        self._count, self._after = Counting(total, "runs", self.every), 0
        experiment.on_runs_done = self._on_runs_done

    def on_predict_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: PairBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Get ready for the runs of these pairs."""
        runs = as_experiment(pl_module).runs_of_a_pair
        self._first = {p.pair_id: self._after + i * runs for i, p in enumerate(batch.pairs)}
        self._after += runs * len(batch.pairs)

    def _on_runs_done(self, pair_id: str, done: int, total: int, cell: str) -> None:
        """So many of a pair's runs are done, the last of them at a cell."""
        if self._count is not None:
            self._count.reach(self._first[pair_id] + done, f"pair {pair_id}, {cell}")

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Catch up with pairs that were left out or had no control."""
        if self._count is not None:
            self._count.reach(self._after)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        as_experiment(pl_module).on_runs_done = None
        if self._count is not None:
            self._count.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self.on_predict_end(trainer, pl_module)
