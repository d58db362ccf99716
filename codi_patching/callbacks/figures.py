"""Draws the figures of a run from its results files."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from tqdm import tqdm

from codi_patching.analysis.figures import cell_map, layer_profile, trajectories
from codi_patching.analysis.statistics import bootstrap_interval, mean_and_deviation
from codi_patching.callbacks.results import written_results
from codi_patching.data.results import (
    Results,
    ResultsError,
    file_name,
    read_results,
    results_name,
    top_cells,
)

_LABELS = {
    "kl_divergence": ("KL to the unpatched run", "mean KL (nats)"),
    "recovery": ("Recovery of the logit difference", "mean recovery (1 = fully restored)"),
    "cosine_to_clean": ("Generated activation against the clean run's", "mean cosine similarity"),
    "cosine_to_corrupted": (
        "Generated activation against the unpatched run's",
        "mean cosine similarity",
    ),
}
_CRITICAL = 3


class FigureWriter(pl.Callback):
    """Draws means over pairs, and the KL of each pair.

    Args:
        pairs: Whether to draw one figure a pair, in `pairs/`.
        top: Cells to mark by rank.
        layer_results: Folder of layer-patching results, whose strongest layers are highlighted
            along iterative chains; if not given, `layer` beside the output folder, if it exists.
    """

    def __init__(self, pairs: bool = True, top: int = 5, layer_results: str | None = None) -> None:
        if top < 0:
            raise ValueError(f"expected --figures.top of at least 0, got {top}")
        self.pairs, self.top, self.layer_results = pairs, top, layer_results

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out before the work that the named layer results are there.

        Raises:
            ResultsError: They are not.
        """
        if self.layer_results is not None:
            try:
                read_results(Path(self.layer_results))
            except ResultsError as error:
                raise ResultsError(f"{error}: set --figures.layer_results") from error

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw everything; results are on disk already."""
        if not trainer.is_global_zero:
            return
        folder, results = written_results(trainer)
        everything = slice(None)
        figures = {
            metric: draw(results, metric, everything, self.top)
            for metric in ("kl_divergence", "recovery")
        }
        critical: list[str] = []
        if results.metadata["grid"]["column"] == "iteration":
            critical = self._critical_layers(results, folder)
            figures |= {
                f"trajectory_{metric}": draw_chain(results, metric, everything, critical)
                for metric in _LABELS
            }
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=150)
        if self.pairs:
            self._draw_pairs(results, folder / "pairs", critical)
        rank_zero_info(f"figures: {', '.join(f'{name}.png' for name in figures)} in {folder}")

    def _draw_pairs(self, results: Results, folder: Path, critical: list[str]) -> None:
        """The KL of each pair, in a file named by its number and id."""
        folder.mkdir(exist_ok=True)
        for index, pair_id in enumerate(tqdm(results.pair_ids, desc="drawing pairs", leave=False)):
            only = slice(index, index + 1)
            if critical:
                figure = draw_chain(results, "kl_divergence", only, critical)
            else:
                figure = draw(results, "kl_divergence", only, self.top)
            figure.savefig(folder / f"{index:03d}_{file_name(pair_id)}.png", dpi=90)

    def _critical_layers(self, results: Results, folder: Path) -> list[str]:
        """The strongest layers of layer patching; without its results, of the chains' ends."""
        beside = Path(self.layer_results or folder.parent / "layer")
        if (beside / results_name("layer")).exists():
            found = read_results(beside)
            same = found.metadata["checkpoint_sha256"] == results.metadata["checkpoint_sha256"]
            if same and found.metadata["data_sha256"] == results.metadata["data_sha256"]:
                return [layer for layer, _ in top_cells(found, _CRITICAL)]
        strongest = np.argsort(-results.values["kl_divergence"].mean(0).max(1), kind="stable")
        return [results.metadata["grid"]["layers"][i] for i in strongest[:_CRITICAL]]


def draw(results: Results, metric: str, pairs: slice, top: int) -> Figure:
    """A metric's mean over pairs: a map, or a profile where a layer is one cell.

    Args:
        results: Whose grid it is.
        metric: What to draw.
        pairs: Which pairs: all, or one.
        top: Cells to mark.
    """
    label, heading = _LABELS[metric][1], _heading(results, metric, pairs)
    grid, values = results.metadata["grid"], results.values[metric][pairs]
    mean, _, _ = mean_and_deviation(values)
    if grid["positions"]:
        column = "latent position" if grid["column"] == "position" else grid["column"]
        return cell_map(
            mean, grid["layers"], grid["positions"], results.structural, heading, label,
            xlabel=column, diverging=metric == "recovery", top=top,
        )  # fmt: skip
    low, high = bootstrap_interval(values, results.metadata["seed"])
    return layer_profile(mean, low, high, grid["layers"], results.structural, heading, label, top)


def draw_chain(results: Results, metric: str, pairs: slice, critical: list[str]) -> Figure:
    """A metric along the chain, from the unpatched run; of all pairs or of some."""
    grid, values = results.metadata["grid"], results.values[metric][pairs]
    points = list(grid["positions"])
    if metric.startswith("cosine"):  # of position N+1, after iteration N
        values, points = values[..., :-1], [f"{p} → {int(p) + 1}" for p in points[:-1]]
    else:
        values = np.concatenate([np.zeros_like(values[..., :1]), values], axis=-1)
        points = ["none", *points]
    return trajectories(
        values, grid["layers"], points, critical, results.metadata["seed"],
        _heading(results, metric, pairs), _LABELS[metric][1],
    )  # fmt: skip


def _heading(results: Results, metric: str, pairs: slice) -> str:
    metadata, chosen = results.metadata, results.pair_ids[pairs]
    kind = " ".join(filter(None, [metadata["strategy"], metadata["experiment"], "patching"]))
    if len(chosen) == 1:
        answers = results.baseline[chosen[0]]
        what = f"pair {chosen[0]}, {answers['giving_answer']} into {answers['patched_answer']}"
    else:
        what = f"{len(chosen)} pairs"
    model = Path(metadata["model"]).name
    return f"{_LABELS[metric][0]}\n{kind}, {metadata['latents']} latents, {model}, {what}"
