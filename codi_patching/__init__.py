"""Where in a CODI model's latent thoughts is the answer made? Activation patching on Lightning.

In a notebook:

    import codi_patching as cp
    model = cp.load("codi-tiny")
    pair = cp.Pair.of("Max has 52 stamps. …", "Max has 54 stamps. …")
    effect = model.patch(pair, cp.Site("kv", layer=3, position=1))
    results = cp.load_results("results/position")
    results.report()
    cp.plot(results)

Names are imported when they are first used, so that reading results needs none of the packages that
measuring does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codi_patching.api import Model, load, read_pairs
    from codi_patching.callbacks.results import ResultsWriter
    from codi_patching.data.datamodule import PairsDataModule
    from codi_patching.data.pairs import Pair, Question
    from codi_patching.experiments.attention import AttentionExperiment
    from codi_patching.experiments.head import HeadPatching
    from codi_patching.experiments.iterative import IterativePatching
    from codi_patching.experiments.knockout import KnockoutExperiment
    from codi_patching.experiments.layer import LayerPatching
    from codi_patching.experiments.lens import LensExperiment
    from codi_patching.experiments.position import PositionPatching
    from codi_patching.hand_runs import Effect, Grid, QuestionRun
    from codi_patching.patching.edges import Edge
    from codi_patching.patching.interventions import Site
    from codi_patching.reporting.plot import plot
    from codi_patching.saved_results import Results, compare, load_results

_PLACES = {
    "AttentionExperiment": "experiments.attention",
    "Edge": "patching.edges",
    "Effect": "hand_runs",
    "Grid": "hand_runs",
    "HeadPatching": "experiments.head",
    "IterativePatching": "experiments.iterative",
    "KnockoutExperiment": "experiments.knockout",
    "LayerPatching": "experiments.layer",
    "LensExperiment": "experiments.lens",
    "Model": "api",
    "Pair": "data.pairs",
    "PairsDataModule": "data.datamodule",
    "PositionPatching": "experiments.position",
    "Question": "data.pairs",
    "QuestionRun": "hand_runs",
    "Results": "saved_results",
    "ResultsWriter": "callbacks.results",
    "Site": "patching.interventions",
    "compare": "saved_results",
    "load": "api",
    "load_results": "saved_results",
    "plot": "reporting.plot",
    "read_pairs": "api",
}

__all__ = [
    "AttentionExperiment",
    "Edge",
    "Effect",
    "Grid",
    "HeadPatching",
    "IterativePatching",
    "KnockoutExperiment",
    "LayerPatching",
    "LensExperiment",
    "Model",
    "Pair",
    "PairsDataModule",
    "PositionPatching",
    "Question",
    "QuestionRun",
    "Results",
    "ResultsWriter",
    "Site",
    "compare",
    "load",
    "load_results",
    "plot",
    "read_pairs",
]


def __getattr__(name: str) -> Any:
    """Import a public name from where it is; the version is the installed package's."""
    if name == "__version__":
        return import_module("importlib.metadata").version(__name__)
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
