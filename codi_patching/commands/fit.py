"""`codi-patching fit`: trains a small CODI model on word problems."""

from __future__ import annotations

from lightning.pytorch.cli import LightningCLI

from codi_patching.training.data import WordProblemsDataModule
from codi_patching.training.module import CodiDistillation


class FitCLI(LightningCLI):
    """CODI self-distillation on word problems."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only fit."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}


def run(args: list[str]) -> int:
    """Train; returns the exit status."""
    FitCLI(
        CodiDistillation,
        WordProblemsDataModule,
        auto_configure_optimizers=False,
        seed_everything_default=42,
        args=["fit", *args],
    )
    return 0
