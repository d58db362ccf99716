"""Writes the results folder of a patching experiment."""

from __future__ import annotations

import math
from pathlib import Path

import lightning.pytorch as pl
import numpy as np

from codi_patching.callbacks.folder import FolderWriter
from codi_patching.experiments.base import Experiment
from codi_patching.experiments.describe import describe_run
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.results.folder import folder_name
from codi_patching.results.layout import derived_files
from codi_patching.results.read import Results, read_results
from codi_patching.results.records import Records
from codi_patching.results.schema import RunDescription
from codi_patching.results.store import write_run

_BYTES_A_VALUE = 64
"""A value of a cell takes about so much: 8 kept, 30 as JSON, 20 in the table."""


class ResultsWriter(FolderWriter[RunDescription]):
    """Writes the results folder of a patching experiment.

    Args:
        dir: Output folder; `results/<experiment>` if not given.
        overwrite: Whether results that are there may be replaced.
        folder_by_run: Whether each run gets a folder of its own inside `dir`, named by what is run:
            sweeps and loops do not collide, and the same command finds its folder again.
    """

    batches: Records

    def __init__(
        self, dir: str | None = None, overwrite: bool = False, folder_by_run: bool = False
    ) -> None:
        super().__init__(overwrite)
        self.dir, self.folder_by_run = dir, folder_by_run

    def open(self, trainer: pl.Trainer, experiment: Experiment) -> RunDescription:
        """Take the folder before the model is loaded, but where the model is in its name."""
        patching = _as_patching(experiment)
        folder = Path(self.dir or f"results/{patching.name}")
        if not self.folder_by_run:
            self.take(trainer, Records(folder))
        patching.load()
        asked = describe_run(patching)
        if self.folder_by_run:
            self.take(trainer, Records(folder / folder_name(asked)))
        return asked

    def needed_bytes(self, run: RunDescription, experiment: Experiment) -> int:
        """About what a run writes."""
        values = run.grid.size * len(run.metrics) * _BYTES_A_VALUE
        values *= 1 if run.control == "none" else 2
        kept = 0
        if run.experiment == "iterative":
            model = _as_patching(experiment).model
            itemsize = next(model.parameters()).itemsize
            kept = 2 * math.prod(run.grid.shape) * model.backbone.config.hidden_size * itemsize
        return run.num_pairs * (values + kept)

    def resume(self, experiment: Experiment) -> None:
        """Count what an earlier run of the same command measured."""
        for result in self.batches:
            _as_patching(experiment).load_cached(result)

    def write(self, run: RunDescription) -> None:
        """Write the measured files; what was derived from older ones goes."""
        old = derived_files(self.folder)
        write_run(self.folder, run, self.batches)
        for stale in old:
            stale.unlink()

    def conclude(self, trainer: pl.Trainer, experiment: Experiment) -> None:
        """Check the two ways to the mean maps against each other."""
        if not self.finished:
            _check_means(_as_patching(experiment), trainer, self.folder)


def _as_patching(experiment: Experiment) -> PatchingExperiment:
    if not isinstance(experiment, PatchingExperiment):
        raise TypeError(f"expected a PatchingExperiment, got {type(experiment).__name__}")
    return experiment


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
