"""Iterative patching against a brute-force twin, its identities, and bugs that must be seen."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import QUESTIONS
from safetensors.torch import load_file
from twin import run_twin

from codi_patching.experiments.iterative import IterativePatching, short_hash
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.metrics import functional as F
from codi_patching.metrics.grid import GRID_METRICS
from codi_patching.models.answers import build_readout
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.patching.interventions import Activations, Generated, Patch, patches_from

L = K = 3


def brute_force(checkpoint, index, strategy):
    """KL and answer logit difference (L, K), generated activations, cosines; no cache, no hooks."""
    model, _ = load_checkpoint(checkpoint)
    clean, a, corrupted, b = QUESTIONS[index]
    readout = build_readout(model.tokenizer, model.settings.eot_id, "The answer is:", (b, a))
    own, other = (torch.tensor(ids) for ids in readout.answers)
    _, corrupted_resid, baseline = run_twin(model, corrupted, [], readout)
    _, clean_resid, _ = run_twin(model, clean, [], readout)
    found = {name: np.full((L, K), np.nan) for name in ("kl", "difference", "clean", "corrupted")}
    made = torch.full((L, K - 1, 32), torch.nan)
    for layer in range(L):
        handed_on = clean_resid[layer, 0]
        for n in range(K):
            if strategy == "relay":
                row = [Patch(layer, n, handed_on)]
            else:
                row = [Patch(layer, p, clean_resid[layer, p]) for p in range(n + 1)]
            _, resid, logits = run_twin(model, corrupted, row, readout)
            found["kl"][layer, n] = F.compute_kl_divergence(logits[0], baseline[0])
            found["difference"][layer, n] = F.compute_answer_logit_difference(
                logits[1], other, logits[0], own
            )
            if n + 1 < K:
                handed_on = made[layer, n] = resid[layer, n + 1]
                for name, there in (("clean", clean_resid), ("corrupted", corrupted_resid)):
                    found[name][layer, n] = F.compute_cosine_similarity(
                        handed_on, there[layer, n + 1]
                    )
    return found, made


def agrees(results, index, found):
    """Whether a pair's results are the brute-force ones."""
    names = {
        "kl": "kl_divergence",
        "difference": "answer_logit_difference",
        "clean": "cosine_to_clean",
        "corrupted": "cosine_to_corrupted",
    }
    return all(
        np.allclose(results.values[ours][index], found[name], rtol=1e-3, atol=2e-4, equal_nan=True)
        for name, ours in names.items()
    )


@pytest.fixture(params=["relay", "cumulative"])
def strategy(request):
    return request.param


def test_equals_brute_force(checkpoint, predict, strategy):
    results = predict(IterativePatching(strategy=strategy, checkpoint=checkpoint))
    saved = load_file(predict.folder / "activations.safetensors")
    for index, pair_id in enumerate(results.pair_ids):
        found, made = brute_force(checkpoint, index, strategy)
        assert agrees(results, index, found)
        torch.testing.assert_close(saved[pair_id], made, rtol=1e-3, atol=1e-4)


class OffByOne(IterativePatching):
    """Patches the position before the one it should."""

    def _row(self, given, iteration, index):
        row = super()._row(given, iteration, index)
        return [Patch(p.layer, max(p.position - 1, 0), p.values) for p in row[-1:]]


class CleanForGenerated(IterativePatching):
    """Relays the clean activation in place of the generated one: a single pass in disguise."""

    def _row(self, given, iteration, index):
        return patches_from(given, index, [iteration])


class StaleGenerated(IterativePatching):
    """Hands on what the iteration before the last one generated."""

    def _row(self, given, iteration, index):
        row = super()._row(given, iteration, index)
        if iteration < 2:
            return row
        return [Patch(index, iteration, Generated(row[0].values.row - L))]


class UnpatchedChain(IterativePatching):
    """Hands on the baseline's activations, as if the run had not been patched."""

    def patched_runs(self, start):
        self.baseline = start.baseline.run.activations()
        return super().patched_runs(start)

    def _row(self, given, iteration, index):
        return patches_from(given if iteration == 0 else self.baseline, index, [iteration])


@pytest.mark.parametrize("mutant", [OffByOne, CleanForGenerated, StaleGenerated, UnpatchedChain])
def test_brute_force_sees_planted_bugs(checkpoint, predict, mutant):
    results = predict(mutant(checkpoint=checkpoint), max_pairs=1)
    assert not agrees(results, 0, brute_force(checkpoint, 0, "relay")[0])


def test_the_first_iteration_is_patching_position_0_alone(checkpoint, predict, strategy):
    chain = predict(IterativePatching(strategy=strategy, checkpoint=checkpoint))
    single = predict(PositionPatching(checkpoint))
    assert chain.baseline == single.baseline
    for metric in GRID_METRICS:
        np.testing.assert_allclose(
            chain.values[metric][:, :, 0], single.values[metric][:, :, 0], rtol=1e-4, atol=1e-4
        )


def test_the_last_cumulative_iteration_is_layer_patching_with_recomputed_latents(
    checkpoint, predict
):
    chain = predict(IterativePatching(strategy="cumulative", checkpoint=checkpoint))
    recomputed = predict(LayerPatching(checkpoint=checkpoint, latents="recomputed"))
    frozen = predict(LayerPatching(checkpoint=checkpoint))
    last = chain.values["kl_divergence"][:, :, -1]
    np.testing.assert_allclose(last, recomputed.values["kl_divergence"], rtol=1e-4, atol=1e-6)
    assert np.abs(last - frozen.values["kl_divergence"]).max() > 1e-3


