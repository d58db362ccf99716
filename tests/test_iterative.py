"""Iterative patching against a brute-force twin, its identities, and bugs that must be seen."""

import csv
import hashlib
import json

import numpy as np
import pytest
import torch
from conftest import QUESTIONS
from safetensors.torch import load_file
from twin import TwinPair, cosine

from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.measuring.generated import WatchedChains, short_hash, watch_chains
from codi_patching.measuring.measurement import Measurement
from codi_patching.metrics.table import METRICS
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.patching.interventions import Activations, Generated, Patch, Site, patches_from

L = K = 3
DOUBLE = "64-true"
COSINES = ("cosine_to_clean", "cosine_to_corrupted")


def twin_of(checkpoint, index, direction="denoising"):
    clean, a, corrupted, b = QUESTIONS[index]
    model = load_checkpoint(checkpoint)[0].double()
    return TwinPair(model, (clean, a), (corrupted, b), direction)


def brute_force(twin, strategy, run):
    """Every metric (L, K) and the generated activations (L, K-1, d), with a run's activations."""
    found = {name: np.full((L, K), np.nan) for name in (*METRICS, *COSINES)}
    made = torch.full((L, K - 1, 32), torch.nan, dtype=torch.float64)
    clean, corrupted = twin.source, twin.base
    if not twin.clean_is_source:
        clean, corrupted = corrupted, clean
    for layer in range(L):
        generated = run[1][layer, 0]
        for n in range(K):
            if strategy == "relay":
                patches = {(layer, n): generated}
            else:
                patches = {(layer, p): run[1][layer, p] for p in range(n + 1)}
            _, resid, logits = twin.patched(patches)
            for metric, value in twin.metrics(logits).items():
                found[metric][layer, n] = value
            if n + 1 < K:
                generated = made[layer, n] = resid[layer, n + 1]
                for name, there in zip(COSINES, (clean, corrupted)):
                    found[name][layer, n] = cosine(generated, there[1][layer, n + 1])
    return found, made


def agrees(values, index, found):
    """Whether a pair's results are the brute-force ones."""
    assert values.keys() == found.keys()
    return all(
        np.allclose(values[name][index], expected, rtol=1e-6, atol=1e-8, equal_nan=True)
        for name, expected in found.items()
    )


@pytest.fixture(params=["relay", "cumulative"])
def strategy(request):
    return request.param


@pytest.mark.parametrize(
    ("strategy", "direction"),
    [
        ("relay", "denoising"),
        ("cumulative", "noising"),
        pytest.param("relay", "noising", marks=pytest.mark.thorough),
        pytest.param("cumulative", "denoising", marks=pytest.mark.thorough),
    ],
)
def test_equals_brute_force(checkpoint, predict, strategy, direction):
    """Own and control; the activations that are kept are the own ones."""
    experiment = IterativePatching(strategy=strategy, checkpoint=checkpoint, direction=direction)
    results = predict(experiment, precision=DOUBLE)
    saved = load_file(predict.folder / "activations.safetensors")
    for index, pair_id in enumerate(results.pair_ids):
        twin = twin_of(checkpoint, index, direction)
        found, made = brute_force(twin, strategy, twin.source)
        assert agrees(results.values, index, found)
        torch.testing.assert_close(saved[pair_id], made, rtol=1e-6, atol=1e-8)
        control = twin.unpatched(results.pairs[index].control.question)
        assert agrees(results.control, index, brute_force(twin, strategy, control)[0])


class OffByOne(IterativePatching):
    """Patches the position before the one it should."""

    def _patch_set(self, activations, iteration, row):
        patches = super()._patch_set(activations, iteration, row)
        before = Site.at(patches[-1].site.layer, max(patches[-1].site.position - 1, 0))
        return [Patch(before, patches[-1].values)]


class CleanForGenerated(IterativePatching):
    """Relays the clean activation in place of the generated one: a single pass in disguise."""

    def _patch_set(self, activations, iteration, row):
        return patches_from(activations, row, [iteration])


