"""Requests on their way through a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from codi_patching.patching.latent_model import Attend, LatentModel
from codi_patching.patching.rotations import Rotations
from codi_patching.patching.sweep.plan import AttentionStep, Functions, Plan, Step, Watched, Wave
from codi_patching.patching.sweep.shared_attention import (
    OwnKeys,
    PaddedPrompts,
    Segments,
    attention_in_pieces,
    shared_attention,
)
from codi_patching.patching.sweep.starts import Starts
from codi_patching.patching.sweep.values import Values

Written = tuple[Tensor, Tensor, Tensor]
"""Slots, and keys and values `(kv heads, slots, size)` that are put there."""


class Sweep:
    """Follows a plan.

    Args:
        model: The model.
        starts: The unpatched runs.
        plan: What is computed.
        values: What is patched in.
        watched: Filled with the activations of the watched cells, `(cells, hidden)`.
    """

    def __init__(
        self,
        model: LatentModel,
        starts: Starts,
        plan: Plan,
        values: Values,
        watched: Tensor,
    ) -> None:
        self.model, self.starts, self.plan, self.values = model, starts, plan, values
        self.watched = watched
        layers, two, heads, tokens, size = starts.suffix_kv.shape
        self.pool = starts.suffix_kv.new_empty(layers, two, heads, plan.num_slots, size)
        self.pool[..., :tokens, :] = starts.suffix_kv

    def run(self, on_share_done: Callable[[float], None] = lambda _: None) -> Tensor:
        """The last block's outputs that logits are made from, `(outputs, hidden)`.

        Args:
            on_share_done: Told what share of the work is done, 0..1, after each layer.
        """
        outputs, done = self.values.vectors[:0], 0
        for wave in self.plan.waves:
            outputs = self._thoughts(wave, outputs)
            self._watch(wave.watched, outputs)
            positions = self.starts.lengths[wave.starts] + wave.depths
            rotations: Rotations = self.model.rotations(self.values.vectors, positions)
            for layer, step in enumerate(wave.steps):
                outputs = self._layer(layer, step, outputs, positions, rotations)
                self._watch(step.watched, outputs)
                done += step.attention.attending + step.mlp.computed
                on_share_done(done / (self.plan.attention_tokens + self.plan.mlp_tokens or 1))
        on_share_done(1.0)
        return torch.cat([outputs, self.values.vectors])[self.plan.logit_outputs]

    def _thoughts(self, wave: Wave, outputs: Tensor) -> Tensor:
        """The new thoughts of a wave, from the outputs of the one before."""
        vectors = self.values.vectors
        thoughts = vectors[:0]
        if len(wave.parents):
            sources = torch.cat([outputs, self.starts.stream[-1], vectors])[wave.parents]
            thoughts = self.model.next_thought(self.model.final_norm(sources))
        if not wave.computed_thoughts:
            return thoughts
        present = torch.cat([thoughts, self.starts.stream[0]])
        computed = [self.values.functions[f](present[i]) for i, f in wave.computed_thoughts]
        return torch.cat([thoughts, torch.stack(computed).to(thoughts)])

    def _layer(
        self, layer: int, step: Step, outputs: Tensor, positions: Tensor, rotations: Rotations
    ) -> Tensor:
        """The outputs of a layer."""
        attention = step.attention
        sources = torch.cat([outputs, self.starts.stream[layer], self.values.vectors])
        inputs = sources.index_select(0, attention.source)
        if layer == 0:
            inputs = self.model.add_position_embeddings(inputs, positions[attention.nodes])
        projected, attending = len(attention.slots), attention.attending
        here = tuple(part[:, attention.nodes[:projected]] for part in rotations)
        written = self._given_keys(layer, attention, inputs, here, rotations)
        if attending < projected:
            rest = tuple(part[:, attending:] for part in here)
            keys, values = self.model.keys_and_values(layer, inputs[attending:projected], rest)
            self._store(layer, attention.slots[attending:], keys, values)
        here = tuple(part[:, :attending] for part in here)
        attend = self._attention(layer, attention, written)
        going, adding = inputs[:attending], inputs[projected:]
        if attending:
            change = self.model.attention(layer, going, here, attend)
            going = going + self._apply(attention.functions, change)
        else:
            self._overwrite(layer, written)
        return self._mlp(layer, step, self._with_added(going, adding, attention.added))

    def _mlp(self, layer: int, step: Step, mid: Tensor) -> Tensor:
        """The second half of a layer."""
        mlp = step.mlp
        if mlp.source is not None:
            if self.starts.mid is not None:
                mid = torch.cat([mid, self.starts.mid[layer]])
            mid = mid.index_select(0, mlp.source)
        going, adding = mid[: mlp.computed], mid[mlp.computed :]
        if len(going):
            going = going + self._apply(mlp.functions, self.model.mlp(layer, going))
        outputs = self._with_added(going, adding, mlp.added)
        return self._apply(mlp.output_functions, outputs)

    def _with_added(self, going: Tensor, adding: Tensor, labels: Tensor) -> Tensor:
        """Tokens, and those to which given values are added."""
        if not len(labels):
            return going
        return torch.cat([going, adding + self.values.vectors[labels]])

    def _apply(self, functions: Functions, present: Tensor) -> Tensor:
        """The same with some items replaced by functions of them."""
        if not functions:
            return present
        changed = present.clone()
        for item, function in functions:
            changed[item] = self.values.functions[function](present[item])
        return changed

    def _watch(self, watched: Watched, outputs: Tensor) -> None:
        sources, places = watched
        if len(places):
            self.watched[places] = outputs[sources]

    # -- keys and values ------------------------------------------------------------------------

    def _given_keys(
        self,
        layer: int,
        step: AttentionStep,
        inputs: Tensor,
        here: Rotations,
        rotations: Rotations,
    ) -> list[Written]:
        """Keys and values that patches give, or compute from those that the inputs make."""
        written = []
        slots, nodes, labels = step.written
        if len(slots):
            assert self.values.kv is not None
            turned = tuple(part[:, nodes] for part in rotations)
            written.append((slots, *self.model.rotated(self.values.kv[labels], turned)))
        if step.key_functions:
            items = [item for item, _ in step.key_functions]
            present = self.model.unrotated(layer, _picked(inputs, items))
            functions = (self.values.functions[function] for _, function in step.key_functions)
            computed = torch.stack([f(kv) for f, kv in zip(functions, present)]).to(present)
            turned = tuple(_picked(part, items, dim=1) for part in here)
            slots = _picked(step.slots, items)
            written.append((slots, *self.model.rotated(computed, turned)))
        return written

    def _store(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        self.pool[layer, 0].index_copy_(1, slots, keys)
        self.pool[layer, 1].index_copy_(1, slots, values)

    def _overwrite(self, layer: int, written: list[Written]) -> None:
        for slots, keys, values in written:
            self._store(layer, slots, keys, values)

    def _attention(self, layer: int, step: AttentionStep, written: list[Written]) -> Attend:
        """Attention to the prompt, shared by all tokens of a start, and to each one's own run."""
        slots = step.slots[: step.attending]

        def attend(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
            self._store(layer, slots, keys, values)
            self._overwrite(layer, written)
            own = OwnKeys(self.pool[layer], step.keys, step.mask)
            hidden = None if step.hidden is None else self.values.hidden[step.hidden]
            if step.rows is None:
                seen = attention_in_pieces(query, self._segments(layer, step), own, scaling, hidden)
            else:
                prompts = self._padded_prompts(layer, *step.rows)
                seen = shared_attention(query, prompts, own, scaling, hidden)
            return self._heads(step, seen)

        return attend

    def _segments(self, layer: int, step: AttentionStep) -> Segments:
        """The prompts of a layer one by one."""
        prompts = self.starts.prompt_kv
        return Segments([(prompts[start][layer], count) for start, count in step.segments])

    def _padded_prompts(self, layer: int, rows: Tensor, places: Tensor) -> PaddedPrompts:
        """The prompts of a layer at once; see `AttentionStep.rows`."""
        kv = self.starts.padded_kv[layer, :, :, : len(rows)]
        return PaddedPrompts(kv, self.starts.lengths[: len(rows)], rows, places)

    def _heads(self, step: AttentionStep, mixed: Tensor) -> Tensor:
        """What heads give `(tokens, heads, size)`, with those that are patched."""
        nodes, heads, labels = step.heads
        if len(labels):
            assert self.values.heads is not None
            mixed = mixed.index_put((nodes, heads), self.values.heads[labels])
        if step.head_functions:
            mixed = mixed.clone()
            for node, head, function in step.head_functions:
                mixed[node, head] = self.values.functions[function](mixed[node, head])
        return mixed


def _picked(values: Tensor, items: Sequence[int], dim: int = 0) -> Tensor:
    """Some items, one by one: indexing with a list would wait for its transfer to the device."""
    return torch.stack([values.select(dim, item) for item in items], dim)
