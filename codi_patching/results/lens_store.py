"""Writing what the lens measured: batch by batch while it runs, then one file.

    partial/run.json      what is run: a folder of another run is not touched
    partial/000008.json   the batch whose first pair is the ninth of the run

A run that was killed is resumed after the last of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from codi_patching.results.files import as_json, atomic_write, text_file, write_checksums
from codi_patching.results.folder import ADVICE, differences, other_run
from codi_patching.results.layout import LENS_RESULTS, is_lens_folder, measured_files
from codi_patching.results.lens import LensRecord, LensResults, LensRun, read_lens
from codi_patching.results.records import ExcludedPair
from codi_patching.results.schema import ResultsError

Batch = Sequence[LensRecord | ExcludedPair]


class LensBatches:
    """The batches of a run that are done.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "partial"

    def begin(self, run: LensRun) -> None:
        """Say what is run from here on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "run.json", run.to_json())

    def begun(self) -> LensRun | None:
        """What was begun here; None if nothing was.

        Raises:
            ResultsError: It is no run of the lens, or damaged.
        """
        try:
            return LensRun.from_json(json.loads((self.folder / "run.json").read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ResultsError(
                f"{self.folder} is of a run that cannot be resumed: delete the folder, or set "
                "--results.dir to another"
            ) from error

    def write(self, first: int, batch: Batch) -> None:
        """Keep a batch, whose first pair is the run's `first`-th."""
        _write(self._path(first), [asdict(result) for result in batch])

    def read(self, first: int, pair_ids: Sequence[str]) -> Batch | None:
        """A batch, or None if it is not there whole, or of other pairs."""
        try:
            found = [_restore(pair) for pair in json.loads(self._path(first).read_text("utf-8"))]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if [result.pair_id for result in found] == list(pair_ids) else None

    def everything(self) -> Iterator[LensRecord | ExcludedPair]:
        """All pairs in their order."""
        for path in sorted(self.folder.glob("[0-9]*.json")):
            yield from (_restore(pair) for pair in json.loads(path.read_text("utf-8")))

    def any(self) -> bool:
        """Whether a batch is kept."""
        return any(self.folder.glob("[0-9]*.json"))

    def remove(self) -> None:
        """Delete all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:06d}.json"


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _restore(content: dict[str, Any]) -> LensRecord | ExcludedPair:
    return ExcludedPair(**content) if "reason" in content else LensRecord.from_json(content)


def prepare_lens(folder: Path, run: LensRun, overwrite: bool) -> tuple[LensRun, bool, str]:
    """Make a folder ready for a run of the lens.

    Args:
        folder: The output folder.
        run: What is to be run.
        overwrite: Whether what is there may be replaced.

    Returns:
        The run as it was begun, whether its results are complete already, and a sentence on what
        was found; empty if nothing was.

    Raises:
        ResultsError: There is another run's work, naming the keys that differ.
    """
    if foreign := measured_files(folder):
        raise ResultsError(
            f"{folder} has {foreign[0].name}, which is not of the lens: set --results.dir to a new "
            "folder"
        )
    batches = LensBatches(folder)
    begun = batches.begun()
    if begun is not None:
        differing = differences(begun, run, resuming=True)
        if not differing:
            return begun, False, f"resuming the run that was begun in {folder}"
        if not overwrite:
            raise other_run(folder, differing)
    if is_lens_folder(folder) and not overwrite:
        return _finished(folder, run)
    batches.remove()
    batches.begin(run)
    return run, False, ""


def _finished(folder: Path, run: LensRun) -> tuple[LensRun, bool, str]:
    """Results that are there, if they are this run's."""
    try:
        found = read_lens(folder)
    except ResultsError as error:
        raise ResultsError(f"{error}, or set --results.dir to a new folder") from None
    if found.changed:
        raise ResultsError(
            f"{', '.join(found.changed)} in {folder} changed since the run wrote it: {ADVICE}"
        )
    differing = differences(found.run, run, resuming=False)
    if differing:
        raise other_run(folder, differing)
    sentence = f"{folder} holds this run's results already: nothing is run again"
    return found.run, True, f"{sentence}; --results.overwrite true would"


def write_lens(folder: Path, results: LensResults) -> Path:
    """Write the measured file of a run, one line a pair."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LENS_RESULTS
    with text_file(path) as file:
        file.write(f'{{"metadata": {as_json(results.run.to_json(), indent=2)},\n"pairs": {{\n')
        lines = (f"{as_json(r.pair_id)}: {as_json(asdict(r))}" for r in results.records)
        file.write(",\n".join(lines))
        file.write("\n}}\n")
    write_checksums(folder, [path])
    return path


def finish_lens(folder: Path, run: LensRun, batches: LensBatches) -> LensResults:
    """Write the measured file from the batches of a run, which are complete.

    Raises:
        ResultsError: Some are missing.
    """
    everything = list(batches.everything())
    if len(everything) != run.num_pairs:
        raise ResultsError(
            f"expected {run.num_pairs} pairs in {batches.folder}, got {len(everything)}: run the "
            "same command again"
        )
    excluded = {r.pair_id: r.reason for r in everything if isinstance(r, ExcludedPair)}
    records = tuple(r for r in everything if isinstance(r, LensRecord))
    results = LensResults(replace(run, num_pairs=len(records), excluded=excluded), records)
    write_lens(folder, results)
    return results
