"""What pairs gave, kept while a run is under way.

Each batch of pairs is a file in `partial/` inside the output folder, written whole or not at all,
so that a run that was killed is resumed after the last of them:

    partial/run.json              what is run: a folder of another run is not touched
    partial/000008.safetensors    the batch whose first pair is the ninth of the run
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codi_patching.results.files import atomic_write, plain
from codi_patching.results.schema import Array, PairDescription, ResultsError, RunDescription


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

    def begin(self, run: RunDescription) -> None:
        """Say what is run from here on."""
        self.folder.mkdir(exist_ok=True)
        with atomic_write(self.folder / "run.json") as path:
            path.write_text(json.dumps(run.to_json()), encoding="utf-8")

    def begun(self) -> RunDescription | None:
        """What was begun here; None if nothing was."""
        try:
            content = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            return RunDescription.from_json(content)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ResultsError(
                f"{self.folder} is of a run that cannot be resumed, its run.json is damaged: "
                "delete the folder, or set --results.overwrite true"
            ) from error

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
        with atomic_write(self._path(first)) as path:
            save_file(tensors, path, {"pairs": json.dumps(plain(pairs))})

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

    def __iter__(self) -> Iterator[PairResult]:
        """The pairs that could be run, in their order, without activations."""
        return (r for r in self.everything(False) if isinstance(r, PairResult))

    def everything(self, activations: bool) -> Iterator[PairResult | ExcludedPair]:
        """All pairs in their order, a batch in memory at a time."""
        for path in sorted(self.folder.glob("*.safetensors")):
            yield from self.read(int(path.stem), activations=activations) or []

    def any(self) -> bool:
        """Whether a batch is kept."""
        return any(self.folder.glob("*.safetensors"))

    def remove(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:06d}.safetensors"


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
