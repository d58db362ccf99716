"""Values by hand: distributions are given as probabilities, logits are their logarithms."""

import math

import pytest
import torch

from codi_patching.metrics import functional as F
from codi_patching.metrics.grid import GRID_METRICS, KLDivergence, grid_metrics


def log(*rows):
    return torch.tensor(rows).log()


def test_kl_divergence_is_the_mean_over_tokens():
    p, q = log([0.5, 0.5], [0.25, 0.75]), log([0.25, 0.75], [0.25, 0.75])
    # first token: 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75) = 0.143841; second: 0
    assert F.compute_kl_divergence(p, q).item() == pytest.approx(0.143841 / 2, abs=1e-6)


def test_kl_divergence_is_of_the_first_from_the_second():
    p, q = log([0.9, 0.1]), log([0.5, 0.5])
    # 0.9 ln 1.8 + 0.1 ln 0.2 = 0.368064; the other way round 0.510826
    assert F.compute_kl_divergence(p, q).item() == pytest.approx(0.368064, abs=1e-6)
    assert F.compute_kl_divergence(q, p).item() == pytest.approx(0.510826, abs=1e-6)


def test_kl_divergence_of_bf16_logits_is_not_computed_in_bf16():
    """Nearly equal wide distributions: the float64 value of the same logits is the truth."""
    torch.manual_seed(0)
    q = torch.randn(1, 30_000).bfloat16()
    p = (q.float() + 0.01 * torch.randn(1, 30_000)).bfloat16()
    truth = F.compute_kl_divergence(p.double(), q.double()).item()
    assert F.compute_kl_divergence(p, q).item() == pytest.approx(truth, rel=1e-6)


def test_baseline_broadcasts_over_cells():
    p = torch.stack([log([0.5, 0.5]), log([0.25, 0.75])])
    values = F.compute_kl_divergence(p, log([0.25, 0.75]))
    assert values.tolist() == pytest.approx([0.143841, 0.0], abs=1e-6)


def test_l2_difference():
    a = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[0.0, 4.0], [1.0, 1.0]])
    assert F.compute_l2_difference(a, b).item() == 2.5


def test_prediction_change_rate():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    b = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 5.0], [1.0, 0.5]])
    assert F.compute_prediction_change_rate(a, b).item() == 0.5


def test_answer_logit_difference_each_forced_on_its_own_answer():
    clean = torch.tensor([[1.0, 5.0, 0.0], [7.0, 0.0, 0.0]])  # tokens 1, 0: (5 + 7) / 2 = 6
    corrupted = torch.tensor([[0.0, 0.0, 2.5]])  # token 2: 2.5
    value = F.compute_answer_logit_difference(
        clean, torch.tensor([1, 0]), corrupted, torch.tensor([2])
    )
    assert value.item() == 3.5


def test_recovery_is_not_clipped_and_null_without_a_span():
    patched = torch.tensor([0.0, 6.0, -4.0])
    values = F.compute_recovery(patched, torch.tensor(-2.0), torch.tensor(2.0))
    assert values.tolist() == [0.5, 2.0, -0.5]
    assert F.compute_recovery(patched, torch.tensor(1.0), torch.tensor(1.0009)).isnan().all()
    assert F.compute_recovery(patched, torch.tensor(1.0), torch.tensor(0.998)).isfinite().all()


