"""The fast engine: the tokens that a patch changes, at the layers it changes, and no others.

`planner` decides which; here they are computed. All tokens of a wave go through a decoder block
side by side, as one batch of the linear layers' rows, whatever run they belong to. Each attends to
the prompt's keys and values, which all runs of a question share, and to those of the tokens before
it in its own run, by their slots in one pool.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codi_patching.patching.engine import Engine, Patched, Readout, Unpatched
from codi_patching.patching.interventions import THOUGHT, Cell, Generated, Latents, PatchSet
from codi_patching.patching.sweep.lowering import make_plan
from codi_patching.patching.sweep.plan import Plan, Wave
from codi_patching.patching.sweep.planner import PatchSetShape
from codi_patching.patching.sweep.suffix import Suffix
from codi_patching.patching.sweep.unpatched import (
    Attend,
    PackedModel,
    Rotations,
    UnpatchedBatch,
    UnpatchedState,
)


class SweepEngine(Engine):
    """Runs patched rows with the least work.

    Args:
        model: The model.
        max_rows: Rows a batch; the results do not depend on it beyond rounding.
    """

    def __init__(self, model: PackedModel, max_rows: int) -> None:
        self.model, self.max_rows = model, max_rows
        self.token_layers = 0

    # -- rows of patches ------------------------------------------------------------------------

    def _run_rows(
        self, start: Unpatched, rows: Sequence[PatchSet], latents: Latents, watch: list[list[Cell]]
    ) -> Patched:
        model, state = self.model, start.state
        shapes, values = _shapes(rows, state.stream)
        cells = tuple(tuple(row) for row in watch)
        plan = make_plan(
            state.suffix, len(model.blocks), shapes, cells, latents, state.stream.device
        )
        self.token_layers += plan.token_layers
        watched = state.stream.new_empty(plan.watched, state.stream.shape[-1])
        for place, layer, source in plan.constant:
            watched[place] = torch.cat([state.stream[layer + 1], values])[source]
        sweep = _Sweep(model, state, plan, values, watched)
        hidden = model.final_norm(sweep.run())
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

    def unpatched(self, requests: Sequence[tuple[Sequence[int], Readout]]) -> list[Unpatched]:
        """Run prompts without patches, side by side."""
        if not requests:
            return []
        latents = self.model.num_latents
        suffixes = [Suffix.of(latents, r.prefix, r.answers) for _, r in requests]
        return UnpatchedBatch(self.model, [ids for ids, _ in requests], suffixes).run(
            [readout for _, readout in requests]
        )


def _shapes(rows: Sequence[PatchSet], like: Tensor) -> tuple[tuple[PatchSetShape, ...], Tensor]:
    """Rows without their values, and the values `(values, hidden)`, each once."""
    labels: dict[tuple[int, tuple[int, ...]], int] = {}
    values: list[Tensor] = []
    shapes = []
    for row in rows:
        shape = []
        for patch in row:
            if isinstance(patch.values, Generated):
                label = -1 - patch.values.row
            else:
                key = (patch.values.data_ptr(), patch.values.stride())
                label = labels.setdefault(key, len(labels))
                if label == len(values):
                    values.append(patch.values)
            shape.append((patch.layer, patch.position, label))
        shapes.append(tuple(shape))
    stacked = torch.stack(values).to(like) if values else like.new_empty(0, like.shape[-1])
    return tuple(shapes), stacked


class _Sweep:
    """One batch of rows on its way through the plan."""

    def __init__(
        self, model: PackedModel, start: UnpatchedState, plan: Plan, values: Tensor, watched: Tensor
    ) -> None:
        self.model, self.start, self.plan, self.values = model, start, plan, values
        self.watched = watched
        layers, two, tokens, heads, size = start.suffix_kv.shape
        self.pool = start.suffix_kv.new_empty(layers, two, plan.num_slots, heads, size)
        self.pool[:, :, :tokens] = start.suffix_kv

    def run(self) -> Tensor:
        """The last block's outputs that logits are made from, `(outputs, hidden)`."""
        thoughts = self.values[:0]
        for wave in self.plan.waves:
            outputs = self._wave(wave, thoughts)
            sources = torch.cat([outputs, self.start.stream[-1], self.values])[wave.parents]
            thoughts = self.model.next_thought(self.model.final_norm(sources))
        return outputs[self.plan.logit_outputs]

    def _wave(self, wave: Wave, thoughts: Tensor) -> Tensor:
        """The outputs of the last block."""
        outputs = thoughts
        positions = self.start.length + wave.depths
        rotations: Rotations = self.model.rotations(self.values, positions)
        self._watch(wave, THOUGHT, outputs)
        for layer, step in enumerate(wave.steps):
            if not len(step.nodes):
                outputs = outputs[:0]
                continue
            inputs = torch.cat([outputs, self.start.stream[layer], self.values])[step.source]
            if layer == 0:
                inputs = self.model.add_position_embeddings(inputs, positions[step.nodes])
            here = tuple(part[:, step.nodes] for part in rotations)
            count = step.attending
            if count < len(step.nodes):
                rest = tuple(part[:, count:] for part in here)
                keys, values = self.model.keys_and_values(layer, inputs[count:], rest)
                self._store(layer, step.slots[count:], keys, values)
            outputs = outputs[:0]
            if count:
                here = tuple(part[:, :count] for part in here)
                attend = self._attention(layer, step.slots[:count], step.keys, step.mask)
                outputs = self.model.block(layer, inputs[:count], here, attend)
            self._watch(wave, layer, outputs)
        return outputs

    def _watch(self, wave: Wave, layer: int, outputs: Tensor) -> None:
        sources, places = wave.watched[layer + 1]
        if len(places):
            self.watched[places] = outputs[sources]

    def _store(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        self.pool[layer, 0, slots] = keys.transpose(0, 1)
        self.pool[layer, 1, slots] = values.transpose(0, 1)

    def _attention(self, layer: int, slots: Tensor, seen: Tensor, mask: Tensor | None) -> Attend:
        """Attention to the prompt, shared by all tokens, and to each token's own run."""

        def attend(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
            self._store(layer, slots, keys, values)
            prompt_keys, prompt_values = self.start.prompt_kv[layer]
            own_keys, own_values = self.pool[layer][:, seen]
            return shared_attention(
                query, prompt_keys, prompt_values, own_keys, own_values, mask, scaling
            )

        return attend


def shared_attention(
    query: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    mask: Tensor | None,
    scaling: float,
) -> Tensor:
    """Attention of tokens to keys that all share and keys of their own, in float32 at least.

    Args:
        query: `(heads, tokens, size)`; consecutive heads share a key and value head.
        prompt_keys: `(kv heads, length, size)`.
        prompt_values: The same.
        own_keys: `(tokens, own, kv heads, size)`.
        own_values: The same.
        mask: `(tokens, own)`, false where an own key is not meant; None for all.
        scaling: Of the scores.

    Returns:
        `(tokens, heads, size)`, in the query's dtype.
    """
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    heads, tokens, size = query.shape
    groups, length = prompt_keys.shape[:2]
    query = query.to(wide).view(groups, heads // groups, tokens, size) * scaling
    shared = query.flatten(1, 2) @ prompt_keys.to(wide).transpose(1, 2)
    shared = shared.view(groups, -1, tokens, length).permute(2, 0, 1, 3)  # tokens, groups, …
    query = query.permute(2, 0, 1, 3)
    own = query @ own_keys.to(wide).permute(0, 2, 3, 1)  # tokens, groups, heads a group, own
    if mask is not None:
        own = own.masked_fill(~mask[:, None, None], -torch.inf)
    weights = torch.cat([shared, own], dim=-1).softmax(dim=-1)
    shared, own = weights.split([length, own.shape[-1]], dim=-1)
    shared = shared.permute(1, 2, 0, 3).flatten(1, 2) @ prompt_values.to(wide)
    shared = shared.view(groups, -1, tokens, size).permute(2, 0, 1, 3)
    mixed = shared + own @ own_values.to(wide).transpose(1, 2)
    return mixed.reshape(tokens, heads, size).to(dtype)
