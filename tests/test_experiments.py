"""The experiments through Lightning's own trainer, on a random model, against the twin."""

import json
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import QUESTIONS, SIBLINGS
from twin import TwinPair, from_run, whole_run

from codi_patching.data.datamodule import PairBatch
from codi_patching.data.independence import words_of
from codi_patching.data.pairs import Question
from codi_patching.errors import InputError
from codi_patching.experiments import base as experiments_base
from codi_patching.experiments.attention import AttentionExperiment
from codi_patching.experiments.head import HeadPatching
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.knockout import KnockoutExperiment
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.lens import LensExperiment
from codi_patching.experiments.position import PositionPatching
from codi_patching.measuring import engine_choice, measurement, preparation
from codi_patching.measuring.measurement import Measurement, check_finite
from codi_patching.measuring.patch_grid import PatchGrid, single_cells, zero_activations
from codi_patching.measuring.preparation import PairRequests, Preparation
from codi_patching.measuring.prompts import Prompts
from codi_patching.measuring.sources import mean_activations
from codi_patching.measuring.verification import draw_cells
from codi_patching.metrics.table import METRICS
from codi_patching.models.answers import PairError
from codi_patching.models.families import sweep_unsupported_reason
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import EXTRA_SITES, Activations, Patch
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.patching.sweep.run import SweepEngine
from codi_patching.results.description import ResultsError
from codi_patching.results.records import ExcludedPair

THOUGHT = -1
CELLS = [[(layer, position)] for layer in range(3) for position in range(3)]
LAYERS = [[(layer, position) for position in range(3)] for layer in range(3)]
DOUBLE = "64-true"


@pytest.fixture
def twin(checkpoint):
    """The twin of a pair, by its number, in float64."""
    model = load_checkpoint(checkpoint)[0].double()

    def twin(index, direction="denoising"):
        clean, a, corrupted, b = QUESTIONS[index]
        return TwinPair(model, (clean, a), (corrupted, b), direction)

    return twin


def control_of(twin, results, index):
    """The unpatched run of the question that the results name as a pair's control."""
    return twin.unpatched(results.pairs[index].control.question)


def assert_cells(values, index, twin, cells, run, latents="recomputed"):
    """A pair's values in results are the twin's, with the activations of a run."""
    for number, cell in enumerate(cells):
        expected = twin.metrics(twin.patched(from_run(run, cell), latents)[2])
        assert values.keys() == expected.keys()
        for metric, value in expected.items():
            ours = values[metric][index].ravel()[number]
            assert ours == pytest.approx(value, rel=1e-6, abs=1e-8), (metric, cell)


def assert_metrics(ours, expected):
    assert ours.keys() == expected.keys()
    for metric, value in expected.items():
        assert ours[metric] == pytest.approx(value, rel=1e-6, abs=1e-8), metric


# -- every number against the twin --------------------------------------------------------------


@pytest.mark.parametrize(
    ("latents", "direction", "engine"),
    [
        ("frozen", "denoising", "sweep"),
        ("frozen", "noising", "sweep"),
        ("recomputed", "denoising", "sweep"),
        ("recomputed", "noising", "sweep"),
        ("recomputed", "noising", "reference"),
    ],
)
def test_position_patching_equals_the_twin(checkpoint, predict, twin, latents, direction, engine):
    """Own, control, ceilings and unpatched runs."""
    experiment = PositionPatching(
        checkpoint=checkpoint, latents=latents, direction=direction, engine=engine
    )
    results = predict(experiment, precision=DOUBLE)
    assert results.values["kl_divergence"].shape == (3, 3, 3)
    for index in (0, 1) if engine == "sweep" else (2,):
        pair = twin(index, direction)
        control = control_of(pair, results, index)
        assert_cells(results.values, index, pair, CELLS, pair.source, latents)
        assert_cells(results.control, index, pair, CELLS, control, latents)
        described = results.pairs[index]
        assert_metrics(described.base, pair.metrics(pair.base[2]))
        assert_metrics(described.source, pair.metrics(pair.source[2]))
        assert_metrics(described.ceiling, pair.metrics(pair.patched(whole_run(pair.source))[2]))
        assert_metrics(described.ceiling_control, pair.metrics(pair.patched(whole_run(control))[2]))


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_layer_patching_equals_the_twin(checkpoint, predict, twin, latents):
    results = predict(LayerPatching(checkpoint=checkpoint, latents=latents), precision=DOUBLE)
    assert results.values["recovery"].shape == (3, 3, 1)
    pair = twin(1)
    control = control_of(pair, results, 1)
    assert_cells(results.values, 1, pair, LAYERS, pair.source, latents)
    assert_cells(results.control, 1, pair, LAYERS, control, latents)
    assert_metrics(results.pairs[1].ceiling, pair.metrics(pair.patched(whole_run(pair.source))[2]))


def test_the_ceiling_is_more_than_all_positions_of_any_one_layer(checkpoint, predict, twin):
    """The mutants that it must not be: the thoughts alone, or the resid alone."""
    results = predict(LayerPatching(checkpoint=checkpoint), precision=DOUBLE)
    pair = twin(0)
    ours = results.pairs[0].ceiling["kl_divergence"]
    thoughts_alone = {(THOUGHT, p): pair.source[0][p] for p in range(3)}
    without_thoughts = from_run(pair.source, [(layer, p) for layer in (0, 1, 2) for p in range(3)])
    without_last = from_run(pair.source, [(layer, p) for layer in (-1, 0) for p in range(3)])
    for mutant in (thoughts_alone, without_thoughts, without_last):
        other = pair.metrics(pair.patched(mutant, "frozen")[2])["kl_divergence"]
        assert abs(ours - other) > 1e-4


def test_the_thought_row_comes_first_and_patches_the_thought_itself(checkpoint, predict, twin):
    experiment = PositionPatching(checkpoint=checkpoint, include_thought=True)
    results = predict(experiment, precision=DOUBLE, max_pairs=1)
    assert results.run.grid.layers == ("thought", "0", "1", "2")
    pair = twin(0)
    cells = [[(THOUGHT, position)] for position in range(3)] + CELLS
    assert_cells(results.values, 0, pair, cells, pair.source)
    assert_cells(results.control, 0, pair, cells, control_of(pair, results, 0))
    layers = predict(LayerPatching(checkpoint=checkpoint, include_thought=True), max_pairs=1)
    assert layers.values["kl_divergence"][0, 0, 0] > 1e-3


