"""Checks every run: what must hold whatever the model, and a control on a few pairs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from codi_patching.analysis.statistics import mean_and_deviation
from codi_patching.analysis.validity import (
    Check,
    check_ceiling,
    check_chain,
    check_control,
    check_first_cell,
    check_self_patch,
    check_structural_zeros,
)
from codi_patching.callbacks.results import written_results
from codi_patching.data.pairs import Pair
from codi_patching.data.results import Results, write_json
from codi_patching.experiments.base import PatchingExperiment
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.models.answers import PairError

_SELF_PATCH = {"64": 1e-12, "32": 1e-6}


class ValidityReport(pl.Callback):
    """Writes `validity.json`; a failed check is loud, and `codi-patching` ends with status 3.

    Args:
        pairs: Pairs that are run again with their own and with another pair's activations; 0 for
            none.
    """

    def __init__(self, pairs: int = 8) -> None:
        if pairs < 0:
            raise ValueError(f"expected --validity.pairs of at least 0, got {pairs}")
        self.pairs = pairs
        self.checks: list[Check] = []

    @property
    def failed(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if check.status == "fail"]

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Run the checks on the results and on a few pairs again."""
        assert isinstance(pl_module, PatchingExperiment)
        experiment = pl_module
        if not trainer.is_global_zero:
            return
        folder, results = written_results(trainer)
        known = set(results.pair_ids)
        sample = [p for p in experiment.pairs if p.pair_id in known][: self.pairs]
        experiment.on_progress = lambda _pair, _count, _name: None
        probes = {pair.pair_id: experiment.probe(pair) for pair in sample}
        self.checks = [
            *_check_results(results),
            *_check_probes(results, probes, str(trainer.precision)),
            *_check_chains(experiment, sample),
        ]
        write_json(folder / "validity.json", {"checks": [asdict(check) for check in self.checks]})
        held = sum(check.status == "pass" for check in self.checks)
        rank_zero_info(
            f"validity: {held} of {len(self.checks)} checks hold, "
            f"{len(self.failed)} fail; the others do not apply"
        )
        for check in self.failed:
            rank_zero_warn(
                f"VALIDITY: {check.name} fails: expected {check.expected}; seen: {check.seen}"
            )


def _right(results: Results) -> np.ndarray[Any, Any]:
    """Whether the model answers each pair's giving question."""
    return np.array([results.baseline[p]["giving"]["predicts_clean"] for p in results.pair_ids])


def _check_results(results: Results) -> list[Check]:
    grid, kl = results.metadata["grid"], results.values["kl_divergence"]
    ceiling = [results.baseline[p]["giving"]["kl_to_clean"] for p in results.pair_ids]
    return [
        check_structural_zeros(kl, results.structural),
        check_first_cell(
            mean_and_deviation(kl)[0], grid["layers"], grid["positions"], _right(results)
        ),
        check_ceiling(np.array(ceiling), _right(results)),
    ]


def _check_probes(
    results: Results, probes: dict[str, dict[str, Tensor]], precision: str
) -> list[Check]:
    """Self-patch identity and random-pair control."""
    tolerance = next((t for digits, t in _SELF_PATCH.items() if digits in precision), 1e-2)
    if not probes:
        return []
    kl = np.stack([probe["self_patch"].numpy() for probe in probes.values()])
    mean = np.where(results.structural, 0, results.values["kl_divergence"].mean(0))
    strongest = int(np.argmax(mean))
    rows = [results.pair_ids.index(pair) for pair in probes]
    own = results.values["kl_to_clean"].reshape(len(results.pair_ids), -1)[rows, strongest]
    control = [
        float(probe["control"].flatten()[strongest]) if "control" in probe else np.nan
        for probe in probes.values()
    ]
    return [
        check_self_patch(kl, tolerance),
        check_control(own, np.array(control), _right(results)[rows]),
    ]


def _check_chains(experiment: PatchingExperiment, sample: list[Pair]) -> list[Check]:
    """In relay, what an iteration was patched with against what the one before it made."""
    if not isinstance(experiment, IterativePatching):
        return []
    if experiment.strategy != "relay":
        return [check_chain([], [])]
    patched: list[str] = []
    generated: list[str] = []
    for pair in sample[:1]:
        with suppress(PairError):
            by_cell = {(line["layer"], line["iteration"]): line for line in experiment.trace(pair)}
            for (layer, iteration), line in by_cell.items():
                if iteration:
                    patched.append(line["hash"])
                    generated.append(by_cell[layer, iteration - 1]["next_hash"])
    return [check_chain(patched, generated)]
