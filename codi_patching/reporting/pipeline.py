"""Everything that is derived from results folders, in one order, by pure functions of them.

`write_derived` makes what stands beside the measured files of a run, `write_documents` its report
and entries, `write_comparison` what several runs show together. No model is needed. Deleting every
derived file and making it again gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from codi_patching.analysis.agreement import check_agreement
from codi_patching.analysis.checks import Check, count_checks
from codi_patching.analysis.from_results import as_arm
from codi_patching.analysis.paired_tests import TEST_COLUMNS, paired_tests
from codi_patching.analysis.summary import aggregate
from codi_patching.analysis.validity import check_run
from codi_patching.errors import InputError
from codi_patching.reporting.comparison_report import (
    LENS_FIGURE,
    beside_lens,
    comparison_heading,
    write_comparison_report,
)
from codi_patching.reporting.evidence import (
    FindingLike,
    finding_row,
    passing_cells,
    readings_beyond_chance,
)
from codi_patching.results.files import write_csv, write_json
from codi_patching.results.layout import FINDINGS, PAIR_SHEETS, derived_files
from codi_patching.results.lens import LensResults
from codi_patching.results.read import Results, read_results
from codi_patching.results.tables import cell_columns, cell_rows


@dataclass(frozen=True)
class ReportOptions:
    """What is made of a results folder.

    Attributes:
        figures: Whether to draw the figures over all pairs.
        pair_sheets: Whether to draw the effects of single pairs, in `pairs/`.
        page: Whether to write `report.html`; it takes 5 MB, most of it plotly.js.
        top: Cells to rank.
        docs: Folder of reports, journal and inventory; none are written if not given.
        highlight: Layers to draw thick along iterative chains.
        highlight_reason: Why these, or why none; stands under the figure.
    """

    figures: bool = True
    pair_sheets: bool = True
    page: bool = True
    top: int = 5
    docs: Path | None = None
    highlight: tuple[str, ...] = ()
    highlight_reason: str = "No layer is highlighted."

    def __post_init__(self) -> None:
        """Refuse rankings of no cells."""
        if self.top < 1:
            raise InputError(f"expected --top (--report.top) of at least 1, got {self.top}")


def write_derived(
    folder: Path, options: ReportOptions | None = None, findings: Sequence[FindingLike] = ()
) -> list[Check]:
    """Make everything that is derived from the measured files of a folder.

    In this order: `results.csv`, `aggregate.json`, `paired_tests.csv`, `validity.json`,
    `findings.json` if there are findings, figures, sheets of pairs, page. What an earlier call made
    and this one does not is deleted.

    Args:
        folder: With the measured files.
        options: What to make; everything but reports by default.
        findings: Of this run alone; their claims mark cells.

    Returns:
        The checks of validity.

    Raises:
        ResultsError: There are no whole results, or a file cannot be written.
    """
    options = options or ReportOptions()
    results = read_results(folder)
    checks = check_run(results)
    for stale in derived_files(folder):
        stale.unlink()
    write_csv(folder / "results.csv", cell_rows(results), cell_columns(results))
    write_json(folder / "aggregate.json", aggregate(results, options.top))
    tests = paired_tests(as_arm(results))
    write_csv(folder / "paired_tests.csv", map(asdict, tests), TEST_COLUMNS)
    write_json(folder / "validity.json", describe_checks(checks))
    if findings:
        write_json(folder / FINDINGS, {"findings": [describe_finding(f) for f in findings]})
    if options.figures:
        _write_figures(folder, results, options, findings)
    if options.pair_sheets:
        _write_sheets(folder, results)
    if options.page:
        from codi_patching.reporting.page import PAGE, write_page

        arm = results.run.arm
        write_page(folder / PAGE, {arm: results}, {arm: checks}, findings)
    return checks


def write_documents(
    folder: Path, docs: Path, findings: Sequence[FindingLike] = (), name: str | None = None
) -> Path:
    """Write the report of a folder, and its entries in journal and inventory.

    Args:
        folder: With the measured files and what is derived from them.
        docs: Folder of reports, journal and inventory.
        findings: That the run takes part in.
        name: Of the report; by model, data and experiment if not given.

    Returns:
        The report.

    Raises:
        ResultsError: There is a report of that name about another model or other data.
    """
    from codi_patching.reporting.report import write_report

    return write_report(folder, docs, findings, name)


def write_comparison(
    folder: Path,
    arms: Mapping[str, Results],
    findings: Sequence[FindingLike],
    options: ReportOptions | None = None,
    checks: Mapping[str, Sequence[Check]] | None = None,
    lens: LensResults | None = None,
) -> list[Check]:
    """Write what several runs show together: `comparison.json`, figures, report, `report.html`.

    Args:
        folder: Where to; made if it is not there.
        arms: Results by what findings call them in their `arms`.
        findings: Of all arms.
        options: What to make.
        checks: Of validity, by what they are of; those of each arm and across arms if
            not given.
        lens: What the lens read of the same pairs, if it was run.

    Returns:
        The checks of validity.
    """
    options = options or ReportOptions()
    if checks is None:
        checks = {label: check_run(results) for label, results in arms.items()}
        checks |= {"all runs": check_agreement(arms)}
    every = [check for own in checks.values() for check in own]
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "arms": {label: _identity(results) for label, results in arms.items()},
        **({} if lens is None else {"lens": _lens_identity(lens)}),
        "findings": [describe_finding(finding) for finding in findings],
        "validity": {label: describe_checks(own) for label, own in checks.items()},
    }
    write_json(folder / "comparison.json", described)
    rows = [row for finding in findings for row in _claim_rows(finding)]
    write_csv(folder / "comparison.csv", rows, ["question", "claim", *_CLAIM])
    for drawn in ("by_layer", "decomposition*", LENS_FIGURE):  # of what was compared here before
        for figure in folder.glob(f"{drawn}.png"):
            figure.unlink()
    if options.figures:
        _write_comparison_figures(folder, arms)
        _write_lens_figure(folder, arms, findings, lens)
    write_comparison_report(folder, arms, findings, checks, lens)
    if options.page:
        _write_comparison_page(folder, arms, checks, findings, lens)
    return every


def describe_checks(checks: Sequence[Check]) -> dict[str, Any]:
    """The content of `validity.json`."""
    return {"summary": count_checks(checks), "checks": [asdict(check) for check in checks]}


def describe_finding(finding: FindingLike) -> dict[str, Any]:
    """A finding with all its claims, as plain data."""
    if is_dataclass(finding) and not isinstance(finding, type):
        return asdict(finding)
    return {**finding_row(finding), "claims": [_claim_row(claim) for claim in finding.claims]}


_CLAIM = ("verdict", "estimate", "low", "high", "p", "n", "threshold", "unit")


def _claim_row(claim: Any) -> dict[str, Any]:
    return {name: getattr(claim, name) for name in _CLAIM}


def _claim_rows(finding: FindingLike) -> list[dict[str, Any]]:
    """The claims of a finding, or the finding itself if it has none, as rows of a table."""
    return [
        {"question": finding.question, "claim": getattr(claim, "name", ""), **_claim_row(claim)}
        for claim in (finding.claims or [finding])
    ]


def _identity(results: Results) -> dict[str, Any]:
    """Which run an arm is."""
    run = results.run
    keys = ("experiment", "strategy", "latents", "direction", "source", "control", "site")
    sums = {"checkpoint_sha256": run.checkpoint_sha256, "data_sha256": run.data_sha256}
    return {**{key: getattr(run, key) for key in keys}, "pairs": len(results.pair_ids), **sums}


def _lens_identity(lens: LensResults) -> dict[str, Any]:
    """Which run of the lens it is."""
    run = lens.run
    sums = {"checkpoint_sha256": run.checkpoint_sha256, "data_sha256": run.data_sha256}
    return {"top": run.top, "pairs": len(lens.records), "excluded": run.excluded, **sums}


def _write_figures(
    folder: Path, results: Results, options: ReportOptions, findings: Sequence[FindingLike]
) -> None:
    from codi_patching.reporting.chains import Highlight
    from codi_patching.reporting.figures import draw_figures, save_figure

    passing = passing_cells(results.run, findings)
    highlight = Highlight(options.highlight, options.highlight_reason)
    for name, figure in draw_figures(results, options.top, passing, highlight):
        save_figure(figure, folder / f"{name}.png")


def _write_sheets(folder: Path, results: Results) -> None:
    from codi_patching.reporting.figures import save_figure
    from codi_patching.reporting.sheets import pair_sheets

    (folder / PAIR_SHEETS).mkdir(exist_ok=True)
    for name, figure in pair_sheets(results):
        save_figure(figure, folder / PAIR_SHEETS / f"{name}.png", dpi=100)


def _write_comparison_figures(folder: Path, arms: Mapping[str, Results]) -> None:
    from codi_patching.reporting.figures import save_figure
    from codi_patching.reporting.names import data_name, model_name
    from codi_patching.reporting.side_by_side import decompositions, draw_by_layer, of_whole_layers

    run = next(iter(arms.values())).run
    head = f"{model_name(run)} on {data_name(run)}"
    whole = of_whole_layers(arms)
    if whole:
        save_figure(draw_by_layer(whole, f"Whole layers of {head}"), folder / "by_layer.png")
    for name, figure in decompositions(arms, head):
        save_figure(figure, folder / f"{name}.png")


def _write_lens_figure(
    folder: Path,
    arms: Mapping[str, Results],
    findings: Sequence[FindingLike],
    lens: LensResults | None,
) -> None:
    rates = None if lens is None else lens.rates()
    if lens is None or rates is None:
        return
    from codi_patching.reporting.figures import save_figure
    from codi_patching.reporting.lens_figures import draw_beside_patching, draw_hit_rates
    from codi_patching.reporting.names import counted, data_name, model_name

    passing = readings_beyond_chance(findings, len(rates.own))
    pairs = counted(len(lens.records), "pair")
    head = f"{model_name(lens.run)} on {data_name(lens.run)}, {pairs}"
    patched = beside_lens(arms)
    effects = {k: passing_cells(r.run, findings, k) or [] for k, r in patched.items()}
    if patched:
        figure = draw_beside_patching(rates, patched, head, passing, effects)
    else:
        figure = draw_hit_rates(rates, head, passing)
    save_figure(figure, folder / f"{LENS_FIGURE}.png")


def _write_comparison_page(
    folder: Path,
    arms: Mapping[str, Results],
    checks: Mapping[str, Sequence[Check]],
    findings: Sequence[FindingLike],
    lens: LensResults | None,
) -> None:
    from codi_patching.reporting.page import PAGE, write_page

    write_page(folder / PAGE, arms, checks, findings, comparison_heading(arms), lens)