def test_noising_is_denoising_of_the_pair_the_other_way_round(checkpoint, predict, tmp_path):
    """What is named by clean and corrupted changes places; what is named by roles stays."""
    records = json.loads((tmp_path / "pairs.json").read_text())
    for record in records:
        record["clean"], record["corrupted"] = record["corrupted"], record["clean"]
    (tmp_path / "swapped.json").write_text(json.dumps(records))
    noising = predict(PositionPatching(checkpoint=checkpoint, direction="noising", control="none"))
    swapped = predict(
        PositionPatching(checkpoint=checkpoint, control="none"),
        pairs=str(tmp_path / "swapped.json"),
    )
    assert (noising.control, swapped.control) == ({}, {})
    same = ("kl_divergence", "l2_difference", "prediction_change_rate", "kl_to_source", "recovery")
    for metric in same:
        np.testing.assert_array_equal(noising.values[metric], swapped.values[metric])
    for clean, corrupted in (
        ("predicts_clean", "predicts_corrupted"),
        ("clean_probability", "corrupted_probability"),
    ):
        np.testing.assert_array_equal(noising.values[clean], swapped.values[corrupted])
        np.testing.assert_array_equal(noising.values[corrupted], swapped.values[clean])
    difference = "answer_logit_difference"
    np.testing.assert_array_equal(noising.values[difference], -swapped.values[difference])


def test_base_and_source_runs_are_what_they_must_be(checkpoint, predict):
    for direction in ("denoising", "noising"):
        results = predict(PositionPatching(checkpoint=checkpoint, direction=direction))
        for pair in results.pairs:
            assert (pair.base["kl_divergence"], pair.base["recovery"]) == (0, 0)
            assert (pair.source["kl_to_source"], pair.source["recovery"]) == (0, 1)
            own = (pair.base_question, pair.base_answer)
            clean, a, corrupted, b = next(q for q in QUESTIONS if pair.base_question in q)
            assert own == ((corrupted, str(b)) if direction == "denoising" else (clean, str(a)))


# -- defaults, grids, options -------------------------------------------------------------------


def test_defaults_are_frozen_for_layers_and_recomputed_for_positions():
    assert LayerPatching().latents == "frozen"
    assert PositionPatching().latents == "recomputed"
    assert PositionPatching().control == "sibling"
    assert PositionPatching(source="zero").control == "none"


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("latents", "thawed", "frozen, recomputed"),
        ("direction", "up", "denoising, noising"),
        ("source", "dirty", "clean, zero, mean, random_pair"),
        ("control", "stranger", "sibling, random_pair, none"),
        ("engine", "steam", "sweep, reference"),
    ],
)
def test_a_value_that_is_none_of_the_choices_is_refused(option, value, choices):
    with pytest.raises(InputError) as raised:
        PositionPatching(**{option: value})
    message = f"expected {option} to be one of {choices}, got {value!r}: set "
    assert str(raised.value) == f"{message}{option}"
    assert raised.value.naming("--{}".format) == f"{message}--model.{option}"


@pytest.mark.parametrize(
    ("option", "least"), [("max_rows", 1), ("self_patch_pairs", 0), ("verify_pairs", 0)]
)
def test_numbers_that_are_too_small_are_refused(option, least):
    message = rf"expected {option} of at least {least}, got {least - 1}: set {option}"
    with pytest.raises(InputError, match=message):
        PositionPatching(**{option: least - 1})


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "transformer-engine"])
def test_mixed_precision_is_refused(attached, checkpoint, monkeypatch, precision):
    experiment = PositionPatching(checkpoint=checkpoint)
    trainer = SimpleNamespace(precision=precision)
    monkeypatch.setattr(PositionPatching, "trainer", trainer)
    message = (
        r"expected a precision of 32-true, 64-true, bf16-true, 16-true, got "
        rf"'{precision}': autocast rounds .*, set precision"
    )
    with pytest.raises(InputError, match=message):
        experiment.configure_model()


def test_mixed_precision_is_refused_by_a_run(checkpoint, predict):
    with pytest.raises(InputError, match=r"a precision of .* got 'bf16-mixed'"):
        predict(PositionPatching(checkpoint=checkpoint), precision="bf16-mixed")


def test_rows_a_batch_do_not_matter(checkpoint, predict):
    whole = predict(PositionPatching(checkpoint=checkpoint), max_pairs=1)
    single = predict(PositionPatching(checkpoint=checkpoint, max_rows=1), max_pairs=1)
    for metric, values in whole.values.items():
        np.testing.assert_allclose(single.values[metric], values, rtol=1e-4, atol=2e-4)
        control = whole.control[metric]
        np.testing.assert_allclose(single.control[metric], control, rtol=1e-4, atol=2e-4)


def test_unpatched_runs_are_the_same_in_every_experiment(checkpoint, predict):
    first = predict(PositionPatching(checkpoint=checkpoint)).pairs
    second = predict(LayerPatching(checkpoint=checkpoint)).pairs
    for one, other in zip(first, second, strict=True):
        assert (one.base, one.source, one.control) == (other.base, other.source, other.control)
        assert one.ceiling == pytest.approx(other.ceiling, rel=1e-3, abs=1e-4)


# -- sources ------------------------------------------------------------------------------------


def test_the_zero_source(checkpoint, predict, twin):
    experiment = PositionPatching(checkpoint=checkpoint, source="zero")
    results = predict(experiment, precision=DOUBLE, max_pairs=1)
    pair = twin(0)
    zero = torch.zeros(3, 32).double(), torch.zeros(3, 3, 32).double(), []
    assert_cells(results.values, 0, pair, CELLS, zero)
    assert results.control == {}
    assert_metrics(results.pairs[0].ceiling, pair.metrics(pair.patched(whole_run(pair.source))[2]))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_mean_source_is_over_the_source_runs(checkpoint, predict, twin, direction):
    experiment = PositionPatching(checkpoint=checkpoint, source="mean", direction=direction)
    results = predict(experiment, precision=DOUBLE)
    runs = [twin(index, direction).source for index in range(3)]
    mean = sum(run[0] for run in runs) / 3, sum(run[1] for run in runs) / 3, []
    assert_cells(results.values, 1, twin(1, direction), CELLS, mean)


def test_the_mean_does_not_depend_on_max_pairs(checkpoint, predict):
    first, whole = (
        predict(PositionPatching(checkpoint=checkpoint, source="mean"), **data)
        for data in ({"max_pairs": 1}, {})
    )
    for metric, values in first.values.items():
        np.testing.assert_allclose(values[0], whole.values[metric][0], rtol=1e-4, atol=2e-4)
    assert first.run.num_pairs == 1
    assert first.run.mean_runs == whole.run.mean_runs == 3


