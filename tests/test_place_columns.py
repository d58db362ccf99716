"""Position patching at all positions: its columns, and the same in Python."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simulated
import torch
from conftest import random_model
from site_twin import run_site_twin

import codi_patching as cp
from codi_patching.analysis.levels import kind_of, label_of
from codi_patching.analysis.report import build_report
from codi_patching.errors import InputError
from codi_patching.experiments.head import HeadPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.measuring import hand_patches
from codi_patching.measuring.by_hand import NamedValues, as_values
from codi_patching.measuring.patch_grid import zero_activations
from codi_patching.measuring.places import (
    PlaceFinder,
    after_names,
    at_places,
    changed_words,
    spread,
    typical_places,
)
from codi_patching.measuring.preparation import Preparation
from codi_patching.measuring.prompts import Prompts
from codi_patching.metrics.inputs import AnswerLogits
from codi_patching.metrics.table import metric_rows
from codi_patching.models.answers import PairError, build_readout
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import Activations, Patch, on_tokens
from codi_patching.reporting.maps import column_names
from codi_patching.reporting.methods import methods
from codi_patching.reporting.names import title
from codi_patching.reporting.sentences import headline
from codi_patching.results.dataset import run_of

PAIR = cp.Pair.of("Tom has 16 pears. He eats 3.", "Tom has 18 pears. He eats 3.", 13, 15)
COLUMNS = (
    "number", "question end", "bot", "0", "1", "2", "eot",
    "readout 1", "readout 2", "readout 3", "readout 4",
)  # fmt: skip
"""Of a model with three thoughts whose answers follow `The answer is :`."""


@pytest.fixture
def hand(model):
    return cp.Model(model)


def test_columns_are_the_same_by_both_engines_and_made_again(predict, checkpoint):
    """Two pairs have random controls, whose numbers are elsewhere."""
    options = {"checkpoint": checkpoint, "positions": "all", "self_patch_pairs": 1}
    ours, theirs = (
        predict(PositionPatching(engine=engine, **options), precision="64-true")
        for engine in ("sweep", "reference")
    )
    assert ours.run.grid.columns == COLUMNS
    assert ours.run.grid.structural_zeros == tuple((2, c) for c in (0, 1, 5, 6, 7, 8, 9))
    for metric, values in ours.values.items():
        np.testing.assert_allclose(values, theirs.values[metric], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(
            ours.control[metric], theirs.control[metric], rtol=1e-6, atol=1e-8
        )
    kl, structural = ours.values["kl_divergence"], ours.structural
    assert np.abs(kl[:, structural]).max() < 1e-9
    assert (kl[:, ~structural].max(0) > 1e-9).all()
    assert ours.pairs[0].self_patch < 1e-9
    again = 0
    for index, pair in enumerate(ours.pairs):
        assert pair.left_out == {}
        for run in pair.verified:
            if run.column is not None and not run.column.isdigit():
                cell = {"layer": run.layer, "column": run.column, "arm": run.arm}
                measured = ours.data.kl_divergence.sel(**cell).values[index]
                assert measured == pytest.approx(run.metrics["kl_divergence"], rel=1e-6, abs=1e-9)
                again += 1
    assert again > 20


@pytest.mark.parametrize("latents", ["frozen", "recomputed"])
def test_the_thoughts_among_all_positions_are_those_alone(predict, checkpoint, latents):
    options = {"checkpoint": checkpoint, "latents": latents, "self_patch_pairs": 0}
    every = predict(PositionPatching("all", verify_pairs=0, **options), precision="64-true")
    alone = predict(PositionPatching(verify_pairs=0, **options), precision="64-true")
    assert (every.run.positions, alone.run.positions) == ("all", "thoughts")
    for metric, values in alone.values.items():
        np.testing.assert_allclose(every.values[metric][..., 3:6], values, atol=1e-9)


def test_a_run_of_all_positions_is_called_so(predict, checkpoint):
    quick = {"checkpoint": checkpoint, "self_patch_pairs": 0, "verify_pairs": 0}
    run = predict(PositionPatching("all", **quick), max_pairs=1).run
    assert (kind_of(run), label_of(run)) == ("own", "position, recomputed, all positions")
    assert title(run).endswith(", all positions")
    assert column_names(run)[:5] == ["number", "question end", "bot", "z0", "z1"]
    assert [run.label((2, column)) for column in (0, 1, 2, 3, 5, 6, 8)] == [
        "layer 2, the changed number",
        "layer 2, the question's last token",
        "layer 2, bot (makes thought 0)",
        "layer 2, position 0 (makes thought 1)",
        "layer 2, position 2",
        "layer 2, eot",
        "layer 2, readout token 2",
    ]


@pytest.fixture
def uneven(tmp_path, pairs_file):
    """A pair whose numbers have three tokens and one, before those of the other file."""
    first = {
        "pair_id": "uneven",
        "clean": {"question": "Tom has 2.5 pears. He eats 3.", "answer": 6},
        "corrupted": {"question": "Tom has 5 pears. He eats 3.", "answer": 2},
    }
    others = json.loads(Path(pairs_file).read_text())
    path = tmp_path / "uneven.json"
    path.write_text(json.dumps([first, *others]))
    return str(path)


def test_numbers_of_unequal_tokens_are_left_out_by_name(predict, checkpoint, uneven):
    results = predict(PositionPatching("all", checkpoint=checkpoint), pairs=uneven)
    assert results.pair_ids[0] == "uneven"
    controls = np.isnan(results.control["kl_divergence"][:, :, 0])
    for index, pair in enumerate(results.pairs):
        without = index == 0 or pair.control.pair_id == "uneven"
        assert (controls[index] == without).all()
        assert ("number" in pair.left_out) == without
        assert index == 0 or pair.left_out.get("number", "control").startswith("control")
    assert np.isfinite(results.values["kl_divergence"][1:]).all()
    own, kl = results.pairs[0], results.values["kl_divergence"]
    assert own.left_out == {"number": "'number' has 1 tokens and is patched with 3"}
    assert np.isnan(kl[0, :, 0]).all()
    assert np.isfinite(kl[0, :, 1:]).all()
    assert not any(run.column == "number" for run in own.verified)
    said = methods(results.data)[0]
    assert "Without values at the changed number: " in said
    assert "(uneven, 'number' has 1 tokens and is patched with 3" in said
    written = json.loads(next(predict.folder.glob("*_results.json")).read_text())
    assert written["results"]["uneven"]["0"]["number"]["kl_divergence"] is None
    assert "left_out" not in written["baseline"]["p0"]
    report = build_report([results.data])
    assert not [c for own in report.checks.values() for c in own if c.status == "fail"]
    assert not any("number" in finding.key for finding in report.findings)


@pytest.mark.parametrize("source", ["zero", "mean", "random_pair"])
def test_other_sources_have_places_too(predict, checkpoint, uneven, source):
    quick = {"self_patch_pairs": 0, "verify_pairs": 1}
    experiment = PositionPatching("all", checkpoint=checkpoint, source=source, **quick)
    results = predict(experiment, pairs=uneven)
    kl = results.values["kl_divergence"]
    averaged = source in ("zero", "mean")  # has no number of tokens of its own
    assert np.isfinite(kl[:, :, 1:]).all()
    assert np.isfinite(kl[0, :, 0]).all() or not averaged
    assert (np.nanmax(kl[:, ~results.structural], axis=0) > 1e-7).all()


def test_the_mean_at_a_number_is_over_all_its_tokens(attached, checkpoint, uneven):
    experiment = attached(PositionPatching("all", checkpoint=checkpoint, source="mean"))
    preparation = experiment.measurement.preparation
    runs = [
        preparation.activations_of(pair.clean, pair.corrupted).places["number"]["resid_post"]
        for pair in preparation.pairs
    ]
    mean = torch.stack([run.mean(1) for run in runs]).mean(0)
    torch.testing.assert_close(preparation._mean.places["number"]["resid_post"][:, 0], mean)


def test_the_mean_is_over_runs_that_have_every_place(model):
    prompts = SimpleNamespace(model=model, direction="denoising", fits=lambda _: True)
    preparation = Preparation(
        engine=None, prompts=prompts, pairs=[PAIR, PAIR], source="mean", places=True
    )
    ones = zero_activations(model).map(lambda values: values + 1)
    fives = ones.map(lambda values: values + 4)
    fives = replace(fives, places={n: own for n, own in fives.places.items() if n != "number"})
    runs = iter([fives, ones])
    preparation.activations_of = lambda *_: next(runs)
    mean = preparation._mean
    assert mean.places.keys() == ones.places.keys()
    assert mean.thoughts.unique().tolist() == [1]


@pytest.mark.parametrize("left_out", [0, 10, 40])
def test_claims_name_heads_and_places_and_count_the_pairs_that_have_them(left_out):
    """A planted effect of 0.6 in the third column, which some of 40 pairs do not have."""
    runs = simulated.simulate(None, 0, 40, simulated.Planted(0.6))
    data = next(d for d in runs if label_of(run_of(d)) == "position, recomputed")
    for experiment, columns, where in (
        ("position", ("bot", "0", "number", "1", "eot"), "the changed number"),
        ("head", ("0", "1", "2", "3", "4"), "head 2"),
    ):
        axis = "head" if experiment == "head" else "position"
        run = replace(
            run_of(data),
            experiment=experiment,
            positions="all" if axis == "position" else "thoughts",
            site="resid_post" if axis == "position" else "head",
            grid=replace(run_of(data).grid, column=axis, columns=columns),
        )
        own = data.copy(deep=True).assign_coords(column=list(columns))
        for metric in run.metrics:
            own[metric].values[:left_out, :, 2] = np.nan
        own.attrs = {**data.attrs, "run": run}
        report = build_report([own])
        claims = [c for c in report.finding("cells").claims if c.column == columns[2]]
        assert {claim.lead.n for claim in claims} == ({40 - left_out} if left_out < 40 else set())
        said = f"at {where} at layers 4 to 11, by up to 0.7"
        assert (said in " ".join(headline(report))) == (left_out < 40)
        assert not any(c.claimed for c in report.finding("cells").claims if c.column != columns[2])
        assert report.finding("strata") is None or report.finding("strata").answer == "missing"


# -- in Python ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "latents", [pytest.param("frozen", marks=pytest.mark.thorough), "recomputed"]
)
def test_a_patch_at_a_place_is_a_cell_of_the_grid(hand, latents):
    grid = hand.grid(PAIR, site="kv", latents=latents, positions="all")
    assert list(dict.fromkeys(grid.index.get_level_values("position"))) == [
        int(name) if name.isdigit() else name for name in COLUMNS
    ]
    for position in ("number", "bot", "eot", "readout 4"):
        effect = hand.patch(PAIR, cp.Site("kv", layer=1, position=position), latents=latents)
        for name, value in effect.metrics.items():
            assert grid.loc[(1, position), name] == pytest.approx(value, abs=1e-9)


def test_the_last_state_of_bot_makes_the_first_thought(hand):
    made = hand.patch(PAIR, cp.Site("resid_post", layer=2, position="bot"))
    thought = hand.patch(PAIR, cp.Site("thought", position=0))
    for name, value in thought.metrics.items():
        assert made.metrics[name] == pytest.approx(value, abs=1e-9)
    assert made.metrics["kl_divergence"] > 1e-6
    direct = hand.patch(PAIR, cp.Site("resid_post", layer=2, position="bot"), latents="frozen")
    assert direct.metrics["kl_divergence"] == pytest.approx(0, abs=1e-12)


def test_all_that_is_said_of_a_patched_place_is_said_with_it(hand, monkeypatch):
    """Each word is the most probable of a whole sequence, in which the place has another state."""
    kept, own = [], hand_patches.as_text
    monkeypatch.setattr(
        hand_patches, "as_text", lambda model, said: (kept.append(tuple(said)), own(model, said))[1]
    )
    site, value = cp.Site("kv", layer=1, position="readout 4"), 9 * torch.ones(2, 2, 8).double()
    for given in (value, "base"):
        assert hand.patch(PAIR, site, value=given, say=3).answer
    said, unpatched = kept
    assert said != unpatched
    assert len(said) == 3
    model, row = hand.codi, [("kv", 1, 7, value.flatten())]
    words = model.tokenizer(model.settings.answer_prefix, add_special_tokens=False)["input_ids"]
    readout = Readout((*model.settings.eot_ids, *words), ((*said, 0),))
    _, _, logits = run_site_twin(model, model.prompt_ids(PAIR.corrupted.text), row, readout)
    assert logits[0].argmax(-1)[:3].tolist() == list(said)


def test_the_last_state_before_the_answer_is_the_answer(hand):
    said = hand.patch(PAIR, cp.Site("resid_post", layer=2, position="readout 4"))
    assert said.metrics["kl_to_source"] == pytest.approx(0, abs=1e-9)
    assert said.answer[0] == hand.run(PAIR.clean).answer[0]


def test_all_of_the_prompt_that_differs_makes_the_source_run(hand):
    """After the number nothing else differs: its keys and values, and it alone, at every layer."""
    sites = [cp.Site("resid_post", layer=la, position="number") for la in range(3)]
    sites += [cp.Site("kv", layer=la, position="number") for la in range(3)]
    effect = hand.patch(PAIR, sites)
    for name, value in effect.source.items():
        assert effect.metrics[name] == pytest.approx(value, abs=1e-9) or name == "kl_divergence"
    assert effect.metrics["kl_to_source"] == pytest.approx(0, abs=1e-9)


def test_a_cut_beside_a_place_outside_the_thoughts_is_refused(hand):
    both = [cp.Site("resid_post", layer=1, position="bot"), cp.Edge("readout", ("thought", 0))]
    with pytest.raises(InputError, match="edges to be cut in runs that are patched at thoughts"):
        hand.patch(PAIR, both)


@pytest.mark.slow
@pytest.mark.thorough
def test_every_kind_of_value_at_a_place(hand):
    site = cp.Site("kv", layer=0, position="number")
    source = hand.patch(PAIR, site).metrics["kl_divergence"]
    same = hand.patch(PAIR, site, value=cp.Question(PAIR.clean.text)).metrics["kl_divergence"]
    assert same == pytest.approx(source, abs=1e-9)
    shapes = []
    hand.patch(PAIR, site, value=lambda x: (shapes.append(tuple(x.shape)), x * 0)[1])
    assert set(shapes) == {(2, 2, 8)}
    zero = hand.patch(PAIR, site, value="zero").metrics["kl_divergence"]
    given = hand.patch(PAIR, site, value=torch.zeros(2, 2, 8)).metrics["kl_divergence"]
    assert zero == pytest.approx(given, abs=1e-9)
    mean = hand.patch(PAIR, site, value="mean", questions=[PAIR.clean, PAIR.clean])
    assert mean.metrics["kl_divergence"] == pytest.approx(source, abs=1e-9)
    head = cp.Site("head", layer=1, head=2, position="eot")
    assert hand.patch(PAIR, head, value=torch.ones(8)).metrics["kl_divergence"] > 0


def at_number(hand, site, pair):
    """What the source run of a pair has at its number."""
    (run,) = hand._calls.activations([pair.clean], [site.name], lambda _: pair.corrupted)
    return run.of(site)


def test_a_function_at_a_place_is_of_each_token_alone():
    site, width = cp.Site("resid_post", layer=1, position="number"), 4
    resid = torch.zeros(2, 3, width)
    there = {"number": {"resid_post": torch.arange(2 * 2 * 4.0).view(2, 2, width)}}
    named = NamedValues(iter, {"base": Activations(torch.zeros(3, width), resid, {}, there)})
    found = as_values(None, site, lambda x: x + 1, named)
    assert found.function(torch.ones(width)).tolist() == [2, 2, 2, 2]
    wrong = as_values(None, site, lambda x: torch.zeros(2, width), named)
    with pytest.raises(InputError, match=r"a function that gives numbers of \(4,\) for Site"):
        wrong.function(torch.ones(width))


def test_a_mean_at_a_number_is_over_the_runs_of_its_wording_alone(hand):
    site = cp.Site("kv", layer=0, position="number")
    third = cp.Pair.of("Tom has 12 pears. He eats 3.", PAIR.corrupted.text, 9, 15)
    each = [at_number(hand, site, pair) for pair in (PAIR, third)]
    asked = [PAIR.clean, PAIR.corrupted, third.clean]  # nothing of the patched question is changed
    mean = hand.patch(PAIR, site, "mean", questions=asked, say=1)
    with pytest.raises(InputError, match="differ from the patched one in its number, got none"):
        hand.patch(PAIR, site, "mean", questions=[PAIR.corrupted], say=1)
    given = hand.patch(PAIR, site, (each[0] + each[1]) / 2, say=1)
    assert mean.metrics == pytest.approx(given.metrics, abs=1e-6)
    assert given.metrics["kl_divergence"] > 1e-6


def test_of_several_pairs_those_without_the_place_are_named_and_the_others_go_on(hand):
    """The numbers of the second have three tokens and one."""
    site = cp.Site("kv", layer=0, position="number")
    uneven = cp.Pair.of("Tom has 2.5 pears. He eats 3.", "Tom has 5 pears. He eats 3.", 6, 2)
    last = cp.Pair.of("Tom has 5 pears. He eats 1.", "Tom has 2 pears. He eats 1.", 4, 1)
    pairs = [replace(p, pair_id=name) for p, name in zip((PAIR, uneven, last), "abc")]
    many = hand.patch_many(pairs, site, say=1)
    assert many.attrs["excluded"] == {"b": "'number' has 1 tokens and is patched with 3"}
    assert many.pair.values.tolist() == ["a", "c"]
    alone = [hand.patch(p, site, say=1).metrics["kl_divergence"] for p in (PAIR, last)]
    np.testing.assert_allclose(many.kl_divergence, alone, atol=1e-6)


def test_another_pairs_number_is_what_its_own_source_run_has_there(hand):
    site = cp.Site("kv", layer=0, position="number")
    last = cp.Pair.of("Tom has 5 pears. He eats 1.", "Tom has 2 pears. He eats 1.", 4, 1)
    pairs = [replace(p, pair_id=name, group=name) for p, name in ((PAIR, "a"), (last, "b"))]
    many = hand.patch_many(pairs, site, "random_pair", say=1)
    for name, pair, giver in (("a", PAIR, last), ("b", last, PAIR)):
        given = hand.patch(pair, site, at_number(hand, site, giver), say=1)
        for metric, value in given.metrics.items():
            assert float(many[metric].sel(pair=name)) == pytest.approx(value, abs=1e-6)


def test_what_does_not_fit_a_place_is_refused(hand, attached, checkpoint):
    site, other = cp.Site("kv", layer=0, position="number"), "He buys 3 more pears."
    with pytest.raises(InputError, match="'number' has 1 tokens and is patched with"):
        hand.patch(PAIR, site, value=cp.Question(other))
    with pytest.raises(InputError, match="recorded 'kv' at 'number': give the question itself"):
        hand.patch(PAIR, site, value=hand.run(PAIR.clean))
    with pytest.raises(InputError, match=r"or of number, question end, bot, eot, readout 1"):
        hand.patch(PAIR, cp.Site("kv", layer=0, position="readout 9"))
    with pytest.raises(InputError, match="or of number"):
        hand.patch(PAIR, cp.Site("kv", layer=0, position=-1))
    with pytest.raises(InputError, match="expected positions thoughts with whole layers"):
        hand.grid(PAIR, positions="all", whole_layers=True)
    with pytest.raises(InputError, match="expected positions thoughts where thoughts themselves"):
        PositionPatching("all", include_thought=True)
    with pytest.raises(InputError, match="expected positions to be one of thoughts, all"):
        PositionPatching("some")
    with pytest.raises(InputError, match=r"or of number, question end, bot.* got 'readout 8'"):
        attached(HeadPatching("readout 8", checkpoint=checkpoint))


def test_heads_at_a_place(predict, checkpoint, hand):
    quick = {"checkpoint": checkpoint, "self_patch_pairs": 0, "control": "none"}
    results = predict(HeadPatching("bot", **quick), precision="64-true", max_pairs=1)
    assert label_of(results.run) == "head, recomputed, bot"
    assert results.run.grid.structural_zeros == ()
    single = hand.patch(PAIR, cp.Site("head", layer=1, head=3, position="bot"))
    ours = results.data.kl_divergence.sel(layer="1", column="3", arm="own").values[0]
    assert ours == pytest.approx(single.metrics["kl_divergence"], rel=1e-4)


# -- where places are ---------------------------------------------------------------------------


def test_the_tokens_of_places():
    model = random_model()
    finder, texts = (
        PlaceFinder(model),
        ("Tom has 2.5 pears. He eats 3.", "Tom has 5 pears. He eats 3."),
    )
    readout = build_readout(model.tokenizer, (2,), "The answer is:", (6, 2))
    ids = model.prompt_ids(texts[0])
    words = model.tokenizer.convert_ids_to_tokens(ids)
    places = finder.of((ids, readout), *map(cp.Question, texts))
    at = {name: [words[t] for t in tokens if t < 0] for name, tokens in places.items()}
    assert at["number"][0] == "2"
    assert len(at["number"]) == 3
    assert at["question end"] == ["."]
    assert at["bot"] == words[-1:]
    assert [places[name] for name in COLUMNS[6:]] == [(3,), (4,), (5,), (6,), (7,)]
    assert "number" not in finder.of((ids, readout), cp.Question(texts[0]), None)


@pytest.mark.parametrize(
    ("text", "other", "found"),
    [
        ("He has 12 pears.", "He has 2 pears.", "12"),
        ("He has 2 pears.", "He has 12 pears.", "2"),
        ("It is $1,250.50, or so.", "It is $1,350.50, or so.", "1,250.50"),
        ("He has two pears.", "He has three pears.", "two"),
        ("A 11 b", "A 111 b", "11"),
        ("2 5", "27 5", "2"),
        ("He has 2", "He has 25", "2"),
        ("He has 25", "He has 2", "25"),
        ("12 pears", "13 pears", "12"),
        ("He has 2 red pears.", "He has 2 pears.", "red pears"),
        ("- !", "- ?", ""),
    ],
)
def test_the_words_that_changed(text, other, found):
    assert text[slice(*changed_words(text, other))] == found


def test_a_longer_readout_has_its_places_at_the_start_and_the_last_before_the_answer():
    model = random_model()
    question, ids = cp.Question("Tom has 5."), list(range(6))
    finder = PlaceFinder(model)
    places = finder.of((ids, Readout((0,) * 7, ((1,), (2,)))), question, None)
    assert [places[name] for name in after_names(model)] == [(3,), (4,), (5,), (6,), (9,)]
    with pytest.raises(PairError, match="a readout of at least 5 tokens, got 4"):
        finder.of((ids, Readout((0,) * 4, ((1,), (2,)))), question, None)
    model.settings = replace(model.settings, answer_prefix="", bot_ids=(3, 3))
    assert after_names(model) == ("eot",)
    places = finder.of((ids, Readout((0,), ((1,), (2,)))), question, None)
    assert places == {"eot": (3,), "question end": (-3,), "bot": (-1,)}


def test_typical_places_have_one_token_each():
    assert typical_places(random_model()) == {
        "number": (-3,), "question end": (-2,), "bot": (-1,), "eot": (3,), "readout 1": (4,),
        "readout 2": (5,), "readout 3": (6,), "readout 4": (7,),
    }  # fmt: skip


def test_rows_without_their_place_are_patched_with_nothing():
    def row(position, tokens):
        return [Patch(cp.Site("kv", layer=0, position=position), torch.zeros(tokens, 2))]

    rows, left_out = at_places([row("bot", 1), row("number", 2), row("eot", 1)],
                               {"bot": (-1,), "number": (-5, -4, -3)})  # fmt: skip
    assert [[patch.site.position for patch in each] for each in rows] == [[-1], [], []]
    assert left_out == {
        1: "'number' has 3 tokens and is patched with 2",
        2: "the patched run has no 'eot'",
    }


def test_the_mean_of_a_places_tokens_is_given_to_each_of_another_runs():
    values = torch.tensor([[[1.0], [5.0]], [[2.0], [4.0]]])  # two layers, two tokens
    own = Activations(
        torch.zeros(1, 1),
        torch.zeros(2, 1, 1),
        {},
        {"number": {"kv": values}, "eot": {"kv": values}},
    )
    found = spread(own, {"number": (-4, -3, -2)})
    assert found.places["number"]["kv"].squeeze(-1).tolist() == [[3, 3, 3], [3, 3, 3]]
    assert found.places["eot"]["kv"].shape == (2, 0, 1)  # the other run has none
    assert found.resid is own.resid


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("control", ["sibling", "random_pair"])
@pytest.mark.parametrize("source", ["clean", "random_pair"])
def test_the_number_of_each_run_is_its_own(direction, control, source):
    """Of base, source, another pair's source and the control, whichever question differs there."""
    model = random_model()
    own = cp.Pair(
        "own",
        cp.Question("Tom has 16 pears. He eats 3.", 13),
        cp.Question("Tom has 18 pears. He eats 3.", 15),
        cp.Question("Tom has 12 pears. He eats 3.", 9),
    )
    other = cp.Pair(
        "other",
        cp.Question("He buys more pears. Tom has 5.", 4),
        cp.Question("He buys more pears. Tom has 2.5.", 6),
    )
    preparation = Preparation(
        engine=None, prompts=Prompts(model, direction), pairs=[own, other], source=source,
        control=control, places=True,
    )  # fmt: skip
    requests = preparation.requests(own)
    numbers = []
    for (ids, readout), places in zip(requests.all(), requests.places, strict=True):
        words = model.tokenizer.convert_ids_to_tokens(ids)
        numbers.append([words[token] for token in places["number"]])
        assert len(readout.prefix) == 5
    denoising = direction == "denoising"
    expected = [["18"], ["16"]] if denoising else [["16"], ["18"]]
    theirs = ["5"] if denoising else ["2", ".", "5"]
    if source == "random_pair":
        expected.append(theirs)
    expected.append(["12"] if control == "sibling" else theirs)
    assert numbers == expected
    read = [len(readout.answers) for _, readout in requests.all()]
    assert read == [2, 2, *[0] * (len(read) - 2)]


def test_the_shipped_model_reads_numbers_in_its_first_layer_and_answers_before_the_colon():
    """On its first pair the changed number is used in step 1, which bot makes thought 0 from."""
    data = cp.PairsDataModule(max_pairs=1)
    data.setup("predict")
    hand, (pair,) = cp.load("codi-tiny"), data.kept

    sites = [cp.Site("kv", layer=layer, position="number") for layer in (0, 5)]
    sites += [cp.Site("resid_post", layer=15, position="bot"), cp.Site("thought", position=0)]
    sites += [cp.Site("resid_post", layer=layer, position="readout 4") for layer in (0, 15)]
    start = hand._start(hand._preparation("denoising", ["kv"], places=True), pair)
    given = start.source_activations
    rows = [on_tokens([Patch(site, given.of(site))], start.base.places) for site in sites]
    logits = AnswerLogits(*hand.engine.patched(start.base, rows).answer_logits)
    recovery = metric_rows(start.metric_inputs.of(logits))["recovery"].tolist()
    # Its keys and values are read in layer 0 and only there; bot's last state is thought 0.
    assert recovery == pytest.approx([1, 0, 1, 1, 0, 1], abs=0.05)
