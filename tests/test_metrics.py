"""Values by hand: distributions are given as probabilities, logits are their logarithms."""

import math
from dataclasses import replace

import pytest
import torch

from codi_patching.metrics import functional as F
from codi_patching.metrics import mean_map
from codi_patching.metrics.inputs import AnswerLogits, GeneratedActivations, MetricInputs
from codi_patching.metrics.mean_map import MeanMap, mean_maps
from codi_patching.metrics.table import ITERATIVE_METRICS, METRICS, metric_rows


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


def test_the_probability_of_an_answer_is_the_product_over_its_tokens():
    logits = log([0.5, 0.25, 0.25], [0.1, 0.7, 0.2]) + torch.tensor([[3.0], [-2.0]])
    assert F.compute_answer_probability(logits, torch.tensor([1, 2])).item() == pytest.approx(
        0.25 * 0.2, abs=1e-7
    )
    batch = torch.stack([logits, logits[[1, 0]]])
    values = F.compute_answer_probability(batch, torch.tensor([1, 2]))
    assert values.tolist() == pytest.approx([0.25 * 0.2, 0.7 * 0.25], abs=1e-7)
    assert F.compute_answer_probability(log([0.125, 0.875]), torch.tensor([0])) == pytest.approx(
        0.125, abs=1e-7
    )
    with pytest.raises(ValueError, match="expected logits for 1 answer tokens, got 2"):
        F.compute_answer_probability(logits, torch.tensor([1]))


def test_no_float64_is_moved_to_a_device_that_has_none(monkeypatch):
    moved = []

    def move(tensor):
        moved.append(tensor.dtype)
        return tensor

    metric = MeanMap((2, 2))
    monkeypatch.setattr(mean_map, "widest_float", lambda device: torch.float32)
    metric._apply(move)
    assert torch.float64 not in moved
    assert metric.total.dtype == torch.float32


def test_the_probability_of_bf16_logits_is_not_computed_in_bf16():
    logits = torch.tensor([[0.0, 0.0, 0.0]]).bfloat16()
    assert F.compute_answer_probability(logits, torch.tensor([1])).item() == pytest.approx(
        1 / 3, abs=1e-12
    )


def test_a_device_without_float64_computes_in_float32():
    assert F.widest_float(torch.device("mps")) == torch.float32
    assert F.widest_float(torch.device("cpu")) == torch.float64
    assert F.widest_float(torch.device("cuda")) == torch.float64