def test_the_mean_counts_the_pairs_that_can_be_run(checkpoint, predict, tmp_path):
    """A clean question longer than the context is not in it; a corrupted one has no say."""
    long = "Tom has 4 pears . " * 250 + "He eats 3 ."
    asked = [*QUESTIONS[:2], (long, 1, "Tom has 5 pears.", 2), ("Tom has 6 pears.", 6, long, 1)]
    records = [
        {
            "pair_id": f"p{index}",
            "clean": {"question": clean, "answer": a},
            "corrupted": {"question": corrupted, "answer": b},
        }
        for index, (clean, a, corrupted, b) in enumerate(asked)
    ]
    path = tmp_path / "with_long.json"
    path.write_text(json.dumps(records))
    with pytest.warns(UserWarning, match="left out"):
        results = predict(PositionPatching(checkpoint=checkpoint, source="mean"), pairs=str(path))
    assert results.run.num_pairs == 2
    assert results.run.mean_runs == 3


def test_the_mean_of_a_thousand_bf16_runs_is_that_of_float64():
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 8), (3, 2, 8)
    runs = [
        Activations(*(torch.randn(shape, generator=generator).bfloat16() + 3 for shape in shapes))
        for _ in range(1000)
    ]
    mean = mean_activations(iter(runs))
    for part in ("thoughts", "resid"):
        exact = torch.stack([getattr(run, part).double() for run in runs]).mean(0)
        assert getattr(mean, part).dtype == torch.bfloat16
        assert torch.equal(getattr(mean, part), exact.bfloat16())
        in_bf16 = sum(getattr(run, part) for run in runs) / 1000
        assert (in_bf16.double() / exact - 1).abs().max() > 0.02  # what must not happen


def test_the_mean_is_not_rounded_where_the_model_is_float32():
    ones = [Activations(torch.full((1, 1), x), torch.full((1, 1, 1), x)) for x in (1e8, 1.0, -1e8)]
    mean = mean_activations(ones)
    assert mean.resid.item() == pytest.approx(1 / 3)
    with pytest.raises(InputError, match=r"no pair can be run, to take the mean of"):
        mean_activations([])


def test_the_random_pair_source_is_another_pairs(checkpoint, predict, twin):
    results = predict(
        PositionPatching(checkpoint=checkpoint, source="random_pair"), precision=DOUBLE
    )
    donors = [pair.source_pair for pair in results.pairs]
    assert sorted(donors) == ["p0", "p1", "p2"]
    assert all(donor != own for donor, own in zip(donors, results.pair_ids, strict=True))
    for index, donor in enumerate(donors):
        pair = twin(index)
        run = pair.unpatched(QUESTIONS[int(donor[1])][0])
        assert_cells(results.values, index, pair, CELLS, run)


def test_a_random_pair_needs_another(checkpoint, predict, tmp_path):
    records = json.loads((tmp_path / "pairs.json").read_text())
    (tmp_path / "one.json").write_text(json.dumps(records[:1]))
    experiment = PositionPatching(checkpoint=checkpoint, source="random_pair")
    with (
        pytest.warns(UserWarning, match="pair p0 left out: no other pair"),
        pytest.raises(ResultsError, match="no pair could be run; p0 was left out because no other"),
    ):
        predict(experiment, pairs=str(tmp_path / "one.json"))


def test_the_random_pair_is_drawn_before_max_pairs(checkpoint, predict):
    for options in ({"source": "random_pair"}, {"control": "random_pair"}):
        results = predict(PositionPatching(checkpoint=checkpoint, **options), max_pairs=1)
        (pair,) = results.pairs
        donor = pair.source_pair or pair.control.pair_id
        assert donor in ("p1", "p2")
        whole = predict(PositionPatching(checkpoint=checkpoint, **options))
        assert (whole.pairs[0].source_pair, whole.pairs[0].control) == (
            pair.source_pair,
            pair.control,
        )


# -- the control in a run -----------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_control_is_the_sibling_where_there_is_one(checkpoint, predict, direction):
    results = predict(PositionPatching(checkpoint=checkpoint, direction=direction))
    first, *others = (pair.control for pair in results.pairs)
    text, answer = SIBLINGS["p0"]
    assert (first.kind, first.question, first.answer, first.pair_id) == (
        *("sibling", text, str(answer), "p0"),
    )
    for own, control in zip(results.pair_ids[1:], others, strict=True):
        assert control.kind == "random_pair"
        assert control.pair_id != own
        clean, a, corrupted, b = QUESTIONS[int(control.pair_id[1])]
        source = (clean, str(a)) if direction == "denoising" else (corrupted, str(b))
        assert (control.question, control.answer) == source


def test_the_control_can_be_a_random_pair_everywhere_or_none(checkpoint, predict):
    paired = predict(PositionPatching(checkpoint=checkpoint, control="random_pair"))
    assert {pair.control.kind for pair in paired.pairs} == {"random_pair"}
    assert sorted(pair.control.pair_id for pair in paired.pairs) == ["p0", "p1", "p2"]
    none = predict(PositionPatching(checkpoint=checkpoint, control="none"))
    assert none.control == {}
    assert [(pair.control, pair.ceiling_control) for pair in none.pairs] == [(None, {})] * 3
    for metric, values in none.values.items():
        np.testing.assert_allclose(values, paired.values[metric], rtol=1e-4, atol=1e-5)


def test_a_pair_without_a_partner_has_no_control_and_the_others_have(checkpoint, predict, tmp_path):
    """p1 has an answer of both others: it neither gives nor takes; p2 has a sibling."""
    records = json.loads((tmp_path / "pairs.json").read_text())[:3]
    records[1]["clean"]["answer"], records[1]["corrupted"]["answer"] = 13, 4
    (tmp_path / "some.json").write_text(json.dumps(records))
    results = predict(PositionPatching(checkpoint=checkpoint), pairs=str(tmp_path / "some.json"))
    kinds = [pair.control and pair.control.kind for pair in results.pairs]
    assert kinds == ["sibling", None, "random_pair"]
    assert results.pairs[1].ceiling_control == {}
    kl = results.control["kl_divergence"]
    assert np.isnan(kl[1]).all()
    assert not np.isnan(kl[[0, 2]]).any()
    content = json.loads((predict.folder / "position_patching_results.json").read_text())
    assert "control" not in content["results"]["p1"]["0"]["0"]
    assert content["results"]["p2"]["0"]["0"]["control"]["kl_divergence"] == kl[2, 0, 0]


def test_the_mean_maps_are_of_own_and_control(checkpoint, predict):
    experiment = PositionPatching(checkpoint=checkpoint)
    results = predict(experiment)
    maps = experiment.metrics.compute()
    for metric, values in results.values.items():
        np.testing.assert_allclose(maps[metric][0].numpy(), values.mean(0), rtol=1e-12)
        control = results.control[metric].mean(0)
        np.testing.assert_allclose(maps[metric][1].numpy(), control, rtol=1e-12)


# -- pairs that cannot run ----------------------------------------------------------------------


