"""Writes what an experiment gives: each pair as it is made, the files at the end."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from codi_patching.analysis.statistics import mean_and_deviation
from codi_patching.data.pairs import Pair
from codi_patching.data.records import (
    ExcludedPair,
    Metadata,
    PairResult,
    Records,
    ResultsError,
)
from codi_patching.data.results import (
    Results,
    aggregate,
    file_name,
    read_results,
    results_name,
    write_activations,
    write_checksums,
    write_csv,
    write_json,
    write_results,
    write_table,
)
from codi_patching.experiments.base import PatchingExperiment
from codi_patching.models.arithmetic import describe_device

T = TypeVar("T")

_PACKAGES = ("codi_patching", "torch", "transformers", "lightning", "torchmetrics")
_WRITTEN = (
    results_name("*"), "results.csv", "aggregate.json", "validity.json", "SHA256SUMS",
    "activations.safetensors", "trace_*.csv", "kl_divergence.png", "recovery.png",
    "trajectory_*.png", "pairs/*.png", "report.html",
)  # fmt: skip
_ADVICE = "set --results.dir to a new folder, or --results.overwrite true"

_BYTES_A_VALUE = 64
"""A value of a cell takes about so much: 8 kept, 30 as JSON, 20 in the table."""


class ResultsWriter(pl.Callback):
    """Keeps each batch on disk as it is made, and writes the results files when all are.

    The same command goes on where a killed one stopped. With several processes each keeps its own
    batches and the first writes the files.

    Args:
        dir: Output folder; `results/<experiment>` if not given.
        overwrite: Whether results that are there may be replaced.
        top_k: Cells in the ranked table.

    Attributes:
        folder: The output folder.
        results: What was written, read again, once it is.
    """

    def __init__(
        self,
        dir: str | None = None,
        overwrite: bool = False,
        top_k: int = 5,
    ) -> None:
        if top_k < 1:
            raise ValueError(f"expected --results.top_k of at least 1, got {top_k}")
        self.dir, self.overwrite, self.top_k = dir, overwrite, top_k
        self.folder = Path()
        self.metadata: Metadata = {}
        self.results: Results | None = None
        self._finished = self._known = False
        self._first: dict[str, int] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out whether the folder can be written, before anything is computed.

        Raises:
            ResultsError: It cannot.
        """
        experiment = _as_experiment(pl_module)
        self.folder = Path(self.dir or f"results/{experiment.name}")
        self.records = Records(self.folder)
        on_first(trainer, lambda: check_writable(self.folder, "--results.dir"))

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find what is done already; refuse a folder of another run.

        Raises:
            ResultsError: It is of another run, naming the keys that differ; or the disk is full.
        """
        experiment = _as_experiment(pl_module)
        self.metadata = json.loads(json.dumps(describe_run(trainer, experiment)))
        self._finished, self.metadata = on_first(
            trainer, lambda: (self._prepare(experiment), self.metadata)
        )
        shared = self._finished or self.records.metadata() == self.metadata
        if not trainer.strategy.reduce_boolean_decision(shared):
            raise ResultsError(
                f"expected {self.folder} to be the same folder for all processes: set "
                "--results.dir to storage that all nodes share"
            )
        if self._finished:
            self.results = read_results(self.folder)
        batches = trainer.datamodule.batches
        sizes = np.cumsum([0, *map(len, batches)]).tolist()
        self._first = {batch[0].pair_id: first for batch, first in zip(batches, sizes)}
        experiment.recall = self._recall

    def _prepare(self, experiment: PatchingExperiment) -> bool:
        """Make the folder ready; whether its results are complete already."""
        begun, found = None, None
        if self.overwrite:
            with suppress(ResultsError):
                begun = self.records.metadata()
        else:
            begun = self.records.metadata()
            found = self._found()
            for old in (begun, found.metadata if found is not None else None):
                if old is not None:
                    self._refuse_other(old)
        if begun is not None and not _differences(begun, self.metadata):
            rank_zero_info(f"going on with the run that was begun in {self.folder}")
            return False
        foreign = [path.name for path in self._outputs()] if not self.overwrite else []
        if found is None and foreign:
            raise ResultsError(
                f"{self.folder} has {', '.join(foreign[:5])}, which this run would replace: "
                f"{_ADVICE}"
            )
        if found is not None:
            rank_zero_info(
                f"{self.folder} holds this run's results already; nothing is run again unless "
                "--results.overwrite is true"
            )
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = self._needed_bytes(experiment)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise ResultsError(
                f"expected about {needed / 1e6:.0f} MB of free disk at {self.folder}, got "
                f"{free / 1e6:.0f}: set --results.dir"
            )
        self.records.remove()
        self.records.begin(self.metadata)
        return False

    def _found(self) -> Results | None:
        """Results that are in the folder."""
        written = sorted(self.folder.glob(results_name("*")))
        if not written:
            return None
        try:
            found = read_results(self.folder)
        except ResultsError as error:
            raise ResultsError(f"{error}: {_ADVICE}") from error
        if found.changed:
            raise ResultsError(
                f"{', '.join(found.changed)} in {self.folder} changed since the run wrote it: "
                f"{_ADVICE}"
            )
        return found

    def _refuse_other(self, old: Metadata) -> None:
        differing = _differences(old, self.metadata)
        if differing:
            raise ResultsError(
                f"{self.folder} holds results of another run, with another "
                f"{', '.join(differing)}: {_ADVICE}"
            )

    def _needed_bytes(self, experiment: PatchingExperiment) -> int:
        values = math.prod(experiment.shape) * len(experiment.metrics) * _BYTES_A_VALUE
        kept = 0
        if experiment.name == "iterative":
            parameter = next(experiment.model.parameters())
            hidden = experiment.model.backbone.config.hidden_size
            kept = 2 * math.prod(experiment.shape) * hidden * parameter.itemsize
        return int(self.metadata["num_pairs"] * (values + kept))

    def _recall(self, batch: list[Pair]) -> list[PairResult | ExcludedPair] | None:
        """A batch that an earlier run of the same command made."""
        if self.results is None:
            first = self._first[batch[0].pair_id]
            known = self.records.read(first, [pair.pair_id for pair in batch], activations=False)
            self._known = known is not None
            return known
        excluded, results = self.results.metadata["excluded"], self.results
        return [
            ExcludedPair(pair.pair_id, excluded[pair.pair_id])
            if pair.pair_id in excluded
            else results.of_pair(pair.pair_id)
            for pair in batch
        ]

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: list[Pair],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        for result in outputs:
            if isinstance(result, ExcludedPair):
                rank_zero_warn(f"pair {result.pair_id} left out: {result.reason}")
        if not self._finished and not self._known:
            self.records.write(self._first[batch[0].pair_id], outputs)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files, check the two means against each other, print the top cells.

        Raises:
            ResultsError: No pair could be run, or a process kept its pairs elsewhere.
        """
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        experiment = _as_experiment(pl_module)
        if not self._finished:
            self._write(experiment)
        assert self.results is not None
        summary = aggregate(self.results, self.top_k)
        if not self._finished:
            write_json(self.folder / "aggregate.json", summary)
            write_checksums(self.folder)
        _check_means(experiment, self.results)
        rank_zero_info(_table(summary, self.results, self.folder))

    def _write(self, experiment: PatchingExperiment) -> None:
        """The files but the summary, from the records."""
        excluded: dict[str, str] = {}
        pair_ids: list[str] = []
        for result in self.records.everything(activations=False):
            if isinstance(result, ExcludedPair):
                excluded[result.pair_id] = result.reason
            else:
                pair_ids.append(result.pair_id)
        missing = self.metadata["num_pairs"] - len(pair_ids) - len(excluded)
        if missing:
            raise ResultsError(
                f"expected the records of all pairs in {self.records.folder}, {missing} are not "
                "there: run the same command again"
            )
        if not pair_ids:
            pair_id, reason = next(iter(excluded.items()))
            raise ResultsError(f"no pair could be run; {pair_id} was left out because {reason}")
        described = {**self.metadata, "num_pairs": len(pair_ids), "excluded": excluded}
        old = set(self._outputs())
        write_csv(self.folder / "results.csv", described, self.records)
        if "activations" in described:
            path = self.folder / described["activations"]["file"]
            whole = self.records.everything(activations=True)
            tensors = (r.activations for r in whole if isinstance(r, PairResult))
            write_activations(path, pair_ids, (t for t in tensors if t is not None))
            old.discard(path)
        for result in self.records:
            if result.trace:
                path = self.folder / f"trace_{file_name(result.pair_id)}.csv"
                write_table(path, result.trace)
                old.discard(path)
        path = self.folder / results_name(experiment.name)
        write_results(path, described, self.records)
        for stale in old - {path, self.folder / "results.csv"}:
            stale.unlink()
        self.results = read_results(self.folder)

    def _outputs(self) -> list[Path]:
        """Files in the folder that a run writes, this one or another."""
        return sorted(path for pattern in _WRITTEN for path in self.folder.glob(pattern))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The whole run is through, figures and all: the records are not needed any more."""
        if trainer.is_global_zero and self.results is not None:
            self.records.remove()


def written_results(trainer: pl.Trainer) -> tuple[Path, Results]:
    """The output folder and what was written there, for the callbacks that come after."""
    writer = next(c for c in trainer.callbacks if isinstance(c, ResultsWriter))
    assert writer.results is not None
    return writer.folder, writer.results


def on_first(trainer: pl.Trainer, action: Callable[[], T]) -> T:
    """Do something in the first process alone; what it gives, or its error, comes to all.

    Raises:
        ResultsError: The action raised one, or an `OSError`.
    """
    value, refusal = None, ""
    if trainer.is_global_zero:
        try:
            value = action()
        except (ResultsError, OSError) as error:
            refusal = str(error)
    value, refusal = trainer.strategy.broadcast((value, refusal))
    if refusal:
        raise ResultsError(refusal)
    return value


def check_writable(folder: Path, option: str) -> None:
    """Write a file in a folder and delete it again, with what had to be made for it.

    Raises:
        ResultsError: It cannot be written, naming the option that chose it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in made:
            with suppress(OSError):  # another run is there by now
                path.rmdir()
    except OSError as error:
        raise ResultsError(
            f"{folder} cannot be written ({error.strerror}): set {option}"
        ) from error


