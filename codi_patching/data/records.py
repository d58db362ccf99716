"""What a pair gave, and how it is kept while a run goes on.

Each batch of pairs is a file in `partial/` inside the output folder, written whole or not at all,
so that a run that was killed goes on after the last of them:

    partial/run.json              what is run: a folder of another run is not touched
    partial/000008.safetensors    the batch whose first pair is the ninth of the run
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codi_patching.analysis.statistics import Array

Metadata = dict[str, Any]


class ResultsError(ValueError):
    """A results folder is not what it should be."""


@dataclass
class PairResult:
    """What a pair gave.

    Attributes:
        pair_id: The pair.
        baseline: Of the two unpatched runs, ready for JSON.
        values: For each metric a value for each cell, in the grid's shape, NaN where undefined.
        activations: Generated activations worth keeping, in the model's dtype.
        trace: Rows of a table that follows every patch of this pair.
    """

    pair_id: str
    baseline: dict[str, Any]
    values: dict[str, Array]
    activations: Tensor | None = None
    trace: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class ExcludedPair:
    """A pair that could not be run, and why."""

    pair_id: str
    reason: str


class Records:
    """The batches of a run that are done.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "partial"

    def begin(self, metadata: Metadata) -> None:
        """Say what is run from here on."""
        self.folder.mkdir(exist_ok=True)
        with whole_file(self.folder / "run.json") as path:
            path.write_text(json.dumps(metadata), encoding="utf-8")

    def metadata(self) -> Metadata | None:
        """What was begun here; None if nothing was."""
        try:
            content = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ResultsError(
                f"{self.folder} is of a run that cannot be gone on with, its run.json is damaged: "
                "delete the folder, or set --results.overwrite true"
            ) from error
        return dict(content)

    def write(self, first: int, results: Sequence[PairResult | ExcludedPair]) -> None:
        """Keep a batch, whose first pair is the run's `first`-th."""
        pairs: list[dict[str, Any]] = []
        tensors: dict[str, Tensor] = {}
        for index, result in enumerate(results):
            if isinstance(result, ExcludedPair):
                pairs.append({"pair_id": result.pair_id, "reason": result.reason})
                continue
            pairs.append(
                {"pair_id": result.pair_id, "baseline": result.baseline, "trace": result.trace}
            )
            for metric, value in result.values.items():
                tensors[f"{index}/{metric}"] = torch.from_numpy(value)
            if result.activations is not None:
                tensors[f"{index}."] = result.activations.contiguous()
        with whole_file(self._path(first)) as path:
            save_file(tensors, path, {"pairs": json.dumps(pairs)})

    def read(
        self, first: int, pair_ids: Sequence[str] | None = None, activations: bool = True
    ) -> list[PairResult | ExcludedPair] | None:
        """A batch, or None if it is not there whole, or of other pairs than `pair_ids`."""
        path = self._path(first)
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                pairs = json.loads(file.metadata()["pairs"])
                names = set(file.keys())
                tensors = {
                    name: file.get_tensor(name)
                    for name in names
                    if activations or not name.endswith(".")
                }
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            rank_zero_warn(f"{path} is damaged and its pairs are run again: {error}")
            return None
        if pair_ids is not None and [pair["pair_id"] for pair in pairs] != list(pair_ids):
            return None
        found: list[PairResult | ExcludedPair] = []
        for index, pair in enumerate(pairs):
            if "reason" in pair:
                found.append(ExcludedPair(pair["pair_id"], pair["reason"]))
                continue
            values = {
                name.partition("/")[2]: tensor.numpy()
                for name, tensor in tensors.items()
                if name.startswith(f"{index}/")
            }
            kept = tensors.get(f"{index}.")
            result = PairResult(pair["pair_id"], pair["baseline"], values, kept, pair["trace"])
            found.append(result)
        return found

    def __iter__(self) -> Iterator[PairResult]:
        """The pairs that could be run, in their order, without activations."""
        return (r for r in self.everything(False) if isinstance(r, PairResult))

    def everything(self, activations: bool) -> Iterator[PairResult | ExcludedPair]:
        """All pairs in their order, a batch in memory at a time."""
        for path in sorted(self.folder.glob("*.safetensors")):
            yield from self.read(int(path.stem), activations=activations) or []

    def remove(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:06d}.safetensors"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; what is written appears under `path` whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):
            raise ResultsError(
                f"{path} cannot be written ({getattr(error, 'strerror', None) or error}); the "
                "pairs that are done are kept: make room, and run the same command again"
            ) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