def test_a_pair_that_cannot_run_is_named_and_the_others_go_on(checkpoint, predict, tmp_path):
    records = json.loads((tmp_path / "pairs.json").read_text())
    records[1]["clean"]["question"] = "Tom has 9 pears. " * 300
    (tmp_path / "long.json").write_text(json.dumps(records))
    with pytest.warns(UserWarning, match="pair p1 left out: expected at most 1024 tokens"):
        results = predict(
            PositionPatching(checkpoint=checkpoint), pairs=str(tmp_path / "long.json")
        )
    assert results.pair_ids == ("p0", "p2")
    assert results.run.num_pairs == 2
    assert "1024 tokens" in results.run.excluded["p1"]


@pytest.mark.parametrize(
    "options",
    [{"source": "mean"}, {"source": "random_pair"}, {"control": "random_pair"}],
    ids=lambda options: "-".join(options.values()),
)
def test_a_pair_that_cannot_run_gives_nothing_to_the_others(checkpoint, predict, tmp_path, options):
    records = json.loads((tmp_path / "pairs.json").read_text())
    (tmp_path / "short.json").write_text(json.dumps([records[0], records[2]]))
    records[1]["clean"]["question"] = "Tom has 9 pears. " * 300
    (tmp_path / "long.json").write_text(json.dumps(records))
    experiment = {"checkpoint": checkpoint, **options}
    with pytest.warns(UserWarning, match="pair p1 left out"):
        found = predict(PositionPatching(**experiment), pairs=str(tmp_path / "long.json"))
    expected = predict(PositionPatching(**experiment), pairs=str(tmp_path / "short.json"))
    for ours, theirs in ((found.values, expected.values), (found.control, expected.control)):
        for metric, values in ours.items():
            np.testing.assert_array_equal(values, theirs[metric])


def test_an_answer_with_an_unknown_word_excludes_the_pair_by_name(checkpoint, predict, tmp_path):
    """The vocabulary has the numbers to 20: 143 would be spelled out."""
    records = json.loads((tmp_path / "pairs.json").read_text())
    records[1]["clean"]["answer"] = 143
    (tmp_path / "odd.json").write_text(json.dumps(records))
    with pytest.warns(UserWarning, match="pair p1 left out: the answer 143 has 143, which the tok"):
        results = predict(PositionPatching(checkpoint=checkpoint), pairs=str(tmp_path / "odd.json"))
    assert results.run.excluded == {
        "p1": "the answer 143 has 143, which the tokenizer does not know"
    }


def test_unknown_words_of_a_question_are_named_with_the_pair(checkpoint, predict, tmp_path):
    records = json.loads((tmp_path / "pairs.json").read_text())
    for side in ("clean", "corrupted"):
        text = records[1][side]["question"].replace("pears", "foxes")
        records[1][side]["question"] = f"Zoë and {text}"
    (tmp_path / "foxes.json").write_text(json.dumps(records))
    results = predict(PositionPatching(checkpoint=checkpoint), pairs=str(tmp_path / "foxes.json"))
    assert [pair.unknown_words for pair in results.pairs] == [(), ("Zoë", "and", "foxes"), ()]


@pytest.mark.filterwarnings("ignore:pair p")
def test_a_control_that_is_not_finite_leaves_the_whole_pair_out(checkpoint, predict, monkeypatch):
    """Out of the mean maps too, which `ResultsWriter` holds against the results."""
    own = Preparation.start

    def start(self, pair, asked, runs):
        found = own(self, pair, asked, runs)
        if pair.pair_id != "p1":
            return found
        return replace(found, control_activations=found.control_activations.map(torch.log))

    monkeypatch.setattr(Preparation, "start", start)
    results = predict(PositionPatching(checkpoint=checkpoint), batch_size=8)
    assert results.pair_ids == ("p0", "p2")
    assert results.run.excluded["p1"].startswith("logits are not finite at control, layer 0")


def test_logits_that_are_not_finite_exclude_the_pair_with_its_cell(attached, checkpoint, pair):
    experiment = attached(PositionPatching(checkpoint=checkpoint, source="zero"))
    experiment.measurement.preparation._source_activations = lambda source: Activations(
        torch.full((3, 32), torch.nan), torch.full((3, 3, 32), torch.nan)
    )
    (result,) = experiment.predict_step(PairBatch(0, [pair]), 0)
    assert isinstance(result, ExcludedPair)
    assert result.reason.startswith("logits are not finite at layer 0, position 0, ")


def test_a_prompt_beyond_the_attention_window_is_left_out_by_the_sweep(attached, checkpoint, pair):
    experiment = attached(PositionPatching(checkpoint=checkpoint))
    config = experiment.model.backbone.config
    config.model_type, config.sliding_window = "mistral", 12
    (result,) = experiment.predict_step(PairBatch(0, [pair]), 0)
    assert "at most 12 tokens" in result.reason
    assert "got 19" in result.reason  # bos, 9, bot, 3 thoughts, eot, 4
    assert result.reason.endswith("attention window, which the reference engine alone can pass")


def test_a_prompt_beyond_the_attention_window_is_left_out_by_the_lens(attached, checkpoint, pair):
    experiment = attached(LensExperiment(checkpoint=checkpoint))
    config = experiment.model.backbone.config
    config.model_type, config.sliding_window = "mistral", 12
    pair = replace(pair, clean=replace(pair.clean, reasoning_steps=("<<1+1=2>>",)))
    (result,) = experiment.predict_step(PairBatch(0, [pair]), 0)
    assert "at most 12 tokens" in result.reason
    assert "got 14" in result.reason  # bos, 9, bot, 3


# -- checks that run with it, progress, engines -------------------------------------------------


class Shifted(PositionPatching):
    """Patches each cell with the activation of the next position."""

    def patch_sets(self, activations):
        return [
            [Patch(p.site, activations.at(p.site.layer, (p.site.position + 1) % 3))]
            for (p,) in super().patch_sets(activations)
        ]


def test_the_first_pairs_are_patched_with_their_own_activations(checkpoint, predict):
    results = predict(PositionPatching(checkpoint=checkpoint, self_patch_pairs=2), batch_size=1)
    first, second, third = (pair.self_patch for pair in results.pairs)
    assert max(first, second) < 1e-9
    assert third is None
    broken = predict(Shifted(checkpoint=checkpoint), max_pairs=1)
    assert broken.pairs[0].self_patch > 1e-2


def test_the_self_patch_is_told_by_its_largest_change_up_or_down(
    attached, checkpoint, pair, monkeypatch
):
    moved = SimpleNamespace(compute_kl_divergence=lambda *_: torch.tensor([0.25, -0.5, 0.125]))
    monkeypatch.setattr(measurement, "F", moved)
    experiment = attached(LayerPatching(checkpoint=checkpoint, control="none"))
    (record,) = experiment.predict_step(PairBatch(0, [pair]), 0)
    assert record.description.self_patch == 0.5