def test_sums_are_kept_in_float32_where_there_is_no_float64(monkeypatch):
    metric = MeanMap((2,))
    monkeypatch.setattr(mean_map, "widest_float", lambda device: torch.float32)
    metric.to(torch.float64)
    assert (metric.total.dtype, metric.count.dtype) == (torch.float32, torch.float32)
    metric.update(torch.tensor([1.0, 2.0], dtype=torch.float64))
    metric.reset()
    assert metric.total.dtype == torch.float32


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(2, 2\)"):
        F.compute_kl_divergence(torch.zeros(1, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="expected logits for 2 answer tokens, got 1"):
        F.mean_answer_logit(torch.zeros(1, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"of shape \(2, 3\), got \(6,\)"):
        MeanMap((2, 3)).update(torch.zeros(6))


def pair_of_runs(cells=4, seed=0, clean_is_source=True):
    """Base answer of two tokens, source answer of one; a vocabulary of six."""
    generator = torch.Generator().manual_seed(seed)

    def logits(*shape):
        return torch.randn(*shape, 6, generator=generator)

    return MetricInputs(
        patched=AnswerLogits(logits(cells, 2), logits(cells, 1)),
        base_run=AnswerLogits(logits(2), logits(1)),
        source_run=AnswerLogits(logits(2), logits(1)),
        base_ids=torch.tensor([1, 2]),
        source_ids=torch.tensor([3]),
        clean_is_source=clean_is_source,
    )


def test_the_mean_map_is_over_pairs():
    metrics = mean_maps(["kl", "l2"], (2, 2))
    for number in (1.0, 2.0, 6.0):
        metrics["kl"].update(torch.full((2, 2), number))
        metrics["l2"].update(torch.full((2, 2), -number))
    means = metrics.compute()
    assert means["kl"].tolist() == [[3, 3], [3, 3]]
    assert means["l2"].tolist() == [[-3, -3], [-3, -3]]
    metrics.reset()
    assert metrics["kl"].total.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("clean_is_source", [True, False])
def test_the_table_names_the_functions_row_by_row(clean_is_source):
    runs = pair_of_runs(clean_is_source=clean_is_source)
    found = metric_rows(runs)
    assert set(found) == set(METRICS)
    for cell in range(4):
        base, source = runs.patched.base[cell], runs.patched.source[cell]
        # what means clean and corrupted is the pair's, what means roles is not
        clean, corrupted = (source, runs.source_ids), (base, runs.base_ids)
        if not clean_is_source:
            clean, corrupted = corrupted, clean
        expected = {
            "kl_divergence": F.compute_kl_divergence(base, runs.base_run.base),
            "l2_difference": F.compute_l2_difference(base, runs.base_run.base),
            "prediction_change_rate": F.compute_prediction_change_rate(base, runs.base_run.base),
            "kl_to_source": F.compute_kl_divergence(runs.source_run.source, source),
            "predicts_clean": F.compute_predicts(*clean),
            "predicts_corrupted": F.compute_predicts(*corrupted),
            "clean_probability": F.compute_answer_probability(*clean),
            "corrupted_probability": F.compute_answer_probability(*corrupted),
            "answer_logit_difference": F.compute_answer_logit_difference(*clean, *corrupted),
        }
        for name, value in expected.items():
            assert found[name][cell].item() == pytest.approx(value.item(), abs=1e-12), name


@pytest.mark.parametrize("clean_is_source", [True, False])
def test_recovery_is_0_for_the_base_run_and_1_for_the_source_run(clean_is_source):
    runs = pair_of_runs(clean_is_source=clean_is_source).unpatched()
    found = metric_rows(runs)
    assert found["recovery"].tolist() == pytest.approx([0, 1])
    assert found["kl_divergence"][0] == 0
    assert found["kl_to_source"][1] == 0


@pytest.mark.parametrize(("clean_is_source", "signs"), [(True, (-2, 3)), (False, (2, -3))])
def test_the_logit_difference_is_clean_minus_corrupted_in_both_directions(clean_is_source, signs):
    """Base answer token 0, source answer token 1; base run 2 for 0, source run 3 for 1."""
    base_run, source_run = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    runs = MetricInputs(
        AnswerLogits(base_run[None], base_run[None]),
        AnswerLogits(base_run, base_run),
        AnswerLogits(source_run, source_run),
        torch.tensor([0]),
        torch.tensor([1]),
        clean_is_source,
    )
    values = metric_rows(runs.unpatched())
    assert tuple(values["answer_logit_difference"].tolist()) == signs
    says_source = values["predicts_clean" if clean_is_source else "predicts_corrupted"]
    assert says_source.tolist() == [0, 1]


def test_a_metrics_gradient_is_its_own():
    """Recovery is undefined here; the gradients of the others are what they are alone."""
    runs = pair_of_runs()
    patched = AnswerLogits(runs.patched.base.requires_grad_(), runs.patched.source.requires_grad_())
    runs = replace(runs, patched=patched, source_run=runs.base_run)
    found = metric_rows(runs)
    assert found["recovery"].isnan().all()
    assert not found["predicts_clean"].requires_grad
    (among_others,) = torch.autograd.grad(found["kl_divergence"].sum(), patched.base)
    alone = F.compute_kl_divergence(patched.base, runs.base_run.base)
    (expected,) = torch.autograd.grad(alone.sum(), patched.base)
    assert expected.abs().max() > 0.01
    assert torch.equal(among_others, expected)


def test_a_table_may_be_empty_or_of_several_dtypes():
    runs = pair_of_runs()
    assert metric_rows(runs, {}) == {}
    found = metric_rows(
        runs, {"whole": lambda i: i.patched.base.argmax(-1)[:, 0], "kl": METRICS["kl_divergence"]}
    )
    assert found["whole"].dtype == torch.long
    assert found["whole"].tolist() == runs.patched.base.argmax(-1)[:, 0].tolist()
    assert torch.equal(found["kl"], metric_rows(runs)["kl_divergence"])


def test_metrics_that_start_equal_are_not_merged():
    """Compute groups would tie two metrics whose first values are the same."""
    metrics = mean_maps(["kl", "l2"], (1,))
    for first, second in ((0.0, 0.0), (3.0, 0.0)):
        metrics["kl"].update(torch.tensor([first]))
        metrics["l2"].update(torch.tensor([second]))
    assert {name: value.item() for name, value in metrics.compute().items()} == {
        "kl": 1.5,
        "l2": 0.0,
    }


def test_missing_values_are_left_out_of_the_mean_of_their_cell_only():
    metric = MeanMap((2, 2))
    metric.update(torch.tensor([[1.0, math.nan], [math.nan, 4.0]]))
    metric.update(torch.tensor([[3.0, math.nan], [5.0, 6.0]]))
    mean = metric.compute()
    assert mean.flatten().tolist() == pytest.approx([2, math.nan, 5, 5], nan_ok=True)


def test_sums_stay_float64_when_a_model_around_them_is_cast():
    module = torch.nn.ModuleDict({"metrics": mean_maps(["kl"], (1,))}).to(torch.bfloat16)
    metric = module["metrics"]["kl"]
    metric.update(torch.tensor([1.001]))
    metric.reset()
    metric.update(torch.tensor([1.001], dtype=torch.float64))
    assert metric.compute().item() == 1.001


def test_states_of_two_ranks_add_up():
    """As torchmetrics reduces them: by the sum of each state."""
    first, second = MeanMap((2,)), MeanMap((2,))
    first.update(torch.tensor([1.0, 5.0]))
    second.update(torch.tensor([2.0, math.nan]))
    second.update(torch.tensor([6.0, 9.0]))
    assert {name: reduce.__name__ for name, reduce in first._reductions.items()} == {
        "total": "dim_zero_sum",
        "count": "dim_zero_sum",
    }
    for name, reduce in first._reductions.items():
        setattr(first, name, reduce(torch.stack([getattr(first, name), getattr(second, name)])))
    assert first.compute().tolist() == [3, 7]


@pytest.mark.parametrize("clean_is_source", [True, False])
def test_cosines_are_to_the_pairs_clean_and_corrupted_runs(clean_is_source):
    made, base, source = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), torch.eye(2)[1:]
    runs = pair_of_runs(1, clean_is_source=clean_is_source)
    runs = runs.of(runs.patched, GeneratedActivations(made, base, source))
    found = metric_rows(runs, ITERATIVE_METRICS)
    cosines = [found[f"cosine_to_{name}"].item() for name in ("clean", "corrupted")]
    assert cosines == pytest.approx([0.8, 0.6] if clean_is_source else [0.6, 0.8])
    with pytest.raises(ValueError, match="expected the generated activations"):
        metric_rows(pair_of_runs(), ITERATIVE_METRICS)


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([1, 2]), torch.tensor([2, 0, 2])])
def test_some_of_the_runs_are_taken_of_both_answers(rows):
    patched = pair_of_runs().patched
    taken = patched.take(rows)
    assert torch.equal(taken.base, patched.base[rows])
    assert torch.equal(taken.source, patched.source[rows])
    assert not torch.equal(taken.base[:, :1], taken.source)
    one = AnswerLogits(patched.base, patched.base).take(rows)  # answers that share their logits
    assert one.source is one.base


