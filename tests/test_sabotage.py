"""What a check is for: results and code that were tampered with fail a check by name.

A run of each experiment on a small random model, which passes every check, is changed in one way at
a time, in its dataset or in the code that measures.
"""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import QUESTIONS, SIBLINGS, quiet_trainer, random_model
from safetensors.torch import load_file, save_file

from codi_patching.analysis.made_again import check_made_again
from codi_patching.analysis.validity import check_run
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.experiments.attention import AttentionExperiment
from codi_patching.experiments.head import HeadPatching
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.metrics.table import METRICS
from codi_patching.models.loading.checkpoint import save_checkpoint
from codi_patching.results.dataset import RUNS, attention_dataset, pairs_of, run_of
from codi_patching.results.layout import ACTIVATIONS
from codi_patching.results.read import read_results

OWN, CONTROL = "cells made again", "cells with the control made again"
WHOLE, FILES = "whole runs made again", "recovery in the files"


class FewMetrics(PositionPatching):
    """A user's own, of one metric."""

    metric_table: ClassVar = {"kl_divergence": METRICS["kl_divergence"]}


@pytest.fixture(scope="module")
def run_anew(tmp_path_factory):
    """Run an experiment on three pairs; gives its dataset."""
    root = tmp_path_factory.mktemp("sabotage")
    save_checkpoint(random_model().float(), root / "model")
    records = [
        {
            "pair_id": f"p{index}",
            "clean": {"question": clean, "answer": a},
            "corrupted": {"question": corrupted, "answer": b},
            "sibling": {"question": SIBLINGS["p0"][0], "answer": SIBLINGS["p0"][1]},
        }
        for index, (clean, a, corrupted, b) in enumerate(QUESTIONS[:3])
    ]
    (root / "pairs.json").write_text(json.dumps(records))

    def run_anew(name, kind=PositionPatching, **options):
        trainer = quiet_trainer(ResultsWriter(str(root / name)), precision="32-true")
        experiment = kind(checkpoint=str(root / "model"), **options)
        data = PairsDataModule(str(root / "pairs.json"))
        trainer.predict(experiment, data, return_predictions=False)
        return read_results(root / name)

    return run_anew


EXPERIMENTS = {
    "position": (PositionPatching, {}),
    "frozen": (PositionPatching, {"latents": "frozen", "site": "kv"}),
    "thought": (PositionPatching, {"include_thought": True, "direction": "noising"}),
    "layer": (LayerPatching, {}),
    "relay": (IterativePatching, {}),
    "cumulative": (IterativePatching, {"strategy": "cumulative"}),
    "mean": (PositionPatching, {"source": "mean"}),
    "random pair": (PositionPatching, {"source": "random_pair"}),
    "heads": (HeadPatching, {}),
    "places": (PositionPatching, {"positions": "all"}),
}


LOOKS = "attention read again"


def failed(data):
    return {check.name for check in check_run(data) if check.status == "fail"}


ALIKE = ("layer", "cumulative", "mean", "random pair")
CASES = [pytest.param(n, marks=[pytest.mark.thorough] * (n in ALIKE)) for n in EXPERIMENTS]


@pytest.mark.parametrize("name", CASES)
def test_what_was_not_tampered_with_fails_nothing(run_anew, name):
    kind, options = EXPERIMENTS[name]
    data = run_anew(name, kind, **options)
    assert failed(data) == set()
    found = {check.name: check for check in check_run(data)}
    assert found[OWN].status == found[WHOLE].status == "pass"
    again = [run for pair in data["description"].values for run in pair.verified]
    cells = [(run.layer, run.column) for run in again if run.arm == "own"]
    assert {layer for layer, _ in cells} == set(data["layer"].values)
    assert {column for _, column in cells} == set(data["column"].values)


@pytest.fixture(scope="module")
def good(run_anew):
    return run_anew("good")


@pytest.fixture
def data(good):
    return good.copy(deep=True)


# -- results that were tampered with ----------------------------------------------------------


def cells_of(data):
    return {metric: data[metric].values for metric in data.attrs["run"].metrics}


