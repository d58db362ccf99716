"""`codi-patching index`: one page over a folder of runs, and a file of every claim."""

from __future__ import annotations

import argparse

from codi_patching.commands.one_line import path
from codi_patching.errors import INVALID, plain_text
from codi_patching.reporting.index_page import write_index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", type=path, help="a folder with results folders inside")


def run(args: argparse.Namespace) -> int:
    """Write the index; returns the exit status, of which a check that fails makes 3."""
    index = write_index(args.folder)
    print(plain_text(index.summary))
    for folder, reason in index.left_out.items():
        print(plain_text(f"left out {folder}: {reason}"))
    print(plain_text(f"written to {args.folder}"))
    return INVALID if index.failed else 0