def test_the_base_run_and_the_source_run_as_two_patched_runs():
    runs = pair_of_runs()
    both = runs.unpatched().patched
    assert torch.equal(both.base, torch.stack([runs.base_run.base, runs.source_run.base]))
    assert torch.equal(both.source, torch.stack([runs.base_run.source, runs.source_run.source]))


@pytest.mark.parametrize("clean_is_source", [True, False])
def test_an_answer_is_the_pairs_whatever_the_direction(clean_is_source):
    runs = pair_of_runs(clean_is_source=clean_is_source)
    source, base = (runs.patched.source, runs.source_ids), (runs.patched.base, runs.base_ids)
    clean, corrupted = (source, base) if clean_is_source else (base, source)
    for wanted, found in ((clean, True), (corrupted, False)):
        logits, ids = runs.answer(found, runs.patched)
        assert logits is wanted[0]
        assert ids is wanted[1]


def by_tokens(logits, reference, distance):
    """A distance of two runs, mean over tokens, in plain numbers."""
    rows = zip(logits.double().tolist(), reference.double().tolist(), strict=True)
    return sum(distance(a, b) for a, b in rows) / len(logits)


def plain_kl(a, b):
    p, q = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (a, b))
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def test_many_runs_are_compared_a_few_at_a_time(monkeypatch):
    """Chunks of two runs: each beside its own reference, or beside the one there is."""
    monkeypatch.setattr(F, "_WIDENED", 2 * 2 * 6)
    generator = torch.Generator().manual_seed(3)
    runs = torch.randn(5, 2, 6, generator=generator)
    others = torch.randn(5, 2, 6, generator=generator)
    for function, distance in (
        (F.compute_kl_divergence, plain_kl),
        (F.compute_l2_difference, math.dist),
    ):
        both = [by_tokens(a, b, distance) for a, b in zip(runs, others, strict=True)]
        assert function(runs, others).tolist() == pytest.approx(both)
        one = [by_tokens(a, others[0], distance) for a in runs]
        assert function(runs, others[0]).tolist() == pytest.approx(one)
        assert function(others[0], runs).tolist() == pytest.approx(
            [by_tokens(others[0], a, distance) for a in runs]
        )
        grid = function(runs[:4].reshape(2, 2, 2, 6), others[0])
        assert grid.flatten().tolist() == pytest.approx(one[:4])
        assert grid.shape == (2, 2)
    ids = torch.tensor([1, 4])
    found = F.compute_answer_probability(runs, ids)
    expected = [
        math.prod(math.exp(row[i]) / sum(map(math.exp, row)) for row, i in zip(run, (1, 4)))
        for run in runs.double().tolist()
    ]
    assert found.tolist() == pytest.approx(expected)
