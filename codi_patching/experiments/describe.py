"""What the numbers of an experiment depend on, for its results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pair_files import SHIPPED_PAIRS
from codi_patching.experiments.base import Experiment
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.models.arithmetic import describe_device
from codi_patching.results.code import describe_code
from codi_patching.results.schema import RunDescription

_PACKAGES = ("torch", "transformers", "lightning", "torchmetrics")


@dataclass(frozen=True)
class RunLabel:
    """What a run is called by, known before its model is loaded; see `RunDescription`."""

    model: str
    data: str
    experiment: str
    strategy: str | None
    latents: str
    direction: str
    source: str
    control: str
    site: str


def label_run(experiment: PatchingExperiment, data: PairsDataModule) -> RunLabel:
    """What a run will be called by."""
    return RunLabel(
        model=experiment.checkpoint,
        data="" if data.path == SHIPPED_PAIRS else str(data.path),
        experiment=experiment.name,
        strategy=experiment.strategy,
        latents=experiment.latents,
        direction=experiment.direction,
        source=experiment.source,
        control=experiment.control,
        site=experiment.site,
    )


def describe_run(experiment: PatchingExperiment) -> RunDescription:
    """An experiment that is attached to a trainer and loaded."""
    trainer, datamodule = experiment.trainer, experiment.datamodule
    return RunDescription(
        **asdict(label_run(experiment, datamodule)),
        model_type=experiment.model.backbone.config.model_type,
        num_latents=experiment.model.num_latents,
        checkpoint_sha256=experiment.report.sha256,
        checkpoint=asdict(experiment.report),
        data_sha256=datamodule.sha256,
        seed=experiment.seed,
        precision=str(trainer.precision),
        device=describe_device(experiment.device, next(experiment.model.parameters()).dtype),
        versions={package: version(package) for package in _PACKAGES},
        code=describe_code(),
        grid=experiment.grid,
        metrics=tuple(experiment.metric_classes),
        num_pairs=len(datamodule.kept),
        filtered=tuple(datamodule.filtered),
        config=describe_config(experiment),
    )


def describe_config(experiment: Experiment) -> dict[str, Any]:
    """The resolved configuration of an experiment that is attached to a trainer."""
    return {
        "seed_everything": experiment.seed,
        "model": {
            "class_path": f"{type(experiment).__module__}.{type(experiment).__qualname__}",
            "init_args": _public(experiment.hparams),
        },
        "data": _public(experiment.datamodule.hparams),
    }


def _public(hparams: Any) -> dict[str, Any]:
    return {key: value for key, value in sorted(hparams.items()) if not key.startswith("_")}
