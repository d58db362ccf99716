"""From results folders to everything that is said of them: findings first, then what shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codi_patching.analysis.checks import Check
from codi_patching.analysis.claims import Finding
from codi_patching.analysis.findings import find
from codi_patching.analysis.from_results import arm_name, as_arm
from codi_patching.analysis.verdicts import Thresholds
from codi_patching.reporting.console import comparison_text, summary_text
from codi_patching.reporting.evidence import passing_cells
from codi_patching.reporting.pipeline import (
    ReportOptions,
    write_comparison,
    write_derived,
    write_documents,
)
from codi_patching.results.folder import check_writable
from codi_patching.results.frames import Frames
from codi_patching.results.read import Results, read_results
from codi_patching.results.schema import ResultsError

_MOST_HIGHLIGHTED = 5
"""With more, nothing stands out."""

_SAME = ("checkpoint_sha256", "data_sha256", "num_latents", "seed", "precision")


@dataclass(frozen=True)
class RunReport:
    """What was said of a folder, or of several.

    Attributes:
        results: By the name of their arm.
        findings: Answers, in order.
        checks: Of validity.
        text: For the console.
    """

    results: dict[str, Results]
    findings: list[Finding]
    checks: list[Check]
    text: str

    @property
    def failed(self) -> bool:
        """Whether a check of validity fails."""
        return any(check.status == "fail" for check in self.checks)


def report_folder(
    folder: Path, options: ReportOptions | None = None, name: str | None = None
) -> RunReport:
    """Make everything that derives from one results folder.

    Args:
        folder: With the measured files.
        options: What to make.
        name: Of its report; by model, data and experiment if not given.

    Raises:
        ResultsError: There are no whole results, or a file cannot be written.
    """
    options = options or ReportOptions()
    results = read_results(folder)
    answered = find([as_arm(results)], seed=results.run.seed)
    findings = [finding for finding in answered if finding.arms]  # the others need more arms
    checks = write_derived(folder, _highlighting(options, results, findings), findings)
    if options.docs is not None:
        write_documents(folder, options.docs, findings, name)
    text = summary_text(results, checks, findings, options.top, folder)
    return RunReport({arm_name(results.run): results}, findings, checks, text)


def _highlighting(
    options: ReportOptions, results: Results, findings: Sequence[Finding]
) -> ReportOptions:
    """The layers that a chain's figure draws thick: those with a content effect."""
    cells = passing_cells(results.run, findings)
    layers = tuple(dict.fromkeys(results.run.grid.layers[row] for row, _ in cells or ()))
    if len(layers) > _MOST_HIGHLIGHTED:
        reason = (
            f"No layer is drawn thick: {len(layers)} of {len(results.run.grid.layers)} have an "
            "iteration whose content effect is beyond the threshold."
        )
        layers = ()
    elif layers:
        reason = "Thick: layers with an iteration whose content effect is beyond the threshold."
    elif cells is None:
        reason = "No layer is drawn thick: there are too few pairs to tell."
    else:
        reason = "No layer is drawn thick: none has a content effect beyond the threshold."
    return replace(options, highlight=layers, highlight_reason=reason)


def compare(
    results: Sequence[str | Path | Results | Frames],
    thresholds: Thresholds | None = None,
    seed: int | None = None,
) -> list[Finding]:
    """Answer the research questions from results.

    Args:
        results: Folders, or results as `load_results` gives them.
        thresholds: What is too small to matter.
        seed: Of flips, folds and bootstraps; the results' own if not given.

    Returns:
        Findings, each with its verdict, numbers, sentence and claims.

    Raises:
        ResultsError: A folder has no whole results, or two do not belong together.
    """
    arms = _by_arm([_read(one) for one in results])
    first = next(iter(arms.values())).run
    chosen = first.seed if seed is None else seed
    return find([as_arm(arm) for arm in arms.values()], thresholds, chosen)


def compare_folders(
    folders: Sequence[Path], out: Path, figures: bool = True, page: bool = True
) -> RunReport:
    """Compare results folders, and write what they say together.

    Args:
        folders: Of experiments on one model and file of pairs.
        out: Where it is written.
        figures: Whether to draw PNG files.
        page: Whether to write `report.html`.

    Raises:
        ResultsError: A folder has no whole results, two do not belong together, or `out` cannot be
            written.
    """
    arms = _by_arm([read_results(folder) for folder in folders])
    check_writable(out, "--dir or --report.comparison_dir")
    first = next(iter(arms.values())).run
    findings = find([as_arm(arm) for arm in arms.values()], seed=first.seed)
    checks = write_comparison(out, arms, findings, ReportOptions(figures=figures, page=page))
    return RunReport(arms, findings, checks, comparison_text(arms, findings, checks, out))


def _read(one: str | Path | Results | Frames) -> Results:
    if isinstance(one, Frames):
        return one.as_results()
    return one if isinstance(one, Results) else read_results(Path(one))


def _by_arm(everything: Sequence[Results]) -> dict[str, Results]:
    """Results by the name of their arm.

    Raises:
        ResultsError: Two are of the same arm, or of another model, other data or settings.
    """
    arms: dict[str, Results] = {}
    for results in everything:
        name = arm_name(results.run)
        if name in arms:
            raise ResultsError(
                f"expected each experiment once, got {name} in {arms[name].folder} and in "
                f"{results.folder}"
            )
        arms[name] = results
        _check_same(next(iter(arms)), arms, name)
    return arms


def _check_same(first: str, arms: dict[str, Results], name: str) -> None:
    ours, theirs = arms[first], arms[name]
    for field in _SAME:
        one, other = getattr(ours.run, field), getattr(theirs.run, field)
        if one != other:
            raise ResultsError(
                f"{first} and {name} differ in {field}: {one!r} and {other!r}; compare results of "
                "one model, file of pairs and seed"
            )
    missing = sorted(set(ours.pair_ids) ^ set(theirs.pair_ids))
    if missing:
        raise ResultsError(
            f"{first} and {name} differ in their pairs: only one of them has "
            f"{', '.join(missing[:5])}"
        )
