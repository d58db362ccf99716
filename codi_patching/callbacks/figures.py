"""Draws the maps of a run from its results files."""

from __future__ import annotations

import re
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from tqdm import tqdm

from codi_patching.analysis.figures import cell_map, layer_profile
from codi_patching.analysis.statistics import Array, bootstrap_interval, mean_and_deviation
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.results import Results, read_results

_DRAWN = {
    "kl_divergence": ("KL to the unpatched run", "mean KL (nats)", False),
    "recovery": ("Recovery of the logit difference", "mean recovery (1 = fully restored)", True),
}


class FigureWriter(pl.Callback):
    """Draws mean KL and recovery, and the KL of each pair.

    Args:
        pairs: Whether to draw one figure a pair, in `pairs/`.
        top: Cells to mark by rank.
    """

    def __init__(self, pairs: bool = True, top: int = 5) -> None:
        self.pairs, self.top = pairs, top

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw everything; results are on disk already."""
        folder = next(c.folder for c in trainer.callbacks if isinstance(c, ResultsWriter))  # type: ignore[attr-defined]
        results = read_results(folder)
        for metric in _DRAWN:
            draw_mean(results, metric, folder / f"{metric}.png", self.top)
        if self.pairs:
            draw_pairs(results, folder / "pairs", self.top)
        rank_zero_info(f"figures: {', '.join(f'{m}.png' for m in _DRAWN)} in {folder}")


def draw_mean(results: Results, metric: str, path: Path, top: int) -> None:
    """The mean of a metric over pairs: a map, or a profile where a layer is one cell."""
    title, label, diverging = _DRAWN[metric]
    values = results.values[metric]
    grid, metadata = results.metadata["grid"], results.metadata
    mean, _, _ = mean_and_deviation(values)
    heading = (
        f"{title}\n{metadata['experiment']} patching, {metadata['latents']} latents, "
        f"{metadata['model']}, {len(values)} pairs"
    )
    if grid["positions"]:
        figure = cell_map(
            mean, grid["layers"], grid["positions"], results.structural, heading, label,
            diverging=diverging, top=top,
        )  # fmt: skip
    else:
        low, high = bootstrap_interval(values, metadata["seed"])
        figure = layer_profile(
            mean, low, high, grid["layers"], results.structural, heading, label, top
        )
    figure.savefig(path, dpi=150)


def draw_pairs(results: Results, folder: Path, top: int) -> None:
    """The KL of each pair, in a file named by its number and id."""
    folder.mkdir(exist_ok=True)
    for index, pair_id in enumerate(tqdm(results.pair_ids, desc="drawing pairs", leave=False)):
        name = f"{index:03d}_{re.sub(r'[^A-Za-z0-9_-]', '_', pair_id)[:60]}.png"
        draw_pair(results, index, folder / name, top)


def draw_pair(results: Results, index: int, path: Path, top: int) -> None:
    """The KL of one pair."""
    pair_id = results.pair_ids[index]
    values: Array = results.values["kl_divergence"][index]
    baseline, grid = results.baseline[pair_id], results.metadata["grid"]
    heading = (
        f"pair {pair_id}: {baseline['patched_answer']} patched with {baseline['giving_answer']}"
    )
    if grid["positions"]:
        figure = cell_map(
            values, grid["layers"], grid["positions"], results.structural, heading, "KL (nats)",
            top=top,
        )  # fmt: skip
    else:
        none = np.full_like(values, np.nan)
        figure = layer_profile(
            values, none, none, grid["layers"], results.structural, heading, "KL (nats)", top
        )
    figure.savefig(path, dpi=90)
