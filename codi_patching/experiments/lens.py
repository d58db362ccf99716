"""The lens: what each thought says, at every layer; nothing is patched."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from codi_patching.data.datamodule import PairBatch
from codi_patching.experiments.base import Experiment, check_least
from codi_patching.measuring.engine_choice import build_engine
from codi_patching.measuring.prompts import Prompts
from codi_patching.measuring.step_ranks import StepRanks
from codi_patching.models.answers import PairError
from codi_patching.results.dataset import LENS
from codi_patching.results.description import Grid
from codi_patching.results.records import ExcludedPair, PairRecord


class LensExperiment(Experiment):
    """Reads every thought at every layer.

    Args:
        top: How many tokens are kept as text for each cell; hits are counted among them.
        kwargs: All arguments of `Experiment`.

    Example:
        >>> import codi_patching as cp
        >>> experiment = cp.LensExperiment(top=3)
        >>> experiment.name, experiment.top
        ('lens', 3)
    """

    name = LENS
    runs_of_a_pair = 1
    """Its clean question's."""

    def __init__(self, top: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_least("top", top, 1)
        self.save_hyperparameters()
        self.top: int = top

    @property
    def grid(self) -> Grid:
        """Layers × positions."""
        layers, positions = range(len(self.model.blocks)), range(self.model.num_latents)
        return Grid(tuple(map(str, layers)), "position", tuple(map(str, positions)))

    def configure_model(self) -> None:
        """Load the checkpoint, and what runs questions."""
        super().configure_model()
        if not hasattr(self, "engine"):
            self.engine = build_engine(self.model, "sweep", None)

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
        """Draw partners anew, of the pairs at hand."""
        self.__dict__.pop("reader", None)

    @cached_property
    def reader(self) -> StepRanks:
        """Reads the pairs at hand."""
        return StepRanks(
            model=self.model,
            engine=self.engine,
            prompts=Prompts.of(self.model, "denoising", self.engine),
            pairs=self.datamodule.usable,
            top=self.top,
            seed=self.seed,
        )
