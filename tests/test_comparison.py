"""The comparison of results folders: numbers against an independent way, sentences, tampering."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from codi_patching.analysis.comparison import Arm, compare_arms, compare_sums
from codi_patching.analysis.findings import answer_questions
from codi_patching.analysis.statistics import ROUNDING
from codi_patching.callbacks.comparison import compare_folders
from codi_patching.cli import compare
from codi_patching.data.records import PairResult, ResultsError
from codi_patching.data.results import write_results
from codi_patching.metrics.grid import GRID_METRICS

N, L, K = 16, 4, 3
SPAN = np.linspace(2.0, 4.0, N)  # clean minus corrupted logit difference of each pair


def metadata(experiment, strategy, latents, columns, structural):
    return {
        "experiment": experiment,
        "strategy": strategy,
        "latents": latents,
        "direction": "denoising",
        "source": "clean",
        "model": "codi-tiny",
        "checkpoint_sha256": "c0de",
        "data_sha256": "da7a",
        "seed": 7,
        "precision": "32-true",
        "num_pairs": N,
        "grid": {
            "shape": [L, *([K] if columns else [])],
            "layers": [str(layer) for layer in range(L)],
            "positions": [str(k) for k in range(K)] if columns else [],
            "column": "iteration" if strategy else "position",
            "structural_zeros": structural,
        },
        "metrics": list(GRID_METRICS),
    }


def values_from(kl):
    """Metrics that hang together, from KL `(N, …)`: recovery is a tenth of it."""
    recovery = kl / 10
    span = SPAN.reshape(-1, *[1] * (kl.ndim - 1))
    values = dict.fromkeys(GRID_METRICS, kl * 0.5)
    values |= {
        "kl_divergence": kl,
        "recovery": recovery,
        "answer_logit_difference": -span / 2 + recovery * span,
        "predicts_clean": (recovery > 0.2).astype(float),
    }
    return values


def arrays(seed=0):
    """KL of each arm: positions 0 < 1 < 2, later layers stronger, cumulative = their sum."""
    rng = np.random.default_rng(seed)
    depth = np.arange(1, L + 1)
    position = depth[:, None] * np.array([0.05, 0.3, 1.0]) * rng.gamma(8, 1 / 8, size=(N, L, K))
    position[:, -1, -1] = 0
    cumulative = np.cumsum(position, axis=-1) * rng.gamma(50, 1 / 50, size=(N, L, K))
    cumulative[:, :, 0] = position[:, :, 0]
    relay = position[:, :, :1] * np.array([1.0, 0.5, 0.2])
    relay[:, -1, -1] = 0
    layer = 0.4 * depth * rng.gamma(8, 1 / 8, size=(N, L))
    layer[:, -1] = 0
    return {"layer": layer, "position": position, "relay": relay, "cumulative": cumulative}


KINDS = {
    "layer": ("layer", None, "frozen", False, [[L - 1]]),
    "position": ("position", None, "recomputed", True, [[L - 1, K - 1]]),
    "relay": ("iterative", "relay", "recomputed", True, [[L - 1, K - 1]]),
    "cumulative": ("iterative", "cumulative", "recomputed", True, []),
}


def write(folder, name, kl, change=lambda metadata, records: None):
    experiment, strategy, latents, columns, structural = KINDS[name]
    described = metadata(experiment, strategy, latents, columns, structural)
    values = values_from(kl)
    records = []
    for index in range(N):
        half = SPAN[index] / 2
        baseline = {
            "baseline": {"answer_logit_difference": -half, "kl_to_clean": 1.0},
            "giving": {"answer_logit_difference": half, "kl_to_clean": 0.0},
        }
        own = {metric: v[index] for metric, v in values.items()}
        records.append(PairResult(f"p{index}", baseline, own))
    change(described, records)
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder / f"{experiment}_patching_results.json", described, records)
    return folder


@pytest.fixture
def folders(tmp_path):
    return {name: write(tmp_path / name, name, kl) for name, kl in arrays().items()}


@pytest.fixture
def compared(folders, tmp_path):
    compare_folders(list(folders.values()), tmp_path / "out")
    return json.loads((tmp_path / "out" / "comparison.json").read_text())


def test_paired_tests_against_scipy_alone(compared):
    kl = arrays()
    row = compared["iterative_against_parallel"]["cumulative"]["metrics"]["kl_divergence"]
    for layer in range(L - 1):
        first, second = kl["cumulative"][:, layer, -1], kl["layer"][:, layer]
        found = row["layers"][layer]
        assert found["difference"] == pytest.approx((first - second).mean(), abs=1e-12)
        assert found["p_t"] == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=1e-12)
        expected = stats.wilcoxon(first, second, zero_method="pratt").pvalue
        assert found["p_wilcoxon"] == pytest.approx(expected, abs=1e-12)
        assert found["p_wilcoxon_holm"] >= found["p_wilcoxon"]
    assert row["layers"][L - 1]["n"] == 0  # layer patching has a structural zero there
    overall = (kl["cumulative"][:, :-1, -1] - kl["layer"][:, :-1]).mean(1)
    assert row["overall"]["difference"] == pytest.approx(overall.mean(), abs=1e-12)


def test_friedman_against_scipy_alone(compared):
    kl = arrays()["position"]
    for layer in range(L - 1):
        found = compared["positions"]["layers"][str(layer)]
        expected = stats.friedmanchisquare(*kl[:, layer].T)
        assert found["chi_squared"] == pytest.approx(expected.statistic, abs=1e-12)
        assert found["p"] == pytest.approx(expected.pvalue, abs=1e-12)
    last = compared["positions"]["layers"][str(L - 1)]
    assert last["conditions"] == K - 1  # without the structural zero


def test_additivity_by_hand(compared):
    kl = arrays()
    found = compared["additivity"]["cumulative"]["kl_divergence"]
    total, whole = kl["position"].sum(-1), kl["cumulative"][:, :, -1]
    expected = stats.linregress(total.ravel(), whole.ravel())
    assert found["line"]["slope"] == pytest.approx(expected.slope, abs=1e-12)
    assert found["line"]["r_squared"] == pytest.approx(expected.rvalue**2, abs=1e-12)
    assert list(compared["additivity"]) == ["cumulative"]  # layer patching is frozen
    shift = compared["additivity"]["cumulative"]["answer_logit_difference"]
    moved = (total / 10 * SPAN[:, None])[:, 0] - (whole / 10 * SPAN[:, None])[:, 0]
    assert shift["layers"][0]["difference"] == pytest.approx(moved.mean(), abs=1e-12)


def test_sums_of_other_latents_are_refused():
    arms = {
        name: Arm(name, KINDS[name][2], tuple("0123"), tuple("012"), {}, np.zeros(1, bool))
        for name in ("position", "layer")
    }
    with pytest.raises(ValueError, match="got recomputed and frozen"):
        compare_sums(arms["position"], arms["layer"], SPAN, 0, ROUNDING)


def test_answers_say_what_was_planted(compared):
    answers = {f["question"]: f["answer"] for f in compared["findings"]}
    critical = answers["Are some positions more critical than others?"]
    assert critical.startswith("Yes: position 2 is the most critical")
    assert "differs from position 0, 1" in critical
    assert answers["Early or late?"] == (
        "Late layers have the larger effect; late positions have the larger effect."
    )
    relay = answers[
        "Does the relay chain compound, saturate or fade, and does it depend on the layer?"
    ]
    assert relay.startswith("Of 4 layers: fades in 4")
    assert "no evidence that it depends on the layer" in relay
    cumulative = answers[
        "Does the cumulative chain compound, saturate or fade, and does it depend on the layer?"
    ]
    assert "compounds in" in cumulative
    less = answers["Is iterative patching (relay) more effective than parallel patching?"]
    assert less.startswith("Less effective overall")
    assert answers["Do critical layers have strong iterative effects (relay)?"]
    assert len(answers) == 11


def test_null_data_gives_no_evidence(tmp_path):
    rng = np.random.default_rng(5)
    arms = {
        name: Arm(
            name,
            KINDS[name][2],
            tuple(map(str, range(L))),
            tuple(map(str, range(K))) if KINDS[name][3] else (),
            values_from(rng.gamma(2, size=(N, L, K) if KINDS[name][3] else (N, L))),
            np.zeros((L, K) if KINDS[name][3] else (L,), bool),
        )
        for name in KINDS
    }
    answers = [f.answer for f in answer_questions(compare_arms(arms, -SPAN / 2, 0, ROUNDING))]
    assert answers[0].startswith("No evidence that positions differ")
    assert answers[1].startswith("No evidence")
    assert answers[2] == (
        "No evidence that early and late layers differ; no evidence that early and late positions "
        "differ."
    )
    assert "no evidence of a change in 4" in answers[3]
    assert answers[4].startswith("No evidence for a difference in KL overall")


def test_the_same_by_construction_is_said_and_not_tested(tmp_path):
    kl = arrays()

    def recompute(described, _records):
        described["latents"] = "recomputed"
        described["grid"]["structural_zeros"] = []

    folders = [
        write(tmp_path / "layer", "layer", kl["cumulative"][:, :, -1], recompute),
        write(tmp_path / "position", "position", kl["position"]),
        write(tmp_path / "cumulative", "cumulative", kl["cumulative"]),
    ]
    checks = compare_folders(folders, tmp_path / "out")
    assert not [check for check in checks if check.status == "fail"]
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    tests = found["iterative_against_parallel"]["cumulative"]
    assert tests["same_by_construction"]
    assert tests["metrics"]["kl_divergence"]["overall"]["identical"]
    assert tests["metrics"]["kl_divergence"]["overall"]["p_t"] is None
    answers = {f["question"]: f["answer"] for f in found["findings"]}
    question = "Is iterative patching (cumulative) more effective than parallel patching?"
    assert answers[question].startswith("They are identical by construction")


def failing(folders, out):
    return [c.name for c in compare_folders(list(folders.values()), out) if c.status == "fail"]


def test_an_arm_copied_over_another_is_caught(folders, tmp_path):
    kl = arrays()
    copied = np.repeat(kl["layer"][:, :, None], K, axis=2)
    write(tmp_path / "relay", "relay", copied)
    assert "relay's end against layer, KL" in failing(folders, tmp_path / "out")
    assert compare(
        [
            *("--layer", str(folders["layer"]), "--position", str(folders["position"])),
            *("--iterative", str(folders["relay"]), "--dir", str(tmp_path / "out")),
        ]
    ) == 3  # fmt: skip


def test_a_shifted_baseline_is_caught(folders, tmp_path):
    def shift(_described, records):
        records[5].baseline["baseline"]["answer_logit_difference"] += 0.01

    write(tmp_path / "position", "position", arrays()["position"], shift)
    found = failing(folders, tmp_path / "out")
    assert found == ["baselines across experiments", "recovery of position"]
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())["validity"]
    assert "pair p5" in report[0]["seen"]


def test_an_effect_where_there_can_be_none_is_caught(folders, tmp_path):
    kl = arrays()["position"]
    kl[3, -1, -1] = 1e-3
    write(tmp_path / "position", "position", kl)
    assert failing(folders, tmp_path / "out") == ["structural zeros of position"]


def test_a_missing_pair_is_named(folders, tmp_path):
    write(tmp_path / "relay", "relay", arrays()["relay"], lambda _, records: records.pop(4))
    with pytest.raises(ResultsError, match=r"layer and relay .* only one of them has p4"):
        compare_folders(list(folders.values()), tmp_path / "out")


@pytest.mark.parametrize(
    "field", ["checkpoint_sha256", "data_sha256", "seed", "direction", "source", "precision"]
)
def test_results_that_do_not_belong_together_are_refused(folders, tmp_path, field):
    def change(described, _records):
        described[field] = "other"

    write(tmp_path / "position", "position", arrays()["position"], change)
    with pytest.raises(ResultsError, match=f"layer and position patching differ in {field}"):
        compare_folders(list(folders.values()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_lack_an_experiment_or_have_it_twice(folders, tmp_path):
    with pytest.raises(ResultsError, match="got none of position, iterative"):
        compare_folders([folders["layer"]], tmp_path / "out")
    with pytest.raises(ResultsError, match="expected one layer experiment"):
        compare_folders([folders["layer"], folders["layer"]], tmp_path / "out")


def test_files_and_figures(folders, tmp_path, capsys):
    compare_folders(list(folders.values()), tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "comparison.json",
        "comparison.csv",
        "effects.png",
        "differences.png",
        "additivity.png",
        "report.html",
    }
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    name = "iterative_against_parallel/relay/metrics/recovery/layers/layer 2"
    (row,) = (row for row in rows if row["test"] == name)
    expected = found["iterative_against_parallel"]["relay"]["metrics"]["recovery"]["layers"][2]
    assert float(row["p_wilcoxon"]) == expected["p_wilcoxon"]
    assert float(row["ci_low"]) == expected["ci_low"]
    before = (tmp_path / "out" / "comparison.json").read_bytes()
    compare_folders(list(folders.values()), tmp_path / "out")
    assert (tmp_path / "out" / "comparison.json").read_bytes() == before