def describe_run(trainer: pl.Trainer, experiment: PatchingExperiment) -> Metadata:
    """All that the numbers depend on, and nothing that changes from run to run."""
    datamodule = trainer.datamodule
    described: Metadata = {
        "experiment": experiment.name,
        "strategy": experiment.strategy,
        "latents": experiment.latents,
        "direction": experiment.direction,
        "source": experiment.source,
        "model": str(experiment.hparams["checkpoint"]),
        "model_type": experiment.model.backbone.config.model_type,
        "checkpoint_sha256": experiment.report.sha256,
        "checkpoint": asdict(experiment.report),
        "data_sha256": datamodule.sha256,
        "seed": experiment.seed,
        "precision": str(trainer.precision),
        "device": describe_device(experiment.device, next(experiment.model.parameters()).dtype),
        "versions": {package: version(package) for package in _PACKAGES},
        "grid": {
            "shape": list(experiment.shape),
            "layers": experiment.layer_names,
            "column": experiment.column,
            "positions": experiment.positions,
            "structural_zeros": [list(cell) for cell in experiment.structural_zeros],
        },
        "metrics": list(experiment.metrics.keys()),
        "num_pairs": len(datamodule.kept),
        "filtered": {"equal_answers": datamodule.filtered},
        "excluded": {},
        "config": {
            "seed_everything": experiment.seed,
            "model": {
                "class_path": f"{type(experiment).__module__}.{type(experiment).__qualname__}",
                "init_args": _public(experiment.hparams),
            },
            "data": _public(datamodule.hparams),
        },
    }
    if experiment.name == "iterative":
        described["activations"] = {
            "file": "activations.safetensors",
            "tensor": "pair_id",
            "axes": ["layer", "iteration", "hidden"],
            "content": "what iteration N generated at (layer, position N+1)",
        }
    return described


