"""Writing what the lens measured: batch by batch while it runs, then one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codi_patching.results.batches import Batches, ExcludedPair
from codi_patching.results.files import as_json, atomic_write, text_file, write_checksums
from codi_patching.results.layout import LENS_RESULTS, is_lens_folder, measured_files
from codi_patching.results.lens import LensRecord, LensResults, LensRun, read_lens


class LensBatches(Batches[LensRun, LensRecord]):
    """The batches of a run of the lens."""

    suffix = ".json"
    run_type = LensRun

    def finished(self) -> LensResults | None:
        """Complete results in the output folder; None if there are none."""
        return read_lens(self.output) if is_lens_folder(self.output) else None

    def of_other_kind(self) -> list[Path]:
        """What patching measured in the output folder."""
        return measured_files(self.output)

    def write(self, first: int, results: Sequence[LensRecord | ExcludedPair]) -> None:
        """Keep a batch, whose first pair is the run's `first`-th."""
        with atomic_write(self.path(first)) as path:
            content = json.dumps([asdict(result) for result in results], ensure_ascii=False)
            path.write_text(content, encoding="utf-8")

    def read(
        self, first: int, pair_ids: Sequence[str] | None = None
    ) -> list[LensRecord | ExcludedPair] | None:
        """A batch, or None if it is not there whole, or of other pairs than `pair_ids`."""
        try:
            found = [_restore(pair) for pair in json.loads(self.path(first).read_text("utf-8"))]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        of_others = pair_ids is not None and [r.pair_id for r in found] != list(pair_ids)
        return None if of_others else found


def _restore(content: dict[str, Any]) -> LensRecord | ExcludedPair:
    return ExcludedPair(**content) if "reason" in content else LensRecord.from_json(content)


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


def finish_lens(folder: Path, run: LensRun, batches: LensBatches) -> None:
    """Write the measured file of a run whose batches are complete.

    Raises:
        ResultsError: Some are missing, or the file cannot be written.
    """
    write_lens(folder, LensResults(batches.complete(run), tuple(batches)))
