"""The command line: `codi-patching predict` runs an experiment, `codi-patching fit` trains.

Every key of a configuration file is an option too, so `--model.latents frozen` on the command line
changes what `configs/position.yaml` says.
"""

from __future__ import annotations

import os
import sys
import warnings

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from codi_patching.callbacks.figures import FigureWriter
from codi_patching.callbacks.progress import PatchingProgress
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.experiments.base import PatchingExperiment
from codi_patching.experiments.distillation import CodiDistillation, WordProblemsDataModule

_USAGE = """usage: codi-patching {predict,fit} [--config FILE] [options]

  predict   run a patching experiment:  codi-patching predict --config configs/position.yaml
  fit       train a small CODI model:   codi-patching fit --config configs/train_codi_tiny.yaml

codi-patching predict --help and codi-patching fit --help list every option.
"""


class PredictCLI(LightningCLI):
    """`predict`: an experiment on a file of pairs, with results, figures and a progress bar."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only predict."""
        return {"predict": {"model", "dataloaders", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give each of our callbacks a group of options."""
        parser.add_lightning_class_args(ResultsWriter, "results")
        parser.add_lightning_class_args(FigureWriter, "figures")
        parser.add_lightning_class_args(PatchingProgress, "progress")

    def before_instantiate_classes(self) -> None:
        """Pairs go to the results writer as they are made; keeping them all would cost memory."""
        self.config.predict.return_predictions = False


class FitCLI(LightningCLI):
    """`fit`: CODI self-distillation on word problems."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only fit."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}


def run() -> None:
    """Run the command of `sys.argv`; errors are raised."""
    if sys.argv[1] == "fit":
        FitCLI(
            CodiDistillation,
            WordProblemsDataModule,
            auto_configure_optimizers=False,
            seed_everything_default=42,
        )
    else:
        PredictCLI(
            PatchingExperiment,
            PairsDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=42,
            trainer_defaults={"logger": False},
        )


def main() -> None:
    """Entry point: bad input gives one line and exit status 1."""
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE, end="")
        sys.exit(0 if args else 2)
    # Of how Lightning calls its libraries; nothing that a user of this program could change.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", module="lightning")
    try:
        run()
    except (ValueError, OSError, MisconfigurationException) as error:
        sys.exit(f"codi-patching: {error}")
