"""Where things are in a results folder, and where a cell is in its results file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codi_patching.results.schema import Grid

ACTIVATIONS = "activations.safetensors"
LENS_RESULTS = "lens_results.json"


def results_name(experiment: str) -> str:
    """Name of an experiment's results file."""
    return f"{experiment}_patching_results.json"


def is_lens_folder(folder: Path) -> bool:
    """Whether a folder holds results of the lens."""
    return (folder / LENS_RESULTS).is_file()


def has_results(folder: Path) -> bool:
    """Whether a folder holds results, of patching or of the lens."""
    return is_lens_folder(folder) or any(folder.glob(results_name("*")))


def measured_files(folder: Path) -> list[Path]:
    """The files of a folder that a run measured; the others are derived from them."""
    patterns = (results_name("*"), ACTIVATIONS, "trace_*.csv")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def put_cell(cells: dict[str, Any], grid: Grid, layer: str, column: str, value: Any) -> None:
    """Put a cell where the files have it."""
    if grid.whole_layers:
        cells[layer] = value
    else:
        cells.setdefault(layer, {})[column] = value


def get_cell(cells: dict[str, Any], grid: Grid, layer: str, column: str) -> Any:
    """A cell from where the files have it."""
    return cells[layer] if grid.whole_layers else cells[layer][column]


FINDINGS = "findings.json"
PAIR_SHEETS = "pairs"

_DERIVED = (
    "results.csv", "aggregate.json", "paired_tests.csv", "validity.json", FINDINGS, "report.html",
    "effects.png", "recovery.png", "trajectories.png", "trajectories_cosine.png",
    f"{PAIR_SHEETS}/sheet_*.png",
)  # fmt: skip


def derived_files(folder: Path) -> list[Path]:
    """The files of a folder that are made from the measured ones, and can be made again."""
    return sorted(path for pattern in _DERIVED for path in folder.glob(pattern))
