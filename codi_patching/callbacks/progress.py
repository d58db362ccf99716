"""Progress in patched runs, with pair, layer and position: a bar, or a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.patching import PatchingExperiment


class PatchingProgress(ProgressBar):
    """One tick for each patched run, on stderr.

    Where that is not a terminal, a line now and then.

    Args:
        refresh_rate: 0 for no progress at all.
        every: Seconds between lines where there is no terminal.
    """

    def __init__(self, refresh_rate: int = 1, every: float = 20.0) -> None:
        super().__init__()
        self.refresh_rate, self.every = refresh_rate, every
        self._enabled = refresh_rate > 0
        self._bar: tqdm[Any] | None = None
        self._done = self._total = 0
        self._told = 0.0
        self._first: dict[str, int] = {}

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
        assert isinstance(pl_module, PatchingExperiment)
        mine = pl_module.datamodule.missing[trainer.global_rank :: trainer.world_size]
        self._total = pl_module.runs_of_a_pair * sum(len(batch.pairs) for batch in mine)
        self._told = time.monotonic()
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(total=self._total, unit="runs", dynamic_ncols=True, file=sys.stderr)

    def on_predict_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: PairBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Get ready for the patched runs of these pairs."""
        assert isinstance(pl_module, PatchingExperiment)
        runs = pl_module.runs_of_a_pair
        self._first = {p.pair_id: self._done + i * runs for i, p in enumerate(batch.pairs)}
        self._after = self._done + runs * len(batch.pairs)

    def on_patched_runs_end(self, pair_id: str, done: int, total: int, cell: str) -> None:
        """Follow a pair's patched runs."""
        self._show(self._first[pair_id] + done, f"pair {pair_id}, {cell}")

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Catch up with pairs that were left out or had no control."""
        self._show(self._after, "")

    def on_predict_end(self, *args: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self.on_predict_end()

    def _show(self, done: int, what: str) -> None:
        if self._bar is not None:
            self._bar.set_description(what or self._bar.desc.rstrip(": "), refresh=False)
            self._bar.update(done - self._done)
        elif self._enabled and time.monotonic() - self._told > self.every:
            self._told = time.monotonic()
            line = f"{done:,} of {self._total:,} patched runs" + (f"; {what}" if what else "")
            print(line, file=sys.stderr, flush=True)
        self._done = done
