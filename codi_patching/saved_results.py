"""Results folders in a notebook: the dataset, its findings, a frame. No model is needed.

results = cp.load_results("results/position")
results.data.kl_divergence.sel(layer="3", arm="own").mean("pair")
results.report().findings
cp.compare(["results/layer", results]).finding("direct")
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from codi_patching.errors import InputError, brief, path_text
from codi_patching.results.dataset import (
    OWN,
    is_attention,
    is_knockout,
    pairs_of,
    patches,
    run_of,
    structural_of,
)
from codi_patching.results.description import RunDescription
from codi_patching.results.pair_descriptions import PairDescription
from codi_patching.results.read import read_results
from codi_patching.results.tables import cells_frame

if TYPE_CHECKING:
    import pandas as pd

    from codi_patching.analysis.report import Report


@dataclass(frozen=True, repr=False)
class Results:
    """Results of one run.

    Attributes:
        data: Every number, with named axes; see `results.dataset`.

    Example:
        >>> import codi_patching as cp
        >>> results = cp.load_results("results/position")
        >>> probability = results.data["clean_probability"].sel(layer="3", arm="own").mean("pair")
        >>> print(probability.values.round(2))
        [0.47 0.47 0.46 0.45 0.28]
        >>> len(results.frame())  # 57 pairs of 16 x 5 cells
        4560
    """

    data: xr.Dataset

    @property
    def run(self) -> RunDescription:
        """What was run."""
        return run_of(self.data)

    def report(self, strata: Sequence[str] = ()) -> Report:
        """What is said of the run: findings, the table of every cell, checks of validity.

        Args:
            strata: Fields of the file of pairs that tell strata.
        """
        return compare([self], strata)

    def frame(self) -> pd.DataFrame:
        """A row for each pair and cell, with the columns of `results.csv`.

        Of the lens a row for each rank, of attention for each share. Layers and columns are whole
        numbers where they are, not "thought", "all", or an edge.
        """
        if patches(self.data) or is_knockout(self.data):
            return cells_frame(self.data)
        if is_attention(self.data):
            shares = self.data[["attention", "strongest"]].reset_coords(drop=True)
            return shares.to_dataframe().reset_index()
        ranks = self.data["rank"].reset_coords(drop=True)
        return ranks.to_dataframe().dropna().reset_index()

    def __repr__(self) -> str:
        title, facts = self._described()
        return "\n".join([title, *(f"  {name:<9} {said}" for name, said in facts.items())])

    def _repr_html_(self) -> str:
        from codi_patching.reporting.notebook import cells_svg, framed

        title, facts = self._described()
        maps = []
        if patches(self.data):
            metric = _source_answer(self.run) + "_probability"
            mean = self.data[metric].sel(arm=OWN).mean("pair")
            names, zeros = (mean.layer.values, mean.column.values), structural_of(self.data)
            title_of_map = f"mean {metric} of patched runs"
            maps.append(cells_svg(mean.values, *names, title=title_of_map, zeros=zeros))
        return framed(title, facts, maps)

    def _described(self) -> tuple[str, dict[str, str]]:
        """A title, and facts by name."""
        run, sizes = self.run, self.data.sizes
        layers, columns = run.grid.shape
        title = f"Results: {run.arm}, {run.latents} thoughts, {run.site}, {run.model}"
        facts = {
            "pairs": f"{sizes['pair']} of {run.data or 'the shipped pairs'}",
            "cells": f"{layers} layers × {columns} {run.grid.column}{'s' * (columns != 1)}",
        }
        if patches(self.data):
            facts["patched"] = f"{run.direction}, source {run.source}, control {self._controls()}"
            facts["answers"] = self._answers()
            facts["metrics"] = ", ".join(run.metrics)
        if changed := self.data.attrs["changed"]:
            facts["changed"] = f"{', '.join(changed)}, since the run wrote it"
        if self.data.attrs["folder"] is not None:
            facts["folder"] = str(self.data.attrs["folder"])
        return title, facts | {"see": ".data (xarray), .frame() (pandas), .report() (findings)"}

    def _controls(self) -> str:
        pairs = (p for p in pairs_of(self.data) if isinstance(p, PairDescription))
        kinds = [pair.control.kind for pair in pairs if pair.control]
        counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        return ", ".join(f"{kind} of {count}" for kind, count in counts.items()) or "none"

    def _answers(self) -> str:
        """How often the source answer is said by the runs that patch no single cell."""
        rates = self.data[f"run_predicts_{_source_answer(self.run)}"].mean("pair")
        names = ["base", "ceiling", "source"]
        said = ", ".join(f"{name} {float(rates.sel(run=name)):.0%}" for name in names)
        return f"source answer said by: {said}"


def _source_answer(run: RunDescription) -> str:
    return "clean" if run.clean_is_source else "corrupted"


def load_results(folder: str | Path) -> Results:
    """Read a results folder, of any experiment.

    Raises:
        ResultsError: There are no whole results in it.

    Example:
        >>> import codi_patching as cp
        >>> dict(cp.load_results("results/layer").data["recovery"].sizes)
        {'pair': 57, 'layer': 16, 'column': 1, 'arm': 2}
    """
    folder = Path(path_text(folder, "folder"))
    data = read_results(folder)
    if changed := data.attrs["changed"]:
        warnings.warn(
            f"{', '.join(changed)} in {folder} changed since the run wrote it", stacklevel=2
        )
    return Results(data)


def compare(
    runs: Sequence[str | Path | Results], strata: Sequence[str] = (), pool: bool = False
) -> Report:
    """What is said of several runs on one file of pairs, together.

    Args:
        runs: Folders or what was loaded from them, each experiment of a model once.
        strata: Fields of the file of pairs that tell strata.
        pool: Whether several checkpoints, such as training seeds of one configuration, are put
            together: each pair once for each, those of a pair as one group. Else they stand side
            by side, with their differences.

    Raises:
        InputError: There are none, or two do not belong together.

    Example:
        >>> import codi_patching as cp
        >>> report = cp.compare(["results/layer", "results/lens"])
        >>> list(report.datasets), report.finding("ceiling").answer
        (['layer, frozen', 'lens'], 'yes')
    """
    from codi_patching.analysis.report import build_report

    if isinstance(runs, str | Path | Results) or not isinstance(runs, Iterable):
        raise InputError(f"expected a list of folders or results, got {brief(runs)}")
    loaded = [run if isinstance(run, Results) else load_results(run) for run in runs]
    return build_report([run.data for run in loaded], strata=strata, pooled=pool)
