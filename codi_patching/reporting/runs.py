"""From results folders to everything that is made of them, in one order; no model is needed.

A report is computed once; files, figures, page, documents and the console's text are made from it.
Deleting every derived file and making it again gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from codi_patching.analysis.checks import Check, count_checks
from codi_patching.analysis.findings import StrataTable
from codi_patching.analysis.paired_tests import TEST_COLUMNS
from codi_patching.analysis.report import Report, build_report
from codi_patching.errors import InputError, brief
from codi_patching.reporting.aggregate import aggregate_json
from codi_patching.reporting.console import console_text
from codi_patching.reporting.documents import write_comparison_document, write_documents
from codi_patching.reporting.names import check_report_name
from codi_patching.reporting.rows import more_rows, table_rows
from codi_patching.reporting.sentences import headline
from codi_patching.reporting.table_files import write_table
from codi_patching.results.dataset import is_knockout, pairs_of, patches, run_of
from codi_patching.results.description import ResultsError
from codi_patching.results.files import make_folder, remove_file, write_csv, write_json
from codi_patching.results.folder import check_writable
from codi_patching.results.layout import (
    AGGREGATE,
    CELLS_CSV,
    COMPARISON,
    FINDINGS,
    FORMATS,
    PAGE,
    PAIR_SHEETS,
    PAIRED_TESTS,
    TABLES,
    VALIDITY,
    derived_files,
    has_results,
)
from codi_patching.results.pair_descriptions import PairDescription
from codi_patching.results.read import read_results
from codi_patching.results.tables import cell_columns, cell_rows


@dataclass(frozen=True)
class ReportOptions:
    """What is made of results.

    Attributes:
        figures: Whether to draw figures.
        pair_sheets: Whether to draw the effects of single pairs, in `pairs/`.
        page: Whether to write `report.html`.
        top: Cells to rank in tables.
        docs: Folder of reports, journal and inventory; none are written if not given.
        formats: Of figures: `png`, `pdf`, `svg`.
        strata: Fields of the file of pairs that tell strata apart, beside its chains.
        pool: Whether several checkpoints are compared as one.
    """

    figures: bool = True
    pair_sheets: bool = True
    page: bool = True
    top: int = 5
    docs: Path | None = None
    formats: tuple[str, ...] = ("png",)
    strata: tuple[str, ...] = ()
    pool: bool = False

    def __post_init__(self) -> None:
        """Refuse rankings of no cells, and formats that are not drawn."""
        if self.top < 1:
            raise InputError(f"expected top of at least 1, got {self.top}: set [[report.top]]")
        if odd := [name for name in self.formats if name not in FORMATS]:
            raise InputError(
                f"expected formats of {', '.join(FORMATS)}, got {odd[0]!r}: set [[report.format]]"
            )


@dataclass(frozen=True)
class Made:
    """What was made of a folder, or of several.

    Attributes:
        report: All that is said.
        text: For the console.
    """

    report: Report
    text: str

    @property
    def failed(self) -> bool:
        """Whether a check of validity fails."""
        return self.report.failed


def report_folder(
    folder: Path, options: ReportOptions | None = None, name: str | None = None
) -> Made:
    """Make everything that derives from one results folder.

    Args:
        folder: With the measured files.
        options: What to make; everything but documents by default.
        name: Of its report; by model, data and experiment if not given.

    Raises:
        ResultsError: There are no whole results, or a file cannot be written.
    """
    options = options or ReportOptions()
    check_report_name(name)
    data = read_results(folder)
    _check_strata([data], options.strata)
    report = build_report([data], strata=options.strata, top=options.top)
    for stale in derived_files(folder):
        remove_file(stale)
    if patches(data) or is_knockout(data):
        write_csv(folder / CELLS_CSV, cell_rows(data), cell_columns(data))
    if patches(data):
        for label, summary in report.summaries.items():
            write_json(folder / AGGREGATE, aggregate_json(summary))
            write_csv(folder / PAIRED_TESTS, report.tests[label], TEST_COLUMNS)
    checks = [check for own in report.checks.values() for check in own]
    write_json(folder / VALIDITY, _described_checks(checks))
    write_json(folder / FINDINGS, findings_json(report))
    _write_tables(folder / TABLES, report)
    if options.figures:
        _write_figures(folder, report, options)
    if options.page:
        _write_page(folder, report)
    if options.docs is not None:
        write_documents(report, folder, options.docs, name)
    return Made(report, console_text(report, folder))


def _check_strata(datasets: Sequence[xr.Dataset], strata: Sequence[str]) -> None:
    """Refuse strata by a field that no pair has."""
    pairs = [pair for data in datasets if patches(data) for pair in pairs_of(data)]
    if pairs:
        check_strata((p.fields for p in pairs if isinstance(p, PairDescription)), strata)


def check_strata(fields: Iterable[Mapping[str, str]], strata: Sequence[str]) -> None:
    """Refuse strata by a field that no pair has.

    Args:
        fields: Of each pair.
        strata: Names of fields.

    Raises:
        InputError: There is one.
    """
    known = sorted({name for own in fields for name in own})
    for name in strata:
        if name not in known:
            raise InputError(
                f"expected strata of the fields of pairs ({', '.join(known) or 'there are none'}), "
                f"got {brief(name)}: set [[report.strata]]"
            )


def compare_folders(
    folders: Sequence[Path], out: Path, options: ReportOptions | None = None
) -> Made:
    """Compare results folders, and write what they say together.

    Args:
        folders: Of experiments on one model and file of pairs, those that patch nothing too.
        out: Where it is written.
        options: What to make.

    Raises:
        ResultsError: A folder has no whole results, two do not belong together, or `out` cannot be
            written or holds results.
    """
    options = options or ReportOptions()
    datasets = [read_results(folder) for folder in folders]
    report = build_report(datasets, strata=options.strata, pooled=options.pool)
    if has_results(out):
        raise ResultsError(
            f"expected a folder for the comparison alone, got {out}, which holds an experiment's "
            "results: set [[report.comparison_dir]]"
        )
    check_writable(out, "[[report.comparison_dir]]")
    out.mkdir(parents=True, exist_ok=True)
    figures = {path for ending in FORMATS for path in out.glob(f"*.{ending}")}
    for stale in figures.union(derived_files(out)):
        remove_file(stale)  # of what was compared here before
    write_json(out / COMPARISON, comparison_json(report))
    _write_tables(out / TABLES, report)
    if options.figures:
        _write_figures(out, report, options)
    write_comparison_document(report, out)
    if options.page:
        _write_page(out, report)
    return Made(report, console_text(report, out))


def findings_json(report: Report) -> dict[str, Any]:
    """The answer, and every finding with its claims, as plain data."""
    findings = [asdict(finding, dict_factory=_unusual_axis) for finding in report.findings]
    return {"answer": headline(report), "findings": findings}


def _unusual_axis(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """What a claim's column is stands beside it where it is no position."""
    return {key: value for key, value in items if (key, value) != ("axis", "position")}


