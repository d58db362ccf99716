"""The textbook procedure: one sequence at a time, all of it again for every patched run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from shapes import READOUT
from torch import Tensor

from codi_patching.measuring.patch_grid import PatchGrid
from codi_patching.metrics.inputs import AnswerLogits, GeneratedActivations, MetricInputs
from codi_patching.metrics.table import metric_rows
from codi_patching.models.codi import CodiModel
from codi_patching.patching.hooks import capture, patch


class Textbook:
    """A batch of one; logits at every token, as transformers gives them.

    Args:
        model: The model.
        cells: Whose own patched runs are made.
        wait: Waits for the device before time is taken.
    """

    def __init__(self, model: CodiModel, cells: PatchGrid, wait: Callable[[], None]) -> None:
        self.model, self.cells, self.wait = model, cells, wait

    def seconds(self, prompts: tuple[list[int], ...], sample: int) -> float:
        """A pair, scaled from the median of a sample of its runs; metrics included.

        Two prompts and their thoughts, a pass a layer to record the source run, then every run.
        """
        layers, columns = self.cells.grid.shape
        positions = list(range(self.model.num_latents)) if columns == 1 else [2]
        recording, patched = [], []
        begun = self._now()
        thoughts = [self.model.think(*self.model.encode([ids]))[0] for ids in prompts]
        thinking = self._now() - begun
        frozen = thoughts[0] if self.cells.latents == "frozen" else None
        base = logits = self.run(prompts[0], frozen, 0, []).float()
        for index in range(sample):
            layer = index * layers // sample
            begun = self._now()
            self.record(prompts[1], thoughts[1], layer)
            recording.append(self._now() - begun)
            begun = self._now()
            logits = self.run(prompts[0], frozen, layer, positions).float()
            patched.append(self._now() - begun)
        begun = self._now()
        rows = logits[:, None].expand(layers * columns, 1, -1)
        metric_rows(self._metric_inputs(rows, base), self.cells.metrics)
        measuring = self._now() - begun
        runs = layers * columns + 1
        return thinking + layers * median(recording) + runs * median(patched) + measuring

    def run(self, ids: list[int], thoughts: Tensor | None, layer: int, cells: list[int]) -> Tensor:
        """Logits before the answer; positions `cells` of a layer are overwritten (by zeros)."""
        model, latents = self.model, self.model.num_latents
        embeddings = self._embeddings(ids)
        if thoughts is None:  # generated: prompt, one latent position after the other, readout
            hidden, context = model.encode([ids])
            for position in range(latents):
                mask = torch.full((1, 1), position in cells, device=hidden.device)
                edit = {layer: (mask, hidden.new_zeros(1, 1, hidden.shape[-1]))}
                with patch(model.blocks, edit):
                    step, context = model.advance(context, model.next_thought(hidden)[:, None])
                hidden = step[:, 0]
            states, _ = model.advance(context, embeddings[:, len(ids) :])
            return model.backbone.get_output_embeddings()(states)[:, -1]
        whole = self._with_thoughts(ids, thoughts)
        mask = torch.zeros(1, whole.shape[1], dtype=torch.bool, device=whole.device)
        mask[0, [len(ids) + cell for cell in cells]] = True
        with patch(model.blocks, {layer: (mask, torch.zeros_like(whole))}):
            return model.backbone(inputs_embeds=whole, use_cache=False).logits[:, -1]

    def record(self, ids: list[int], thoughts: Tensor, layer: int) -> Tensor:
        """The whole sequence again, to keep one layer's activations."""
        with capture(self.model.blocks) as records:
            self.model.backbone(inputs_embeds=self._with_thoughts(ids, thoughts), use_cache=False)
        return records[layer][0]

    def _embeddings(self, ids: list[int]) -> Tensor:
        return self.model.embed(torch.tensor([[*ids, *READOUT.prefix]], device=self.model.device))

    def _with_thoughts(self, ids: list[int], thoughts: Tensor) -> Tensor:
        embeddings = self._embeddings(ids)
        return torch.cat([embeddings[:, : len(ids)], thoughts, embeddings[:, len(ids) :]], dim=1)

    def _metric_inputs(self, patched: Tensor, base: Tensor) -> MetricInputs:
        unpatched = AnswerLogits(base, base)
        ids = [torch.tensor(answer, device=base.device) for answer in READOUT.answers]
        chain = GeneratedActivations(*[base.new_zeros(len(patched), 4)] * 3)
        rows = AnswerLogits(patched, patched)
        return MetricInputs(rows, unpatched, unpatched, ids[0], ids[1], True, chain)

    def _now(self) -> float:
        self.wait()
        return time.perf_counter()