class StaleGenerated(IterativePatching):
    """Patches what the iteration before the last one generated."""

    def _patch_set(self, activations, iteration, row):
        patches = super()._patch_set(activations, iteration, row)
        if iteration < 2:
            return patches
        return [Patch(patches[0].site, Generated(patches[0].values.row - L))]


class UnpatchedChain(IterativePatching):
    """Patches the base run's activations, as if the run had not been patched."""

    base = None

    def _patch_set(self, activations, iteration, row):
        given = activations if iteration == 0 or self.base is None else self.base
        return patches_from(given, row, [iteration])


@pytest.fixture(autouse=True)
def base_is_known(monkeypatch):
    """To `UnpatchedChain`, before its patches are made."""
    own = Measurement._patched_runs

    def patched_runs(self, start, self_patch):
        experiment = self.cells.patch_sets.__self__
        if isinstance(experiment, UnpatchedChain):
            experiment.base = start.base.run.activations()
        return own(self, start, self_patch)

    monkeypatch.setattr(Measurement, "_patched_runs", patched_runs)


@pytest.mark.parametrize("mutant", [OffByOne, CleanForGenerated, StaleGenerated, UnpatchedChain])
def test_brute_force_sees_planted_bugs(checkpoint, predict, mutant):
    experiment = mutant(checkpoint=checkpoint, self_patch_pairs=0, verify_pairs=0)
    results = predict(experiment, precision=DOUBLE, max_pairs=1)
    twin = twin_of(checkpoint, 0)
    assert not agrees(results.values, 0, brute_force(twin, "relay", twin.source)[0])


def test_links_of_the_chain_are_counted_and_hold(checkpoint, predict, strategy):
    results = predict(IterativePatching(strategy=strategy, checkpoint=checkpoint))
    for pair in results.pairs:
        assert pair.chain_links == (L * (K - 1) if strategy == "relay" else 0)
        assert pair.chain_broken == 0


def test_a_chain_that_breaks_is_counted(checkpoint, predict):
    results = predict(StaleGenerated(checkpoint=checkpoint, self_patch_pairs=0), max_pairs=1)
    (pair,) = results.pairs
    assert (pair.chain_links, pair.chain_broken) == (L * (K - 1), L)


def test_own_activations_change_nothing_in_any_iteration(checkpoint, predict, strategy):
    results = predict(IterativePatching(strategy=strategy, checkpoint=checkpoint))
    assert max(pair.self_patch for pair in results.pairs) < 1e-9
    unpatched = predict(UnpatchedChain(checkpoint=checkpoint, self_patch_pairs=1), max_pairs=1)
    assert unpatched.pairs[0].self_patch < 1e-9  # a bug that this check alone would not see


def test_the_first_iteration_is_patching_position_0_alone(checkpoint, predict, strategy):
    chain = predict(IterativePatching(strategy=strategy, checkpoint=checkpoint))
    single = predict(PositionPatching(checkpoint=checkpoint))
    for one, other in zip(chain.pairs, single.pairs, strict=True):
        assert (one.base, one.source, one.control) == (other.base, other.source, other.control)
    for ours, theirs in ((chain.values, single.values), (chain.control, single.control)):
        for metric in METRICS:
            np.testing.assert_allclose(
                ours[metric][:, :, 0], theirs[metric][:, :, 0], rtol=1e-4, atol=1e-4
            )


def test_the_last_cumulative_iteration_is_layer_patching_with_recomputed_latents(
    checkpoint, predict
):
    chain = predict(IterativePatching(strategy="cumulative", checkpoint=checkpoint))
    recomputed = predict(LayerPatching(checkpoint=checkpoint, latents="recomputed"))
    frozen = predict(LayerPatching(checkpoint=checkpoint))
    kl = "kl_divergence"
    for ours, theirs in ((chain.values, recomputed.values), (chain.control, recomputed.control)):
        np.testing.assert_allclose(ours[kl][:, :, -1], theirs[kl][:, :, 0], rtol=1e-4, atol=1e-6)
    assert np.abs(chain.values[kl][:, :, -1] - frozen.values[kl][:, :, 0]).max() > 1e-3


