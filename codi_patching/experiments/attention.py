"""Attention: who looks at the thoughts, and where they look; nothing is patched."""

from __future__ import annotations

from functools import cached_property

from codi_patching.experiments.reading import ReadingExperiment
from codi_patching.measuring.attention_again import PAIRS
from codi_patching.measuring.attention_shares import AttentionShares
from codi_patching.measuring.prompts import Prompts
from codi_patching.results.dataset import ATTENTION


class AttentionExperiment(ReadingExperiment):
    """Attention probabilities of each pair's clean run, by layer and head.

    Args:
        kwargs: All arguments of `Experiment`.

    Example:
        >>> import codi_patching as cp
        >>> experiment = cp.AttentionExperiment(checkpoint="codi-tiny")
        >>> experiment.name, experiment.runs_of_a_pair
        ('attention', 1)
    """

    name = ATTENTION

    def configure_model(self) -> None:
        """Load the checkpoint; who attends and what is attended to follow from it."""
        super().configure_model()
        self.readers, self.attended = self.reader.readers, self.reader.groups

    @cached_property
    def reader(self) -> AttentionShares:
        """Reads the pairs at hand."""
        return AttentionShares(
            model=self.model,
            prompts=Prompts(self.model, "denoising"),
            verified=self.pairs[:PAIRS],
            seed=self.seed,
        )
