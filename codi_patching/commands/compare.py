"""`codi-patching compare`: what results folders say together; needs no model."""

from __future__ import annotations

import argparse
from dataclasses import replace

from codi_patching.commands.one_line import path
from codi_patching.commands.report import add_report_arguments, report_options
from codi_patching.errors import INVALID
from codi_patching.reporting.runs import compare_folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folders", type=path, nargs="+", help="results folders")
    parser.add_argument("--dir", type=path, required=True, help="output folder")
    parser.add_argument(
        "--pool",
        action="store_true",
        help="put checkpoints together, such as training seeds; else they stand side by side",
    )
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Compare results; returns the exit status."""
    options = replace(report_options(args), pool=args.pool)
    made = compare_folders(args.folders, args.dir, options)
    print(made.text)
    return INVALID if made.failed else 0