def test_cumulative_at_the_last_layer_generates_the_clean_thoughts(checkpoint, predict):
    """All that is generated from them at the position after is the clean run's too."""
    experiment = IterativePatching(strategy="cumulative", checkpoint=checkpoint)
    results = predict(experiment, precision=DOUBLE)
    twin = twin_of(checkpoint, 0)
    row = {(L - 1, p): twin.source[1][L - 1, p] for p in range(K)}
    thoughts, _, logits = twin.patched(row)
    torch.testing.assert_close(thoughts[1:], twin.source[0][1:], rtol=0, atol=1e-10)
    expected = twin.metrics(logits)["kl_divergence"]
    assert results.values["kl_divergence"][0, -1, -1] == pytest.approx(expected, rel=1e-6)


def test_holding_all_positions_at_generated_values_changes_nothing(attached, checkpoint):
    """Each value is what the run makes anyway: the chaining is right, and no experiment."""
    experiment = attached(IterativePatching(checkpoint=checkpoint))
    asked = experiment.measurement.preparation.requests(experiment.pairs[0])
    corrupted, clean = experiment.engine.unpatched([asked.base, asked.source])
    source = clean.run.activations()
    everything = [(1, p) for p in range(K)]
    first = experiment.engine.patched(corrupted, [patches_from(source, 1, [0])], watch=[everything])
    rows = [[Patch(Site.at(1, p), first.watched[0][p]) for p in range(n + 1)] for n in range(K)]
    held = experiment.engine.patched(corrupted, rows)
    for logits, once in zip(held.answer_logits, first.answer_logits, strict=True):
        torch.testing.assert_close(logits, once.expand_as(logits), rtol=0, atol=1e-4)


def test_files_say_whose_activation_is_whose(checkpoint, predict):
    results = predict(IterativePatching(checkpoint=checkpoint))
    content = json.loads((predict.folder / "iterative_patching_results.json").read_text())
    cell = content["results"]["p1"]["2"]
    assert cell["0"]["activation"] == {"tensor": "p1", "index": [2, 0]}
    assert cell["2"]["activation"] is None
    assert cell["2"]["cosine_to_clean"] is None
    assert content["metadata"]["strategy"] == "relay"
    assert content["baseline"]["p1"]["base"]["kl_divergence"] == 0
    assert content["baseline"]["p1"]["ceiling"].keys() == {*METRICS, "control"}
    assert cell["0"]["control"].keys() == {*METRICS, *COSINES}
    assert results.run.grid.column == "iteration"


