"""The reference engine against the twin, and the identities that must hold exactly."""

import random

import pytest
import torch
from conftest import random_model
from twin import cells_of, run_twin

from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import (
    THOUGHT,
    Activations,
    Generated,
    Patch,
    Site,
    patches_from,
)
from codi_patching.patching.reference import Prompt, ReferenceEngine

CLEAN, CORRUPTED = "Tom has 16 pears. He eats 3.", "Tom has 18 pears. He eats 3."
READOUT = Readout(prefix=(4, 9, 10), answers=((11, 12, 13), (14,)))
CLOSE = {"rtol": 0, "atol": 1e-10}


def encode(model, question):
    return Prompt(*model.encode([model.prompt_ids(question)]))


@pytest.fixture
def runs(model):
    """Engine, corrupted prompt, baseline and clean run."""
    engine = ReferenceEngine(model)
    prompt = encode(model, CORRUPTED)
    baseline = engine.run(prompt, [[]], READOUT)
    clean = engine.run(encode(model, CLEAN), [[]], READOUT)
    return engine, prompt, baseline, clean


def random_row(rng, layers, latents):
    grid = [(layer, position) for layer in range(-1, layers) for position in range(latents)]
    cells = rng.sample(grid, rng.randint(0, min(4, len(grid))))
    return [Patch(Site.at(*cell), torch.randn(32, dtype=torch.float64)) for cell in cells]


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
@pytest.mark.parametrize(("num_layers", "num_latents"), [(1, 1), (2, 4), (4, 2)])
def test_equals_the_twin_on_random_rows(latents, num_layers, num_latents):
    model = random_model(num_layers, num_latents, seed=num_layers)
    torch.manual_seed(1)
    rng = random.Random(1)
    engine, prompt = ReferenceEngine(model), encode(model, CORRUPTED)
    frozen = engine.run(prompt, [[]], READOUT).thoughts[0]
    rows = [random_row(rng, num_layers, num_latents) for _ in range(8)]
    run = engine.run(prompt, rows, READOUT, frozen if latents == "frozen" else None)
    for index, row in enumerate(rows):
        thoughts, resid, logits = run_twin(
            model, CORRUPTED, cells_of(row), READOUT, latents, frozen
        )
        torch.testing.assert_close(run.thoughts[index], thoughts, **CLOSE)
        torch.testing.assert_close(run.resid[index], resid, **CLOSE)
        for ours, theirs in zip(run.answer_logits, logits, strict=True):
            torch.testing.assert_close(ours[index], theirs, **CLOSE)


def test_an_off_by_one_position_would_be_seen(model, runs):
    engine, prompt, _baseline, clean = runs
    row = patches_from(clean.activations(), 1, [1])
    shifted = [Patch(Site.at(1, 0), row[0].values)]
    right, wrong = (engine.run(prompt, [r], READOUT).answer_logits[0] for r in (row, shifted))
    assert (right - wrong).abs().max() > 1e-3


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_patching_a_run_with_its_own_activations_changes_nothing(model, runs, latents):
    engine, prompt, baseline, _ = runs
    own = baseline.activations()
    rows = [patches_from(own, layer, range(3)) for layer in (THOUGHT, 0, 1, 2)]
    frozen = baseline.thoughts[0] if latents == "frozen" else None
    run = engine.run(prompt, rows, READOUT, frozen)
    for logits, unpatched in zip(run.answer_logits, baseline.answer_logits, strict=True):
        torch.testing.assert_close(logits, unpatched.expand_as(logits), **CLOSE)


def test_frozen_and_recomputed_agree_where_no_thought_comes_after(model, runs):
    engine, prompt, baseline, clean = runs
    rows = [patches_from(clean.activations(), layer, [2]) for layer in (THOUGHT, 0, 1, 2)]
    frozen = engine.run(prompt, rows, READOUT, baseline.thoughts[0])
    recomputed = engine.run(prompt, rows, READOUT)
    torch.testing.assert_close(frozen.answer_logits, recomputed.answer_logits, **CLOSE)


def test_nothing_reads_the_last_layer_but_the_next_thought(model, runs):
    engine, prompt, baseline, clean = runs
    rows = [patches_from(clean.activations(), 2, [p]) for p in range(3)]
    frozen = engine.run(prompt, rows, READOUT, baseline.thoughts[0])
    recomputed = engine.run(prompt, rows, READOUT)
    unpatched = baseline.answer_logits[0]
    change = (recomputed.answer_logits[0] - unpatched).abs().amax(dim=(1, 2))
    assert (frozen.answer_logits[0] - unpatched).abs().max() < 1e-10
    assert change[2] < 1e-10
    assert change[:2].min() > 1e-4


