"""An experiment that patches nothing: it reads each pair's clean run, layers × positions."""

from __future__ import annotations

from typing import Protocol

from codi_patching.data.datamodule import PairBatch
from codi_patching.data.pairs import Pair
from codi_patching.experiments.base import Experiment
from codi_patching.models.answers import PairError
from codi_patching.results.description import Grid
from codi_patching.results.records import ExcludedPair, PairRecord


class Reader(Protocol):
    """What reads a pair."""

    def read(self, pair: Pair) -> PairRecord:
        """One pair.

        Raises:
            PairError: It cannot be read.
        """


class ReadingExperiment(Experiment):
    """Reads every thought at every layer.

    Args:
        kwargs: All arguments of `Experiment`.
    """

    runs_of_a_pair = 1
    """Its clean question's."""

    @property
    def reader(self) -> Reader:
        """What reads the pairs at hand."""
        raise NotImplementedError

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
                records.append(self.reader.read(pair))
            except PairError as error:
                records.append(ExcludedPair(pair.pair_id, str(error)))
        return records

    def forget(self) -> None:
        """What was drawn from the pairs at hand is drawn anew."""
        self.__dict__.pop("reader", None)
