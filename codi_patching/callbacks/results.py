"""Writes what an experiment gives: each pair as it is made, the files at the end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from codi_patching.analysis.statistics import mean_and_deviation
from codi_patching.data.pairs import Pair
from codi_patching.data.results import (
    Metadata,
    PairRecord,
    Results,
    ResultsError,
    aggregate,
    file_name,
    read_results,
    results_name,
    write_activations,
    write_csv,
    write_json,
    write_results,
    write_table,
)
from codi_patching.experiments.base import ExcludedPair, PairResult, PatchingExperiment

_PACKAGES = ("codi_patching", "torch", "transformers", "lightning", "torchmetrics")


class ResultsWriter(pl.Callback):
    """Keeps each pair on disk as it is made, and writes the results files when all are.

    Args:
        dir: Output folder; `results/<experiment>` if not given.
        overwrite: Whether results of another configuration may be replaced.
        top_k: Cells in the ranked table.
    """

    def __init__(
        self,
        dir: str | None = None,
        overwrite: bool = False,
        top_k: int = 5,
    ) -> None:
        self.dir, self.overwrite, self.top_k = dir, overwrite, top_k
        self.folder = Path()
        self.metadata: Metadata = {}
        self.excluded: list[ExcludedPair] = []
        self.activations: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the folder, before anything is computed.

        Raises:
            ResultsError: It cannot be written.
        """
        experiment = _as_experiment(pl_module)
        self.folder = Path(self.dir or f"results/{experiment.name}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ResultsError(
                f"{self.folder} cannot be written ({error.strerror}): set --results.dir"
            ) from error

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to replace results of another configuration.

        Raises:
            ResultsError: Naming the keys that differ.
        """
        experiment = _as_experiment(pl_module)
        self.metadata = describe_run(trainer, experiment)
        path = self.folder / results_name(experiment.name)
        if path.exists() and not self.overwrite:
            differing = _differences(read_results(self.folder).metadata, self.metadata)
            if differing:
                raise ResultsError(
                    f"{path} holds results of another run, with another {', '.join(differing)}: "
                    "set --results.dir to a new folder, or --results.overwrite true"
                )
        self._partial.write_text("")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: list[Pair],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the pairs to the partial file."""
        for result in outputs:
            self._keep(result)

    def _keep(self, result: PairResult | ExcludedPair) -> None:
        if isinstance(result, ExcludedPair):
            self.excluded.append(result)
            rank_zero_warn(f"pair {result.pair_id} left out: {result.reason}")
            return
        if result.activations is not None:
            self.activations[result.pair_id] = result.activations
        if result.trace:
            write_table(self.folder / f"trace_{file_name(result.pair_id)}.csv", result.trace)
        line = {
            "pair_id": result.pair_id,
            "baseline": result.baseline,
            "values": {name: value.tolist() for name, value in result.values.items()},
        }
        with self._partial.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the files, check the two means against each other, print the top cells.

        Raises:
            ResultsError: No pair could be run.
        """
        experiment = _as_experiment(pl_module)
        self.metadata["excluded"] = {pair.pair_id: pair.reason for pair in self.excluded}
        self.metadata["num_pairs"] -= len(self.excluded)
        if not self.metadata["num_pairs"]:
            raise ResultsError(
                f"no pair could be run; the first was left out because {self.excluded[0].reason}"
            )
        path = self.folder / results_name(experiment.name)
        write_results(path, self.metadata, self._records())
        write_csv(self.folder / "results.csv", self.metadata, self._records())
        if self.activations:
            write_activations(self.folder / "activations.safetensors", self.activations)
        results = read_results(self.folder)
        _check_means(experiment, results)
        summary = aggregate(results, self.top_k)
        write_json(self.folder / "aggregate.json", summary)
        self._partial.unlink()
        rank_zero_info(_table(summary, results, self.folder))

    @property
    def _partial(self) -> Path:
        return self.folder / "pairs.partial.jsonl"

    def _records(self) -> Iterator[PairRecord]:
        with self._partial.open(encoding="utf-8") as file:
            for line in map(json.loads, file):
                values = {name: np.array(value) for name, value in line["values"].items()}
                yield PairRecord(line["pair_id"], line["baseline"], values)


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


def _differences(old: Metadata, new: Metadata) -> list[str]:
    """Keys whose values differ, except those that only the end of a run knows."""
    keys = (old.keys() | new.keys()) - {"num_pairs", "excluded"}
    return sorted(key for key in keys if old.get(key) != new.get(key))


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
    lines += ["", f"excluded: {len(results.metadata['excluded'])}; written to {folder}"]
    if giving < len(baseline) / 2:
        lines.append(
            "WARNING: the model answers fewer than half of the giving questions: patching effects "
            "say little about how it answers"
        )
    return "\n".join(lines)
