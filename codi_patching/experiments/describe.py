"""What the numbers of an experiment depend on, for its results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.models.arithmetic import describe_device
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import LoadReport
from codi_patching.results.code import describe_code
from codi_patching.results.description import THOUGHTS, Grid, RunDescription, RunLabel
from codi_patching.shipped import SHIPPED_PAIRS

_PACKAGES = ("torch", "transformers", "lightning", "torchmetrics")


class DescribedModule(pl.LightningModule, ABC):
    """A module that says all that its numbers depend on.

    Its attributes are those of `RunDescription`; here they are of one that patches nothing.
    """

    name: str
    checkpoint: str
    seed: int
    strategy: str | None = None
    latents: str = "recomputed"
    direction: str = "denoising"
    source: str = "clean"
    control: str = "none"
    site: str = "resid_post"
    positions: str = THOUGHTS
    top: int | None = None
    readers: tuple[str, ...] = ()
    attended: tuple[str, ...] = ()

    model: CodiModel
    report: LoadReport

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The cells."""

    @property
    def metric_names(self) -> Sequence[str]:
        """Names of the metrics."""
        return ()

    @property
    def mean_runs(self) -> int | None:
        """With the source `mean`, over how many source runs it is taken."""
        return None

    @property
    def datamodule(self) -> PairsDataModule:
        """The pairs.

        Raises:
            TypeError: The trainer has other data.
        """
        datamodule = self.trainer.datamodule
        if not isinstance(datamodule, PairsDataModule):
            raise TypeError(f"expected a PairsDataModule, got {type(datamodule).__name__}")
        return datamodule

    def describe(self) -> RunDescription:
        """All that the numbers depend on; attached to a trainer and loaded."""
        data = self.datamodule
        return RunDescription(
            **asdict(label_run(self, data)),
            model_type=self.model.backbone.config.model_type,
            num_latents=self.model.num_latents,
            checkpoint_sha256=self.report.sha256,
            checkpoint=asdict(self.report),
            data_sha256=data.sha256,
            seed=self.seed,
            precision=str(self.trainer.precision),
            device=describe_device(self.device, next(self.model.parameters()).dtype),
            versions={package: version(package) for package in _PACKAGES},
            code=describe_code(),
            grid=self.grid,
            metrics=tuple(self.metric_names),
            num_pairs=len(data.kept),
            mean_runs=self.mean_runs,
            filtered=tuple(data.filtered),
            config={
                "seed_everything": self.seed,
                "model": {
                    "class_path": f"{type(self).__module__}.{type(self).__qualname__}",
                    "init_args": _public(self.hparams),
                },
                "data": _public(data.hparams),
            },
            top=self.top,
            readers=self.readers,
            attended=self.attended,
        )


def label_run(module: DescribedModule, data: PairsDataModule) -> RunLabel:
    """What a run will be called by, before its model is loaded."""
    return RunLabel(
        model=module.checkpoint,
        data="" if data.path in SHIPPED_PAIRS.values() else str(data.path),
        experiment=module.name,
        strategy=module.strategy,
        latents=module.latents,
        direction=module.direction,
        source=module.source,
        control=module.control,
        site=module.site,
        positions=module.positions,
    )


def _public(hparams: Any) -> dict[str, Any]:
    return {key: value for key, value in sorted(hparams.items()) if not key.startswith("_")}
