"""Small random models, in float64 so that identities hold to the last digits."""

from collections.abc import Iterator

import pytest
import torch

from codi_patching.data.pairs import Pair, Question
from codi_patching.model.checkpoint import save_checkpoint
from codi_patching.model.codi import CodiModel
from codi_patching.model.codi_tiny import build_codi_tiny

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
        assert not module._forward_hooks, f"hooks left on {type(module).__name__}"


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
