"""Every experiment on a device other than the CPU: the same numbers, and nothing waits in vain."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import random_model
from torch.utils import backend_registration

from codi_patching import (
    AttentionExperiment,
    HeadPatching,
    IterativePatching,
    KnockoutExperiment,
    LayerPatching,
    LensExperiment,
    PositionPatching,
)
from codi_patching.data.datamodule import PairBatch
from codi_patching.models.head import wide_logits
from codi_patching.results.records import PairRecord

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch has no devices that are written in Python", allow_module_level=True)

from pretended_device import PretendedTensor, launches, pretended, waits

EXPERIMENTS = {
    "layer": lambda: LayerPatching(verify_pairs=2),
    "position": lambda: PositionPatching(verify_pairs=2, self_patch_pairs=2),
    "position_frozen": lambda: PositionPatching(latents="frozen", include_thought=True),
    "kv": lambda: PositionPatching(site="kv", verify_pairs=2),
    "mlp_out": lambda: PositionPatching(site="mlp_out"),
    "places": lambda: PositionPatching(positions="all", verify_pairs=2),
    "mean": lambda: PositionPatching(source="mean"),
    "random_pair": lambda: PositionPatching(source="random_pair", direction="noising"),
    "relay": lambda: IterativePatching(verify_pairs=2),
    "cumulative": lambda: IterativePatching(strategy="cumulative"),
    "head": lambda: HeadPatching(position=1, verify_pairs=2),
    "knockout": lambda: KnockoutExperiment(verify_pairs=2),
    "lens": LensExperiment,
    "attention": AttentionExperiment,
    "reference": lambda: PositionPatching(engine="reference"),
}


def prepared(attached, name, layers=3):
    """An experiment on a random model in float64, or on codi-tiny where pairs need steps."""
    experiment = EXPERIMENTS[name]()
    if name == "lens":
        attached(experiment, pairs=None, max_pairs=3).model.double()
        return experiment
    experiment.model, experiment.report = random_model(layers), None
    return attached(experiment)


def assert_alike(one, other):
    """The same to rounding, however deep, and all of it on the CPU."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = one.values(), other.values()
    if isinstance(one, (list, tuple, type({}.values()))):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_alike(mine, theirs)
    elif isinstance(one, (float, np.ndarray, torch.Tensor)):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-9)
    else:
        assert one == other


def measured(experiment, pairs=None):
    batch = PairBatch(0, experiment.datamodule.kept[:pairs])
    return experiment.predict_step(batch, 0)


SOME = ("layer", "knockout")
CASES = [pytest.param(n, marks=[pytest.mark.thorough] * (n not in SOME)) for n in EXPERIMENTS]


@pytest.mark.parametrize("name", CASES)
def test_gives_there_what_it_gives_on_a_cpu(attached, name):
    here = measured(prepared(attached, name))
    experiment = prepared(attached, name)
    with pretended(experiment):
        there = measured(experiment)
    assert sum(launches.values()) > 100
    assert len(here) == len(there) == 3
    for ours, theirs in zip(here, there, strict=True):
        assert isinstance(ours, PairRecord), ours
        assert_alike(asdict(ours), asdict(theirs))


@pytest.mark.parametrize(
    "name", ["relay", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("layer", "kv"))]
)
def test_waits_for_no_layer_and_no_row(attached, name):
    """What is waited for is of a batch or of a pair, however many layers and rows there are."""
    counted, started = {}, {}
    for layers, pairs in ((2, 2), (4, 2), (2, 1)):
        experiment = prepared(attached, name, layers)
        experiment.verify_pairs = experiment.self_patch_pairs = 0
        with pretended(experiment):
            measured(experiment, pairs)
        counted[layers, pairs], started[layers, pairs] = waits.total(), launches.total()
    assert counted[2, 2] == counted[4, 2]
    of_pair = counted[2, 2] - counted[2, 1]
    # four runs are finite, two answers each; their tokens; the metrics of two arms, of the
    # unpatched runs and of the maps; of a chain the order, the generated states, whether it holds
    assert 10 <= of_pair <= 20
    # prompts, their groups, readouts, the plan
    assert 10 <= counted[2, 2] - 2 * of_pair <= 20
    assert 200 < started[2, 2] - started[2, 1] < 500  # its metrics; the others are the batch's


def test_a_head_in_bf16_is_widened_in_a_few_launches(monkeypatch):
    """In pieces of a few megabytes it would take a thousand of them, each time."""
    weights, hidden = torch.randn(5000, 64), torch.randn(3, 2, 64)
    head = torch.nn.Linear(64, 5000, bias=False)
    head.weight.data.copy_(weights)
    here = wide_logits(head.bfloat16(), hidden.bfloat16())
    for at_once, most in ((2**28, 10), (4 * 64 * 1700, 20)):  # whole, in three pieces
        monkeypatch.setattr("codi_patching.models.head._DEVICE_BYTES", at_once)
        with pretended(head):
            before = launches.total()
            there = wide_logits(head, hidden.bfloat16().to("privateuseone:0"))
            assert launches.total() - before <= most
            torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-4)


def test_refuses_a_mixture():
    with pretended():
        there = torch.ones(3).to("privateuseone:0")
        with pytest.raises(RuntimeError, match="one device"):
            there + torch.ones(3)
        assert isinstance(there + 1, PretendedTensor)
        assert there.sum().item() == 3.0
        assert there[torch.tensor([True, False, True])].tolist() == [1.0, 1.0]
    counted = {"_to_copy": 1, "_local_scalar_dense": 1, "index": 2, "tolist": 1}
    assert {name: count for name, count in waits.items() if count} == counted
