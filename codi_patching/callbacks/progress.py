"""A progress bar that counts patched runs and names pair, layer and position."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.patching import PatchingExperiment


class PatchingProgress(TQDMProgressBar):
    """One tick for each patched run."""

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
        bar = self.predict_progress_bar
        if batch_idx == 0:
            mine = pl_module.datamodule.missing[trainer.global_rank :: trainer.world_size]
            bar.reset(runs * sum(len(batch.pairs) for batch in mine))
        self._first = {p.pair_id: bar.n + i * runs for i, p in enumerate(batch.pairs)}
        self._after = bar.n + runs * len(batch.pairs)

    def on_patched_runs_end(self, pair_id: str, done: int, total: int, cell: str) -> None:
        """Follow a pair's patched runs."""
        bar = self.predict_progress_bar
        bar.set_description(f"pair {pair_id}, {cell}", refresh=False)
        bar.update(self._first[pair_id] + done - bar.n)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Catch up with pairs that were left out or had no control."""
        bar = self.predict_progress_bar
        bar.update(self._after - bar.n)

    def init_predict_tqdm(self) -> Tqdm:
        """The bar, in patched runs."""
        bar = super().init_predict_tqdm()
        bar.unit = "runs"
        return bar
