"""Runs of one site and source, by their kind: what the questions of a report are asked of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

from codi_patching.analysis.effects import align
from codi_patching.analysis.levels import kind_of, label_of
from codi_patching.results.dataset import is_attention, is_knockout, is_lens, patches, run_of

CONFIGS: Mapping[str, str] = {
    "position, recomputed": "position",
    "position, frozen": "position_frozen",
    "layer, frozen": "layer",
    "layer, recomputed": "layer_recomputed",
    "relay": "iterative",
    "cumulative": "iterative_cumulative",
    "lens": "lens",
    "attention": "attention",
    "knockout": "knockout",
}
"""The configuration that makes each kind of run."""

_USUAL = ("resid_post", "clean", "")
"""Site and source of the states that lens and attention read, and of a run that is cut."""


@dataclass(frozen=True)
class Study:
    """Runs of one site and source; the level of a report belongs to one study.

    Attributes:
        runs: Of denoising, by kind.
        noising: Of noising, by kind.
        lens: The lens, if it was run and reads what is patched.
        seed: Of everything drawn.
        strata: Fields of the file of pairs that tell strata.
        attention: Attention, if it was run and sees what is patched.
        knockout: Cut edges of attention, if they were run.
    """

    runs: Mapping[str, xr.Dataset]
    noising: Mapping[str, xr.Dataset]
    lens: xr.Dataset | None
    seed: int
    strata: tuple[str, ...] = ()
    attention: xr.Dataset | None = None
    knockout: xr.Dataset | None = None

    def label(self, kind: str) -> str:
        """What sentences call a run of denoising."""
        return label_of(run_of(self.runs[kind]))

    @property
    def labels(self) -> tuple[str, ...]:
        """Of all runs of denoising."""
        return tuple(map(self.label, self.runs))

    @property
    def noising_labels(self) -> tuple[str, ...]:
        """Of all runs of noising."""
        return tuple(label_of(run_of(data)) for data in self.noising.values())

    def lacking(self, kinds: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Of each kind of run that is not there, the configurations that make it."""
        return tuple((CONFIGS[kind],) for kind in kinds if kind not in self.runs)

    def playing(self, roles: Mapping[str, str]) -> dict[str, xr.Dataset] | None:
        """The runs in their roles, over the pairs that all have; None if one is not there."""
        if any(kind not in self.runs for kind in roles.values()):
            return None
        return align({role: self.runs[kind] for role, kind in roles.items()})


def studies_of(datasets: Sequence[xr.Dataset], seed: int, strata: Sequence[str]) -> list[Study]:
    """The studies that runs belong to, in order of appearance; a user's own run is its own."""
    lens = next((data for data in datasets if is_lens(data)), None)
    attention = next((data for data in datasets if is_attention(data)), None)
    knockout = next((data for data in datasets if is_knockout(data)), None)
    by_setting: dict[tuple[str, str, str], list[xr.Dataset]] = {}
    for data in datasets:
        run = run_of(data)
        own = label_of(run) if kind_of(run) == "own" else ""
        setting = (run.site, run.source, own) if patches(data) else _USUAL
        by_setting.setdefault(setting, []).append(data)
    studies = []
    for setting, members in by_setting.items():
        patching = [data for data in members if patches(data)]
        denoising = {kind_of(r): d for d in patching if (r := run_of(d)).clean_is_source}
        noising = {kind_of(r): d for d in patching if not (r := run_of(d)).clean_is_source}
        beside = (lens, attention, knockout) if setting == _USUAL else (None, None, None)
        reads, sees, cuts = beside
        studies.append(Study(denoising, noising, reads, seed, tuple(strata), sees, cuts))
    return studies
