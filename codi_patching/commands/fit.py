"""`codi-patching fit`: trains a small CODI model on word problems."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from codi_patching.commands.config_files import with_files
from codi_patching.commands.parser import OneLineCLI, OneLineParser
from codi_patching.errors import InputError
from codi_patching.training.data import WordProblemsDataModule
from codi_patching.training.module import CodiDistillation
from codi_patching.training.plain import PlainDistillation
from codi_patching.training.small_model import SmallModelTraining

TRAININGS = (CodiDistillation, PlainDistillation)
"""Imported so that `--model PlainDistillation` finds them by their short names."""

_ADVICE = "set --ckpt_path to a checkpoint of this training, or leave it out to begin anew"

_OF_TRAINING = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step")
"""What a checkpoint must have for training to go on from it."""


Shapes = dict[str, tuple[int, ...]]
"""Of weights, by name."""


class FitCLI(OneLineCLI):
    """CODI self-distillation on word problems."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only fit."""
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse what is no checkpoint before Lightning takes the model's options from it."""
        super().parse_arguments(parser, args)
        config = self.config.fit
        if config.ckpt_path is not None:
            config.ckpt_path = os.path.expanduser(config.ckpt_path)
            self.weights = read_checkpoint(Path(config.ckpt_path))

    def before_fit(self) -> None:
        """Refuse a checkpoint of another model before anything is written."""
        path = self.config.fit.ckpt_path
        if path is not None:
            check_weights(path, self.weights, self.model.state_dict())


def read_checkpoint(path: Path) -> Shapes:
    """The shapes of the weights in a checkpoint that training can go on from.

    Of Lightning's own names, `last` would train from nothing where there is none.

    Raises:
        InputError: It is no file, or no checkpoint of training.
    """
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise InputError(f"expected --ckpt_path to be a file, {path} {found}: {_ADVICE}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what a broken pickle makes it stumble over
        raise InputError(f"{path} cannot be read as a checkpoint: {_ADVICE}") from error
    known = content if isinstance(content, dict) else {}
    lacking = [name for name in _OF_TRAINING if name not in known]
    if not lacking and not isinstance(known["state_dict"], dict):
        lacking = ["state_dict"]
    if lacking:
        raise InputError(f"{path} is no checkpoint of training, it has no {lacking[0]}: {_ADVICE}")
    return _shapes(known["state_dict"])


def check_weights(path: str, there: Shapes, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of other names or shapes than a model's.

    Raises:
        InputError: Some are.
    """
    wanted = _shapes(weights)
    if differing := [n for n in {**wanted, **there} if wanted.get(n) != there.get(n)]:
        name = differing[0]
        raise InputError(
            f"{path} is of another model: expected {name} of {wanted.get(name)}, got "
            f"{there.get(name)}: {_ADVICE}"
        )


def _shapes(weights: Mapping[str, Any]) -> Shapes:
    return {name: tuple(getattr(value, "shape", ())) for name, value in weights.items()}


def run(args: list[str]) -> int:
    """Train; returns the exit status."""
    try:
        FitCLI(
            SmallModelTraining,
            WordProblemsDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            seed_everything_default=42,
            parser_class=OneLineParser,
            args=["fit", *with_files(args)],
        )
    except MisconfigurationException as error:
        raise InputError(str(error)) from error
    return 0