def test_predicts_needs_every_token():
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert F.compute_predicts(logits, torch.tensor([1, 1])).item() == 1
    assert F.compute_predicts(logits, torch.tensor([1, 0])).item() == 0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(2, 2\)"):
        F.compute_kl_divergence(torch.zeros(1, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="expected logits for 2 answer tokens, got 1"):
        F.mean_answer_logit(torch.zeros(1, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="each of 6 cells, got 2"):
        KLDivergence((2, 3)).update(torch.zeros(2, 1, 4), torch.zeros(1, 4))


def pair_of_runs(cells=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def logits(*shape):
        return torch.randn(*shape, 6, generator=generator)

    return {
        "patched_own": logits(cells, 2),
        "patched_other": logits(cells, 1),
        "baseline_own": logits(2),
        "baseline_other": logits(1),
        "giving_own": logits(2),
        "giving_other": logits(1),
        "own_ids": torch.tensor([1, 2]),
        "other_ids": torch.tensor([3]),
    }


def test_the_collection_returns_a_pair_and_accumulates_the_mean():
    metrics = grid_metrics((2, 2))
    pairs = [metrics(**pair_of_runs(seed=seed)) for seed in range(3)]
    total = metrics.compute()
    assert set(total) == set(GRID_METRICS)
    for name, value in total.items():
        mean = torch.stack([pair[name] for pair in pairs]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-12, atol=1e-12)


def test_grid_values_are_the_functions_values_cell_by_cell():
    runs = pair_of_runs()
    maps = grid_metrics((2, 2))(**runs)
    for cell in range(4):
        own, other = runs["patched_own"][cell], runs["patched_other"][cell]
        index = divmod(cell, 2)
        expected = {
            "kl_divergence": F.compute_kl_divergence(own, runs["baseline_own"]),
            "kl_to_clean": F.compute_kl_divergence(runs["giving_other"], other),
            "predicts_clean": F.compute_predicts(other, runs["other_ids"]),
            "predicts_corrupted": F.compute_predicts(own, runs["own_ids"]),
            "answer_logit_difference": F.compute_answer_logit_difference(
                other, runs["other_ids"], own, runs["own_ids"]
            ),
        }
        for name, value in expected.items():
            assert maps[name][index].item() == pytest.approx(value.item(), abs=1e-12), name


def test_recovery_is_0_for_the_baseline_and_1_for_the_giving_run():
    runs = pair_of_runs(cells=2)
    runs["patched_own"] = torch.stack([runs["baseline_own"], runs["giving_own"]])
    runs["patched_other"] = torch.stack([runs["baseline_other"], runs["giving_other"]])
    maps = grid_metrics((2,))(**runs)
    assert maps["recovery"].tolist() == pytest.approx([0, 1])
    assert maps["kl_divergence"][0] == 0
    assert maps["kl_to_clean"][1] == 0


def test_metrics_that_start_equal_are_not_merged():
    """Compute groups would tie two metrics whose first values are the same."""
    metrics = grid_metrics((1,))
    same = torch.zeros(1, 1, 2)
    ids = torch.tensor([0])
    runs = dict.fromkeys(("patched_own", "patched_other"), same)
    still = dict.fromkeys(("baseline_own", "baseline_other", "giving_own", "giving_other"), same[0])
    metrics(**runs, **still, own_ids=ids, other_ids=ids)
    moved = {**runs, "patched_own": torch.tensor([[[0.0, 3.0]]])}
    values = metrics(**moved, **still, own_ids=ids, other_ids=ids)
    assert values["kl_divergence"] > 0
    assert values["kl_to_clean"] == 0
    assert metrics.compute()["l2_difference"].item() == 1.5


def test_missing_values_are_left_out_of_the_mean_of_their_cell_only():
    metric = KLDivergence((2,))
    metric.add(torch.tensor([1.0, math.nan]))
    metric.add(torch.tensor([3.0, math.nan]))
    assert metric.compute()[0] == 2
    assert metric.compute()[1].isnan()


def test_sums_stay_float64_when_a_model_around_them_is_cast():
    module = torch.nn.ModuleDict({"metrics": grid_metrics((1,))}).to(torch.bfloat16)
    metric = module["metrics"]["kl_divergence"]
    metric.add(torch.tensor([1.001]))
    metric.reset()
    metric.add(torch.tensor([1.001], dtype=torch.float64))
    assert metric.compute().item() == 1.001


def test_states_of_two_ranks_add_up():
    first, second, both = (KLDivergence((2,)) for _ in range(3))
    runs = [torch.randn(2, 1, 4) for _ in range(3)]
    base = torch.randn(1, 4)
    first.update(runs[0], base)
    for run in runs[1:]:
        second.update(run, base)
    for run in runs:
        both.update(run, base)
    total, count = first.total + second.total, first.count + second.count
    torch.testing.assert_close(total / count, both.compute())
