"""One page to look at: maps, trajectories, every pair, comparison and validity, without a network.

Drawn in the browser by plotly.js, which is inside the page.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from markupsafe import Markup

from codi_patching.analysis.overview import cell_label
from codi_patching.analysis.statistics import Array, bootstrap_interval, mean_and_deviation
from codi_patching.callbacks.results import written_results
from codi_patching.callbacks.templates import environment
from codi_patching.data.results import Results, text_file

PAGE = "report.html"
_PAIRS = 500
"""So many pairs can be chosen; each is a few kilobytes."""
_OF_A_PAIR = ("kl_divergence", "recovery", "answer_logit_difference", "kl_to_clean")


class PageWriter(pl.Callback):
    """Writes `report.html` of a run.

    Args:
        write: Whether to; the page takes 5 MB, most of it plotly.js.
    """

    def __init__(self, write: bool = True) -> None:
        self.write = write

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write; results and validity are on disk."""
        if not self.write or not trainer.is_global_zero:
            return
        folder, results = written_results(trainer)
        checks = json.loads((folder / "validity.json").read_text(encoding="utf-8"))["checks"]
        name = str(results.metadata["strategy"] or results.metadata["experiment"])
        write_page(folder / PAGE, {name: results}, [(name, check) for check in checks])
        rank_zero_info(f"page: {folder / PAGE}")


def write_page(
    path: Path,
    arms: Mapping[str, Results],
    validity: list[tuple[str, dict[str, Any]]],
    findings: list[dict[str, Any]] | None = None,
    effects: Mapping[str, tuple[list[str], Array]] | None = None,
) -> None:
    """Write the page.

    Args:
        path: Of the page.
        arms: Results by name, of the same pairs.
        validity: Checks, each with the name of what it is of.
        findings: Of a comparison: question and answer.
        effects: Of a comparison, by name: layers, and KL `(pairs, layers)`.
    """
    from plotly.offline import get_plotlyjs

    first = next(iter(arms.values()))
    metadata = first.metadata
    described = [_describe(name, results) for name, results in arms.items()]
    chosen = first.pair_ids[:_PAIRS]
    pairs = [_pair(pair_id, first.baseline[pair_id]) for pair_id in chosen]
    data = {
        "arms": described,
        "pairs": pairs,
        "effects": [_effect(name, *e, metadata["seed"]) for name, e in (effects or {}).items()],
    }
    model = Path(metadata["model"]).name
    text = environment().get_template("page.html.j2").render(
        title=f"{', '.join(arms)} patching of {model}",
        head=f"Model {model} (SHA-256 "
        f"{metadata['checkpoint_sha256'][:12]}…), {len(first.pair_ids)} pairs, "
        f"{metadata['direction']}, source {metadata['source']}. "
        "KL is from the unpatched to the patched run, in nats.",
        plotly=Markup(get_plotlyjs()),
        arms=described,
        pairs=len(chosen),
        left_out=len(first.pair_ids) - len(chosen),
        findings=findings,
        validity=validity,
        data=Markup(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")),
    )  # fmt: skip
    with text_file(path) as file:
        file.write(text)


def _describe(name: str, results: Results) -> dict[str, Any]:
    """An arm for the page: its grid, the means, and some metrics of each pair."""
    grid = results.metadata["grid"]
    columns = grid["positions"] or ["all"]
    shape = (len(grid["layers"]), len(columns))

    def table(values: Array) -> list[list[float | None]]:
        return [[None if v != v else float(v) for v in row] for row in values.reshape(shape)]

    means = {m: mean_and_deviation(v)[0] for m, v in results.values.items()}
    strongest = int(np.where(results.structural, 0, means["kl_divergence"]).argmax())
    layer, column = divmod(strongest, len(columns))
    return {
        "title": f"{name} patching, {results.metadata['latents']} latents",
        "tldr": f"The largest mean KL, {means['kl_divergence'].flat[strongest]:.4g} nats, is at "
        f"{cell_label(grid['layers'][layer], grid['column'], columns[column])}.",
        "layers": grid["layers"],
        "columns": columns,
        "column": grid["column"],
        "chain": grid["column"] == "iteration",
        "metrics": sorted(means, key=lambda metric: metric != "kl_divergence"),
        "structural": results.structural.reshape(shape).tolist(),
        "means": {metric: table(values) for metric, values in means.items()},
        "pairs": [
            {metric: table(results.values[metric][row]) for metric in _OF_A_PAIR}
            for row in range(min(_PAIRS, len(results.pair_ids)))
        ],
    }  # fmt: skip


def _pair(pair_id: str, baseline: Mapping[str, Any]) -> dict[str, Any]:
    giving, patched = mark_changes(
        *(baseline.get(f"{which}_question", "") for which in ("giving", "patched"))
    )
    return {
        "id": pair_id,
        "giving": giving,
        "patched": patched,
        **{key: baseline.get(key, "") for key in ("giving_answer", "patched_answer")},
    }


def mark_changes(first: str, second: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Two texts in parts, each with whether the other text has it there.

    Example:
        >>> mark_changes("Tom has 3 pens.", "Tom has 14 pens.")[1]
        [('Tom has ', False), ('14', True), (' pens.', False)]
    """
    words = [re.findall(r"\d[\d,.]*\d|\d|\w+|\s+|[^\w\s]", text) for text in (first, second)]
    matcher = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False)
    sides: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for kind, *places in matcher.get_opcodes():
        for side, own, (start, end) in zip(sides, words, (places[:2], places[2:])):
            if end > start:
                side.append(("".join(own[start:end]), kind != "equal"))
    return sides


def _effect(name: str, layers: list[str], values: Array, seed: int) -> dict[str, Any]:
    mean, _, _ = mean_and_deviation(values)
    low, high = bootstrap_interval(values, seed)
    return {
        "name": name,
        "layers": layers,
        "mean": mean.tolist(),
        "up": (high - mean).tolist(),
        "down": (mean - low).tolist(),
    }
