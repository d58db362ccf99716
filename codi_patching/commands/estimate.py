"""What a study would cost: pairs, runs, memory and time, from one pair of each arm."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch

from codi_patching.commands.parser import OneLineParser
from codi_patching.commands.predict import PredictCLI
from codi_patching.commands.study_arms import Arm
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.experiments.base import Experiment
from codi_patching.experiments.knockout import KnockoutExperiment
from codi_patching.experiments.patching import PatchingExperiment

_TOGETHER = 2
"""Pairs of a batch that is measured."""


class _Stopwatch(pl.Callback):
    """Seconds of each batch; the first also plans, so the last one counts."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Start."""
        self._start = time.perf_counter()

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop."""
        self.seconds.append(time.perf_counter() - self._start)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without what Lightning says of every arm's devices, and the data of its pairs."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def print_estimate(arms: Sequence[Arm], options: Sequence[str]) -> int:
    """Measure a few pairs of each arm, and say what all of them would take."""
    lines, total = [], 0.0
    with quiet_lightning():
        for number, arm in enumerate(arms, 1):
            cli = configured(arm, options)
            print(f"study: trying arm {number} of {len(arms)}, {arm.name}", file=sys.stderr)
            count, runs, seconds = _measure(cli)
            total += seconds
            lines.append(f"{arm.name:<28}{count:>6}{runs:>10,}{seconds:>10.0f} s")
    print(f"{'arm':<28}{'pairs':>6}{'runs':>10}{'about':>12}")
    print("\n".join(lines))
    print(
        f"in all about {total:.0f} s beside start-up, loading and drawing; at most "
        f"{_peak_memory()} of memory with {_TOGETHER} pairs side by side. More of them, as in the "
        "runs, take less time each and more memory. Measured on the first pairs; nothing was "
        "written."
    )
    return 0


def _peak_memory() -> str:
    """The largest that this process has held so far, of the host's memory and of a GPU's."""
    unit = 1 if sys.platform == "darwin" else 1024
    host = f"{unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9:.1f} GB"
    if not torch.cuda.is_available():
        return host
    return f"{host}, and on the GPU {torch.cuda.max_memory_allocated() / 1e9:.1f} GB,"


def configured(arm: Arm, options: Sequence[str]) -> PredictCLI:
    """An arm's experiment and data, which have refused wrong options."""
    return PredictCLI(
        Experiment,
        PairsDataModule,
        subclass_mode_model=True,
        save_config_callback=None,
        seed_everything_default=42,
        parser_class=OneLineParser,
        run=False,
        args=[*arm.command(options), "--trainer.logger=false"],
    )


def _measure(cli: PredictCLI) -> tuple[int, int, float]:
    """Pairs of an arm, its patched runs, and about how many seconds they take."""
    experiment, data = cli.model, cli.datamodule
    assert isinstance(experiment, Experiment)
    if isinstance(experiment, PatchingExperiment):  # its checks are of the first pairs alone
        experiment.self_patch_pairs = experiment.verify_pairs = 0
    if isinstance(experiment, KnockoutExperiment):
        experiment.verify_pairs = 0
    at_most = min(2 * _TOGETHER, data.max_pairs or 2 * _TOGETHER)
    few = PairsDataModule(data.hparams["pairs"], at_most, _TOGETHER)
    watch = _Stopwatch()
    trainer = pl.Trainer(
        accelerator=cli.config.trainer.accelerator,
        devices=1,
        precision=cli.config.trainer.precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    trainer.predict(experiment, few, return_predictions=False)
    count, last = len(few.usable[: data.max_pairs]), len(few.batches[-1].pairs)
    return count, count * experiment.runs_of_a_pair, count * watch.seconds[-1] / last
