"""The picture of the README, drawn from the shipped results: `make picture`."""

from pathlib import Path

import codi_patching as cp
from codi_patching.reporting.canvas import save_figure
from codi_patching.reporting.content import main_run
from codi_patching.reporting.figures import first_figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE = DOCS / "codi_tiny" / "content.svg"


def main() -> None:
    """Draw it, as SVG: sharp at any width."""
    report = cp.load_results(DOCS / "results" / "codi-tiny" / "position_recomputed").report()
    save_figure(first_figure(report, main_run(report)), PICTURE, ("svg",))


if __name__ == "__main__":
    main()