@pytest.mark.parametrize(
    ("source", "donor", "given"),
    [
        ("clean", None, {"own": "the source", "control": "the control"}),
        ("random_pair", "another", {"own": "another", "control": "the control"}),
        ("zero", None, {"own": "activations", "control": "the control"}),
        ("mean", None, {"own": "activations", "control": "the control"}),
    ],
)
def test_what_is_patched_in_again_is_what_was_patched_in(source, donor, given):
    requests = PairRequests("the base", "the source", donor, "the control")
    start = SimpleNamespace(
        requests=requests, source_activations="activations", direction="noising"
    )
    preparation = SimpleNamespace(source=source)
    cells = Measurement(model=None, preparation=preparation, cells=None)
    again = cells._verified_pair(start, [(0, 0)])
    assert (again.base, again.source, again.given) == ("the base", "the source", given)
    assert not again.clean_is_source


@pytest.mark.parametrize(
    "experiment",
    [
        partial(PositionPatching, site="mlp_out"),
        partial(PositionPatching, source="mean"),
        partial(PositionPatching, source="random_pair"),
        partial(LayerPatching, direction="noising", site="kv"),
        IterativePatching,
    ],
)
def test_the_first_pairs_are_run_again_by_the_reference_engine(checkpoint, predict, experiment):
    results = predict(experiment(checkpoint=checkpoint, verify_pairs=2), precision=DOUBLE)
    arms = ("own", "control") if results.control else ("own",)
    assert [bool(pair.verified) for pair in results.pairs] == [True, True, False]
    cells = 0
    for index, pair in enumerate(results.pairs[:2]):
        found = {run.arm: run.metrics for run in pair.verified if run.layer is None}
        ceilings = {"ceiling", "ceiling_control"} if results.control else {"ceiling"}
        assert set(found) == {"base", "source"} | ceilings
        for name, metrics in found.items():
            ours = getattr(pair, name)
            for metric, value in metrics.items():
                assert ours[metric] == pytest.approx(value, rel=1e-6, abs=1e-8), (name, metric)
        for run in pair.verified:
            if run.layer is None:
                continue
            assert run.arm in arms
            values = results.data.sel(layer=run.layer, column=run.column, arm=run.arm)
            for metric, value in run.metrics.items():
                ours = float(values[metric][index])
                assert ours == pytest.approx(value, rel=1e-6, abs=1e-8), (run, metric)
            cells += 1
    assert cells >= 4 * len(arms)


def test_no_pair_is_run_again_where_none_is_asked_for(checkpoint, predict):
    results = predict(PositionPatching(checkpoint=checkpoint, verify_pairs=0), max_pairs=1)
    assert results.pairs[0].verified == ()


def test_what_the_file_says_of_pairs_is_kept(checkpoint, predict, tmp_path):
    records = json.loads((tmp_path / "pairs.json").read_text())
    for side, has, left in (("clean", 16, 10), ("corrupted", 18, 12)):
        records[0][side] = {
            "question": f"Tom has {has} pears. He eats 3. He eats 3 more.",
            "answer": left,
            "reasoning_steps": ["<<3+3=6>>", f"<<{has}-6={left}>>"],
        }
    records[0] |= {"group": "g", "template": "eats twice"}
    (tmp_path / "steps.json").write_text(json.dumps(records))
    first, second, _ = predict(
        PositionPatching(checkpoint=checkpoint), pairs=str(tmp_path / "steps.json")
    ).pairs
    assert (first.num_steps, first.changed_step, first.changed_path) == (2, 2, (2,))
    assert (first.group, first.fields) == ("g", {"template": "eats twice"})
    assert (second.num_steps, second.changed_step, second.changed_path) == (None, None, ())
    assert (second.group, second.fields) == ("p1", {})


def test_patched_runs_are_followed_by_name(attached, checkpoint):
    experiment = attached(PositionPatching(checkpoint=checkpoint, max_rows=1), max_pairs=1)
    seen = []
    experiment.on_runs_done = lambda *told: seen.append(told)
    (batch,) = experiment.datamodule.batches
    experiment.predict_step(batch, 0)
    assert experiment.runs_of_a_pair == 20
    assert [(pair_id, done, total) for pair_id, done, total, _ in seen] == [
        ("p0", i + 1, 20) for i in range(20)
    ]
    names = [cell for *_, cell in seen]
    assert names[0] == "layer 0, position 0"
    assert names[7] == "layer 2, position 1 (makes thought 2)"
    assert names[8] == "layer 2, position 2"
    assert names[9] == "all thoughts at all layers"
    assert names[10] == "control, layer 0, position 0"
    assert names[19] == "control, all thoughts at all layers"


def test_a_model_that_cannot_be_swept_says_so_and_takes_the_reference(
    attached, checkpoint, monkeypatch
):
    config = SimpleNamespace(rope_parameters={"rope_type": "dynamic"})
    reason = sweep_unsupported_reason(SimpleNamespace(config=config))
    assert reason == "its rotary positions (dynamic) depend on the length of the sequence"
    monkeypatch.setattr(engine_choice, "sweep_unsupported_reason", lambda _: reason)
    with pytest.warns(UserWarning, match="reference engine is used in place of the sweep: its rot"):
        experiment = attached(PositionPatching(checkpoint=checkpoint))
    assert isinstance(experiment.engine, ReferenceEngine)
    asked = attached(PositionPatching(checkpoint=checkpoint, engine="reference"))
    assert isinstance(asked.engine, ReferenceEngine)


@pytest.mark.parametrize("kind", [PositionPatching, IterativePatching])
def test_other_company_changes_pairs_by_rounding_alone(kind, checkpoint, predict):
    alone, together = (
        predict(kind(checkpoint=checkpoint), precision="64-true", batch_size=size)
        for size in (1, 8)
    )
    assert len(alone.pair_ids) > 1
    for kind_of in ("values", "control"):
        for name, values in getattr(alone, kind_of).items():
            np.testing.assert_allclose(
                values, getattr(together, kind_of)[name], rtol=0, atol=1e-9, err_msg=name
            )


LEAST = [
    (PositionPatching, "seed", 0),
    (PositionPatching, "max_rows", 1),
    (PositionPatching, "self_patch_pairs", 0),
    (PositionPatching, "verify_pairs", 0),
    (KnockoutExperiment, "window", 1),
    (KnockoutExperiment, "max_rows", 1),
    (KnockoutExperiment, "verify_pairs", 0),
    (LensExperiment, "top", 1),
]


