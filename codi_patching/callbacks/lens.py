"""Writes the folder of the lens, and says what is read."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl

from codi_patching.callbacks.folder import FolderWriter, run_on_rank_zero
from codi_patching.experiments.base import Experiment
from codi_patching.experiments.lens import LensExperiment
from codi_patching.reporting.lens_report import report_lens
from codi_patching.results.lens import LensRun
from codi_patching.results.lens_store import LensBatches, finish_lens


class LensWriter(FolderWriter[LensRun]):
    """Writes `lens_results.json` and the maps of hit rates.

    Where no pair has reasoning steps the file names them all as excluded, so that a study goes on.

    Args:
        dir: Output folder; `results/lens` if not given.
        overwrite: Whether results that are there may be replaced.
        figures: Whether to draw the maps.
    """

    batches: LensBatches

    def __init__(
        self, dir: str | None = None, overwrite: bool = False, figures: bool = True
    ) -> None:
        super().__init__(overwrite)
        self.dir, self.figures = dir, figures

    def open(self, trainer: pl.Trainer, experiment: Experiment) -> LensRun:
        """Take the folder before the model is loaded."""
        assert isinstance(experiment, LensExperiment)
        self.take(trainer, LensBatches(Path(self.dir or "results/lens")))
        experiment.load()
        return experiment.describe()

    def write(self, run: LensRun) -> None:
        """Write the measured file."""
        finish_lens(self.folder, run, self.batches)

    def conclude(self, trainer: pl.Trainer, experiment: Experiment) -> None:
        """Draw the maps, and say what is read."""
        run_on_rank_zero(trainer, lambda: print(report_lens(self.folder, self.figures)))
