"""The lens: what each thought says, at every layer; nothing is patched."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from codi_patching.experiments.base import check_least
from codi_patching.experiments.reading import ReadingExperiment
from codi_patching.measuring.engine_choice import build_engine
from codi_patching.measuring.prompts import Prompts
from codi_patching.measuring.step_ranks import StepRanks
from codi_patching.results.dataset import LENS


class LensExperiment(ReadingExperiment):
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

    def __init__(self, top: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_least("top", top, 1)
        self.top: int = top

    def configure_model(self) -> None:
        """Load the checkpoint, and what runs questions."""
        super().configure_model()
        if not hasattr(self, "engine"):
            self.engine = build_engine(self.model, "sweep", None)

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