@pytest.mark.parametrize(("experiment", "option", "least"), LEAST)
def test_the_least_of_an_option_is_taken_and_one_less_is_not(experiment, option, least):
    assert experiment(**{option: least}).hparams[option] == least
    with pytest.raises(InputError, match=f"expected {option} of at least {least}, got {least - 1}"):
        experiment(**{option: least - 1})


@pytest.mark.parametrize("experiment", [AttentionExperiment, KnockoutExperiment, LensExperiment])
def test_a_description_of_what_patches_nothing(attached, checkpoint, pairs_file, experiment):
    module = attached(experiment(checkpoint=checkpoint, seed=3), max_pairs=2)
    module.hparams["_instantiator"] = "a parser's own"
    run = module.describe()
    assert (run.data, run.source) == (str(pairs_file), "clean")
    assert run.config["data"] == {"pairs": str(pairs_file), "max_pairs": 2, "batch_size": None}
    made = run.config["model"]
    assert made["class_path"] == f"{experiment.__module__}.{experiment.__name__}"
    assert made["init_args"]["seed"] == 3
    assert not any(name.startswith("_") for name in made["init_args"])


def test_shipped_pairs_have_no_name_in_a_run(attached, checkpoint):
    assert (
        attached(AttentionExperiment(checkpoint=checkpoint), pairs="codi-tiny").describe().data
        == ""
    )


def test_as_many_pairs_are_read_again_as_is_said(attached):
    module = attached(AttentionExperiment(checkpoint="codi-tiny"), pairs="codi-tiny")
    batch = module.pairs
    assert len(batch) == 57
    assert module.reader.verified == batch[:8]


GOLDEN = Path(__file__).parent / "golden"
BY_CONFIG = {
    "attention": AttentionExperiment,
    "head": HeadPatching,
    "iterative": IterativePatching,
    "knockout": KnockoutExperiment,
    "layer": LayerPatching,
    "lens": LensExperiment,
    "position": PositionPatching,
}


@pytest.mark.parametrize("config", BY_CONFIG)
def test_in_python_the_defaults_are_those_of_the_commands(config):
    known = yaml.safe_load((GOLDEN / f"{config}.yaml").read_text())
    expected = known["model"]["init_args"] | {"seed": known["seed_everything"]}
    found = dict(BY_CONFIG[config]().hparams)
    assert {name: found.get(name) for name in expected} == expected


# -- one step by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "checked"), [(1, [0]), (5, [])])
def test_the_first_pairs_of_a_run_are_patched_with_their_own(attached, checkpoint, first, checked):
    """Not those of a batch: of three pairs from the sixth on none is."""
    options = {"self_patch_pairs": 2, "verify_pairs": 2, "control": "none"}
    experiment = attached(LayerPatching(checkpoint=checkpoint, **options))
    records = experiment.predict_step(PairBatch(first, experiment.pairs), 0)
    described = [record.description for record in records]
    assert [i for i, own in enumerate(described) if own.self_patch is not None] == checked
    assert [i for i, own in enumerate(described) if own.verified] == checked


def test_the_first_pairs_of_a_run_are_cut_again(attached, checkpoint):
    experiment = attached(KnockoutExperiment(checkpoint=checkpoint, window=3, verify_pairs=2))
    records = experiment.predict_step(PairBatch(1, experiment.pairs), 0)
    assert [bool(record.description.verified) for record in records] == [True, False, False]


def test_of_few_pairs_every_cell_is_run_again(attached, checkpoint):
    """As many pairs are counted as there are, where more could be run again."""
    for experiment in (
        PositionPatching(checkpoint=checkpoint, control="none", self_patch_pairs=0),
        KnockoutExperiment(checkpoint=checkpoint, window=3),
    ):
        module = attached(experiment)
        (batch,) = module.datamodule.batches
        again = [run for r in module.predict_step(batch, 0) for run in r.description.verified]
        cells = {(run.layer, run.column) for run in again if run.arm == "own"}
        assert len(cells) == module.grid.size


def test_the_seed_of_a_run_is_that_of_all_that_it_draws(attached, checkpoint, monkeypatch):
    given = {"checkpoint": checkpoint, "seed": 3}
    monkeypatch.setattr(preparation, "match_pairs", lambda pairs, lengths, seed: seed)
    assert attached(PositionPatching(**given)).measurement.preparation.partners == 3
    assert attached(KnockoutExperiment(**given)).knockout.seed == 3
    for kind in (LensExperiment, AttentionExperiment):
        assert attached(kind(**given)).reader.seed == 3


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PositionPatching, {"control": "none", "self_patch_pairs": 0}),
        (KnockoutExperiment, {"window": 3}),
    ],
)
def test_cells_that_are_run_again_are_drawn_by_the_seed(attached, checkpoint, kind, options, seed):
    module = attached(kind(checkpoint=checkpoint, seed=seed, verify_pairs=2, **options))
    (record,) = module.predict_step(PairBatch(1, module.pairs[1:2]), 0)
    again = [run for run in record.description.verified if run.arm == "own"]
    grid, drawn = module.grid, draw_cells(module.grid.shape, 1, 2, seed)
    assert [
        (grid.layers.index(run.layer), grid.columns.index(run.column)) for run in again
    ] == drawn
    assert drawn != draw_cells(module.grid.shape, 1, 2, 7 - seed)


def test_a_run_without_a_control_has_half_of_the_runs(attached, checkpoint):
    experiment = attached(LayerPatching(checkpoint=checkpoint, control="none", max_rows=1))
    seen = []
    experiment.on_runs_done = lambda *told: seen.append(told)
    experiment.predict_step(PairBatch(0, experiment.pairs[:1]), 0)
    assert experiment.runs_of_a_pair == 4
    assert [(done, total) for _, done, total, _ in seen] == [(i, 4) for i in range(1, 5)]
    assert [cell for *_, cell in seen][-1] == "all thoughts at all layers"


def test_what_was_measured_before_is_forgotten(attached, checkpoint):
    """Means begin anew, and partners are drawn of the pairs that are there then."""
    experiment = attached(LayerPatching(checkpoint=checkpoint, verify_pairs=0))
    first, second, _ = experiment.predict_step(PairBatch(0, experiment.pairs), 0)
    before = experiment.measurement
    experiment.forget()
    assert experiment.measurement is not before
    experiment.count([second])
    kl = experiment.metrics.compute()["kl_divergence"]
    np.testing.assert_allclose(kl[0].numpy(), second.values["kl_divergence"])
    np.testing.assert_allclose(kl[1].numpy(), second.control["kl_divergence"])
    experiment.count([replace(first, control={})])
    kl = experiment.metrics.compute()["kl_divergence"]
    both = (first.values["kl_divergence"] + second.values["kl_divergence"]) / 2
    np.testing.assert_allclose(kl[0].numpy(), both)
    np.testing.assert_allclose(kl[1].numpy(), second.control["kl_divergence"])


