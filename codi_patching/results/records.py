"""What patching gave, pair by pair, kept while a run is under way."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codi_patching.results.batches import Batches, ExcludedPair
from codi_patching.results.files import atomic_write, plain
from codi_patching.results.layout import (
    LENS_RESULTS,
    derived_files,
    is_lens_folder,
    measured_files,
    results_name,
)
from codi_patching.results.read import Results, read_results
from codi_patching.results.schema import Array, PairDescription, RunDescription


@dataclass
class PairResult:
    """What a pair gave.

    Attributes:
        pair_id: The pair.
        description: The pair, its unpatched runs and its ceiling.
        values: For each metric a value for each cell, in the grid's shape, NaN where undefined.
        control: The same with the control's activations; empty without a control.
        activations: Generated activations worth keeping, in the model's dtype.
        trace: Rows of a table that follows every patch of this pair.
    """

    pair_id: str
    description: PairDescription
    values: dict[str, Array]
    control: dict[str, Array] = field(default_factory=dict)
    activations: Tensor | None = None
    trace: list[dict[str, Any]] = field(default_factory=list)

    def to(self, *_: object, **__: object) -> PairResult:
        """Itself: it is on the CPU.

        Lightning moves what `predict` gives there, part by part where there is no such method, and
        refuses the frozen dataclasses inside.
        """
        return self


class Records(Batches[RunDescription, PairResult]):
    """The batches of a run of patching."""

    suffix = ".safetensors"
    run_type = RunDescription

    def finished(self) -> Results | None:
        """Complete results in the output folder; None if there are none."""
        there = any(self.output.glob(results_name("*")))
        return read_results(self.output) if there else None

    def of_other_kind(self) -> list[Path]:
        """What the lens measured in the output folder."""
        return [self.output / LENS_RESULTS] if is_lens_folder(self.output) else []

    def in_the_way(self) -> list[Path]:
        """What a new run would replace in the output folder."""
        return [*measured_files(self.output), *derived_files(self.output)]

    def write(self, first: int, results: Sequence[PairResult | ExcludedPair]) -> None:
        """Keep a batch, whose first pair is the run's `first`-th."""
        pairs: list[dict[str, Any]] = []
        tensors: dict[str, Tensor] = {}
        for index, result in enumerate(results):
            if isinstance(result, ExcludedPair):
                pairs.append({"pair_id": result.pair_id, "reason": result.reason})
                continue
            described = result.description.to_json()
            pairs.append(
                {"pair_id": result.pair_id, "description": described, "trace": result.trace}
            )
            for kind, values in (("own", result.values), ("control", result.control)):
                for metric, value in values.items():
                    tensors[f"{index}/{kind}/{metric}"] = torch.from_numpy(value)
            if result.activations is not None:
                tensors[f"{index}/activations"] = result.activations.contiguous()
        with atomic_write(self.path(first)) as path:
            save_file(tensors, path, {"pairs": json.dumps(plain(pairs))})

    def read(
        self, first: int, pair_ids: Sequence[str] | None = None, activations: bool = True
    ) -> list[PairResult | ExcludedPair] | None:
        """A batch, or None if it is not there whole, or of other pairs than `pair_ids`."""
        path = self.path(first)
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                pairs = json.loads(file.metadata()["pairs"])
                tensors = {
                    name: file.get_tensor(name)
                    for name in file.keys()  # noqa: SIM118  no mapping
                    if activations or not name.endswith("/activations")
                }
            found = [_restore(pair, index, tensors) for index, pair in enumerate(pairs)]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path} is damaged and its pairs are run again: {error}", stacklevel=2)
            return None
        if pair_ids is not None and [pair["pair_id"] for pair in pairs] != list(pair_ids):
            return None
        return found

    def everything(self, activations: bool = False) -> Iterator[PairResult | ExcludedPair]:
        """All pairs in their order, a batch in memory at a time."""
        for path in sorted(self.folder.glob(f"[0-9]*{self.suffix}")):
            yield from self.read(int(path.stem), activations=activations) or []


def _restore(
    pair: dict[str, Any], index: int, tensors: dict[str, Tensor]
) -> PairResult | ExcludedPair:
    """The index-th pair of a batch."""
    if "reason" in pair:
        return ExcludedPair(pair["pair_id"], pair["reason"])
    values: dict[str, dict[str, Array]] = {"own": {}, "control": {}}
    for name, tensor in tensors.items():
        number, kind, *metric = name.split("/")
        if int(number) == index and metric:
            values[kind][metric[0]] = tensor.numpy()
    return PairResult(
        pair["pair_id"],
        PairDescription.from_json(pair["description"]),
        values["own"],
        values["control"],
        tensors.get(f"{index}/activations"),
        pair["trace"],
    )
