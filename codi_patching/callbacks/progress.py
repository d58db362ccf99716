"""A progress bar that counts patched runs and names pair, layer and position."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from codi_patching.data.pairs import Pair
from codi_patching.experiments.base import PatchingExperiment


class PatchingProgress(TQDMProgressBar):
    """One tick for each patched run."""

    def on_predict_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: list[Pair],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Follow the patched runs of these pairs."""
        assert isinstance(pl_module, PatchingExperiment)
        bar, experiment = self.predict_progress_bar, pl_module
        cells = math.prod(experiment.shape)
        if batch_idx == 0:
            batches = trainer.datamodule.batches[trainer.global_rank :: trainer.world_size]
            bar.reset(cells * sum(map(len, batches)))
        before = {pair.pair_id: index * cells for index, pair in enumerate(batch)}
        first = bar.n

        def progress(pair_id: str, done: int, name: str) -> None:
            bar.set_description(f"pair {pair_id}, {name}")
            bar.update(first + before[pair_id] + done - bar.n)

        experiment.on_progress = progress

        self._after = first + cells * len(batch)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Catch up with pairs that were not run: known already, or left out."""
        bar = self.predict_progress_bar
        bar.update(self._after - bar.n)

    def init_predict_tqdm(self) -> Tqdm:
        """The bar, in patched runs."""
        bar = super().init_predict_tqdm()
        bar.unit = "runs"
        return bar
