"""The experiments through Lightning's own trainer, on a random model, against the twin."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import QUESTIONS, SIBLINGS
from twin import TwinPair, from_run, whole_run

from codi_patching.data.datamodule import PairBatch
from codi_patching.errors import InputError
from codi_patching.experiments.attention import AttentionExperiment
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.knockout import KnockoutExperiment
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.lens import LensExperiment
from codi_patching.experiments.position import PositionPatching
from codi_patching.measuring import engine_choice
from codi_patching.measuring.preparation import Preparation
from codi_patching.measuring.sources import mean_activations
from codi_patching.models.families import sweep_unsupported_reason
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.patching.interventions import Activations, Patch
from codi_patching.patching.reference import ReferenceEngine
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
