"""`codi-patching fit`: trains a small CODI model on word problems."""

from __future__ import annotations

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from codi_patching.commands.config_files import with_files
from codi_patching.commands.parser import OneLineCLI, OneLineParser
from codi_patching.errors import InputError
from codi_patching.training.data import WordProblemsDataModule
from codi_patching.training.module import CodiDistillation


class FitCLI(OneLineCLI):
    """CODI self-distillation on word problems."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only fit."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}


def run(args: list[str]) -> int:
    """Train; returns the exit status."""
    try:
        FitCLI(
            CodiDistillation,
            WordProblemsDataModule,
            auto_configure_optimizers=False,
            seed_everything_default=42,
            parser_class=OneLineParser,
            args=["fit", *with_files(args)],
        )
    except MisconfigurationException as error:
        raise InputError(str(error)) from error
    return 0
