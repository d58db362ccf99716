"""What an index says of each run and comparison in a folder, read from what reports wrote there.

Nothing is estimated here. What cannot be read is named with its reason, and a file that changed
since its run wrote it fails the check of unchanged files, whatever an older report says of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from codi_patching.analysis.checks import Check, count_checks, judged
from codi_patching.errors import plain_text
from codi_patching.reporting.names import data_name, model_name, tags, title
from codi_patching.results.dataset import PAIR_KINDS
from codi_patching.results.description import ResultsError
from codi_patching.results.files import changed_files
from codi_patching.results.layout import (
    COMPARISON,
    FINDINGS,
    PAGE,
    PARTIAL,
    VALIDITY,
    has_results,
    results_file,
)
from codi_patching.results.read import read_description

T = TypeVar("T")


@dataclass(frozen=True)
class SavedClaim:
    """A claim as reports write it; see `analysis.findings.Claim`."""

    name: str
    verdict: str
    comparisons: list[dict[str, Any]]
    p: float | None
    bound: float | None
    unit: str


@dataclass(frozen=True)
class SavedFinding:
    """A finding as reports write it; see `analysis.findings.Finding`."""

    key: str
    answer: str
    runs: list[str]
    claims: list[SavedClaim]


@dataclass(frozen=True)
class SavedFindings:
    """What a report says."""

    answer: list[str]
    findings: list[SavedFinding]


@dataclass(frozen=True)
class SavedChecks:
    """The checks of a run."""

    checks: list[Check]


@dataclass(frozen=True)
class ComparedRun:
    """What a comparison says of one of its runs."""

    checkpoint_sha256: str
    data_sha256: str
    pairs: int


@dataclass(frozen=True)
class SavedComparison(SavedFindings):
    """What several runs say together."""

    runs: dict[str, ComparedRun]
    validity: dict[str, SavedChecks]


@dataclass(frozen=True)
class Entry:
    """A run, or a comparison of several.

    Attributes:
        folder: Relative to the index, with `/`; `.` for the index's own.
        title: What it is.
        facts: About it, by name.
        weights: SHA-256 of the checkpoint; empty of a comparison of several.
        pairs: SHA-256 of the file of pairs; empty of a comparison over several.
        model: Names the checkpoint; empty of a comparison.
        data: Names the pairs; empty of a comparison.
        checks: Of validity.
        said: What its report says; None if it has none.
        links: Files to open, by what they are called.
    """

    folder: str
    title: str
    facts: dict[str, Any]
    weights: str
    pairs: str
    model: str = ""
    data: str = ""
    checks: tuple[Check, ...] = ()
    said: SavedFindings | None = None
    links: dict[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> str:
        """How many of the checks hold."""
        return count_checks(self.checks)

    @property
    def failing(self) -> list[Check]:
        """Checks that fail."""
        return [check for check in self.checks if check.status == "fail"]

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Every claim and bound, plain, with its question; what was only described is left out.

        Numbers have four digits; all of them stand in the files of the entry's folder.
        """
        return [
            {"question": finding.key, "runs": finding.runs, **_rounded(vars(claim))}
            for finding in (self.said.findings if self.said else ())
            for claim in finding.claims
            if claim.verdict != "described"
        ]


def _rounded(value: Any) -> Any:
    """Plain data whose numbers have four digits.

    Example:
        >>> _rounded({"mean": 0.123456, "n": 57, "in": [12345.6]})
        {'mean': 0.1235, 'n': 57, 'in': [12350.0]}
    """
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def find_entries(root: Path) -> tuple[list[Entry], dict[str, str]]:
    """The runs and comparisons inside a folder, by their paths, and why others are left out.

    Links are not followed; hidden folders are not looked into.
    """
    found: list[Entry] = []
    left_out: dict[str, str] = {}
    for folder in _folders(root):
        name = folder.relative_to(root).as_posix()
        try:
            if has_results(folder):
                found.append(_run(folder, name))
            elif (folder / COMPARISON).is_file():
                found.append(_comparison(folder, name))
            elif (folder / PARTIAL).is_dir():
                left_out[name] = "not finished: run its command again to resume it"
        except (ResultsError, OSError) as error:
            left_out[name] = str(error)
    return found, left_out


def _folders(root: Path) -> Iterator[Path]:
    for place, inside, _ in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield Path(place)


def _run(folder: Path, name: str) -> Entry:
    """A finished run.

    Raises:
        ResultsError: It cannot be read.
    """
    run = read_description(folder)
    saved = _read(folder / FINDINGS, SavedFindings)
    facts = {
        "pairs": run.num_pairs,
        "settings": [run.site] if run.experiment in PAIR_KINDS else tags(run),
        "seed": run.seed,
        "precision": run.precision,
        "version": run.code.version,
    }
    return Entry(
        folder=name,
        title=title(run),
        facts=facts,
        weights=run.checkpoint_sha256,
        pairs=run.data_sha256,
        model=model_name(run),
        data=data_name(run),
        checks=_checks_of(folder),
        said=saved,
        links=_links(folder, name, results_file(folder).name),
    )


def _checks_of(folder: Path) -> tuple[Check, ...]:
    """A run's checks as its report made them, that of unchanged files made again."""
    saved = _read(folder / VALIDITY, SavedChecks)
    unchanged = "unchanged files"
    checks = [check for check in (saved.checks if saved else []) if check.name != unchanged]
    changed = changed_files(folder)
    seen = f"{', '.join(changed)} changed" if changed else "none is missing, changed or not listed"
    expected = "every measured file has its SHA-256 in SHA256SUMS"
    return (*checks, judged(unchanged, expected, seen, not changed, "file"))


def _comparison(folder: Path, name: str) -> Entry:
    """What several runs say together.

    Raises:
        ResultsError: It cannot be read.
    """
    saved = _read(folder / COMPARISON, SavedComparison)
    assert saved is not None
    weights = {run.checkpoint_sha256 for run in saved.runs.values()}
    pairs = {run.data_sha256 for run in saved.runs.values()}
    return Entry(
        folder=name,
        title=f"Comparison of {len(saved.runs)} runs",
        facts={
            "pairs": max((run.pairs for run in saved.runs.values()), default=0),
            "runs": list(saved.runs),
        },
        weights=weights.pop() if len(weights) == 1 else "",
        pairs=pairs.pop() if len(pairs) == 1 else "",
        checks=tuple(check for own in saved.validity.values() for check in own.checks),
        said=saved,
        links=_links(folder, name, "comparison.md", COMPARISON),
    )


def _links(folder: Path, name: str, *others: str) -> dict[str, str]:
    """Files of a folder that are there, from the index's place, by what they are called."""
    called = {"page": PAGE, **{other: other for other in others}}
    return {
        text: (Path(name) / file).as_posix()
        for text, file in called.items()
        if (folder / file).is_file()
    }


def _read(path: Path, kind: type[T]) -> T | None:
    """A file that a report wrote; None if there is none.

    Raises:
        ResultsError: It is not as reports write it.
    """
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultsError(
            f"{path} is not as reports write it ({plain_text(str(error))}): make it again"
        ) from error
