"""`codi-patching predict`: an experiment on a file of pairs, in Lightning's declarative way."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from codi_patching.callbacks.loggers import build_loggers
from codi_patching.callbacks.progress import PatchingProgress
from codi_patching.callbacks.report import Report
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.errors import InputError
from codi_patching.experiments.base import Experiment
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.models.arithmetic import enable_mkl_reproducibility

EXPERIMENTS = (LayerPatching, PositionPatching, IterativePatching)
"""Imported so that `--model PositionPatching` finds them by their short names."""

INVALID = 3
"""Exit status of a run whose results are complete but fail a check of validity."""

_LOGGERS = [
    {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"project": "codi_patching", "save_dir": "runs", "offline": True},
    },
    {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "runs", "name": "csv"},
    },
]
"""As `configs/loggers/wandb.yaml` and `csv.yaml` together."""

_GROUPS = ("data", "results", "report", "progress")


class PredictCLI(LightningCLI):
    """An experiment, its pairs, and what becomes of its results."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only predict."""
        return {"predict": {"model", "dataloaders", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give each of our callbacks a group of options; the experiment's seed is the run's."""
        parser.add_lightning_class_args(ResultsWriter, "results")
        parser.add_lightning_class_args(Report, "report")
        parser.add_lightning_class_args(PatchingProgress, "progress")
        parser.link_arguments("seed_everything", "model.init_args.seed", _as_seed)

    def before_instantiate_classes(self) -> None:
        """Keep no predictions, which go to the results writer; refuse groups that are none.

        Raises:
            InputError: A group of options is a single value.
        """
        self.config.predict.return_predictions = False
        for group in _GROUPS:
            if not isinstance(self.config.predict[group], Namespace):
                raise InputError(
                    f"expected a group of options under {group}, got {self.config.predict[group]!r}"
                )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, whose loggers cannot end a run."""
        loggers = build_loggers(self.config.predict.trainer.logger, "run")
        return super().instantiate_trainer(**{**kwargs, "logger": loggers or False})


def _as_seed(seed: object) -> int:
    """The run's seed as a number.

    Raises:
        InputError: It is not one.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"expected --seed_everything to be a whole number, got {seed!r}")
    return seed


def run(args: list[str]) -> int:
    """Run an experiment; returns the exit status."""
    enable_mkl_reproducibility()
    try:
        cli = PredictCLI(
            Experiment,
            PairsDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=42,
            trainer_defaults={"logger": _LOGGERS},
            args=["predict", *args],
        )
    except MisconfigurationException as error:
        raise InputError(str(error)) from error
    report = next(c for c in cli.trainer.callbacks if isinstance(c, Report))
    return INVALID if report.failed else 0
