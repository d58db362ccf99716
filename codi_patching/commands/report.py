"""`codi-patching report`: everything that derives from results folders, made again."""

from __future__ import annotations

import argparse
from pathlib import Path

from codi_patching.errors import INVALID
from codi_patching.reporting.lens_report import report_lens
from codi_patching.reporting.pipeline import ReportOptions
from codi_patching.reporting.runs import report_folder
from codi_patching.results.layout import is_lens_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folders", type=Path, nargs="+", help="results folders")
    parser.add_argument("--docs", type=Path, help="write report, journal and inventory there")
    parser.add_argument("--name", help="of the report; by model, data and experiment if not given")
    parser.add_argument("--no_figures", action="store_true", help="no PNG files")
    parser.add_argument("--no_pair_sheets", action="store_true", help="no figures of single pairs")
    parser.add_argument("--no_page", action="store_true", help="no report.html")
    parser.add_argument("--top", type=int, default=5, help="cells in rankings")


def run(args: argparse.Namespace) -> int:
    """Make reports; returns the exit status."""
    options = ReportOptions(
        figures=not args.no_figures,
        pair_sheets=not (args.no_figures or args.no_pair_sheets),
        page=not args.no_page,
        top=args.top,
        docs=args.docs,
    )
    failed = False
    for folder in args.folders:
        if is_lens_folder(folder):
            print(report_lens(folder, options.figures))
            continue
        report = report_folder(folder, options, args.name)
        print(report.text)
        failed = failed or report.failed
    return INVALID if failed else 0
