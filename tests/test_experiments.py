"""The experiments through Lightning's own trainer, on a random model."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import QUESTIONS
from twin import run_twin

from codi_patching.data.records import ExcludedPair
from codi_patching.experiments import base
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.metrics.grid import grid_metrics
from codi_patching.models import memory
from codi_patching.models.answers import build_readout
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.models.families import why_not_swept
from codi_patching.patching.interventions import THOUGHT, Activations, patches_from
from codi_patching.patching.reference import ReferenceEngine


def twin_maps(checkpoint, index, cells, latents="recomputed", direction="denoising", given=None):
    """The metrics of one pair from whole-sequence runs; a cell is a layer and its positions."""
    model, _ = load_checkpoint(checkpoint)
    clean, a, corrupted, b = QUESTIONS[index]
    own, other = ((corrupted, b), (clean, a))
    if direction == "noising":
        own, other = other, own
    readout = build_readout(
        model.tokenizer, model.settings.eot_id, "The answer is:", (own[1], other[1])
    )
    thoughts, _, baseline = run_twin(model, own[0], [], readout)
    giving = run_twin(model, other[0], [], readout)
    source = given or Activations(giving[0], giving[1])
    logits = [
        run_twin(model, own[0], patches_from(source, *cell), readout, latents, thoughts)[2]
        for cell in cells
    ]
    return grid_metrics((len(cells),))(
        patched_own=torch.stack([pair[0] for pair in logits]),
        patched_other=torch.stack([pair[1] for pair in logits]),
        baseline_own=baseline[0],
        baseline_other=baseline[1],
        giving_own=giving[2][0],
        giving_other=giving[2][1],
        own_ids=torch.tensor(readout.answers[0]),
        other_ids=torch.tensor(readout.answers[1]),
    )


def assert_equal_maps(results, index, expected):
    for metric, values in expected.items():
        np.testing.assert_allclose(
            results.values[metric][index].ravel(), values, rtol=1e-3, atol=2e-4, err_msg=metric
        )


CELLS = [(layer, [position]) for layer in range(3) for position in range(3)]
LAYERS = [(layer, range(3)) for layer in range(3)]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_position_patching_equals_the_twin(checkpoint, predict, latents, direction):
    experiment = PositionPatching(checkpoint, latents=latents, direction=direction)
    results = predict(experiment)
    assert results.values["kl_divergence"].shape == (3, 3, 3)
    for index in (0, 2):
        assert_equal_maps(results, index, twin_maps(checkpoint, index, CELLS, latents, direction))


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_layer_patching_equals_the_twin(checkpoint, predict, latents):
    results = predict(LayerPatching(checkpoint=checkpoint, latents=latents))
    assert results.values["recovery"].shape == (3, 3)
    assert_equal_maps(results, 1, twin_maps(checkpoint, 1, LAYERS, latents))


def test_the_thought_row_comes_first_and_patches_the_thought_itself(checkpoint, predict):
    results = predict(PositionPatching(checkpoint, include_thought=True), max_pairs=1)
    cells = [(THOUGHT, [position]) for position in range(3)]
    assert results.metadata["grid"]["layers"] == ["thought", "0", "1", "2"]
    assert_equal_maps(results, 0, twin_maps(checkpoint, 0, cells + CELLS))
    layers = predict(LayerPatching(checkpoint=checkpoint, include_thought=True), max_pairs=1)
    assert layers.values["kl_divergence"][0, 0] > 1e-3


def test_defaults_are_frozen_for_layers_and_recomputed_for_positions():
    assert LayerPatching().latents == "frozen"
    assert PositionPatching().latents == "recomputed"


@pytest.mark.parametrize(
    ("experiment", "latents", "zeros"),
    [
        (PositionPatching, "frozen", [[2, 0], [2, 1], [2, 2]]),
        (PositionPatching, "recomputed", [[2, 2]]),
        (LayerPatching, "frozen", [[2]]),
        (LayerPatching, "recomputed", []),
    ],
)
def test_structural_zeros_are_named_and_are_zero(checkpoint, predict, experiment, latents, zeros):
    results = predict(experiment(checkpoint=checkpoint, latents=latents))
    assert results.metadata["grid"]["structural_zeros"] == zeros
    kl = results.values["kl_divergence"]
    assert kl[:, results.structural].max(initial=0) < 1e-9
    assert kl[:, ~results.structural].min() > 1e-9


def test_the_zero_source(checkpoint, predict):
    results = predict(PositionPatching(checkpoint, source="zero"), max_pairs=1)
    zero = Activations(torch.zeros(3, 32), torch.zeros(3, 3, 32))
    assert_equal_maps(results, 0, twin_maps(checkpoint, 0, CELLS, given=zero))


def clean_activations(checkpoint):
    model, _ = load_checkpoint(checkpoint)
    readout = build_readout(model.tokenizer, model.settings.eot_id, "The answer is:", (1, 2))
    runs = [run_twin(model, q[0], [], readout) for q in QUESTIONS[:3]]
    return [Activations(thoughts, resid) for thoughts, resid, _ in runs]


def test_the_mean_source_is_over_the_giving_runs(checkpoint, predict):
    results = predict(PositionPatching(checkpoint, source="mean"))
    given = clean_activations(checkpoint)
    mean = Activations(
        sum(a.thoughts for a in given) / 3,
        sum(a.resid for a in given) / 3,
    )
    assert_equal_maps(results, 1, twin_maps(checkpoint, 1, CELLS, given=mean))


def test_the_random_pair_source_is_another_pair_from_the_seed(checkpoint, predict, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    results = predict(PositionPatching(checkpoint, source="random_pair"))
    given = clean_activations(checkpoint)
    for index, pair_id in enumerate(["p0", "p1", "p2"]):
        rng = random.Random(f"7/{pair_id}")
        drawn = (f"p{rng.randrange(3)}" for _ in range(100))
        donor = next(other for other in drawn if other != pair_id)
        assert results.baseline[pair_id]["source_pair"] == donor
        expected = twin_maps(checkpoint, index, CELLS, given=given[int(donor[1])])
        assert_equal_maps(results, index, expected)
    assert results.metadata["seed"] == 7


def test_a_random_pair_needs_another(checkpoint, predict):
    with pytest.raises(ValueError, match="at least 2 pairs with source random_pair"):
        predict(PositionPatching(checkpoint, source="random_pair"), max_pairs=1)


def test_baselines_are_the_same_in_every_experiment(checkpoint, predict):
    first = predict(PositionPatching(checkpoint))
    second = predict(LayerPatching(checkpoint=checkpoint))
    assert first.baseline == second.baseline


def test_rows_a_batch_do_not_matter(checkpoint, predict):
    whole = predict(PositionPatching(checkpoint), max_pairs=1)
    single = predict(PositionPatching(checkpoint, max_rows=1), max_pairs=1)
    for metric, values in whole.values.items():
        np.testing.assert_allclose(single.values[metric], values, rtol=1e-4, atol=2e-4)


def test_a_pair_that_cannot_run_is_named_and_the_others_go_on(checkpoint, predict, tmp_path):
    records = json.loads((tmp_path / "pairs.json").read_text())
    records[1]["clean"]["question"] = "Tom has 9 pears. " * 300
    (tmp_path / "long.json").write_text(json.dumps(records))
    with pytest.warns(UserWarning, match="pair p1 left out: expected at most 1024 tokens"):
        results = predict(PositionPatching(checkpoint), pairs=str(tmp_path / "long.json"))
    assert results.pair_ids == ["p0", "p2"]
    assert results.metadata["num_pairs"] == 2
    assert "1024 tokens" in results.metadata["excluded"]["p1"]


@pytest.mark.parametrize("source", ["mean", "random_pair"])
def test_a_pair_that_cannot_run_gives_nothing_to_the_others(checkpoint, predict, tmp_path, source):
    records = json.loads((tmp_path / "pairs.json").read_text())
    (tmp_path / "short.json").write_text(json.dumps([records[0], records[2]]))
    records[1]["clean"]["question"] = "Tom has 9 pears. " * 300
    (tmp_path / "long.json").write_text(json.dumps(records))
    experiment = {"checkpoint": checkpoint, "source": source}
    with pytest.warns(UserWarning, match="pair p1 left out"):
        found = predict(PositionPatching(**experiment), pairs=str(tmp_path / "long.json"))
    expected = predict(PositionPatching(**experiment), pairs=str(tmp_path / "short.json"))
    for metric, values in found.values.items():
        np.testing.assert_array_equal(values, expected.values[metric])


def test_logits_that_are_not_finite_exclude_the_pair_with_its_cell(checkpoint, pair):
    experiment = PositionPatching(checkpoint, source="zero")
    experiment.configure_model()
    experiment._given = lambda unpatched: Activations(
        torch.full((3, 32), torch.nan), torch.full((3, 3, 32), torch.nan)
    )
    (result,) = experiment.predict_step([pair], 0)
    assert isinstance(result, ExcludedPair)
    assert result.reason.startswith("logits are not finite at layer 0, position 0, ")


def test_cells_in_words(checkpoint):
    experiment = PositionPatching(checkpoint, include_thought=True)
    experiment.configure_model()
    assert experiment.cell_name(1) == "thought, position 1"
    assert experiment.cell_name(3) == "layer 0, position 0"
    layers = LayerPatching(checkpoint=checkpoint)
    layers.configure_model()
    assert layers.cell_name(2) == "layer 2"


def test_a_model_that_cannot_be_swept_says_so_and_takes_the_reference(checkpoint, monkeypatch):
    config = SimpleNamespace(rope_parameters={"rope_type": "dynamic"})
    reason = why_not_swept(SimpleNamespace(config=config))
    assert reason == "its rotary positions (dynamic) depend on the length of the sequence"
    monkeypatch.setattr(base, "why_not_swept", lambda _: reason)
    experiment = PositionPatching(checkpoint)
    with pytest.warns(UserWarning, match="reference engine is used in place of the sweep: its rot"):
        experiment.configure_model()
    assert isinstance(experiment.engine, ReferenceEngine)
    asked = PositionPatching(checkpoint, engine="reference")
    asked.configure_model()
    assert isinstance(asked.engine, ReferenceEngine)


def test_a_prompt_beyond_the_attention_window_is_left_out_by_the_sweep(checkpoint, pair):
    experiment = PositionPatching(checkpoint)
    experiment.configure_model()
    experiment.model.backbone.config.sliding_window = 12
    (result,) = experiment.predict_step([pair], 0)
    assert "at most 12 tokens" in result.reason  # of bos, 9, bot, 3 thoughts, eot, 4
    assert result.reason.endswith("attention window, got 19: set --model.engine reference")


def test_rows_in_memory_by_hand(checkpoint, monkeypatch):
    """Ten tokens of 3 · 48 + 6 · 32 numbers of 4 bytes, and 32 bytes for each of the vocabulary."""
    model, _ = load_checkpoint(checkpoint)
    row = 10 * 4 * (3 * 48 + 6 * 32) + 32 * model.backbone.config.vocab_size
    monkeypatch.setattr(memory, "free_memory", lambda _: 2**40)
    assert memory.rows_in_memory(model) == 2**30 // row
    monkeypatch.setattr(memory, "free_memory", lambda _: 10 * row)
    assert memory.rows_in_memory(model) == 5
