"""How many pairs and patched runs go together: by shape and device, by hand."""

from types import SimpleNamespace

import pytest
import torch
from conftest import random_model

from codi_patching import KnockoutExperiment, PairsDataModule, PositionPatching
from codi_patching.models import at_once

GIB = 2**30
ROW = 10 * 8 * (3 * 48 + 6 * 32)
"""Bytes of a run of the random model: ten tokens, 3 · 48 + 6 · 32 numbers each, in float64."""


@pytest.fixture
def gpu(monkeypatch):
    """Gives a GPU so many GiB of memory less a byte: what is divided by it is rounded down."""

    def gpu(gib):
        told = lambda device: (gib * GIB - 1) * (device.type == "cuda")  # noqa: E731
        monkeypatch.setattr(at_once, "gpu_memory", told)
        return torch.device("cuda", 0)

    return gpu


def test_memory_is_of_a_gpu_alone(monkeypatch):
    told = SimpleNamespace(total_memory=5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: told)
    names = ("cpu", "mps", "cuda")
    assert [at_once.gpu_memory(torch.device(name)) for name in names] == [0, 0, 5]


def test_rows_of_a_cpu_fill_a_gibibyte():
    assert at_once.rows_at_once(random_model()) == GIB // ROW


@pytest.mark.parametrize(("gib", "room"), [(8, GIB), (24, 3 * GIB - 1), (80, 10 * GIB - 1)])
def test_rows_of_a_gpu_fill_an_eighth_of_it(gpu, gib, room):
    assert at_once.rows_at_once(random_model(), gpu(gib)) == room // ROW


def test_one_row_at_least(monkeypatch):
    monkeypatch.setattr(at_once, "_ACTIVATIONS", ROW - 1)
    assert at_once.rows_at_once(random_model()) == 1


@pytest.mark.parametrize(
    ("gib", "processes", "sizes"),
    [
        (8, 1, [8, 8, 8, 8, 8, 8, 8, 1]),
        (25, 1, [24, 24, 9]),
        (80, 1, [57]),
        (80, 2, [29, 28]),
        (80, 8, [8, 8, 8, 8, 8, 8, 8, 1]),
        (80, 3, [19, 19, 19]),
    ],
)
def test_batches_of_a_gpu(gpu, gib, processes, sizes):
    trainer = trainer_on(gpu(gib), processes)
    assert sizes_of(trainer) == sizes
    assert sizes_of(trainer, batch_size=30) == [30, 27]


def test_batches_of_a_cpu(gpu):
    gpu(80)
    for trainer in (None, trainer_on(torch.device("cpu"), 1)):
        assert sizes_of(trainer, max_pairs=17) == [8, 8, 1]


def test_unlike_gpus_have_the_batches_of_the_first(gpu):
    assert sizes_of(trainer_on(gpu(24), 2, first=29)) == [29, 28]


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 10, 12, 16])
@pytest.mark.parametrize("pairs", [129, 135, 200, 1000])
def test_no_process_is_without_a_batch(gpu, pairs, processes):
    size = at_once.pairs_at_once(gpu(80), pairs, processes)
    assert 8 <= size <= 79
    assert -(-pairs // size) >= processes


def trainer_on(device, processes, first=None):
    """A trainer; `first` is what its first process says where others ask."""
    strategy = SimpleNamespace(root_device=device, broadcast=lambda size: first or size)
    return SimpleNamespace(strategy=strategy, world_size=processes, lightning_module=None)


def sizes_of(trainer, **options):
    data = PairsDataModule(**options)
    data.trainer = trainer
    data.setup("predict")
    return [len(batch.pairs) for batch in data.batches]


def test_the_device_of_a_run_is_the_trainer_s():
    experiment = PositionPatching()
    assert experiment.device_of_run is None
    experiment._trainer = trainer_on(torch.device("cuda", 3), 1)
    assert experiment.device_of_run == torch.device("cuda", 3)


@pytest.mark.parametrize("kind", [PositionPatching, KnockoutExperiment])
def test_an_experiment_has_the_rows_of_the_device_it_will_run_on(attached, gpu, kind, monkeypatch):
    def rows_of(device):
        experiment = kind()
        experiment.model, experiment.report = random_model(), None
        monkeypatch.setattr(kind, "device_of_run", device)
        return attached(experiment).engine.max_rows

    assert rows_of(gpu(80)) == (10 * GIB - 1) // ROW
    assert rows_of(torch.device("cpu")) == GIB // ROW
