"""Small random models, in float64 so that identities hold to the last digits."""

import json
import os
from collections.abc import Iterator
from functools import cached_property

import lightning.pytorch as pl
import pytest
import torch

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pairs import Pair, Question
from codi_patching.models.arithmetic import enable_mkl_reproducibility
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import save_checkpoint
from codi_patching.results.dataset import CONTROL, OWN, has_control, pairs_of, run_of
from codi_patching.training.codi_tiny import build_codi_tiny

for told in ("LOCAL_RANK", "CODI_PATCHING_TRACEBACK"):
    os.environ.pop(told, None)  # of who started the tests
enable_mkl_reproducibility()  # before the first product: this process computes as commands do

WORDS = ["Tom", "has", "pears", "buys", "more", ".", "The", "answer", "is", ":", "He", "eats"]


def random_model(num_layers: int = 3, num_latents: int = 3, seed: int = 0) -> CodiModel:
    """A model of random weights, large enough that every activation matters."""
    torch.manual_seed(seed)
    model = build_codi_tiny(
        [*WORDS, *map(str, range(21))],
        num_latents=num_latents,
        num_layers=num_layers,
        hidden_size=32,
        intermediate_size=48,
        prj_dim=24,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.25)
    return model.double().eval().requires_grad_(False)


@pytest.fixture
def model() -> Iterator[CodiModel]:
    """A random model, on which no test may leave a hook."""
    model = random_model()
    yield model
    for module in model.modules():
        left = module._forward_hooks or module._forward_pre_hooks
        assert not left, f"hooks left on {type(module).__name__}"


@pytest.fixture
def pair() -> Pair:
    return Pair(
        "one",
        Question("Tom has 16 pears. He eats 3.", 13.0),
        Question("Tom has 18 pears. He eats 3.", 15.0),
    )


@pytest.fixture
def checkpoint(tmp_path, model) -> str:
    """A folder with the random model, in float32."""
    save_checkpoint(model.float(), tmp_path / "model")
    return str(tmp_path / "model")


QUESTIONS = [
    ("Tom has 16 pears. He eats 3.", 13, "Tom has 18 pears. He eats 3.", 15),
    ("Tom has 9 pears. He buys 3 more.", 12, "Tom has 9 pears. He buys 5 more.", 14),
    ("Tom has 5 pears. He eats 1.", 4, "Tom has 2 pears. He eats 1.", 1),
    ("Tom has 7.", 7, "Tom has 7.0.", 7),  # equal answers: filtered
]

SIBLINGS = {"p0": ("Tom has 12 pears. He eats 3.", 9)}
"""The others get a random pair as their control."""


@pytest.fixture
def pairs_file(tmp_path):
    records = []
    for index, (clean, a, corrupted, b) in enumerate(QUESTIONS):
        record = {
            "pair_id": f"p{index}",
            "clean": {"question": clean, "answer": a},
            "corrupted": {"question": corrupted, "answer": b},
        }
        if record["pair_id"] in SIBLINGS:
            text, answer = SIBLINGS[record["pair_id"]]
            record["sibling"] = {"question": text, "answer": answer}
        records.append(record)
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    return str(tmp_path / "pairs.json")


def quiet_trainer(*callbacks, **options) -> pl.Trainer:
    """A trainer on the CPU that prints and logs nothing."""
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": list(callbacks),
            **options,
        }
    )


class Results:
    """A dataset as plain arrays, by metric `(pairs, layers, columns)`."""

    def __init__(self, data):
        self.data, self.run, self.pairs = data, run_of(data), pairs_of(data)
        self.pair_ids = tuple(data.pair.values.tolist())
        self.structural = self.run.grid.structural

    def of_arm(self, arm):
        return {name: self.data[name].sel(arm=arm).values for name in self.run.metrics}

    @cached_property
    def values(self):
        return self.of_arm(OWN)

    @cached_property
    def control(self):
        return self.of_arm(CONTROL) if has_control(self.data) else {}


@pytest.fixture
def predict(pairs_file, tmp_path):
    """Run an experiment; returns its results, which are in `predict.folder`."""
    from codi_patching.callbacks.results import ResultsWriter
    from codi_patching.results.read import read_results

    counter = iter(range(100))

    def predict(experiment, precision="32-true", **data):
        folder = predict.folder = tmp_path / f"out{next(counter)}"
        trainer = quiet_trainer(ResultsWriter(str(folder)), precision=precision)
        data = PairsDataModule(data.pop("pairs", pairs_file), **data)
        trainer.predict(experiment, data, return_predictions=False)
        return Results(read_results(folder))

    return predict


@pytest.fixture
def attached(pairs_file):
    """An experiment that is loaded, with a trainer and its pairs, for one step by hand."""

    def attached(experiment, **data):
        trainer = quiet_trainer()
        data = PairsDataModule(data.pop("pairs", pairs_file), **data)
        data.setup("predict")
        data.trainer = trainer
        trainer._data_connector.attach_datamodule(experiment, datamodule=data)
        trainer.strategy.connect(experiment)
        experiment.trainer = trainer
        experiment.configure_model()
        return experiment

    return attached
