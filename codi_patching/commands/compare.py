"""`codi-patching compare`: what results folders say together; needs no model."""

from __future__ import annotations

import argparse
from pathlib import Path

from codi_patching.reporting.runs import compare_folders

INVALID = 3
"""Exit status where results fail a check of validity."""


def run(args: list[str]) -> int:
    """Compare results; returns the exit status."""
    parser = argparse.ArgumentParser(
        "codi-patching compare",
        description="Answer the research questions from results of one model and file of pairs.",
    )
    parser.add_argument("folders", type=Path, nargs="+", help="results folders")
    parser.add_argument("--dir", type=Path, required=True, help="output folder")
    parser.add_argument("--no_figures", action="store_true", help="no PNG files")
    parser.add_argument("--no_page", action="store_true", help="no report.html")
    asked = parser.parse_args(args)
    report = compare_folders(
        asked.folders, asked.dir, figures=not asked.no_figures, page=not asked.no_page
    )
    print(report.text)
    return INVALID if report.failed else 0