def read_trace(folder):
    with (folder / "trace_p1.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_trace_of_a_relay_patches_exactly_what_was_generated(checkpoint, predict):
    predict(IterativePatching(checkpoint=checkpoint, trace_pair="p1"))
    lines = read_trace(predict.folder)
    saved = load_file(predict.folder / "activations.safetensors")["p1"]
    assert len(lines) == L * K
    by_cell = {(line["layer"], int(line["iteration"])): line for line in lines}
    for (layer, iteration), line in by_cell.items():
        assert int(line["position"]) == iteration
        if iteration == 0:
            assert line["source"] == "source run"
        else:
            before = by_cell[layer, iteration - 1]
            assert line["hash"] == before["next_hash"]
            assert line["hash"] == short_hash(saved[int(layer), iteration - 1])
            assert line["source"] == f"generated in iteration {iteration - 1}"


def test_the_trace_of_a_cumulative_chain_has_every_clean_position(checkpoint, predict):
    predict(IterativePatching(strategy="cumulative", checkpoint=checkpoint, trace_pair="p1"))
    lines = read_trace(predict.folder)
    assert len(lines) == L * (1 + 2 + 3)
    hashes = {}
    for line in lines:
        assert line["source"] == "source run"
        hashes.setdefault((line["layer"], line["position"]), set()).add(line["hash"])
    assert all(len(same) == 1 for same in hashes.values())


def test_a_pair_to_trace_that_does_not_exist(checkpoint, predict):
    with pytest.raises(ValueError, match=r"trace_pair to be one of the 3 pairs.*'p9'"):
        predict(IterativePatching(checkpoint=checkpoint, trace_pair="p9"))


def test_directions_and_thoughts_work_as_elsewhere(checkpoint, predict, strategy):
    options = {"direction": "noising", "include_thought": True, "source": "zero"}
    chain = predict(IterativePatching(strategy=strategy, checkpoint=checkpoint, **options))
    single = predict(PositionPatching(checkpoint=checkpoint, **options))
    assert chain.run.grid.layers[0] == "thought"
    np.testing.assert_allclose(
        chain.values["kl_divergence"][:, :, 0],
        single.values["kl_divergence"][:, :, 0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_activations_at_a_thought_are_the_thought():
    activations = Activations(torch.arange(6.0).view(2, 3), torch.zeros(4, 2, 3))
    assert activations.at(-1, 1).tolist() == [3, 4, 5]


# -- chains of two layers and two iterations, by hand -------------------------------------------

GIVEN = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
MADE = torch.tensor([[6.0, 8.0], [0.0, 2.0]])


def relayed():
    """The patches of both iterations, and what each run held and made."""
    first = [[Patch(Site.at(layer, 0), GIVEN[layer])] for layer in range(2)]
    second = [[Patch(Site.at(layer, 1), Generated(layer))] for layer in range(2)]
    held = [torch.stack([GIVEN[layer], MADE[layer]]) for layer in range(2)]
    return [*first, *second], [*held, MADE[:1].clone(), MADE[1:].clone()]


def test_what_is_watched_is_what_was_patched_and_the_next_position():
    sets, _ = relayed()
    assert watch_chains(sets, 2) == [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(0, 1)], [(1, 1)]]
    assert watch_chains(sets, 3)[2:] == [[(0, 1), (0, 2)], [(1, 1), (1, 2)]]
    both = [Patch(Site.at(1, p), GIVEN[0]) for p in range(2)]
    assert watch_chains([both], 3) == [[(1, 0), (1, 1), (1, 2)]]


def test_a_link_breaks_where_any_number_differs():
    sets, held = relayed()
    assert WatchedChains((0, 1), ("0", "1"), 2, sets, held).check_links() == (2, 0)
    held[3][0, 1] += 1e-6
    assert WatchedChains((0, 1), ("0", "1"), 2, sets, held).check_links() == (2, 1)
    given = [[Patch(Site.at(layer, 0), GIVEN[layer])] for layer in range(2)]
    assert WatchedChains((0, 1), ("0", "1"), 1, given, held[:2]).check_links() == (0, 0)


def test_a_trace_by_hand():
    sets, held = relayed()
    lines = WatchedChains((0, 1), ("a", "b"), 2, sets, held).trace("source run")
    last = {"next_position": "", "next_norm": "", "next_hash": ""}
    first, _, _, fourth = lines
    assert first == {
        "layer": "a", "iteration": 0, "position": 0, "source": "source run",
        "norm": "5", "hash": short_hash(GIVEN[0]),
        "next_position": 1, "next_norm": "10", "next_hash": short_hash(MADE[0]),
    }  # fmt: skip
    assert fourth == {
        "layer": "b", "iteration": 1, "position": 1, "source": "generated in iteration 0",
        "norm": "2", "hash": short_hash(MADE[1]), **last,
    }  # fmt: skip


def test_a_hash_is_of_the_bytes():
    """The first digits of the SHA-256 of 1.0 in float32, little-endian."""
    digits = hashlib.sha256(b"\x00\x00\x80\x3f").hexdigest()
    assert short_hash(torch.ones(1)) == digits[:10]


def test_the_trace_names_another_source(checkpoint, predict):
    predict(IterativePatching(checkpoint=checkpoint, trace_pair="p1", source="zero"), max_pairs=2)
    lines = read_trace(predict.folder)
    assert {line["source"] for line in lines if line["iteration"] == "0"} == {"source zero"}
    assert {line["norm"] for line in lines if line["iteration"] == "0"} == {"0"}
