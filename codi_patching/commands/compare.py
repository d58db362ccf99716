"""`codi-patching compare`: what results folders say together; needs no model."""

from __future__ import annotations

import argparse
from pathlib import Path

from codi_patching.errors import INVALID
from codi_patching.reporting.runs import compare_folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folders", type=Path, nargs="+", help="results folders")
    parser.add_argument("--dir", type=Path, required=True, help="output folder")
    parser.add_argument("--no_figures", action="store_true", help="no PNG files")
    parser.add_argument("--no_page", action="store_true", help="no report.html")


def run(args: argparse.Namespace) -> int:
    """Compare results; returns the exit status."""
    report = compare_folders(
        args.folders, args.dir, figures=not args.no_figures, page=not args.no_page
    )
    print(report.text)
    return INVALID if report.failed else 0