@pytest.mark.parametrize("kind", [LensExperiment, AttentionExperiment])
def test_a_reader_is_of_the_pairs_that_are_there(attached, checkpoint, kind):
    experiment = attached(kind(checkpoint=checkpoint))
    before = experiment.reader
    assert experiment.reader is before
    experiment.forget()
    assert experiment.reader is not before


@pytest.mark.parametrize("kind", [PositionPatching, KnockoutExperiment])
@pytest.mark.parametrize(
    ("name", "engine"), [("sweep", SweepEngine), ("reference", ReferenceEngine)]
)
def test_the_engine_is_the_one_that_was_asked_for(attached, checkpoint, kind, name, engine):
    experiment = attached(kind(checkpoint=checkpoint, engine=name, max_rows=5))
    assert isinstance(experiment.engine, engine)
    assert experiment.engine.max_rows == 5


def test_a_question_is_what_the_model_reads_or_its_words(attached, checkpoint):
    experiment = attached(PositionPatching(checkpoint=checkpoint))
    assert experiment._read("Tom has 5 .") == experiment._read("Tom has 5.")
    assert experiment._read("Tom has 5.") == tuple(experiment.model.question_ids("Tom has 5."))
    assert experiment._read("Tom <bot> 5.") == words_of("Tom <bot> 5.")


@pytest.mark.parametrize("kind", [PositionPatching, LayerPatching])
def test_heads_have_an_experiment_of_their_own(kind):
    with pytest.raises(InputError, match="got 'head': heads have an experiment of their own"):
        kind(site="head")


def test_thoughts_themselves_have_no_places_beside_them():
    with pytest.raises(InputError, match="expected positions thoughts where thoughts themselves"):
        PositionPatching(positions="all", site="thought")
    assert PositionPatching(positions="thoughts", site="thought").positions == "thoughts"


def test_a_description_says_what_was_run(attached, checkpoint):
    experiment = attached(
        PositionPatching(checkpoint=checkpoint, source="mean", seed=3), max_pairs=2
    )
    run = experiment.describe()
    assert (run.model_type, run.num_latents, run.seed) == ("llama", 3, 3)
    assert (run.num_pairs, run.mean_runs) == (2, 3)
    assert (run.source, run.control, run.latents) == ("mean", "none", "recomputed")
    assert run.metrics == tuple(METRICS)
    assert run.filtered == tuple(experiment.datamodule.filtered) == ("p3",)
    assert set(run.versions) == {"torch", "transformers", "lightning", "torchmetrics"}
    assert run.versions == {package: version(package) for package in run.versions}
    assert run.checkpoint_sha256 == experiment.report.sha256
    assert run.checkpoint == asdict(experiment.report)
    assert run.data_sha256 == experiment.datamodule.sha256 != run.checkpoint_sha256
    assert list(run.config["model"]["init_args"]) == sorted(run.config["model"]["init_args"])
    assert run.config["seed_everything"] == 3
    assert (run.precision, run.grid) == ("32-true", experiment.grid)


def test_what_a_run_is_called_by_is_what_was_asked_for(attached, checkpoint):
    asked = {"direction": "noising", "latents": "frozen", "site": "kv", "positions": "all"}
    asked |= {"control": "random_pair"}
    run = attached(PositionPatching(checkpoint=checkpoint, **asked)).describe()
    assert {name: getattr(run, name) for name in asked} == asked
    assert (run.model, run.experiment, run.strategy) == (checkpoint, "position", None)
    run = attached(IterativePatching("cumulative", checkpoint=checkpoint)).describe()
    assert (run.experiment, run.strategy) == ("iterative", "cumulative")
    run = attached(HeadPatching("bot", checkpoint=checkpoint)).describe()
    assert (run.experiment, run.site, run.positions) == ("head", "head", "bot")
    reader = attached(AttentionExperiment(checkpoint=checkpoint))
    run = reader.describe()
    assert (run.readers, run.attended) == (reader.reader.readers, reader.reader.groups)
    assert attached(LensExperiment(top=2, checkpoint=checkpoint)).describe().top == 2


def test_what_was_loaded_is_said_once(attached, checkpoint, monkeypatch):
    said = []
    monkeypatch.setattr(experiments_base, "rank_zero_info", said.append)
    experiment = attached(LayerPatching(checkpoint=checkpoint))
    experiment.configure_model()
    assert said == [str(experiment.report)]


def test_a_description_of_a_pair_has_the_tokens_of_its_own_runs(attached, checkpoint, pair):
    """The corrupted question is a token longer, for `25` is two of them, and not a known word."""
    corrupted = Question("Tom has 25 pears. He eats 3.", 19)
    for direction, base in (("denoising", 12), ("noising", 11)):
        module = attached(LayerPatching(checkpoint=checkpoint, direction=direction))
        asked = replace(pair, corrupted=corrupted, fields={"kind": "eats"})
        beyond = replace(pair, pair_id="two", corrupted=replace(corrupted, answer=22.0))
        record, left_out = module.predict_step(PairBatch(0, [asked, beyond]), 0)
        said, tokens = record.description, module.model.tokenizer.convert_ids_to_tokens
        assert (said.base_tokens, said.source_tokens) == (base, 23 - base)
        answers = tokens(said.base_answer_tokens), tokens(said.source_answer_tokens)
        assert answers == ((["19"], ["13"]) if base == 12 else (["13"], ["19"]))
        assert (said.unknown_words, said.fields) == (("25",), {"kind": "eats"})
        assert left_out.reason == "the answer 22 has 22, which the tokenizer does not know"


def test_logits_of_one_pair_that_are_not_finite_leave_the_others_as_they_are(
    attached, checkpoint, monkeypatch
):
    """Its other runs are passed over, its neighbours' are their own."""
    experiment = attached(LayerPatching(checkpoint=checkpoint, verify_pairs=0))
    whole = experiment.predict_step(PairBatch(0, experiment.pairs), 0)
    own = type(experiment.engine).patched_each

    def broken(self, *args):
        for number, found in enumerate(own(self, *args)):
            if number == 3:  # the own runs of the second pair, after three of the first
                found.answer_logits[0][1] = float("nan")
            yield found

    monkeypatch.setattr(type(experiment.engine), "patched_each", broken)
    first, second, third = experiment.predict_step(PairBatch(0, experiment.pairs), 0)
    assert second.reason == "logits are not finite at layer 1"
    for found, expected in ((first, whole[0]), (third, whole[2])):
        for name, values in expected.values.items():
            np.testing.assert_array_equal(found.values[name], values)
            np.testing.assert_array_equal(found.control[name], expected.control[name])
        assert found.description.self_patch == expected.description.self_patch


