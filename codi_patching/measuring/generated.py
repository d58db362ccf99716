"""What chains of patched runs generated, iteration by iteration, and whether their links hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codi_patching.measuring.patch_grid import Extras
from codi_patching.measuring.preparation import PairStart
from codi_patching.metrics.inputs import GeneratedActivations
from codi_patching.patching.interventions import Cell, Generated, Patch, PatchSet


def watch_chains(patch_sets: Sequence[PatchSet], num_latents: int) -> list[list[Cell]]:
    """What each iteration patched, then what it generates next, if there is a next position."""
    watched = []
    for patch_set in patch_sets:
        cells = [patch.site.cell for patch in patch_set]
        layer, position = cells[-1][0], cells[-1][1] + 1
        watched.append(cells + [(layer, position)] * (position < num_latents))
    return watched


@dataclass(frozen=True)
class WatchedChains:
    """The chains of all layers, iteration by iteration, all layers of one together.

    Attributes:
        layers: Their layers.
        names: The names of these in results.
        iterations: K.
        patch_sets: What each run patched.
        watched: Of each run the activations of `watch_chains`.
    """

    layers: Sequence[int]
    names: Sequence[str]
    iterations: int
    patch_sets: Sequence[PatchSet]
    watched: Sequence[Tensor]

    def extras(self, start: PairStart, traced_source: str | None = None) -> Extras:
        """The generated activations, in the grid's order; the trace; whether the chain holds.

        Args:
            start: The pair's unpatched runs.
            traced_source: Name of the activations that are patched in, of the pair that is traced.
        """
        rows, steps = len(self.layers), self.iterations
        absent = torch.full_like(start.source_activations.thoughts[0], torch.nan)
        generated = [
            held[-1] if len(held) > len(patch_set) else absent
            for patch_set, held in zip(self.patch_sets, self.watched)
        ]
        chain = torch.stack(generated).view(steps, rows, -1).transpose(0, 1)
        there = [
            torch.stack(
                [
                    activations.at(layer, step + 1) if step + 1 < steps else absent
                    for layer in self.layers
                    for step in range(steps)
                ]
            )
            for activations in (start.base.run.activations(), start.source.run.activations())
        ]
        links, broken = self.check_links()
        return Extras(
            GeneratedActivations(chain.flatten(0, 1), *there),
            chain[:, :-1].cpu(),
            self.trace(traced_source) if traced_source else [],
            links,
            broken,
        )

    def check_links(self) -> tuple[int, int]:
        """Cells patched with what an iteration before generated; how many held anything else."""
        rows, held = len(self.layers), self.watched
        links = [run for run, patches in enumerate(self.patch_sets) if _is_generated(patches[0])]
        if not links:
            return 0, 0
        given = torch.stack([held[run][0] for run in links])
        made = torch.stack([held[run - rows][-1] for run in links])
        return len(links), int((given != made).any(dim=-1).sum())

    def trace(self, source: str) -> list[dict[str, Any]]:
        """A line for each patched cell: what the run really held there, and what it made next."""
        lines = []
        for patch_set, held in zip(self.patch_sets, self.watched):
            layer, iteration = patch_set[-1].site.cell
            following: dict[str, Any] = dict.fromkeys(
                ("next_position", "next_norm", "next_hash"), ""
            )
            if len(held) > len(patch_set):
                following = {"next_position": iteration + 1, **_describe("next_", held[-1])}
            lines += [
                {
                    "layer": self.names[self.layers.index(layer)],
                    "iteration": iteration,
                    "position": patch.site.position,
                    "source": f"generated in iteration {iteration - 1}"
                    if _is_generated(patch)
                    else source,
                    **_describe("", value),
                    **following,
                }
                for patch, value in zip(patch_set, held)
            ]
        return lines


def _is_generated(patch: Patch) -> bool:
    return isinstance(patch.values, Generated)


def _describe(prefix: str, activation: Tensor) -> dict[str, str]:
    """Norm and hash of an activation."""
    norm = f"{activation.cpu().double().norm().item():.6g}"
    return {f"{prefix}norm": norm, f"{prefix}hash": short_hash(activation)}


def short_hash(activation: Tensor) -> str:
    """First ten hexadecimal digits of the SHA-256 of an activation's bytes."""
    content = activation.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:10]
