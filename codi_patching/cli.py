"""Command line."""
import torch
from lightning.pytorch.cli import LightningCLI

from codi_patching.experiments.distillation import CodiDistillation, WordProblemsDataModule


class TrainingCLI(LightningCLI):
    @staticmethod
    def subcommands():
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}


def main(args=None):
    TrainingCLI(CodiDistillation, WordProblemsDataModule, auto_configure_optimizers=False, seed_everything_default=42, args=args)

if __name__ == "__main__":
    main()
