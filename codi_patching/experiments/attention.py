"""Attention: who looks at the thoughts, and where they look; nothing is patched."""

from __future__ import annotations

from functools import cached_property

from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.base import Experiment
from codi_patching.measuring.attention_shares import AttentionShares
from codi_patching.measuring.prompts import Prompts
from codi_patching.models.answers import PairError
from codi_patching.results.dataset import ATTENTION
from codi_patching.results.description import Grid
from codi_patching.results.records import ExcludedPair, PairRecord


class AttentionExperiment(Experiment):
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
    runs_of_a_pair = 1
    """Its clean question's."""

    def configure_model(self) -> None:
        """Load the checkpoint; who attends and what is attended to follow from it."""
        super().configure_model()
        self.readers, self.attended = self.shares.readers, self.shares.groups

    @property
    def grid(self) -> Grid:
        """Layers × positions."""
        layers, positions = range(len(self.model.blocks)), range(self.model.num_latents)
        return Grid(tuple(map(str, layers)), "position", tuple(map(str, positions)))

    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[PairRecord | ExcludedPair]:
        """Read some pairs; one that cannot be read is named, not dropped."""
        records: list[PairRecord | ExcludedPair] = []
        for pair in batch.pairs:
            try:
                records.append(self.shares.read(pair))
            except PairError as error:
                records.append(ExcludedPair(pair.pair_id, str(error)))
        return records

    def forget(self) -> None:
        """Nothing is kept between runs but the model."""

    @cached_property
    def shares(self) -> AttentionShares:
        """Reads the pairs at hand."""
        return AttentionShares(model=self.model, prompts=Prompts(self.model, "denoising"))
