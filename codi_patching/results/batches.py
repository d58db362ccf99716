"""What a run measured so far, kept while it is under way.

Each batch of pairs is a file in `partial/` inside the output folder, written whole or not at all,
so that a run that was killed is resumed after the last of them:

    partial/run.json   what is run: a folder of another run is not touched
    partial/000008.*   the batch whose first pair is the ninth of the run
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from codi_patching.results.files import atomic_write
from codi_patching.results.lens import LensRun
from codi_patching.results.schema import ResultsError, RunDescription

RunT = TypeVar("RunT", RunDescription, LensRun)
CovariantRunT = TypeVar("CovariantRunT", covariant=True)
ResultT = TypeVar("ResultT")


@dataclass
class ExcludedPair:
    """A pair that could not be run, and why."""

    pair_id: str
    reason: str


class Finished(Protocol[CovariantRunT]):
    """Complete results, read from a folder."""

    @property
    def run(self) -> CovariantRunT:
        """What was run."""

    @property
    def changed(self) -> tuple[str, ...]:
        """Measured files that are not as they were written."""


class Batches(ABC, Generic[RunT, ResultT]):
    """The batches of a run that are done.

    Args:
        output: The output folder.
    """

    suffix: ClassVar[str]
    """How the name of a batch's file ends."""

    run_type: type[RunT]

    def __init__(self, output: Path) -> None:
        self.output, self.folder = output, output / "partial"

    @abstractmethod
    def write(self, first: int, results: Sequence[ResultT | ExcludedPair]) -> None:
        """Keep a batch, whose first pair is the run's `first`-th."""

    @abstractmethod
    def read(
        self, first: int, pair_ids: Sequence[str] | None = None
    ) -> Sequence[ResultT | ExcludedPair] | None:
        """A batch, or None if it is not there whole, or of other pairs than `pair_ids`."""

    @abstractmethod
    def finished(self) -> Finished[RunT] | None:
        """Complete results in the output folder; None if there are none.

        Raises:
            ResultsError: They are damaged.
        """

    @abstractmethod
    def of_other_kind(self) -> list[Path]:
        """What another kind of run measured in the output folder."""

    def in_the_way(self) -> list[Path]:
        """What a new run would replace in the output folder."""
        return []

    def begin(self, run: RunT) -> None:
        """Say what is run from here on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / "run.json") as path:
            path.write_text(json.dumps(run.to_json()), encoding="utf-8")

    def begun(self) -> RunT | None:
        """What was begun here; None if nothing was.

        Raises:
            ResultsError: It is damaged, or another kind of run.
        """
        try:
            content = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            return self.run_type.from_json(content)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            raise ResultsError(
                f"{self.folder} is of a run that cannot be resumed, its run.json is damaged or of "
                "another kind of experiment: delete the folder, or set --results.overwrite true"
            ) from error

    def everything(self) -> Iterator[ResultT | ExcludedPair]:
        """All pairs in their order, a batch in memory at a time."""
        for path in sorted(self.folder.glob(f"[0-9]*{self.suffix}")):
            yield from self.read(int(path.stem)) or []

    def __iter__(self) -> Iterator[ResultT]:
        """The pairs that could be run, in their order."""
        return (r for r in self.everything() if not isinstance(r, ExcludedPair))

    def complete(self, run: RunT) -> RunT:
        """A run whose pairs are all kept, with what only its end knows.

        Raises:
            ResultsError: Some are missing.
        """
        excluded: dict[str, str] = {}
        measured = 0
        for result in self.everything():
            if isinstance(result, ExcludedPair):
                excluded[result.pair_id] = result.reason
            else:
                measured += 1
        if missing := run.num_pairs - measured - len(excluded):
            raise ResultsError(
                f"expected the records of all pairs in {self.folder}, {missing} are not there: run "
                "the same command again"
            )
        return replace(run, num_pairs=measured, excluded=excluded)

    def any(self) -> bool:
        """Whether a batch is kept."""
        return any(self.folder.glob(f"[0-9]*{self.suffix}"))

    def remove(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, first: int) -> Path:
        """Of a batch."""
        return self.folder / f"{first:06d}{self.suffix}"
