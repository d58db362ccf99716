"""`codi-patching report`: everything that derives from results folders, made again."""

from __future__ import annotations

import argparse
from pathlib import Path

from codi_patching.reporting.pipeline import ReportOptions
from codi_patching.reporting.runs import report_folder

INVALID = 3
"""Exit status where results fail a check of validity."""


def run(args: list[str]) -> int:
    """Make reports; returns the exit status."""
    parser = argparse.ArgumentParser(
        "codi-patching report",
        description="Make tables, checks, figures and page of results again; needs no model.",
    )
    parser.add_argument("folders", type=Path, nargs="+", help="results folders")
    parser.add_argument("--docs", type=Path, help="write report, journal and inventory there")
    parser.add_argument("--name", help="of the report; by model, data and experiment if not given")
    parser.add_argument("--no_figures", action="store_true", help="no PNG files")
    parser.add_argument("--no_pair_sheets", action="store_true", help="no figures of single pairs")
    parser.add_argument("--no_page", action="store_true", help="no report.html")
    parser.add_argument("--top", type=int, default=5, help="cells in rankings")
    asked = parser.parse_args(args)
    options = ReportOptions(
        figures=not asked.no_figures,
        pair_sheets=not (asked.no_figures or asked.no_pair_sheets),
        page=not asked.no_page,
        top=asked.top,
        docs=asked.docs,
    )
    failed = False
    for folder in asked.folders:
        report = report_folder(folder, options, asked.name)
        print(report.text)
        failed = failed or report.failed
    return INVALID if failed else 0