def layer_shifted(data):
    for values in cells_of(data).values():
        values[:, 1] = values[:, 2]


def position_shifted(data):
    for values in cells_of(data).values():
        values[:] = np.roll(values, 1, axis=2)


def logit_difference_replaced(data):
    for name in ("answer_logit_difference", "run_answer_logit_difference"):
        data[name].values[:] = -3 * data[name].values + 1


def divergence_scaled(data):
    for name in ("kl_divergence", "run_kl_divergence"):
        data[name].values[:] *= 7


def control_as_own(data):
    for values in cells_of(data).values():
        values[:] = values[..., ::-1].copy()


def own_as_control(data):
    for values in cells_of(data).values():
        values[..., 1] = values[..., 0]


def pairs_exchanged(data):
    for values in cells_of(data).values():
        values[[0, 1]] = values[[1, 0]]


def recovery_of_another_pair(data):
    data["recovery"].values[0] = data["recovery"].values[1]


def runs_exchanged(one, other):
    def change(data):
        places = [RUNS.index(one), RUNS.index(other)]
        for metric in data.attrs["run"].metrics:
            values = data[f"run_{metric}"].values
            values[:, places] = values[:, places[::-1]]

    return change


def answers_exchanged(data):
    for prefix in ("", "run_"):
        names = [f"{prefix}{answer}_probability" for answer in ("clean", "corrupted")]
        one, other = (data[name].values.copy() for name in names)
        data[names[0]].values[:], data[names[1]].values[:] = other, one


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (layer_shifted, OWN),
        (layer_shifted, CONTROL),
        (position_shifted, OWN),
        (logit_difference_replaced, OWN),
        (logit_difference_replaced, WHOLE),
        (divergence_scaled, OWN),
        (divergence_scaled, CONTROL),
        (divergence_scaled, WHOLE),
        (control_as_own, OWN),
        (control_as_own, CONTROL),
        (own_as_control, CONTROL),
        (pairs_exchanged, OWN),
        (pairs_exchanged, FILES),
        (recovery_of_another_pair, OWN),
        (recovery_of_another_pair, FILES),
        (runs_exchanged("base", "source"), WHOLE),
        (runs_exchanged("ceiling", "ceiling_control"), WHOLE),
        (answers_exchanged, OWN),
        (answers_exchanged, WHOLE),
    ],
)
def test_tampered_results_fail(data, change, name):
    change(data)
    assert name in failed(data)


def test_cells_of_other_latents_fail(good, run_anew):
    """The arm of frozen thoughts under the name of recomputed ones."""
    other = run_anew("other latents", latents="frozen")
    data = good.copy(deep=True)
    for metric, values in cells_of(data).items():
        values[:] = other[metric].values
    assert OWN in failed(data)


def test_a_broken_chain_fails(run_anew):
    relay = run_anew("chain", IterativePatching)
    pairs = relay["description"].values
    pairs[0] = replace(pairs[0], chain_broken=1)
    assert failed(relay) == {"chain of relay"}


# -- code that was tampered with --------------------------------------------------------------


@pytest.fixture
def patch_higher(monkeypatch):
    """Makes the sweep patch some layers one higher, the last one at layer 0."""
    from codi_patching.patching.sweep.run import SweepEngine

    patched = SweepEngine.patched_each

    def higher(request, wrong):
        layers = request.start.run.resid.shape[1]

        def move(patch):
            site = patch.site
            moved = replace(site, layer=(site.layer + 1) % layers) if site.layer in wrong else site
            return replace(patch, site=moved)

        single = [[move(p) for p in row] if len(row) <= 3 else row for row in request.rows]
        return replace(request, rows=single)  # ceilings have every cell, and stay

    def patch_higher(*wrong):
        monkeypatch.setattr(
            SweepEngine,
            "patched_each",
            lambda self, requests, *rest: patched(
                self, [higher(r, wrong) for r in requests], *rest
            ),
        )

    return patch_higher


def test_an_engine_that_patches_a_layer_higher_fails(run_anew, patch_higher):
    patch_higher(0, 1, 2)
    assert {OWN, CONTROL, "self-patch identity"} <= failed(run_anew("higher"))