def comparison_json(report: Report) -> dict[str, Any]:
    """What several runs say together, as plain data."""
    keys = ("experiment", "strategy", "latents", "direction", "source", "control", "site")
    sums = ("checkpoint_sha256", "data_sha256")
    runs = {
        label: {**{k: getattr(run_of(d), k) for k in (*keys, *sums)}, "pairs": d.sizes["pair"]}
        for label, d in report.datasets.items()
    }
    validity = {label: _described_checks(own) for label, own in report.checks.items()}
    return {"runs": runs, **findings_json(report), "validity": validity}


def _described_checks(checks: Sequence[Check]) -> dict[str, Any]:
    """The content of `validity.json`."""
    return {"summary": count_checks(checks), "checks": [asdict(check) for check in checks]}


def _write_tables(folder: Path, report: Report) -> None:
    """The report's tables, as CSV and LaTeX."""
    columns = ("question", "answer", "estimate", "p", "n")
    for name, rows, caption in (
        ("questions", table_rows(report), "What was found"),
        ("more_questions", more_rows(report), "Further questions"),
    ):
        asked = [vars(row) for row in rows if not row.command]
        if asked:
            write_table(folder, name, asked, columns, caption)
    for finding in report.findings:
        if finding.strata is not None:
            _write_strata(folder, finding.runs[0], finding.strata.main)


def _write_strata(folder: Path, run: str, table: StrataTable) -> None:
    """What each thought carries: pairs that a patch restores, by stratum."""
    fields = any(stratum.field for stratum in table.strata)
    rows = [
        {
            "steps": stratum.num_steps or "",
            "changed step": stratum.changed_step or "",
            **({"field": " = ".join(stratum.field or ())} if fields else {}),
            **{f"z{c}": f"{e.restored}/{e.n}" for c, e in zip(table.columns, entries)},
        }
        for stratum, entries in zip(table.strata, table.entries)
    ]
    name = f"carried_{re.sub(r'[^A-Za-z0-9.-]+', '_', run)}"
    caption = f"Pairs that a patch restores: {run}, layer {table.layer}"
    write_table(folder, name, rows, list(rows[0]), caption)


def _write_figures(folder: Path, report: Report, options: ReportOptions) -> None:
    from codi_patching.reporting.figures import draw_figures, pair_sheets, save_figure

    for name, figure in draw_figures(report):
        save_figure(figure, folder / name, options.formats)
    single = len(report.summaries) == 1 and report.lens is None
    if options.pair_sheets and single:
        make_folder(folder / PAIR_SHEETS)
        for name, figure in pair_sheets(next(iter(report.summaries.values()))):
            save_figure(figure, folder / PAIR_SHEETS / name, ("png",), dpi=100)


def _write_page(folder: Path, report: Report) -> None:
    from codi_patching.reporting.page import write_page

    write_page(folder / PAGE, report)