def _public(hparams: Any) -> dict[str, Any]:
    return {key: value for key, value in sorted(hparams.items()) if not key.startswith("_")}


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Keys whose values differ, except those that only the end of a run knows."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [path] if old != new else []
    found = []
    for key in sorted((old.keys() | new.keys()) - {"num_pairs", "excluded"}):
        name = f"{path}.{key}" if path else key
        found += _differences(old.get(key), new.get(key), name)
    return found


def _as_experiment(module: pl.LightningModule) -> PatchingExperiment:
    if not isinstance(module, PatchingExperiment):
        raise TypeError(f"expected a PatchingExperiment, got {type(module).__name__}")
    return module


def _check_means(experiment: PatchingExperiment, results: Results) -> None:
    """The metrics' maps and the means of what was written are two ways to the same numbers."""
    for metric, values in results.values.items():
        mean, _, _ = mean_and_deviation(values)
        np.testing.assert_allclose(
            experiment.maps[metric].numpy(), mean, rtol=1e-6, atol=1e-9, err_msg=metric
        )


def _table(summary: dict[str, Any], results: Results, folder: Path) -> str:
    """The ranked cells, and how well the model answers without any patch."""
    baseline = list(results.baseline.values())
    patched = sum(pair["baseline"]["predicts_corrupted"] for pair in baseline)
    giving = sum(pair["giving"]["predicts_clean"] for pair in baseline)
    lines = [
        f"{summary['experiment']} patching, {summary['num_pairs']} pairs; answered right without "
        f"patches: {giving:.0f} giving, {patched:.0f} patched questions",
        "",
        f"rank  layer    {results.metadata['grid']['column']:<9} KL (nats) [95 % interval]   "
        "recovery  answer changed",
    ]
    for rank, cell in enumerate(summary["top_cells"], 1):
        kl, recovery = cell["kl_divergence"], cell["recovery"]
        lines.append(
            f"{rank:>4}  {cell['layer']:<7}  {cell['position'] or 'all':<8}  {kl['mean']:>9.4f} "
            f"[{kl['ci_low']:.4f}, {kl['ci_high']:.4f}]".ljust(54)
            + f"{recovery['mean']:>8.3f}  {cell['prediction_change_rate']['mean']:>13.1%}"
        )
    excluded = results.metadata["excluded"]
    names = f" ({', '.join(list(excluded)[:5])}{', …' * (len(excluded) > 5)})" if excluded else ""
    lines += ["", f"excluded: {len(excluded)}{names}; written to {folder}"]
    if giving < len(baseline) / 2:
        lines.append(
            "WARNING: the model answers fewer than half of the giving questions: patching effects "
            "say little about how it answers"
        )
    return "\n".join(lines)