@pytest.mark.parametrize("kind", [PositionPatching, LayerPatching])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_single_layer_that_is_patched_higher_fails(run_anew, patch_higher, kind, layer):
    patch_higher(layer)
    found = run_anew(f"{kind.__name__} {layer}", kind, self_patch_pairs=0)
    assert {OWN, CONTROL} <= failed(found)


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("heads", lambda site: {"head": (site.head + 1) % 4} if site.name == "head" else {}),
        ("places", lambda site: {"position": -2} if site.position == -1 else {}),
        ("places", lambda site: {"position": 4} if site.position == 3 else {}),
    ],
)
def test_an_engine_that_patches_the_next_head_or_token_fails(run_anew, monkeypatch, name, moved):
    from codi_patching.patching.sweep.run import SweepEngine

    patched = SweepEngine.patched_each

    def elsewhere(request):
        rows = [
            [replace(p, site=replace(p.site, **moved(p.site))) for p in row] for row in request.rows
        ]
        return replace(request, rows=rows)

    def patch(self, requests, *rest):
        return patched(self, [elsewhere(request) for request in requests], *rest)

    monkeypatch.setattr(SweepEngine, "patched_each", patch)
    kind, options = EXPERIMENTS[name]
    folder = f"moved {name} {moved.__code__.co_firstlineno}"
    found = failed(run_anew(folder, kind, self_patch_pairs=0, **options))
    assert {OWN, CONTROL} <= found


@pytest.mark.parametrize(
    ("metric", "tampered"),
    [
        ("kl_divergence", lambda kl: lambda logits, base: 7 * kl(base, logits)),
        ("l2_difference", lambda l2: lambda logits, base: l2(logits, base) ** 2),
        ("answer_probability", lambda p: lambda logits, ids: p(logits, ids) ** 0.5),
        ("recovery", lambda r: lambda own, base, source: 1 - r(own, base, source)),
        ("answer_logit_difference", lambda d: lambda *given: -3 * d(*given) + 1),
    ],
)
def test_a_metric_that_is_computed_otherwise_fails(run_anew, monkeypatch, metric, tampered):
    from codi_patching.metrics import functional

    name = f"compute_{metric}"
    monkeypatch.setattr(functional, name, tampered(getattr(functional, name)))
    assert OWN in failed(run_anew(f"other {metric}"))


def test_control_activations_in_the_place_of_own_fail(run_anew, monkeypatch):
    from codi_patching.measuring.preparation import Preparation

    start = Preparation.start

    def swapped(self, *given):
        made = start(self, *given)
        return replace(
            made,
            source_activations=made.control_activations,
            control_activations=made.source_activations,
        )

    monkeypatch.setattr(Preparation, "start", swapped)
    assert {OWN, CONTROL, WHOLE} <= failed(run_anew("swapped"))


def test_thoughts_that_are_not_made_anew_fail(run_anew, monkeypatch):
    """The sweep alone keeps the base run's thoughts, whatever is patched."""
    from codi_patching.patching.sweep import run

    original = run.SweepEngine.patched_each

    def without(self, requests, latents="recomputed", *rest):
        return original(self, requests, "frozen", *rest)

    monkeypatch.setattr(run.SweepEngine, "patched_each", without)
    assert OWN in failed(run_anew("not fed back"))


@pytest.mark.parametrize(
    ("thoughts", "precision", "said"),
    [(64, "32-true", True), (64, "64-true", False), (3, "32-true", False)],
)
def test_of_long_chains_it_is_said_that_rounding_grows(data, thoughts, precision, said):
    data["kl_divergence"].values[:] += 1.0
    run = replace(run_of(data), num_latents=thoughts, precision=precision)
    seen = check_made_again(data.assign_attrs(run=run))[0].seen
    assert ("a chain of 64 thoughts amplifies" in seen) == said
    assert ("in float64 (precision 64-true) only a fault is left" in seen) == said