def test_cumulative_at_the_last_layer_generates_the_clean_states(checkpoint, predict):
    """Its thoughts are the clean ones; so is all that is generated from them at that position."""
    results = predict(IterativePatching(strategy="cumulative", checkpoint=checkpoint))
    model, _ = load_checkpoint(checkpoint)
    clean, a, corrupted, b = QUESTIONS[0]
    readout = build_readout(model.tokenizer, model.settings.eot_id, "The answer is:", (b, a))
    clean_thoughts, clean_resid, _ = run_twin(model, clean, [], readout)
    row = [Patch(L - 1, p, clean_resid[L - 1, p]) for p in range(K)]
    thoughts, _, logits = run_twin(model, corrupted, row, readout)
    torch.testing.assert_close(thoughts[1:], clean_thoughts[1:], rtol=0, atol=1e-5)
    _, _, baseline = run_twin(model, corrupted, [], readout)
    kl = F.compute_kl_divergence(logits[0], baseline[0])
    assert results.values["kl_divergence"][0, -1, -1] == pytest.approx(kl.item(), rel=1e-3)


def test_holding_all_positions_at_generated_values_changes_nothing(checkpoint, pair):
    """Each value is what the run makes anyway: the chaining is right, and no experiment."""
    experiment = IterativePatching(checkpoint=checkpoint)
    experiment.configure_model()
    readout = build_readout(experiment.model.tokenizer, 7, "The answer is:", (1, 2))
    requests = [experiment._request(q, readout) for q in (pair.corrupted, pair.clean)]
    corrupted, clean = experiment.engine.unpatched(requests)
    given = clean.run.activations()
    everything = [(1, p) for p in range(K)]
    first = experiment.engine.patched(
        corrupted, [[Patch(1, 0, given.at(1, 0))]], watch=[everything]
    )
    rows = [[Patch(1, p, first.watched[0][p]) for p in range(n + 1)] for n in range(K)]
    held = experiment.engine.patched(corrupted, rows)
    for logits, once in zip(held.answer_logits, first.answer_logits, strict=True):
        torch.testing.assert_close(logits, once.expand_as(logits), rtol=0, atol=1e-4)


def test_structural_zeros(checkpoint, predict, strategy):
    results = predict(IterativePatching(strategy=strategy, checkpoint=checkpoint))
    zeros = [[L - 1, K - 1]] if strategy == "relay" else []
    assert results.metadata["grid"]["structural_zeros"] == zeros
    kl = results.values["kl_divergence"]
    assert kl[:, results.structural].max(initial=0) < 1e-9
    assert kl[:, ~results.structural].min() > 1e-12


def test_files_say_whose_activation_is_whose(checkpoint, predict):
    results = predict(IterativePatching(checkpoint=checkpoint))
    content = json.loads((predict.folder / "iterative_patching_results.json").read_text())
    cell = content["results"]["p1"]["2"]
    assert cell["0"]["activation"] == {"tensor": "p1", "index": [2, 0]}
    assert cell["2"]["activation"] is None
    assert cell["2"]["cosine_to_clean"] is None
    assert content["metadata"]["strategy"] == "relay"
    assert content["baseline"]["p1"]["baseline"]["kl_divergence"] == 0
    assert results.metadata["grid"]["column"] == "iteration"
    with (predict.folder / "results.csv").open() as file:
        assert csv.DictReader(file).fieldnames[:3] == ["pair_id", "layer", "iteration"]


def read_trace(folder):
    with (folder / "trace_p1.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_trace_of_a_relay_hands_on_what_was_generated(checkpoint, predict):
    predict(IterativePatching(checkpoint=checkpoint, trace_pair="p1"))
    lines = read_trace(predict.folder)
    saved = load_file(predict.folder / "activations.safetensors")["p1"]
    assert len(lines) == L * K
    by_cell = {(line["layer"], int(line["iteration"])): line for line in lines}
    for (layer, iteration), line in by_cell.items():
        assert int(line["position"]) == iteration
        if iteration == 0:
            assert line["source"] == "giving run"
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
        assert line["source"] == "giving run"
        hashes.setdefault((line["layer"], line["position"]), set()).add(line["hash"])
    assert all(len(same) == 1 for same in hashes.values())


def test_a_pair_to_trace_that_does_not_exist(checkpoint, predict):
    with pytest.raises(ValueError, match=r"--model\.trace_pair to be one of the 3 pairs.*'p9'"):
        predict(IterativePatching(checkpoint=checkpoint, trace_pair="p9"))


def test_directions_and_thoughts_work_as_elsewhere(checkpoint, predict, strategy):
    options = {"direction": "noising", "include_thought": True, "source": "zero"}
    chain = predict(IterativePatching(strategy=strategy, checkpoint=checkpoint, **options))
    single = predict(PositionPatching(checkpoint, **options))
    assert chain.metadata["grid"]["layers"][0] == "thought"
    np.testing.assert_allclose(
        chain.values["kl_divergence"][:, :, 0],
        single.values["kl_divergence"][:, :, 0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_activations_at_a_thought_are_the_thought():
    activations = Activations(torch.arange(6.0).view(2, 3), torch.zeros(4, 2, 3))
    assert activations.at(-1, 1).tolist() == [3, 4, 5]
