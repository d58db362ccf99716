"""The fast engine: the tokens that a patch changes, at the layers it changes, and no others.

`planner` decides which; here they are computed. All tokens of a wave go through a decoder block
side by side, as one batch of the linear layers' rows, whatever run they belong to. Each attends to
the prompt's keys and values, which all runs of a question share, and to those of the tokens before
it in its own run, by their slots in one pool.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from codi_patching.patching.engine import Engine, Patched, Readout, Unpatched
from codi_patching.patching.interventions import (
    Cell,
    Latents,
    PatchSet,
    SiteName,
    extra_sites,
)
from codi_patching.patching.sweep.lowering import make_plan
from codi_patching.patching.sweep.packed_model import PackedModel
from codi_patching.patching.sweep.suffix import Suffix
from codi_patching.patching.sweep.unpatched import UnpatchedBatch
from codi_patching.patching.sweep.values import Values
from codi_patching.patching.sweep.waves import Sweep


class SweepEngine(Engine):
    """Runs patched rows with the least work.

    Args:
        model: The model.
        max_rows: Rows a batch; the results do not depend on it beyond rounding.
    """

    def __init__(self, model: PackedModel, max_rows: int) -> None:
        self.model, self.max_rows = model, max_rows
        self.token_layers = 0.0

    # -- rows of patches ------------------------------------------------------------------------

    def _run_rows(
        self, start: Unpatched, rows: Sequence[PatchSet], latents: Latents, watch: list[list[Cell]]
    ) -> Patched:
        model, state = self.model, start.state
        if state.mid is None and any(patch.site == "mlp_out" for row in rows for patch in row):
            raise ValueError(
                "expected a run to patch at mlp_out that recorded it: "
                "engine.unpatched(requests, record=['mlp_out'])"
            )
        values = Values.of(rows, state.stream)
        cells = tuple(tuple(row) for row in watch)
        plan = make_plan(
            state.suffix, len(model.blocks), values.shapes, cells, latents, state.stream.device
        )
        self.token_layers += plan.token_layers
        watched = state.stream.new_empty(plan.watched, state.stream.shape[-1])
        for place, layer, source in plan.constant:
            watched[place] = torch.cat([state.stream[layer + 1], values.vectors])[source]
        hidden = model.final_norm(Sweep(model, state, plan, values, watched).run())
        logits: dict[tuple[int, ...], Tensor] = {}
        for tokens, reads in zip(state.suffix.reads, plan.reads):
            if tokens not in logits:  # the answers of a pair are often read at the same place
                logits[tokens] = self._logits(hidden, state.logits, reads)
        return Patched(
            tuple(logits[tokens] for tokens in state.suffix.reads),
            list(watched.split([len(row) for row in watch])),
        )

    def _logits(self, hidden: Tensor, unpatched: Tensor, reads: Tensor) -> Tensor:
        """Logits `(rows, tokens, vocabulary)`; a row that changed nothing has the unpatched run's.

        Args:
            hidden: Of the tokens that are read, after the final norm, `(outputs, hidden)`.
            unpatched: The unpatched run's logits.
            reads: Place of each in `hidden`, or after it in `unpatched`, `(rows, tokens)`.
        """
        same = reads >= len(hidden)
        if not len(hidden):
            return unpatched[reads]
        logits = self.model.logits(hidden[reads.clamp(max=len(hidden) - 1)])
        logits[same] = unpatched[reads[same] - len(hidden)]
        return logits

    # -- unpatched runs -------------------------------------------------------------------------

    def unpatched(
        self,
        requests: Sequence[tuple[Sequence[int], Readout]],
        record: Collection[SiteName] = (),
    ) -> list[Unpatched]:
        """Run prompts without patches, side by side."""
        if not requests:
            return []
        latents = self.model.num_latents
        suffixes = [Suffix.of(latents, r.prefix, r.answers) for _, r in requests]
        prompts = [ids for ids, _ in requests]
        batch = UnpatchedBatch(self.model, prompts, suffixes, extra_sites(record))
        return batch.run([readout for _, readout in requests])