def test_all_positions_of_the_last_layer_restore_the_clean_thoughts(model, runs):
    engine, prompt, _, clean = runs
    row = patches_from(clean.activations(), 2, range(3))
    run = engine.run(prompt, [row], READOUT)
    torch.testing.assert_close(run.thoughts[0, 1:], clean.thoughts[0, 1:], **CLOSE)


def test_patches_show_in_the_recorded_states_and_nowhere_before(model, runs):
    engine, prompt, baseline, clean = runs
    run = engine.run(prompt, [patches_from(clean.activations(), 1, [1])], READOUT)
    torch.testing.assert_close(run.resid[0, 1, 1], clean.resid[0, 1, 1], **CLOSE)
    torch.testing.assert_close(run.resid[0, 0, :2], baseline.resid[0, 0, :2], **CLOSE)
    torch.testing.assert_close(run.resid[0, :, 0], baseline.resid[0, :, 0], **CLOSE)
    assert (run.resid[0, 2, 1] - baseline.resid[0, 2, 1]).abs().max() > 1e-4


@pytest.mark.parametrize("max_rows", [1, 3, 100])
def test_splitting_rows_changes_nothing(model, runs, max_rows):
    _, prompt, _baseline, clean = runs
    rows = [patches_from(clean.activations(), layer, [p]) for layer in range(3) for p in range(3)]
    done = []
    whole = ReferenceEngine(model).run(prompt, rows, READOUT)
    engine = ReferenceEngine(model, max_rows)
    start = engine.unpatched([(model.prompt_ids(CORRUPTED), READOUT)])[0]
    watch = [[(2, 2)]] * 9
    split = engine.patched(start, rows, watch=watch, on_rows_done=done.append)
    torch.testing.assert_close(split.answer_logits, whole.answer_logits, **CLOSE)
    torch.testing.assert_close(torch.cat(split.watched), whole.resid[:, 2, 2], **CLOSE)
    assert done == [*range(max_rows, 9, max_rows), 9]


def test_the_prompt_serves_many_runs_unchanged(model, runs):
    engine, prompt, baseline, clean = runs
    engine.run(prompt, [patches_from(clean.activations(), 1, range(3))], READOUT)
    again = engine.run(prompt, [[]], READOUT)
    assert torch.equal(again.answer_logits[0], baseline.answer_logits[0])


def test_logits_are_float32_at_least_whatever_the_model(model):
    engine = ReferenceEngine(model.bfloat16())
    run = engine.run(encode(model, CLEAN), [[]], READOUT)
    assert run.answer_logits[0].dtype == torch.float32


@pytest.fixture
def patched(model):
    """Run rows on the corrupted question."""
    engine = ReferenceEngine(model)
    start = engine.unpatched([(model.prompt_ids(CORRUPTED), READOUT)])[0]
    return lambda *rows: engine.patched(start, rows)


@pytest.mark.parametrize("cell", [(3, 0), (0, 3), (-2, 0), (0, -1)])
def test_a_cell_that_does_not_exist_is_refused(patched, cell):
    with pytest.raises(ValueError, match=r"expected a layer in 0\.\.2"):
        patched([Patch(Site.at(*cell), torch.zeros(32))])


def test_a_cell_patched_twice_is_refused(patched):
    with pytest.raises(ValueError, match="each cell once"):
        patched([Patch(Site.at(0, 0), torch.zeros(32))] * 2)


def test_what_a_later_row_generates_is_refused(patched):
    with pytest.raises(ValueError, match=r"row 0 to be patched with what an earlier row .* row 0"):
        patched([Patch(Site.at(0, 1), Generated(0))], [])


def test_what_is_handed_on_to_a_later_row_is_not_watched(model):
    engine = ReferenceEngine(model)
    start = engine.unpatched([(model.prompt_ids(CORRUPTED), READOUT)])[0]
    watch, rows = [[(1, 0)], []], [[], [Patch(Site.at(0, 1), Generated(0))]]
    first, second = engine.patched(start, rows, "recomputed", watch).watched
    torch.testing.assert_close(first, start.run.resid[0, 1, :1], **CLOSE)
    assert len(second) == 0


def test_zero_activations_are_zero_everywhere():
    own = Activations(torch.ones(2, 4), torch.ones(3, 2, 4))
    zero = Activations.zeros_like(own)
    assert zero.at(THOUGHT, 1).tolist() == zero.at(2, 0).tolist() == [0, 0, 0, 0]
