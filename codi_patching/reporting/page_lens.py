"""What the page shows of the lens, as plain lists: a map for each step, and chance beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from codi_patching.reporting.comparison_report import beside_lens
from codi_patching.reporting.evidence import FindingLike, readings_beyond_chance
from codi_patching.reporting.page_data import table
from codi_patching.results.lens import LensResults
from codi_patching.results.read import Results


def lens_data(
    lens: LensResults, arms: Mapping[str, Results], findings: Sequence[FindingLike]
) -> dict[str, Any] | None:
    """The maps of the lens for the page; None if no pair could be read.

    Args:
        lens: What was read.
        arms: All runs of the page, by label.
        findings: Whose claims mark cells.
    """
    rates = lens.rates()
    if rates is None:
        return None
    layers, positions = lens.shape
    passing = readings_beyond_chance(findings, len(rates.own))
    labels = list(arms)
    return {
        "top": rates.k,
        "layers": [str(layer) for layer in range(layers)],
        "columns": [str(position) for position in range(positions)],
        "column": "latent position",
        "names": [[f"layer {i}, position {j}" for j in range(positions)] for i in range(layers)],
        "structural": [[False] * positions for _ in range(layers)],
        "steps": [
            {
                "name": f"step {step + 1} ({rates.pairs[step]} pairs)",
                "own": table(rates.own[step]),
                "chance": table(rates.chance[step]),
                "passing": passing[step],
            }
            for step in range(len(rates.own))
        ],
        "arms": [(label, labels.index(label)) for label in beside_lens(arms)],
        "excluded": len(lens.run.excluded),
    }
