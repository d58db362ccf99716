"""Which files a results folder has: the names of all of them stand here."""

from __future__ import annotations

from pathlib import Path

from codi_patching.results.dataset import ATTENTION, KNOCKOUT, LENS
from codi_patching.results.description import ResultsError

LENS_RESULTS, ATTENTION_RESULTS = "lens_results.json", "attention_results.json"
KNOCKOUT_RESULTS = "knockout_results.json"
UNPATCHED_RESULTS = {
    LENS: LENS_RESULTS,
    ATTENTION: ATTENTION_RESULTS,
    KNOCKOUT: KNOCKOUT_RESULTS,
}
"""Results files of the experiments that patch nothing."""

ACTIVATIONS = "activations.safetensors"
CHECKSUMS = "SHA256SUMS"
PARTIAL = "partial"
"""Folder of what an unfinished run has measured so far."""

CELLS_CSV = "results.csv"
AGGREGATE = "aggregate.json"
PAIRED_TESTS = "paired_tests.csv"
VALIDITY = "validity.json"
FINDINGS = "findings.json"
COMPARISON = "comparison.json"
"""What several runs say together, in a folder of its own."""

PAGE = "report.html"
PAIR_SHEETS = "pairs"
TABLES = "tables"
FIGURES = (
    "content", "carried", "effects", "recovery", "trajectories", "trajectories_cosine",
    "lens_hit_rates", "attention", "attention_heads", "knockout",
)  # fmt: skip
"""Figures over all pairs, in their order, without the ending."""

FORMATS = ("png", "pdf", "svg")

_DERIVED = (
    CELLS_CSV, AGGREGATE, PAIRED_TESTS, VALIDITY, FINDINGS, PAGE,
    *(f"{name}.{ending}" for name in FIGURES for ending in FORMATS),
    *(f"{PAIR_SHEETS}/sheet_*.{ending}" for ending in FORMATS),
    f"{TABLES}/*.csv", f"{TABLES}/*.tex",
)  # fmt: skip


def results_name(experiment: str) -> str:
    """Name of an experiment's results file."""
    return UNPATCHED_RESULTS.get(experiment, f"{experiment}_patching_results.json")


def process_file(rank: int | str) -> str:
    """Name of the file in which a process shows that it is alive."""
    return f".process_{rank}"


def trace_name(pair_id: str) -> str:
    """Name of the table that follows every patch of a pair."""
    return f"trace_{pair_id}.csv"


def results_files(folder: Path) -> list[Path]:
    """The results files of a folder, of any experiment; a whole folder has one."""
    unpatched = (folder / name for name in UNPATCHED_RESULTS.values())
    return [p for p in (*sorted(folder.glob(results_name("*"))), *unpatched) if p.is_file()]


def has_results(folder: Path) -> bool:
    """Whether a folder holds finished results."""
    return bool(results_files(folder))


def results_file(folder: Path) -> Path:
    """The results file of a folder.

    Raises:
        ResultsError: There is no such folder, not exactly one file, or none yet.
    """
    found = results_files(folder)
    if len(found) == 1:
        return found[0]
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise ResultsError(f"{folder} {what}: name a folder that holds a run's results")
    if not found and (folder / PARTIAL).is_dir():
        raise ResultsError(
            f"{folder} holds a run that is not finished: run its command again to resume it"
        )
    raise ResultsError(
        f"expected one {results_name('*')} in {folder}, got {len(found)}: name a folder that "
        "`codi-patching predict` wrote"
    )


def measured_files(folder: Path) -> list[Path]:
    """The files of a folder that a run measured; the others are derived from them."""
    extras = [path for pattern in (ACTIVATIONS, trace_name("*")) for path in folder.glob(pattern)]
    return sorted([*results_files(folder), *extras])


def derived_files(folder: Path) -> list[Path]:
    """The files of a folder that are made from the measured ones, and can be made again."""
    return sorted(path for pattern in _DERIVED for path in folder.glob(pattern))
