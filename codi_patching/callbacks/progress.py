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
        batch: Pair,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Name the pair, and follow its patched runs."""
        assert isinstance(pl_module, PatchingExperiment)
        bar, experiment = self.predict_progress_bar, pl_module
        cells = math.prod(experiment.shape)
        if batch_idx == 0:
            bar.reset(cells * int(trainer.num_predict_batches[dataloader_idx]))

        def progress(count: int, name: str) -> None:
            bar.set_description(f"pair {batch.pair_id}, {name}")
            bar.update(batch_idx * cells + count - bar.n)

        experiment.on_progress = progress

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the patched runs have ticked already."""

    def init_predict_tqdm(self) -> Tqdm:
        """The bar, in patched runs."""
        bar = super().init_predict_tqdm()
        bar.unit = "runs"
        return bar
