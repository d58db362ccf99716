"""The command line: `predict` runs an experiment, `compare` compares several, `fit` trains.

Every key of a configuration file is an option too, so `--model.latents frozen` on the command line
changes what `configs/position.yaml` says.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from codi_patching.callbacks.comparison import Comparison, compare_folders
from codi_patching.callbacks.figures import FigureWriter
from codi_patching.callbacks.loggers import ResultsLogger, build_loggers
from codi_patching.callbacks.page import PageWriter
from codi_patching.callbacks.progress import PatchingProgress
from codi_patching.callbacks.report import ReportWriter
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.callbacks.validity import ValidityReport
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.experiments.base import PatchingExperiment
from codi_patching.models.arithmetic import fix_order_of_sums
from codi_patching.training.data import WordProblemsDataModule
from codi_patching.training.module import CodiDistillation

_USAGE = """usage: codi-patching {predict,compare,fit} [--config FILE] [options]

  predict   run a patching experiment:  codi-patching predict --config configs/position.yaml
  compare   compare their results:      codi-patching compare --layer results/layer \\
                --position results/position --iterative results/iterative --dir results/comparison
  fit       train a small CODI model:   codi-patching fit --config configs/train_codi_tiny.yaml

codi-patching predict --help (compare --help, fit --help) lists every option.
"""

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

_GROUPS = ("data", "results", "figures", "validity", "comparison", "page", "report", "progress")

INVALID = 3
"""Exit status of a run whose results are complete but fail a check of validity."""


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
        parser.add_lightning_class_args(ValidityReport, "validity")
        parser.add_lightning_class_args(Comparison, "comparison")
        parser.add_lightning_class_args(PageWriter, "page")
        parser.add_lightning_class_args(ReportWriter, "report")
        parser.add_lightning_class_args(PatchingProgress, "progress")

    def before_instantiate_classes(self) -> None:
        """Keep no predictions, which go to the results writer; refuse groups that are none.

        Raises:
            ValueError: A group of options is a single value.
        """
        self.config.predict.return_predictions = False
        loggers = build_loggers(self.config.predict.trainer.logger)
        self.config.predict.trainer.logger = False
        self.trainer_defaults["callbacks"] = ResultsLogger(loggers)
        for group in _GROUPS:
            if not isinstance(self.config.predict[group], Namespace):
                raise ValueError(
                    f"expected a group of options under {group}, got {self.config.predict[group]!r}"
                )


class FitCLI(LightningCLI):
    """`fit`: CODI self-distillation on word problems."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only fit."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}


def run() -> int:
    """Run the command of `sys.argv`; errors are raised. Returns the exit status."""
    if sys.argv[1] == "compare":
        return compare(sys.argv[2:])
    if sys.argv[1] == "fit":
        FitCLI(
            CodiDistillation,
            WordProblemsDataModule,
            auto_configure_optimizers=False,
            seed_everything_default=42,
        )
        return 0
    cli = PredictCLI(
        PatchingExperiment,
        PairsDataModule,
        subclass_mode_model=True,
        auto_configure_optimizers=False,
        save_config_callback=None,
        seed_everything_default=42,
        trainer_defaults={"logger": _LOGGERS},
    )
    checks = next(c for c in cli.trainer.callbacks if isinstance(c, ValidityReport))
    return INVALID if checks.failed else 0


def compare(args: list[str]) -> int:
    """`compare`: what results folders say together; needs no model."""
    parser = argparse.ArgumentParser(
        "codi-patching compare", description="Compare results of layer, position and iterative."
    )
    parser.add_argument("--layer", type=Path, required=True, help="layer-patching results")
    parser.add_argument("--position", type=Path, required=True, help="position-patching results")
    parser.add_argument(
        "--iterative",
        type=Path,
        required=True,
        action="append",
        help="iterative-patching results; given twice for both strategies",
    )
    parser.add_argument("--dir", type=Path, required=True, help="output folder")
    found = parser.parse_args(args)
    checks = compare_folders([found.layer, found.position, *found.iterative], found.dir)
    return INVALID if any(check.status == "fail" for check in checks) else 0


def main() -> None:
    """Entry point: bad input gives one line and exit status 1.

    With `CODI_PATCHING_TRACEBACK` in the environment, the traceback too.
    """
    args = sys.argv[1:]
    if args and args[0] in ("-h", "--help"):
        print(_USAGE, end="")
        sys.exit(0)
    if not args or args[0] not in ("predict", "compare", "fit"):
        print(_USAGE, end="", file=sys.stderr)
        sys.exit(2)
    # Of how Lightning calls its libraries; nothing that a user of this program could change.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", module="lightning")
    # MLflow's store in plain files asks for a word; and nothing of ours is told to anyone.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    fix_order_of_sums()
    try:
        sys.exit(run())
    except (ValueError, OSError, MisconfigurationException) as error:
        if os.environ.get("CODI_PATCHING_TRACEBACK"):
            raise
        process = f" (process {rank})" if (rank := rank_zero_only.rank) else ""
        sys.exit(f"codi-patching{process}: {error}")
