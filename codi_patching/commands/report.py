"""`codi-patching report`: everything that derives from results folders, made again."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace

from codi_patching.commands.one_line import path
from codi_patching.errors import INVALID
from codi_patching.reporting.runs import ReportOptions, report_folder
from codi_patching.results.folder import FolderLock
from codi_patching.results.layout import FORMATS, has_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folders", type=path, nargs="+", help="results folders")
    parser.add_argument("--docs", type=path, help="write report, journal and inventory there")
    parser.add_argument("--name", help="of the report; by model, data and experiment if not given")
    parser.add_argument("--no_pair_sheets", action="store_true", help="no figures of single pairs")
    parser.add_argument("--top", type=int, default=5, help="cells in rankings")
    add_report_arguments(parser)


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that reports and comparisons share."""
    parser.add_argument("--no_figures", action="store_true", help="no figures")
    parser.add_argument("--no_page", action="store_true", help="no report.html")
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["png"], help="of figures; one or several"
    )
    parser.add_argument(
        "--strata",
        nargs="+",
        metavar="FIELD",
        default=[],
        help="fields of the file of pairs that tell strata apart, beside the calculation chains",
    )


def report_options(args: argparse.Namespace) -> ReportOptions:
    """What reports and comparisons share, as asked for."""
    return ReportOptions(
        figures=not args.no_figures,
        page=not args.no_page,
        formats=tuple(args.format),
        strata=tuple(args.strata),
    )


def run(args: argparse.Namespace) -> int:
    """Make reports; returns the exit status."""
    sheets = not (args.no_figures or args.no_pair_sheets)
    options = replace(report_options(args), pair_sheets=sheets, top=args.top, docs=args.docs)
    failed = False
    for folder in args.folders:
        with FolderLock(folder) if has_results(folder) else nullcontext():
            made = report_folder(folder, options, args.name)
        print(made.text)
        failed = failed or made.failed
    return INVALID if failed else 0
