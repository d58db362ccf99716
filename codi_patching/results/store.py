"""What a run of any experiment measured so far, kept while it is under way.

Each batch of pairs is a file in `partial/` inside the output folder, written whole or not at all,
so that a run that was killed is resumed after the last of them:

    partial/run.json             what is run: a folder of another run is not touched
    partial/000008.safetensors   the batch whose first pair is the ninth of the run: arrays as
                                 `<index>/own/<name>`, descriptions as JSON in its metadata

Each certifies itself: a batch holds a SHA-256 over its place, its content and the run it belongs
to. What does not match is damaged, is named, and its pairs are run again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codi_patching.results.dataset import PAIR_KINDS
from codi_patching.results.description import Array, ResultsError, RunDescription
from codi_patching.results.files import as_json, atomic_write, make_folder, remove_file, text_file
from codi_patching.results.identity import run_sha256
from codi_patching.results.layout import PARTIAL
from codi_patching.results.pair_descriptions import (
    AttentionPair,
    KnockoutPair,
    LensPair,
    PairDescription,
)
from codi_patching.results.records import ExcludedPair, PairRecord


class Store:
    """The batches of a run that are done.

    Args:
        output: The output folder.
    """

    def __init__(self, output: Path) -> None:
        self.output, self.folder = output, output / PARTIAL
        self._run: RunDescription | None = None

    # -- the run ----------------------------------------------------------------------------------

    def begin(self, run: RunDescription) -> None:
        """Say what is run from here on.

        Raises:
            ResultsError: It cannot be written.
        """
        make_folder(self.folder)
        content = as_json(run.to_json())
        with text_file(self.folder / "run.json") as file:
            file.write(f'{{"sha256": "{_sha256(content)}",\n"run": {content}}}\n')
        self._run = run

    def begun(self) -> RunDescription | None:
        """What was begun here; None if nothing was.

        Raises:
            ResultsError: It is damaged.
        """
        path = self.folder / "run.json"
        if self.folder.is_symlink():
            make_folder(self.folder)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            run = RunDescription.from_json(content["run"])
            if _sha256(as_json(run.to_json())) != content["sha256"]:
                raise ValueError("it is not as it was written")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ResultsError(
                f"{self.folder} is of a run that cannot be resumed, its run.json is damaged: "
                "delete the folder, or set [[results.overwrite]] true"
            ) from error
        self._run = run
        return run

    @property
    def run(self) -> RunDescription:
        """What is run.

        Raises:
            ResultsError: Nothing was begun, or it is damaged.
        """
        run = self._run or self.begun()
        if run is None:
            raise ResultsError(f"expected a run that was begun in {self.folder}, there is none")
        return run

    # -- batches ----------------------------------------------------------------------------------

    def keep(self, first: int, records: Sequence[PairRecord | ExcludedPair]) -> None:
        """Keep a batch, whose first pair is the run's `first`-th.

        Raises:
            ResultsError: It cannot be written.
        """
        make_folder(self.folder)
        pairs = as_json([_described(record) for record in records])
        tensors: dict[str, Tensor] = {}
        for index, record in enumerate(records):
            if isinstance(record, PairRecord):
                tensors |= {f"{index}/{name}": tensor for name, tensor in _tensors(record)}
        described = {"pairs": pairs, "run": run_sha256(self.run)}
        described["sha256"] = _certificate(first, described, tensors)
        with atomic_write(self._path(first)) as path:
            save_file(tensors, path, described)

    def read(self, first: int) -> list[PairRecord | ExcludedPair] | None:
        """A batch, or None if it is not there whole, which is said."""
        path = self._path(first)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                described = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if described["sha256"] != _certificate(first, described, tensors):
                raise ValueError("its content is not what was written")
            if described["run"] != run_sha256(self.run):
                raise ValueError("it belongs to another run")
            kind = PAIR_KINDS.get(self.run.experiment, PairDescription)
            pairs = json.loads(described["pairs"])
            return [_restored(pair, index, tensors, kind) for index, pair in enumerate(pairs)]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path} is damaged and its pairs are run again: {error}", stacklevel=2)
            return None

    def placed(self) -> Iterator[tuple[int, PairRecord | ExcludedPair]]:
        """All pairs with their places in the run, in order, a batch in memory at a time.

        A pair that two batches have, since the batch size was changed in between, comes once.
        """
        after = 0
        for first in self._firsts():
            for place, record in enumerate(self.read(first) or (), first):
                if place >= after:
                    after = place + 1
                    yield place, record

    def check(self) -> dict[int, str]:
        """Ids of the pairs that are kept, by their places; damaged batches are deleted."""
        kept: dict[int, str] = {}
        for first in self._firsts():
            records = self.read(first)
            if records is None:
                remove_file(self._path(first))
            kept |= {place: record.pair_id for place, record in enumerate(records or (), first)}
        return kept

    def __iter__(self) -> Iterator[PairRecord]:
        """The pairs that could be run, in their order."""
        return (record for _, record in self.placed() if isinstance(record, PairRecord))

    def complete(self) -> RunDescription:
        """The run, whose pairs are all kept, with what only its end knows.

        Raises:
            ResultsError: Some are missing.
        """
        excluded: dict[str, str] = {}
        measured = 0
        for _, record in self.placed():
            if isinstance(record, ExcludedPair):
                excluded[record.pair_id] = record.reason
            else:
                measured += 1
        if missing := self.run.num_pairs - measured - len(excluded):
            raise ResultsError(
                f"expected the records of all pairs in {self.folder}, {missing} are not there: run "
                "the same command again"
            )
        return replace(self.run, num_pairs=measured, excluded=excluded)

    def any(self) -> bool:
        """Whether a batch is kept."""
        return bool(self._firsts())

    def remove(self) -> None:
        """Delete all of it; what stands in the folder's place and is none stays."""
        if self.folder.is_dir():  # of a pipe, rmtree would wait for who writes to it
            shutil.rmtree(self.folder, ignore_errors=True)
        self._run = None

    def _firsts(self) -> list[int]:
        found = self.folder.glob("[0-9]*.safetensors")
        return sorted(int(path.stem) for path in found if path.stem.isdecimal())

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:06d}.safetensors"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _certificate(first: int, described: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the place of a batch, the run it belongs to, and all it holds."""
    digest = hashlib.sha256(f"{first}\n{described['run']}\n{described['pairs']}\n".encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _described(record: PairRecord | ExcludedPair) -> dict[str, Any]:
    """What of a record is no array."""
    if isinstance(record, ExcludedPair):
        return {"pair_id": record.pair_id, "reason": record.reason}
    described = record.description.to_json()
    return {"pair_id": record.pair_id, "description": described, "trace": record.trace}


def _tensors(record: PairRecord) -> Iterable[tuple[str, Tensor]]:
    for kind, values in (("own", record.values), ("control", record.control)):
        for name, value in values.items():
            yield f"{kind}/{name}", torch.from_numpy(np.ascontiguousarray(value))
    if record.activations is not None:
        yield "activations", record.activations.detach().cpu().contiguous()


def _restored(
    pair: dict[str, Any],
    index: int,
    tensors: Mapping[str, Tensor],
    kind: type[PairDescription | LensPair | AttentionPair | KnockoutPair],
) -> PairRecord | ExcludedPair:
    """The index-th pair of a batch."""
    if "reason" in pair:
        return ExcludedPair(pair["pair_id"], pair["reason"])
    values: dict[str, dict[str, Array]] = {"own": {}, "control": {}}
    for place, tensor in tensors.items():
        number, arm, *name = place.split("/", 2)
        if int(number) == index and name:
            values[arm][name[0]] = tensor.numpy()
    return PairRecord(
        pair["pair_id"],
        kind.from_json(pair["description"]),
        values["own"],
        values["control"],
        tensors.get(f"{index}/activations"),
        pair["trace"],
    )