@pytest.mark.parametrize(("place", "name"), [(0, "the base run"), (1, "the source run")])
def test_an_unpatched_run_that_is_not_finite_is_named(
    attached, checkpoint, pair, monkeypatch, place, name
):
    experiment = attached(LayerPatching(checkpoint=checkpoint, control="none"))
    own = type(experiment.engine).unpatched

    def broken(self, *args):
        found = own(self, *args)
        found[place].run.answer_logits[0][:] = float("nan")
        return found

    monkeypatch.setattr(type(experiment.engine), "unpatched", broken)
    (result,) = experiment.predict_step(PairBatch(0, [pair]), 0)
    assert result.reason == f"logits are not finite at {name}"


def test_the_first_rows_that_are_not_finite_are_named():
    wrong = torch.zeros(6, 2, 3)
    wrong[1, 0, 2], wrong[2, 1, 0], wrong[4] = torch.nan, torch.inf, -torch.inf
    check_finite([torch.zeros(6, 2, 3)], "run {}".format)
    with pytest.raises(PairError, match=r"^logits are not finite at run 1, run 2, run 4$"):
        check_finite([torch.zeros(6, 2, 3), wrong], "run {}".format)
    wrong[5] = torch.nan
    with pytest.raises(PairError, match=r"at run 1, run 2, run 4$"):
        check_finite([wrong], "run {}".format)


# -- requests, grids, starts ----------------------------------------------------------------------


def test_a_run_may_be_as_long_as_its_limit(model):
    """Prompt, three thoughts, a readout of two tokens, and two of an answer of three."""
    readout, question = Readout((1, 2), ((5,), (5, 6, 7))), Question("Tom has 5.")
    length = len(model.prompt_ids(question.text)) + 3 + 2 + 2
    assert Prompts(model, "denoising", length).of_question(question, readout)[1] is readout
    with pytest.raises(PairError, match=f"at most {length - 1} tokens .*, got {length}:"):
        Prompts(model, "denoising", length - 1).of_question(question, readout)
    assert Prompts(model, "denoising", length - 4).fits(question)  # nothing is read of it
    assert not Prompts(model, "denoising", length - 5).fits(question)


def test_the_sweep_alone_is_limited_by_a_window(model):
    config = model.backbone.config
    config.model_type, config.sliding_window = "mistral", 12
    assert Prompts.of(model, "noising", SweepEngine(model, 4)).limit == 12
    assert Prompts.of(model, "noising", ReferenceEngine(model, 4)).limit is None


def test_questions_of_the_same_tokens_are_no_pair(model, pair):
    same = replace(pair, corrupted=Question("Tom  has 16 pears . He eats 3 .", 15))
    with pytest.raises(PairError, match="two different questions, got the same tokens"):
        Prompts(model, "denoising").of_pair(same)


@pytest.mark.parametrize(
    ("site", "latents", "last"),
    [
        ("resid_post", "recomputed", "layer 2, position 0 (makes thought 1)"),
        ("resid_post", "frozen", "layer 2, position 0"),
        ("kv", "recomputed", "layer 2, position 0"),
    ],
)
def test_a_cell_is_named_by_what_it_does(model, site, latents, last):
    cells = partial(single_cells, layers=range(3), site=site)
    grid = PatchGrid.of(model, cells, layers=range(3), columns="012", latents=latents, site=site)
    assert grid.run_name("own", 6) == last
    assert grid.run_name("self", 3) == "self, layer 1, position 0"
    assert grid.run_name("control", 9) == "control, all thoughts at all layers"
    assert grid.record == ("kv",)
    assert not grid.places
    assert list(grid.run_order) == list(range(9))
    with pytest.raises(ValueError, match="patches for each of 3 × 2 cells, got 9"):
        PatchGrid.of(model, cells, layers=range(3), columns="01", latents=latents, site=site)


def test_runs_in_another_order_are_cells_of_the_same_grid(model):
    """Column by column: the structural zero stays where it is."""
    order = [row * 3 + column for column in range(3) for row in range(3)]

    def by_column(activations):
        rows = single_cells(activations, range(3), "mlp_out")
        return [rows[cell] for cell in order]

    options = {"layers": range(3), "columns": "012", "latents": "recomputed", "site": "mlp_out"}
    grid = PatchGrid.of(model, by_column, run_order=order, **options)
    assert grid.grid.structural_zeros == ((2, 2),)
    frozen = PatchGrid.of(model, by_column, run_order=order, **{**options, "latents": "frozen"})
    assert frozen.grid.structural_zeros == ((2, 0), (2, 1), (2, 2))
    assert grid.run_name("own", 1) == "layer 1, position 0"
    assert grid.record == ("mlp_out", "kv")


def test_zeros_have_the_shapes_of_a_run(model, pair):
    engine = ReferenceEngine(model, 4)
    preparation = Preparation(
        engine=engine, prompts=Prompts(model, "denoising"), record=EXTRA_SITES, places=True
    )
    run, zeros = preparation.activations_of(pair.clean, pair.corrupted), zero_activations(model)
    for part in ("thoughts", "resid"):
        assert getattr(zeros, part).shape == getattr(run, part).shape
    shapes = [{site: v.shape for site, v in own.recorded.items()} for own in (zeros, run)]
    assert shapes[0] == shapes[1]
    shapes = [
        {name: {site: v.shape for site, v in sites.items()} for name, sites in own.places.items()}
        for own in (zeros, run)
    ]
    assert shapes[0] == shapes[1]
    assert len(single_cells(run, [1], "kv")) == 3


def started(source, donor, control):
    """Whose activations a pair's patches have, own and control, with runs that are named."""

    def run(name):
        return SimpleNamespace(run=SimpleNamespace(activations=lambda: name), places={})

    names = ["base", "source", *["donor"] * donor, *["control"] * control]
    preparation = Preparation(
        engine=None, prompts=SimpleNamespace(direction="noising"), source=source
    )
    requests = PairRequests(1, 2, 3 if donor else None, 4 if control else None)
    assert requests.all() == [1, 2, *[3] * donor, *[4] * control]
    start = preparation.start("pair", requests, [run(name) for name in names])
    assert (start.base.run.activations(), start.source.run.activations()) == ("base", "source")
    assert (start.pair, start.direction, start.requests) == ("pair", "noising", requests)
    return start.source_activations, start.control_activations


def test_patches_have_the_source_runs_activations_or_another_pairs():
    assert started("clean", donor=False, control=False) == ("source", None)
    assert started("clean", donor=False, control=True) == ("source", "control")
    assert started("random_pair", donor=True, control=False) == ("donor", None)
    assert started("random_pair", donor=True, control=True) == ("donor", "control")