def test_a_run_without_the_usual_metrics_is_made_again_in_those_it_has(run_anew):
    data = run_anew("few metrics", FewMetrics)
    assert {check.status for check in check_made_again(data)} == {"pass"}
    data["kl_divergence"].values[:] *= 2
    assert [check.status for check in check_made_again(data)] == ["fail", "fail", "pass"]


# -- attention ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looked(run_anew):
    return run_anew("attention", AttentionExperiment)


def test_attention_that_was_not_tampered_with_fails_nothing(looked):
    found = {check.name: check for check in check_run(looked)}
    assert {check.status for check in found.values()} == {"pass"}
    again = [look for pair in looked["description"].values for look in pair.verified]
    assert {look.layer for look in again} == set(looked["layer"].values)
    assert {look.reader for look in again} == set(looked["reader"].values)
    assert {look.head for look in again} == set(range(4))


@pytest.mark.parametrize("measure", ["attention", "strongest"])
@pytest.mark.parametrize("axis", ["reader", "layer", "attended", "pair"])
def test_shares_in_the_place_of_others_fail(looked, measure, axis):
    data = looked.copy(deep=True)
    data[measure].values[:] = np.roll(data[measure].values, 1, axis=data[measure].dims.index(axis))
    assert LOOKS in failed(data)


@pytest.mark.parametrize(
    ("what", "tampered"),
    [
        ("layers", lambda p: p.roll(1, 1)),
        ("heads of attention", lambda p: p.roll(1, 2)),
        ("readers", lambda p: p.roll(1, 0)),
        ("uniform", lambda p: torch.full_like(p, 1 / p.shape[-1])),
    ],
)
def test_attention_that_is_read_otherwise_fails(run_anew, monkeypatch, what, tampered):
    from codi_patching.measuring import attention_shares

    original = attention_shares.attention_of
    monkeypatch.setattr(attention_shares, "attention_of", lambda *given: tampered(original(*given)))
    assert LOOKS in failed(run_anew(what, AttentionExperiment))


def test_attention_to_thoughts_that_do_not_follow_from_each_other_fails(run_anew, monkeypatch):
    from codi_patching.models.codi import CodiModel

    original = CodiModel.think

    def repeated(self, hidden, context):
        with monkeypatch.context() as inside:
            inside.setattr(CodiModel, "next_thought", lambda self, state, place=None: made)
            made = self.prj(hidden)
            return original(self, hidden, context)

    monkeypatch.setattr(CodiModel, "think", repeated)
    assert LOOKS in failed(run_anew("repeated", AttentionExperiment))


def test_heads_that_change_places_in_the_file_fail(run_anew, tmp_path):
    folder = run_anew("heads in the file", AttentionExperiment).attrs["folder"]
    path = folder / ACTIVATIONS
    kept = load_file(path)
    save_file({name: heads.roll(1, 2).contiguous() for name, heads in kept.items()}, path)
    assert LOOKS in failed(read_results(folder))
    path.unlink()
    assert LOOKS in failed(read_results(folder))


@pytest.mark.parametrize(("precision", "allowed"), [("32-true", 0), ("bf16-true", 1)])
def test_single_looks_may_differ_in_16_bits_alone(looked, precision, allowed):
    """One look of eleven in one pair is off by 1; then two."""
    data = looked.assign_attrs(run=replace(run_of(looked), precision=precision))
    pair = pairs_of(looked)[0]
    looks = (pair.verified * 11)[:11]
    heads = np.array([look.shares for look in looks])
    for off in (0, 1, 2):
        shifted = heads + (np.arange(11) < off)[:, None]
        described = [replace(pair, verified=looks)]
        shares = {name: looked[name].values[:1] for name in ("attention", "strongest")}
        data = attention_dataset(run_of(data), ["p0"], described, shares, [shifted])
        assert (LOOKS in failed(data)) == (off > allowed)


def test_attention_of_an_older_run_says_that_none_was_read_again(looked):
    described = [replace(pair, verified=()) for pair in pairs_of(looked)]
    shares = {name: looked[name].values for name in ("attention", "strongest")}
    data = attention_dataset(run_of(looked), list(looked["pair"].values), described, shares)
    assert {check.name: check.status for check in check_run(data)}[LOOKS] == "not made"
