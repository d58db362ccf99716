"""What the metrics of a pair's grid are computed from.

A pair has two answers: the *base* answer, of the question whose run is patched, and the *source*
answer, of the question that the activations come from. With denoising the base answer is the
corrupted one and the source answer the clean one; with noising the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnswerLogits:
    """Logits before each token of the two answers, each teacher-forced on itself.

    Attributes:
        base: `(…, m, vocabulary)`.
        source: `(…, n, vocabulary)`.
    """

    base: Tensor
    source: Tensor

    def take(self, rows: Tensor | slice) -> AnswerLogits:
        """Some of the runs, by their numbers `(rows,)`; those of a slice are not copied."""
        base = self.base[rows]
        return AnswerLogits(base, base if self.source is self.base else self.source[rows])


@dataclass(frozen=True)
class GeneratedActivations:
    """What iterations generated at (layer, next position); NaN after the last iteration.

    Attributes:
        made: `(cells, hidden)`.
        base: The base run's activations there.
        source: The source run's activations there.
    """

    made: Tensor
    base: Tensor
    source: Tensor


@dataclass(frozen=True)
class MetricInputs:
    """A pair's patched runs beside its two unpatched ones.

    Attributes:
        patched: Of the patched runs, a row for each.
        base_run: Of the base run, without rows.
        source_run: Of the source run, without rows.
        base_ids: Token ids of the base answer, `(m,)`.
        source_ids: Token ids of the source answer, `(n,)`.
        clean_is_source: Whether the source answer is the pair's clean one.
        generated: Iterative patching alone.
    """

    patched: AnswerLogits
    base_run: AnswerLogits
    source_run: AnswerLogits
    base_ids: Tensor
    source_ids: Tensor
    clean_is_source: bool
    generated: GeneratedActivations | None = None

    def of(
        self, patched: AnswerLogits, generated: GeneratedActivations | None = None
    ) -> MetricInputs:
        """The same pair with other patched runs."""
        return replace(self, patched=patched, generated=generated)

    def unpatched(self) -> MetricInputs:
        """The base run and the source run as if they were two patched runs."""
        runs = self.base_run, self.source_run
        base, source = (
            torch.stack([getattr(run, answer) for run in runs]) for answer in ("base", "source")
        )
        return self.of(AnswerLogits(base, source))

    def answer(self, clean: bool, logits: AnswerLogits) -> tuple[Tensor, Tensor]:
        """Logits on the pair's clean or corrupted answer, and that answer's tokens."""
        if clean == self.clean_is_source:
            return logits.source, self.source_ids
        return logits.base, self.base_ids
