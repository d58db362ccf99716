"""The slow, obvious engine: whole forward passes with hooks on the decoder blocks.

Each row is a complete run of the latent positions and the readout after a shared prompt. It knows
the model through a few operations only (`LatentModel`), so it works for every family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codi_patching.patching.hooks import capture, patch
from codi_patching.patching.interventions import THOUGHT, Activations, Latents, Row, check_rows


class Expandable(Protocol):
    """What has been read so far; repeated for several rows."""

    def expand(self, rows: int) -> Any:
        """The same for `rows` identical rows."""


class LatentModel(Protocol):
    """What the engine needs of a CODI model."""

    prj: nn.Module

    @property
    def num_latents(self) -> int:
        """K."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The L decoder blocks."""

    def advance(self, context: Any, embeddings: Tensor) -> tuple[Tensor, Any]:
        """Read embeddings `(rows, length, hidden)` after a context, which stays as it was."""

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states after the final norm."""


@dataclass(frozen=True)
class Prompt:
    """A prompt that was read once, for any number of rows.

    Attributes:
        hidden: Last hidden state at bot, `(1, hidden)`.
        context: The context that ends with bot, one row.
    """

    hidden: Tensor
    context: Expandable


@dataclass(frozen=True)
class Readout:
    """The tokens that follow the thoughts.

    Attributes:
        prefix: eot and the answer prefix.
        answers: Token ids of each answer whose tokens are read; each is teacher-forced on itself.
    """

    prefix: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Run:
    """What `rows` runs gave.

    Attributes:
        thoughts: z as fed, `(rows, K, hidden)`.
        resid: Output of every block at the latent positions, patches included,
            `(rows, L, K, hidden)`.
        answer_logits: For each answer the logits at the position before each of its tokens,
            `(rows, tokens, vocabulary)`, in float32 at least.
    """

    thoughts: Tensor
    resid: Tensor
    answer_logits: tuple[Tensor, ...]

    def activations(self, row: int = 0) -> Activations:
        """The activations of one row."""
        return Activations(self.thoughts[row], self.resid[row])


class ReferenceEngine:
    """Runs patched rows by hooks.

    Args:
        model: The model.
        max_rows: Rows a batch; the results do not depend on it beyond rounding.
    """

    def __init__(self, model: LatentModel, max_rows: int = 40) -> None:
        if max_rows < 1:
            raise ValueError(f"expected max_rows of at least 1, got {max_rows}: set max_rows")
        self.model, self.max_rows = model, max_rows

    def run(
        self,
        prompt: Prompt,
        rows: Sequence[Row],
        readout: Readout,
        latents: Latents = "recomputed",
        frozen_thoughts: Tensor | None = None,
        on_rows_done: Callable[[int], None] = lambda _: None,
    ) -> Run:
        """Run every row after the prompt.

        Args:
            prompt: Shared by all rows.
            rows: The patches of each row.
            readout: What is read after the thoughts.
            latents: `recomputed`: each thought comes from the patched states before it. `frozen`:
                the thoughts are `frozen_thoughts` whatever is patched.
            frozen_thoughts: `(K, hidden)`, the baseline's, for `frozen`.
            on_rows_done: Told how many rows are done, after each batch of rows.

        Raises:
            ValueError: A cell does not exist; frozen thoughts are missing.
        """
        check_rows(rows, len(self.model.blocks), self.model.num_latents)
        if latents == "frozen" and frozen_thoughts is None:
            raise ValueError("expected frozen_thoughts with latents='frozen', got None")
        frozen = frozen_thoughts if latents == "frozen" else None
        parts = []
        for start in range(0, len(rows), self.max_rows):
            chunk = rows[start : start + self.max_rows]
            parts.append(self._run_chunk(prompt, chunk, readout, frozen))
            on_rows_done(start + len(chunk))
        return Run(
            torch.cat([part.thoughts for part in parts]),
            torch.cat([part.resid for part in parts]),
            tuple(torch.cat(logits) for logits in zip(*(p.answer_logits for p in parts))),
        )

    def _run_chunk(
        self, prompt: Prompt, rows: Sequence[Row], readout: Readout, frozen: Tensor | None
    ) -> Run:
        context = prompt.context.expand(len(rows))
        if frozen is None:
            thoughts, resid, context = self._recompute(prompt, context, rows)
        else:
            given = frozen.expand(len(rows), -1, -1)
            thoughts, resid, _, context = self._latent_pass(context, rows, given, 0)
        logits: dict[tuple[int, ...], Tensor] = {}
        for answer in readout.answers:
            forced = answer[:-1]
            if forced not in logits:
                ids = torch.tensor([[*readout.prefix, *forced]] * len(rows), device=thoughts.device)
                hidden, _ = self.model.advance(context, self.model.embed(ids))
                logits[forced] = self.model.logits(hidden[:, -len(answer) :])
        wide = torch.promote_types(thoughts.dtype, torch.float32)
        return Run(thoughts, resid, tuple(logits[a[:-1]].to(wide) for a in readout.answers))

    def _recompute(
        self, prompt: Prompt, context: Any, rows: Sequence[Row]
    ) -> tuple[Tensor, Tensor, Any]:
        """One latent position at a time, each thought made from the patched states before it."""
        hidden = prompt.hidden.expand(len(rows), -1)
        thoughts, resid = [], []
        for position in range(self.model.num_latents):
            thought = self.model.prj(hidden).unsqueeze(1)
            thought, states, last, context = self._latent_pass(context, rows, thought, position)
            hidden = last[:, 0]
            thoughts.append(thought)
            resid.append(states)
        return torch.cat(thoughts, dim=1), torch.cat(resid, dim=2), context

    def _latent_pass(
        self, context: Any, rows: Sequence[Row], thoughts: Tensor, first: int
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


def _edits(rows: Sequence[Row], thoughts: Tensor, first: int) -> dict[int, tuple[Tensor, Tensor]]:
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
            mask[index, item.position - first] = True
            values[index, item.position - first] = item.values
    return edits
