"""The picture of the README, drawn from the shipped results: `make picture`."""

from pathlib import Path

import codi_patching as cp
from codi_patching.reporting.canvas import save_figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURE = DOCS / "codi_tiny" / "content.svg"


def main() -> None:
    """Draw it, as SVG: sharp at any width."""
    results = cp.load_results(DOCS / "results" / "position_recomputed")
    save_figure(cp.plot(results)[0].get_figure(root=True), PICTURE, ("svg",))


if __name__ == "__main__":
    main()
