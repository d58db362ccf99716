"""The family that docs/howto/family.md adds, as it stands there, against the reference engine."""

import re
from pathlib import Path

import pytest
import torch
from random_families import CLASSES, family_model
from transformers import Starcoder2Config, Starcoder2ForCausalLM

from codi_patching.models.families import FAMILIES
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import SITE_NAMES, THOUGHT, Patch, Site, extra_sites
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "family.md"


@pytest.fixture
def model(monkeypatch):
    """A random model of the family that the page's code adds."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    before = set(FAMILIES)
    exec(compile(code, PAGE.name, "exec"), {"__name__": "my_family"})
    (added,) = set(FAMILIES) - before
    shape = {**CLASSES["llama"][2], "tie_word_embeddings": False}
    monkeypatch.setitem(CLASSES, added, (Starcoder2ForCausalLM, Starcoder2Config, shape))
    yield family_model(added, 3, 2)
    del FAMILIES[added]


@pytest.mark.parametrize("site", SITE_NAMES)
def test_it_is_patched_as_the_reference_patches_it(model, site):
    layers = (THOUGHT,) if site == "thought" else range(3)
    given = {}
    for engine in (SweepEngine(model, 100), ReferenceEngine(model)):
        readout = Readout((3,), ((4, 5), (6,)))
        corrupted, clean = engine.unpatched(
            [([7, 8, 9], readout), ([7, 8, 10], readout)], extra_sites([site])
        )
        source = clean.run.activations()
        sites = [Site.at(layer, 1, site, 1 if site == "head" else None) for layer in layers]
        rows = [[Patch(place, source.of(place))] for place in sites]
        given[type(engine)] = engine.patched(corrupted, rows, "recomputed").answer_logits
    ours, theirs = given.values()
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-9)
        assert site == "thought" or not torch.equal(second[0], second[1])
