"""The slow, obvious engine: whole forward passes with hooks on the decoder blocks.

Each row is a complete run of the latent positions and the readout after a shared prompt. It knows
the model through a few operations only (`LatentModel`), so it works for every family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codi_patching.patching.engine import Engine, Patched, Readout, Run, Unpatched
from codi_patching.patching.hooks import capture, patch
from codi_patching.patching.interventions import THOUGHT, Cell, Generated, Latents, PatchSet


class Expandable(Protocol):
    """What has been read so far; repeated for several rows."""

    def expand(self, rows: int) -> Any:
        """The same for `rows` identical rows."""


class LatentModel(Protocol):
    """What the engine needs of a CODI model."""

    @property
    def num_latents(self) -> int:
        """K."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The L decoder blocks."""

    def encode(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        """The hidden states at the end of prompts, and the context that ends with them."""

    def advance(self, context: Any, embeddings: Tensor) -> tuple[Tensor, Any]:
        """Read embeddings `(rows, length, hidden)` after a context, which stays as it was."""

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids."""

    def next_thought(self, hidden: Tensor) -> Tensor:
        """The thought made from hidden states after the final norm."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states after the final norm, in float32 at least."""


@dataclass(frozen=True)
class Prompt:
    """A prompt that was read once, for any number of rows.

    Attributes:
        hidden: Last hidden state at bot, `(1, hidden)`.
        context: The context that ends with bot, one row.
    """

    hidden: Tensor
    context: Expandable


class ReferenceEngine(Engine):
    """Runs patched rows by hooks.

    Args:
        model: The model.
        max_rows: Rows a batch; the results do not depend on it beyond rounding.
    """

    def __init__(self, model: LatentModel, max_rows: int = 40) -> None:
        self.model, self.max_rows = model, max_rows

    def unpatched(self, requests: Sequence[tuple[Sequence[int], Readout]]) -> list[Unpatched]:
        """Run prompts without patches, one by one."""
        runs = []
        for ids, readout in requests:
            prompt = Prompt(*self.model.encode([ids]))
            runs.append(Unpatched(self.run(prompt, [[]], readout), readout, prompt))
        return runs

    def _batch(self, rows: Sequence[PatchSet], first: int) -> int:
        """Rows run together, so none may need what another of them generates."""
        for index, row in enumerate(rows):
            for item in row:
                if isinstance(item.values, Generated) and item.values.row >= first:
                    return index
        return len(rows)

    def _run_rows(
        self, start: Unpatched, rows: Sequence[PatchSet], latents: Latents, watch: list[list[Cell]]
    ) -> Patched:
        frozen = start.run.thoughts[0] if latents == "frozen" else None
        run = self.run(start.state, rows, start.readout, frozen)
        watched = []
        for index, cells in enumerate(watch):
            activations = run.activations(index)
            kept = [activations.at(layer, position) for layer, position in cells]
            watched.append(torch.stack(kept) if kept else run.thoughts.new_empty(0))
        return Patched(run.answer_logits, watched)

    def run(
        self,
        prompt: Prompt,
        rows: Sequence[PatchSet],
        readout: Readout,
        frozen: Tensor | None = None,
    ) -> Run:
        """Run every row after the prompt, all in one batch.

        Args:
            prompt: Shared by all rows.
            rows: The patches of each row.
            readout: What is read after the thoughts.
            frozen: `(K, hidden)`, the thoughts of every row; recomputed if not given.
        """
        context = prompt.context.expand(len(rows))
        if frozen is None:
            thoughts, resid, context = self._recompute(prompt, context, rows)
        else:
            thoughts_in = frozen.expand(len(rows), -1, -1)
            thoughts, resid, _, context = self._latent_pass(context, rows, thoughts_in, 0)
        logits: dict[tuple[int, ...], Tensor] = {}
        for answer in readout.answers:
            forced = answer[:-1]
            if forced not in logits:
                ids = torch.tensor([[*readout.prefix, *forced]] * len(rows), device=thoughts.device)
                hidden, _ = self.model.advance(context, self.model.embed(ids))
                logits[forced] = self.model.logits(hidden[:, -len(answer) :])
        return Run(thoughts, resid, tuple(logits[a[:-1]] for a in readout.answers))

    def _recompute(
        self, prompt: Prompt, context: Any, rows: Sequence[PatchSet]
    ) -> tuple[Tensor, Tensor, Any]:
        """One latent position at a time, each thought made from the patched states before it."""
        hidden = prompt.hidden.expand(len(rows), -1)
        thoughts, resid = [], []
        for position in range(self.model.num_latents):
            thought = self.model.next_thought(hidden).unsqueeze(1)
            thought, states, last, context = self._latent_pass(context, rows, thought, position)
            hidden = last[:, 0]
            thoughts.append(thought)
            resid.append(states)
        return torch.cat(thoughts, dim=1), torch.cat(resid, dim=2), context

    def _latent_pass(
        self, context: Any, rows: Sequence[PatchSet], thoughts: Tensor, first: int
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Feed the thoughts of positions `first`.. in one pass, with the patches that fall there.

        Returns:
            Thoughts as fed `(rows, positions, hidden)`, block outputs `(rows, L, positions,
            hidden)`, last hidden states `(rows, positions, hidden)`, and the new context.
        """
        edits = _edits(rows, thoughts, first)
        if THOUGHT in edits:
            mask, values = edits.pop(THOUGHT)
            thoughts = torch.where(mask.unsqueeze(-1), values, thoughts)
        blocks = self.model.blocks
        with patch(blocks, edits), capture(blocks) as records:
            last, context = self.model.advance(context, thoughts)
        states = torch.stack([record[0] for record in records], dim=1)
        return thoughts, states, last, context


def _edits(
    rows: Sequence[PatchSet], thoughts: Tensor, first: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """The patches at positions `first`.., as a mask and values for each layer."""
    count, positions = thoughts.shape[:2]
    edits: dict[int, tuple[Tensor, Tensor]] = {}
    for index, row in enumerate(rows):
        for item in row:
            if not first <= item.position < first + positions:
                continue
            if item.layer not in edits:
                mask = torch.zeros(count, positions, dtype=torch.bool, device=thoughts.device)
                edits[item.layer] = (mask, torch.zeros_like(thoughts))
            mask, values = edits[item.layer]
            if isinstance(item.values, Generated):
                raise TypeError(f"row {index} is patched with what no earlier batch generated")
            mask[index, item.position - first] = True
            values[index, item.position - first] = item.values
    return edits
