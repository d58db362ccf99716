"""`codi-patching predict`: an experiment on a file of pairs, in Lightning's declarative way."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from codi_patching.callbacks.loggers import build_loggers
from codi_patching.callbacks.processes import lost_process
from codi_patching.callbacks.progress import PatchingProgress
from codi_patching.callbacks.report_at_end import Report
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.commands.config_files import with_files
from codi_patching.commands.logger_options import apply_to_defaults, without_missing
from codi_patching.commands.one_line import refuse
from codi_patching.commands.parser import OneLineCLI, OneLineParser
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.errors import INVALID, InputError
from codi_patching.experiments.base import Experiment
from codi_patching.experiments.describe import label_run
from codi_patching.experiments.head import HeadPatching
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.models.arithmetic import enable_mkl_reproducibility
from codi_patching.reporting.names import data_name, model_name, run_name, tags

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
"""As the configurations `loggers/wandb` and `loggers/csv` together."""

_GROUPS = ("data", "results", "report", "progress")

_PATHS = ("data.pairs", "results.dir", "report.docs", "report.comparison_dir")

_SEEDS = ("--model.seed", "--model.init_args.seed")

_REFUSED = {
    "limit_predict_batches": (None, 1.0, "set --data.max_pairs for fewer pairs"),
    "fast_dev_run": (False, False, "add --config test_mode for a quick look"),
    "barebones": (False, False, "results are written by callbacks"),
    "overfit_batches": (0.0, 0, "set --data.max_pairs for fewer pairs"),
}
"""Options of the Trainer under which a run could not be complete: usual values, and advice."""


class PredictCLI(OneLineCLI):
    """An experiment, its pairs, and what becomes of its results."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only predict."""
        return {"predict": {"model", "dataloaders", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give each of our callbacks a group of options; the experiment's seed is the run's.

        The report's stands first, since that refuses before the results' loads the model.
        """
        parser.add_lightning_class_args(Report, "report")
        parser.add_lightning_class_args(ResultsWriter, "results")
        parser.add_lightning_class_args(PatchingProgress, "progress")
        parser.link_arguments("seed_everything", "model.init_args.seed", _as_seed)

    def before_instantiate_classes(self) -> None:
        """Refuse what would fail late; keep no predictions, which go to the results writer.

        Raises:
            InputError: A group of options is a single value, or an option cannot work here.
        """
        super().before_instantiate_classes()
        config = self.config.predict if "predict" in self.config else self.config
        for group in _GROUPS:
            if not isinstance(config[group], Namespace):
                raise InputError(
                    f"expected a group of options under {group}, got {config[group]!r}"
                )
        _refuse_options(config)
        if config.trainer.get("enable_progress_bar") is False:
            config.trainer.enable_progress_bar = None
            config.progress.refresh_rate = 0
        if "return_predictions" in config:
            config.return_predictions = False

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, whose loggers cannot end a run."""
        config = self.config.predict if "predict" in self.config else self.config
        loggers = build_loggers(
            without_missing(config.trainer.logger), self._logger_defaults(config.report.name)
        )
        return super().instantiate_trainer(**{**kwargs, "logger": loggers or False})

    def _logger_defaults(self, name: str | None) -> dict[str, dict[str, Any]]:
        """What a run is called in trackers, and where it is put there, by their class."""
        label = label_run(self.model, self.datamodule)
        name = name or run_name(label)
        placed = {
            "job_type": label.experiment,
            "group": f"{model_name(label)}_{data_name(label)}",
            "tags": tags(label),
        }
        return {"WandbLogger": {"name": name, **placed}, "MLFlowLogger": {"run_name": name}}


def _refuse_options(config: Namespace) -> None:
    """Refuse options that cannot work here."""
    for option in _PATHS:
        if config[option] == "":
            raise InputError(f"expected --{option} to be a path, got an empty text: leave it out")
    for option, (usual, other, advice) in _REFUSED.items():
        value = config.trainer.get(option)
        # 1 is one batch, 1.0 is all of them, though they are equal.
        if (type(value), value) not in [(type(v), v) for v in (usual, other, None)]:
            raise _incomplete(option, value, advice)
    if config.trainer.get("use_distributed_sampler") is False:
        raise InputError(
            "--trainer.use_distributed_sampler false would run every pair in every process: "
            "leave it out"
        )
    if config.get("ckpt_path"):
        raise InputError("--ckpt_path is not of use here: set --model.checkpoint")


def _incomplete(option: str, value: object, advice: str) -> InputError:
    """The error of an option under which a run would not be complete."""
    return InputError(f"--trainer.{option} {value} would leave the results incomplete: {advice}")


def _refuse_one_batch(args: Sequence[str]) -> None:
    """Refuse to run one batch: once it is parsed, with some packages 1 is 1.0, which is all.

    Raises:
        InputError: It is asked for.
    """
    option = "--trainer.limit_predict_batches"
    if f"{option}=1" in args or (option, "1") in pairwise(args):
        name = option.rpartition(".")[2]
        raise _incomplete(name, 1, _REFUSED[name][2])


def _as_seed(seed: object) -> int:
    """The run's seed as a number.

    Raises:
        InputError: It is not one.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(
            f"expected --seed_everything to be a whole number from 0 to {2**32 - 1}, got {seed!r}"
        )
    return seed


def run(args: list[str]) -> int:
    """Run an experiment; returns the exit status."""
    if args and args[0] in ("-h", "--help"):
        print_help()
        return 0
    if "--trainer.help" in args:
        print_trainer_help()
        return 0
    if any(arg.partition("=")[0] in _SEEDS for arg in args):
        refuse("--model.seed is the run's: set --seed_everything")
    _refuse_one_batch(args)
    enable_mkl_reproducibility()
    warnings.formatwarning = _show_warning
    args, loggers = apply_to_defaults(with_files(args), _LOGGERS)
    try:
        cli = PredictCLI(
            Experiment,
            PairsDataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=42,
            trainer_defaults={"logger": loggers},
            parser_class=OneLineParser,
            args=["predict", *args],
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise _input_error(error) from error
    reports = [c for c in cli.trainer.callbacks if isinstance(c, Report)]
    return INVALID if any(report.failed for report in reports) else 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning of this program in one line; of others, where it comes from too."""
    if "codi_patching" in Path(filename).parts:
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _input_error(error: BaseException) -> BaseException:
    """What a user did wrong, where an error comes from that; else the error itself."""
    if isinstance(error, MisconfigurationException):
        return InputError(str(error))
    if (lost := lost_process(error)) is not None:
        return lost
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def print_help() -> None:
    """The options that are this program's own; the Trainer's are Lightning's."""
    parser = ArgumentParser(
        "codi-patching predict",
        description="Run a patching experiment. Every key of a configuration file is an option, "
        "and later files and options win.",
        epilog="--trainer.… takes every option of lightning.pytorch.Trainer (--trainer.help lists "
        "them), such as --trainer.precision bf16-true, --trainer.devices 2, --trainer.logger "
        "false. --model takes LayerPatching, PositionPatching, IterativePatching, HeadPatching, "
        "LensExperiment, AttentionExperiment, KnockoutExperiment, or the path of a class of your "
        "own; --model.help CLASS lists its options.",
    )
    parser.add_argument(
        "--config",
        help="a file, or one of the package's: position, models/gpt2; more of them overlay it",
    )
    parser.add_argument("--seed_everything", type=int, default=42, help="of everything random")
    shared = parser.add_class_arguments(PositionPatching, "model")
    own = {name.removeprefix("model.") for name in shared}
    for experiment in (IterativePatching, HeadPatching):
        parser.add_class_arguments(experiment, "model", as_group=False, skip=own)
    parser.add_class_arguments(PairsDataModule, "data")
    parser.add_class_arguments(ResultsWriter, "results")
    parser.add_class_arguments(Report, "report")
    parser.add_class_arguments(PatchingProgress, "progress")
    parser.print_help()


def print_trainer_help() -> None:
    """The options of Lightning's Trainer."""
    parser = ArgumentParser("codi-patching predict")
    parser.add_class_arguments(pl.Trainer, "trainer")
    parser.print_help()
