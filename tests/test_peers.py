"""Other libraries give the same logits on frozen grids, each in the form that is timed."""

import pytest
import torch
from random_families import family_model

from codi_patching.patching.engine import Readout
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine
from scripts.peers import PEERS, SITES, engine_logits, frozen_grid, package_of, unpatched_runs

PROMPTS = [[5, 6, 7, 8, 11], [5, 6, 9, 8, 11]]
READOUT = Readout((2, 4, 3), ((5,), (6,)))


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_gives_the_engines_logits(peer, family, site):
    if package_of(peer):
        pytest.importorskip(package_of(peer))
    model = family_model(family, 3, 2)
    with torch.no_grad():
        for engine in (ReferenceEngine(model), SweepEngine(model, 100)):
            base, source = unpatched_runs(engine, PROMPTS, READOUT, site)
            grid = frozen_grid(model, PROMPTS[0], base, source, site)
            ours = engine_logits(engine, base, source, site)
            theirs = PEERS[peer](model.backbone)(grid)
            assert theirs.shape == (3, 2, 40)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
