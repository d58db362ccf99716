"""Writes the results folder of the lens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn

from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.lens import LensExperiment
from codi_patching.reporting.lens_figures import draw_hit_rates
from codi_patching.results.lens import LENS_RESULTS, LensRecord, hit_rates, write_lens
from codi_patching.results.records import ExcludedPair
from codi_patching.results.schema import ResultsError


class LensWriter(pl.Callback):
    """Writes `lens_results.json` and the maps of hit rates.

    A run is one pass a pair, so there is nothing to resume.

    Args:
        dir: Output folder; `results/lens` if not given.
        overwrite: Whether results that are there may be replaced.
    """

    def __init__(self, dir: str | None = None, overwrite: bool = False) -> None:
        self.folder, self.overwrite = Path(dir or "results/lens"), overwrite
        self._read: list[LensRecord | ExcludedPair] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse to replace results.

        Raises:
            ResultsError: There are some.
        """
        if (self.folder / LENS_RESULTS).exists() and not self.overwrite:
            raise ResultsError(
                f"{self.folder} has results of the lens: set --results.overwrite true, or another "
                "--results.dir"
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
        for result in outputs:
            if isinstance(result, ExcludedPair):
                rank_zero_warn(f"pair {result.pair_id} left out: {result.reason}")
        self._read += outputs

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write all pairs, in the file's order.

        Raises:
            ResultsError: No pair could be read.
        """
        assert isinstance(pl_module, LensExperiment)
        everything = self._read
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self._read)
            everything = [result for part in parts for result in part]
        if not trainer.is_global_zero:
            return
        order = {pair.pair_id: place for place, pair in enumerate(pl_module.pairs)}
        everything = sorted(everything, key=lambda result: order[result.pair_id])
        excluded = {r.pair_id: r.reason for r in everything if isinstance(r, ExcludedPair)}
        records = [r for r in everything if isinstance(r, LensRecord)]
        if not records:
            reason = next(iter(excluded.values()), "none was run")
            raise ResultsError(f"no pair could be read: {reason}")
        counts = {"num_pairs": len(records), "excluded": excluded}
        write_lens(self.folder, {**pl_module.describe(), **counts}, records)
        figure = draw_hit_rates(hit_rates(records, pl_module.top))
        figure.savefig(self.folder / "lens_hit_rates.png", dpi=120)
