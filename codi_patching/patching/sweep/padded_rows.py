"""Plans for devices on which each operation is a launch: all prompts in one product."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from codi_patching.patching.sweep.plan import AttentionStep, Plan


def with_padded_rows(plan: Plan) -> Plan:
    """The same plan, in whose layers nodes attend to the prompts of all starts at once."""
    waves = []
    for wave in plan.waves:
        halves = [replace(step.attention, rows=_rows(step.attention)) for step in wave.steps]
        steps = [replace(step, attention=half) for step, half in zip(wave.steps, halves)]
        waves.append(replace(wave, steps=tuple(steps)))
    return replace(plan, waves=tuple(waves))


def _rows(step: AttentionStep) -> tuple[Tensor, Tensor] | None:
    """See `AttentionStep.rows`."""
    if not step.segments:
        return None
    of_start = dict(step.segments)
    counts = [of_start.get(start, 0) for start in range(max(of_start) + 1)]
    rows = pad_sequence(list(torch.arange(step.attending).split(counts)), batch_first=True)
    meant = torch.arange(rows.shape[1]) < torch.tensor(counts)[:, None]
    return rows, meant.flatten().nonzero()[:, 0]
