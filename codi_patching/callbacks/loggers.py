"""Loggers that cannot end a run: one that fails, at whatever moment, costs a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities import rank_zero_warn


class SafeLogger(Logger):
    """A logger that is asked nothing more once it has failed.

    It starts with the first thing that is logged: a run that is refused leaves nothing behind.

    Args:
        inner: The logger; `trainer.logger.inner` reaches it.
    """

    def __init__(self, inner: Logger) -> None:
        super().__init__()
        self.inner = inner
        self.failed = self.started = False

    def start(self) -> None:
        """Let the logger begin its run."""
        if not self.started:
            self.started = True
            self.ask(lambda inner: getattr(inner, "experiment", None))

    def ask(self, action: Callable[[Logger], Any], otherwise: Any = None) -> Any:
        """Do something with the logger; a failure is a warning, and gives `otherwise`."""
        if self.failed:
            return otherwise
        try:
            return action(self.inner)
        except Exception as error:  # whatever a tracker raises, the results are what matters
            self.failed = True
            if isinstance(self.inner, WandbLogger):
                _abandon_wandb()
            _warn(type(self.inner).__name__, error)
            return otherwise

    @property
    def name(self) -> str | None:
        """The logger's own."""
        return self.ask(lambda inner: inner.name)

    @property
    def version(self) -> int | str | None:
        """The logger's own."""
        return self.ask(lambda inner: inner.version)

    @property
    def save_dir(self) -> str | None:
        """The logger's own."""
        return self.ask(lambda inner: inner.save_dir)

    @property
    def experiment(self) -> Any:
        """The logger's own; one that takes everything before the start and after a failure."""
        if not self.started:
            return DummyExperiment()
        return self.ask(lambda inner: getattr(inner, "experiment", None), DummyExperiment())

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Hand metrics on."""
        self.start()
        self.ask(lambda inner: inner.log_metrics(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Hand hyperparameters on, but for those that Lightning logs before anything has run."""
        if self.started:
            self.ask(lambda inner: inner.log_hyperparams(params, *args, **kwargs))

    def save(self) -> None:
        """Let the logger save."""
        if self.started:
            self.ask(lambda inner: inner.save())

    def finalize(self, status: str) -> None:
        """Close the logger."""
        if not self.started:
            return
        self.ask(lambda inner: inner.finalize(status))
        if isinstance(self.inner, WandbLogger):
            self.ask(lambda inner: inner.experiment.finish(exit_code=int(status != "success")))


def build_loggers(configured: Any, defaults: Mapping[str, Mapping[str, Any]]) -> list[SafeLogger]:
    """Loggers from their part of a configuration; one that cannot be made costs a warning.

    Args:
        configured: A class with arguments or a list of them; True for a `CSVLogger`; False or None
            for none.
        defaults: By name of a class, the arguments it gets where it was not told others.
    """
    if configured is True:
        return [SafeLogger(CSVLogger("runs", name="csv"))]
    made = []
    for one in configured if isinstance(configured, list) else filter(None, [configured]):
        try:
            arguments = {**one.get("init_args", {}), **one.get("dict_kwargs", {})}
            for option, value in defaults.get(one.class_path.rpartition(".")[2], {}).items():
                if arguments.get(option) is None:
                    arguments[option] = value
            logger = resolve_name(one.class_path)(**arguments)
            if isinstance(logger, WandbLogger) and not arguments.get("anonymous"):
                logger._wandb_init.pop("anonymous", None)  # W&B warns of it, whatever its value
            made.append(SafeLogger(logger))
        except Exception as error:  # whatever it raises
            _warn(one.class_path.rpartition(".")[2], error)
    return made


def _abandon_wandb() -> None:
    """Take back W&B's hook at exit, which would wait for a service that is gone."""
    import wandb

    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wandb.teardown()


def _warn(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    rank_zero_warn(
        f"{name} failed and gets nothing more of this run; the results are not affected: {reason}"
    )
