"""From results folders to everything that is said of them: findings first, then what shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codi_patching.analysis.checks import Check
from codi_patching.analysis.claims import Finding
from codi_patching.analysis.findings import find
from codi_patching.analysis.from_results import arm_name, as_arm, as_readings
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
from codi_patching.results.layout import has_results, is_lens_folder
from codi_patching.results.lens import LensResults, LensRun, read_lens
from codi_patching.results.read import Results, read_results
from codi_patching.results.schema import ResultsError, RunDescription

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
            f"{len(layers)} of {len(results.run.grid.layers)} layers have an iteration whose "
            "content effect is beyond the threshold: too many to be drawn thick."
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
    results: Sequence[str | Path | Results | Frames | LensResults],
    thresholds: Thresholds | None = None,
    seed: int | None = None,
) -> list[Finding]:
    """Answer the research questions from results.

    Args:
        results: Folders, or results as `load_results` gives them; one of them may be of the lens.
        thresholds: What is too small to matter.
        seed: Of flips, folds and bootstraps; the results' own if not given.

    Returns:
        Findings, each with its verdict, numbers, sentence and claims.

    Raises:
        ResultsError: A folder has no whole results, or two do not belong together.
    """
    arms, lens = _sorted([_read(one) for one in results])
    first = next(iter(arms.values())).run
    chosen = first.seed if seed is None else seed
    return _find(arms, lens, chosen, thresholds)


def compare_folders(
    folders: Sequence[Path], out: Path, figures: bool = True, page: bool = True
) -> RunReport:
    """Compare results folders, and write what they say together.

    Args:
        folders: Of experiments on one model and file of pairs; one may be of the lens.
        out: Where it is written.
        figures: Whether to draw PNG files.
        page: Whether to write `report.html`.

    Raises:
        ResultsError: A folder has no whole results, two do not belong together, or `out` cannot be
            written or holds results.
    """
    arms, lens = _sorted([_read(folder) for folder in folders])
    if has_results(out):
        raise ResultsError(
            f"expected a folder for the comparison alone, got {out}, which holds an experiment's "
            "results: set --dir or --report.comparison_dir"
        )
    check_writable(out, "--dir or --report.comparison_dir")
    findings = _find(arms, lens, next(iter(arms.values())).run.seed)
    options = ReportOptions(figures=figures, page=page)
    checks = write_comparison(out, arms, findings, options, lens=lens)
    return RunReport(arms, findings, checks, comparison_text(arms, findings, checks, out))


def _find(
    arms: dict[str, Results],
    lens: LensResults | None,
    seed: int,
    thresholds: Thresholds | None = None,
) -> list[Finding]:
    readings = None if lens is None else as_readings(lens)
    return find([as_arm(arm) for arm in arms.values()], thresholds, seed, readings=readings)


def _read(one: str | Path | Results | Frames | LensResults) -> Results | LensResults:
    """Results from whatever holds them; a folder is recognised by its files."""
    if isinstance(one, Frames):
        return one.as_results()
    if isinstance(one, Results | LensResults):
        return one
    folder = Path(one)
    return read_lens(folder) if is_lens_folder(folder) else read_results(folder)


def _sorted(
    everything: Sequence[Results | LensResults],
) -> tuple[dict[str, Results], LensResults | None]:
    """Results of patching by the name of their arm, and those of the lens.

    Raises:
        ResultsError: There is no patching, the lens twice, or two do not belong together.
    """
    arms = _by_arm([one for one in everything if isinstance(one, Results)])
    lenses = [one for one in everything if isinstance(one, LensResults)]
    if not arms:
        raise ResultsError(
            f"expected results of patching, got {'those of the lens alone' if lenses else 'none'}: "
            "name a folder that `codi-patching predict --config configs/position.yaml` wrote too"
        )
    if len(lenses) > 1:
        raise ResultsError(
            f"expected the lens once, got it in {lenses[0].folder} and in {lenses[1].folder}"
        )
    for lens in lenses:
        _check_lens(arms, lens)
    return arms, lenses[0] if lenses else None


def _check_lens(arms: dict[str, Results], lens: LensResults) -> None:
    """Refuse a lens of another model, file or pairs; pairs without steps are not in it."""
    name, first = next(iter(arms.items()))
    _check_fields(name, first.run, "the lens", lens.run)
    ours = {*first.pair_ids, *first.run.excluded}
    differing = sorted(ours ^ {*lens.pair_ids, *lens.run.excluded})
    if differing:
        raise ResultsError(
            f"{name} and the lens differ in their pairs: only one of them has "
            f"{', '.join(differing[:5])}"
        )


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
    _check_fields(first, ours.run, name, theirs.run)
    missing = sorted(set(ours.pair_ids) ^ set(theirs.pair_ids))
    if missing:
        raise ResultsError(
            f"{first} and {name} differ in their pairs: only one of them has "
            f"{', '.join(missing[:5])}"
        )


def _check_fields(
    first: str, ours: RunDescription, name: str, theirs: RunDescription | LensRun
) -> None:
    for field in _SAME:
        one, other = getattr(ours, field), getattr(theirs, field)
        if one != other:
            raise ResultsError(
                f"{first} and {name} differ in {field}: {one!r} and {other!r}; compare results of "
                "one model, file of pairs and seed"
            )
