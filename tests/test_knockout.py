"""Knock-out: cells against brute force, its checks, and codi-tiny's known truth."""

from dataclasses import replace
from functools import lru_cache

import lightning.pytorch as pl
import numpy as np
import pytest
import results_maker
from conftest import quiet_trainer
from matplotlib.patches import FancyArrowPatch
from site_twin import run_site_twin
from tokenizers.processors import TemplateProcessing

import codi_patching as cp
from codi_patching.analysis.knocked_out import (
    ask_knockout,
    claim_of,
    falls,
    mean_fall,
    most_needed,
    needs,
)
from codi_patching.analysis.report import build_report
from codi_patching.analysis.study import studies_of
from codi_patching.analysis.validity import (
    check_control_words,
    check_run,
    check_structural_zeros,
    describe_uncut,
)
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.errors import InputError
from codi_patching.experiments.knockout import KnockoutExperiment
from codi_patching.measuring import hand_patches
from codi_patching.measuring import knockout as measured
from codi_patching.measuring.engine_choice import build_engine
from codi_patching.measuring.knockout import EdgeGrid, Knockout
from codi_patching.measuring.question_tokens import QuestionTokens
from codi_patching.patching.edges import Edge, every_edge
from codi_patching.patching.engine import PatchRequest, Readout
from codi_patching.reporting.canvas import WIDTHS
from codi_patching.reporting.figures import draw_figures
from codi_patching.reporting.knockout_figure import draw_knockout
from codi_patching.reporting.page_data import knockout_data, page_data
from codi_patching.reporting.rows import table_rows
from codi_patching.reporting.sentences import headline
from codi_patching.results.dataset import knockout_dataset
from codi_patching.results.description import Grid
from codi_patching.results.pair_descriptions import KnockoutPair

MADE_AGAIN = "cells made again"


# -- edges and tokens -------------------------------------------------------------------------


def test_edges_have_names_and_layers():
    edges = [edge.name for edge in every_edge(2)]
    assert edges == [
        "question->readout", "numbers->readout", "thoughts->readout", "question->thoughts",
        "numbers->thoughts", "question->0", "question->1", "0->readout", "1->readout", "0->1",
    ]  # fmt: skip
    assert len(list(every_edge(5))) == 5 + 5 + 5 + 10
    assert list(EdgeGrid(4, 2, 1).rows.values()) == [(0, 1, 2, 3), (0,), (1,), (2,), (3,)]
    assert EdgeGrid(4, 2, 3).rows == {"all": (0, 1, 2, 3), "0-2": (0, 1, 2), "1-3": (1, 2, 3)}
    assert list(EdgeGrid(4, 2, 4).rows) == ["all"]
    grid = EdgeGrid(4, 2, 3).grid
    assert grid.label((1, 9)) == "z0 → z1, layers 0 to 2"
    assert grid.label((0, 0)) == "question → readout, all layers"
    with pytest.raises(InputError, match="a window of 1 to 4 layers, got 5: set window"):
        EdgeGrid(4, 2, 5)


def test_structural_zeros_are_the_last_layer_of_the_last_thought_alone():
    """What thought K - 1 reads in the last layer makes no thought, and its keys are lower."""
    grid = EdgeGrid(3, 2, 1).grid
    zeros = [(grid.layers[row], grid.columns[column]) for row, column in grid.structural_zeros]
    assert zeros == [("2", "question->1"), ("2", "0->1")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reader": "readout", "read": "answer"}, "expected read to be 'question'"),
        ({"reader": "bot", "read": "question"}, "expected reader to be 'readout'"),
        ({"reader": ("thought", 1), "read": ("thought", 1)}, "a reader after what it reads"),
        ({"reader": "thoughts", "read": ("thought", 1)}, "a reader after what it reads"),
        ({"reader": "readout", "read": ("thought", -1)}, "read of at least 0"),
        ({"reader": "readout", "read": "question", "layers": []}, "at least one layer"),
        ({"reader": "readout", "read": "question", "layers": 1.5}, "layers to be a whole number"),
    ],
)
def test_edges_that_are_none_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        Edge(**given)


def test_tokens_that_carry_numbers(model):
    tokens = QuestionTokens.of(model, "Tom has 16 pears. He eats 3.")
    words = ["<bos>", "Tom", "has", "16", "pears", ".", "He", "eats", "3", ".", "<bot>"]
    assert (
        model.tokenizer.convert_ids_to_tokens(model.prompt_ids("Tom has 16 pears. He eats 3."))[:-1]
        == words[:-1]
    )
    assert tokens.length == len(words)
    assert tokens.question == tuple(range(1, 11))
    assert tokens.numbers == (3, 8)
    assert tokens.plain == (1, 2, 4, 5, 6, 7, 9)
    assert tokens.before_thoughts["numbers"] == (-8, -3)
    assert tokens.before_thoughts["question"] == tuple(range(-10, 0))


def test_numbers_in_words_are_numbers_too(model):
    """What the tokenizer has no word for is characters, each of which stands in the number."""
    tokens = QuestionTokens.of(model, "Tom has twelve pears.")
    assert tokens.numbers == (3, 4, 5, 6, 7, 8)
    assert tokens.plain == (1, 2, 9, 10)
    assert QuestionTokens.of(model, "Tom has pears.").numbers == ()


def test_a_prompt_may_begin_with_the_question_and_end_with_several_tokens(model, monkeypatch):
    settings = replace(model.settings, bot_ids=(4, 4))
    monkeypatch.setattr(model, "settings", settings)
    model.tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A")
    tokens = QuestionTokens.of(model, "Tom has 16")
    assert (tokens.length, tokens.question) == (5, (0, 1, 2, 3, 4))
    assert (tokens.numbers, tokens.plain) == ((2,), (0, 1))
    assert tokens.before_thoughts["numbers"] == (-3,)


# -- a pair, by hand --------------------------------------------------------------------------


def own_probability(logits, ids):
    return float(logits.softmax(-1)[range(len(ids)), list(ids)].prod())


def test_every_kind_of_cell_is_brute_force_on_the_whole_sequence(model, pair):
    grid = EdgeGrid(3, 3, 2)
    knockout = Knockout(model=model, engine=build_engine(model, "sweep", 7), cells=grid, seed=1)
    (record,) = knockout.pairs([pair])
    prompt = model.prompt_ids(pair.clean.text)
    bot, described = len(prompt) - 1, record.description
    assert bot == 10  # as in the test of tokens: one bot
    question, numbers = list(range(-10, 0)), [-8, -3]
    words = model.tokenizer(["The answer is: 13", "The answer is: 15"], add_special_tokens=False)
    *prefix, own = words["input_ids"][0]
    eot = model.settings.eot_ids
    readout = Readout((*eot, *prefix), ((own,), (words["input_ids"][1][-1],)))
    places = range(3, 3 + len(readout.prefix))
    cells = {
        ("all", "question->readout"): (places, question),
        ("all", "thoughts->readout"): (places, [0, 1, 2]),
        ("all", "question->thoughts"): (range(3), question),
        ("1-2", "numbers->readout"): (places, numbers),
        ("1-2", "question->1"): ([1], question),
        ("1-2", "1->readout"): (places, [1]),
        ("0-1", "0->2"): ([2], [0]),
    }
    _, _, uncut = run_site_twin(model, prompt, [], readout)
    base = own_probability(uncut[0], (own,))
    assert described.uncut["clean_probability"] == pytest.approx(base, abs=1e-12)
    layers = {"all": range(3), "0-1": (0, 1), "1-2": (1, 2)}
    for (layer, edge), (readers, read) in cells.items():
        at = grid.grid.layers.index(layer), grid.grid.columns.index(edge)
        drawn = described.control_tokens.get(edge)
        assert (drawn is None) == edge.startswith("question")
        arms = {"own": read} | ({"control": [p - len(prompt) for p in drawn]} if drawn else {})
        for arm, hidden in arms.items():
            row = [("cut", one, reader, hidden) for one in layers[layer] for reader in readers]
            _, _, logits = run_site_twin(model, prompt, row, readout)
            values = record.values if arm == "own" else record.control
            expected = own_probability(logits[0], (own,))
            assert values["clean_probability"][at] == pytest.approx(expected, abs=1e-9)
            log_p, log_q = (x[0][0].log_softmax(-1) for x in (logits, uncut))
            kl = float((log_p.exp() * (log_p - log_q)).sum())
            assert values["kl_divergence"][at] == pytest.approx(kl, abs=1e-9)
    assert np.isnan(record.control["kl_divergence"][:, 0]).all()
    for edge, drawn in described.control_tokens.items():
        assert not set(drawn) & {0, 3, 8, bot}
        assert len(drawn) == {"numbers->readout": 2, "numbers->thoughts": 2}.get(
            edge, 3 if edge.startswith("thoughts") else 1
        )


def test_the_control_is_drawn_by_the_seed(model, pair):
    engine = build_engine(model, "sweep", None)

    def drawn(seed, pair_id="one"):
        knockout = Knockout(model=model, engine=engine, cells=EdgeGrid(3, 3, 3), seed=seed)
        (record,) = knockout.pairs([replace(pair, pair_id=pair_id)])
        return record.description.control_tokens

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1) != drawn(1, "two")  # each pair has its own
    assert len({places for places in drawn(1).values() if len(places) == 1}) > 1  # each edge too


def cut_by(model, pairs, **options):
    """Pairs with every edge cut, on three layers at once and two."""
    engine = build_engine(model, "sweep", None)
    return Knockout(model=model, engine=engine, cells=EdgeGrid(3, 3, 2), seed=1, **options).pairs(
        pairs
    )


def test_a_control_is_of_as_many_words_as_there_are(model, pair):
    """Of `Tom 16 3` one is plain; of `16 3` none is, and there is no control."""
    few = replace(pair, clean=cp.Question("Tom 16 3", 13), corrupted=cp.Question("Tom 18 3", 15))
    none = replace(pair, clean=cp.Question("16 3", 13), corrupted=cp.Question("18 3", 15))
    first, second = cut_by(model, [few, replace(none, pair_id="two")])
    assert first.description.plain_tokens == (1,)
    assert set(first.description.control_tokens.values()) == {(1,)}
    assert second.description.plain_tokens == ()
    assert (second.control, second.description.control_tokens) == ({}, {})
    assert np.isfinite(second.values["kl_divergence"]).all()


def test_a_pair_that_cannot_be_cut_is_named_in_its_place(model, pair):
    long = replace(pair, pair_id="long", clean=cp.Question("Tom has 3. " * 300, 1))
    digits = replace(pair, pair_id="digits", clean=cp.Question(f"Tom has {'9' * 5000}.", 1))
    found = cut_by(model, [long, pair, digits, replace(pair, pair_id="two")])
    assert [record.pair_id for record in found] == ["long", "one", "digits", "two"]
    assert "1024 tokens" in found[0].reason
    assert "digits" in found[2].reason
    for name, values in found[1].values.items():
        np.testing.assert_allclose(found[3].values[name], values, atol=1e-9)


def test_what_is_said_of_a_pair_is_its_own(model, pair):
    pair = replace(
        pair,
        group="g",
        clean=replace(pair.clean, reasoning_steps=("<<16-3=13>>", "<<13*1=13>>")),
        corrupted=replace(pair.corrupted, reasoning_steps=("<<18-3=15>>", "<<15*1=15>>")),
    )
    (record,) = cut_by(model, [pair])
    said = record.description
    assert (said.question, said.answer, said.corrupted_answer) == (pair.clean.text, "13", "15")
    assert (said.group, said.num_steps, said.changed_step) == ("g", 2, 1)
    assert (said.prompt_tokens, said.number_tokens) == (11, (3, 8))
    assert said.verified == ()
    assert set(said.uncut) == set(record.values) == set(measured.KNOCKOUT_METRICS)
    assert not set(said.uncut) & {"recovery", "kl_to_source"}
    assert (said.uncut["kl_divergence"], said.uncut["prediction_change_rate"]) == (0, 0)


def test_cut_runs_are_followed_by_name(model, pair):
    told = []
    few = replace(pair, pair_id="two", clean=cp.Question("16 3", 13), corrupted=cp.Question("9", 1))
    cut_by(model, [pair, few], on_runs_done=lambda *each: told.append(each))
    last = {name: done for name, *done in told}
    cells, controlled = 3 * 14, 3 * 9
    assert last["one"][:2] == [cells + controlled] * 2
    assert last["one"][2] == "control, z1 → z2, layers 1 to 2"
    assert last["two"] == [cells, cells, "z1 → z2, layers 1 to 2"]
    counts = [done for name, done, *_ in told if name == "one"]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize(
    ("place", "name"),
    [(0, "numbers → thoughts, all layers"), (1, "control, z1 → readout, all layers")],
)
def test_logits_of_a_cut_that_are_not_finite_name_its_cell(model, pair, monkeypatch, place, name):
    """The fifth of a pair's cuts, or of its controls; the other pair is measured."""
    engine = build_engine(model, "sweep", None)
    own = type(engine).patched_each

    def broken(self, *args):
        for number, found in enumerate(own(self, *args)):
            if number == place:
                found.answer_logits[0][4] = float("nan")
            yield found

    monkeypatch.setattr(type(engine), "patched_each", broken)
    knockout = Knockout(model=model, engine=engine, cells=EdgeGrid(3, 3, 3), seed=1)
    first, second = knockout.pairs([pair, replace(pair, pair_id="two")])
    assert first.reason == f"logits are not finite at {name}"
    assert second.pair_id == "two"
    assert np.isfinite(second.values["kl_divergence"]).all()


def test_an_uncut_run_that_is_not_finite_is_named(model, pair, monkeypatch):
    engine = build_engine(model, "sweep", None)
    own = type(engine).unpatched

    def broken(self, *args):
        found = own(self, *args)
        found[0].run.answer_logits[1][:] = float("nan")
        return found

    monkeypatch.setattr(type(engine), "unpatched", broken)
    knockout = Knockout(model=model, engine=engine, cells=EdgeGrid(3, 3, 3), seed=1)
    first, second = knockout.pairs([pair, replace(pair, pair_id="two")])
    assert first.reason == "logits are not finite at the uncut run"
    assert np.isfinite(second.values["kl_divergence"]).all()


# -- a run ------------------------------------------------------------------------------------


def test_a_run_passes_its_checks_and_is_read_as_it_was_written(predict, checkpoint, pair):
    experiment = KnockoutExperiment(checkpoint=checkpoint)
    found = predict(experiment)
    assert {check.status for check in check_run(found.data)} <= {"pass", "described"}
    assert [c.name for c in check_run(found.data) if c.status == "pass"] == [
        MADE_AGAIN, "cells with the control made again", "whole runs made again",
        "structural zeros, own", "structural zeros, control", "words of the control",
        "unchanged files",
    ]  # fmt: skip
    again = experiment.knockout.pairs(experiment.pairs)
    for record in again:
        assert record.description == replace(
            next(p for p in found.pairs if p.question == record.description.question), verified=()
        )
        for name, values in record.values.items():
            kept = found.data[name].sel(pair=record.pair_id, arm="own").values
            np.testing.assert_allclose(kept, values, rtol=1e-5, atol=1e-6)
    frame = cp.load_results(predict.folder).frame()
    assert set(frame["edge"]) == set(found.run.grid.columns)
    kl = again[0].control["kl_divergence"]
    assert experiment.runs_of_a_pair == kl.size + int(np.isfinite(kl).sum())


def test_a_run_cuts_between_so_many_thoughts_in_so_many_layers(attached, checkpoint):
    """Two thoughts, in three layers."""
    grid = attached(KnockoutExperiment(checkpoint=checkpoint, num_latents=2)).grid
    assert grid.layers == ("all", "0", "1", "2")
    assert grid.columns[-5:] == ("question->0", "question->1", "0->readout", "1->readout", "0->1")


class Stop(pl.Callback):
    """Ends a run after its first batch, as a kill would."""

    def on_predict_batch_end(self, *_):
        raise KeyboardInterrupt


def contents(folder):
    kept = (p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", ".owner"))
    return {path.relative_to(folder): path.read_bytes() for path in kept}


def test_a_run_that_was_stopped_is_resumed_with_the_same_bytes(checkpoint, pairs_file, tmp_path):
    def run(name, *callbacks):
        trainer = quiet_trainer(ResultsWriter(str(tmp_path / name)), *callbacks)
        data = PairsDataModule(pairs_file, batch_size=1)
        experiment = KnockoutExperiment(checkpoint=checkpoint, window=3)
        trainer.predict(experiment, data, return_predictions=False)

    run("whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run("out", Stop())
    run("out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def _swapped_rows(monkeypatch):
    rows = EdgeGrid.rows.func
    shifted = property(lambda grid: dict(zip(rows(grid), [*list(rows(grid).values())[1:], (0,)])))
    monkeypatch.setattr(EdgeGrid, "rows", shifted)


def _swapped_edges(monkeypatch):
    own = EdgeGrid.cut

    def cut(grid, edge, layers, prompt, readout):
        others = {"0->readout": "1->readout", "1->readout": "0->readout"}
        named = {each.name: each for each in grid.edges}
        return own(grid, named[others.get(edge.name, edge.name)], layers, prompt, readout)

    monkeypatch.setattr(EdgeGrid, "cut", cut)


def _lost_bot(monkeypatch):
    own = QuestionTokens.from_end
    monkeypatch.setattr(
        QuestionTokens, "from_end", lambda tokens, places: own(tokens, places)[:-1] or (-2,)
    )


def _wrong_metric(monkeypatch):
    name = "clean_probability"
    monkeypatch.setitem(
        measured.KNOCKOUT_METRICS, name, measured.KNOCKOUT_METRICS["corrupted_probability"]
    )


@pytest.mark.parametrize("tamper", [_swapped_rows, _swapped_edges, _lost_bot, _wrong_metric])
def test_a_run_that_cuts_something_else_fails_a_check(predict, checkpoint, monkeypatch, tamper):
    tamper(monkeypatch)
    found = predict(KnockoutExperiment(checkpoint=checkpoint), max_pairs=2)
    failed = {check.name for check in check_run(found.data) if check.status == "fail"}
    assert MADE_AGAIN in failed


def test_a_control_that_cuts_something_else_fails_a_check(predict, checkpoint, monkeypatch):
    own = measured.CutPair.of.__func__

    def moved(cls, *args):
        pair = own(cls, *args)
        cuts = [(replace(cut, read=(-1,)),) for (cut,) in pair.cuts["control"]]
        return replace(pair, cuts={**pair.cuts, "control": cuts})

    monkeypatch.setattr(measured.CutPair, "of", classmethod(moved))
    found = predict(KnockoutExperiment(checkpoint=checkpoint, window=3), max_pairs=2)
    failed = {check.name for check in check_run(found.data) if check.status == "fail"}
    assert failed == {"cells with the control made again"}


def test_a_control_that_draws_a_number_fails_a_check():
    data = made()
    assert check_control_words(data).status == "pass"
    for tokens in ((1,), (8,), (2, 3), ()):
        pairs = data["description"].copy()
        pairs[3] = replace(pairs[3].item(), control_tokens={"0->1": tokens})
        check = check_control_words(data.assign_coords(description=pairs))
        assert (check.status, check.seen) == ("fail", "not so in 1 of 60 cuts: 0->1 of p3")


def control_words(plain, control, number=(1,)):
    """The check on one run of which the fourth pair draws these.

    Its question's tokens are 1, 2, 3 and 8, of which 8 is no word of its text; K is 2.
    """
    data = made()
    pairs = data["description"].copy()
    pairs[3] = replace(
        pairs[3].item(), plain_tokens=plain, number_tokens=number, control_tokens=control
    )
    check = check_control_words(data.assign_coords(description=pairs))
    return check.status, check.seen


@pytest.mark.parametrize(
    ("edge", "plain", "number", "control"),
    [
        ("0->1", (2, 3), (1,), (3,)),
        ("thoughts->readout", (2, 3), (1,), (3, 2)),
        ("thoughts->readout", (2,), (1,), (2,)),  # all that there are
        ("numbers->readout", (2, 3), (1,), (2,)),
        ("numbers->readout", (2,), (1, 3), (2,)),
    ],
)
def test_a_control_cuts_as_many_words_as_are_cut_or_all_that_there_are(
    edge, plain, number, control
):
    assert control_words(plain, {edge: control}, number) == ("pass", "so in 60 cuts")
    more = (*control, *{2, 3}.difference(control), 8)
    for wrong in (control[1:], more, (*control[1:], 8), (*control[1:], number[0])):
        assert control_words(plain, {edge: wrong}, number) == (
            "fail", f"not so in 1 of 60 cuts: {edge} of p3",
        )  # fmt: skip


def test_words_that_are_all_of_a_questions_tokens_have_more_than_its_text():
    """The last token of what is cut is no word: with it nothing is left that is not drawn from."""
    assert control_words((2, 3, 8), {"0->1": (2,)})[0] == "fail"
    assert control_words((1, 2), {"0->1": (2,)})[0] == "fail"


def test_cuts_without_a_control_have_no_words_to_check():
    data = made()
    pairs = data["description"].copy()
    for row, pair in enumerate(pairs.values):
        pairs[row] = replace(pair, control_tokens={})
    check = check_control_words(data.assign_coords(description=pairs))
    assert (check.status, check.seen) == ("not applicable", "no pair has a control")


def test_how_often_the_answer_is_said_without_a_cut_is_counted():
    data = made(pairs=3)
    data["run_predicts_clean"].values[:, 0] = [1.0, 0.0, np.nan]
    for pairs, seen in ((3, "in 1 of 3 pairs"), (1, "in 1 of 1 pair")):
        check = describe_uncut(data.isel(pair=slice(pairs)))
        assert (check.status, check.seen) == ("described", seen)


def test_zeros_of_cuts_without_a_control_are_those_of_the_cut_alone():
    """Of two edges that nothing can come of, the first is of the question: it has no control."""
    data = made(noise=0.0)
    data["kl_divergence"].values[:] = 0.0
    zero = data["structural_zero"].copy()
    columns = [COLUMNS.index("question->0"), COLUMNS.index("0->1")]
    zero[2, columns] = True
    data["kl_divergence"].values[:, :, columns[0], 1] = np.nan
    data = data.assign_coords(structural_zero=zero)
    own, control = check_structural_zeros(data)
    assert (own.status, control.status) == ("pass", "pass")
    data["kl_divergence"].values[4, 2, columns[1], 1] = np.nan
    own, control = check_structural_zeros(data)
    assert (own.status, control.status) == ("pass", "fail")
    assert control.seen == "at most 0 nats in 2 cells; undefined in 1 pair"
    data["kl_divergence"].values[:, 2, columns[1], 1] = np.nan
    check = check_structural_zeros(data)[1]
    assert (check.status, check.seen) == ("not applicable", "no pair has a control")


# -- codi-tiny --------------------------------------------------------------------------------


@lru_cache
def tiny():
    """codi-tiny in Python, and the shipped pairs."""
    data = PairsDataModule()
    data.setup("predict")
    return cp.load("codi-tiny"), data.kept


def said(questions, rows):
    """Distributions at each question's answer, `(1 + rows, vocabulary)`, the first without cuts."""
    codi, engine = tiny()[0].codi, tiny()[0].engine
    tokens = codi.tokenizer("The answer is:", add_special_tokens=False)["input_ids"]
    readout = Readout((*codi.settings.eot_ids, *tokens), ((0,),))
    starts = engine.unpatched([(codi.prompt_ids(q.text), readout) for q in questions])
    requests = []
    for question, start in zip(questions, starts, strict=True):
        places = QuestionTokens.of(codi, question.text).before_thoughts
        cuts = [[edge.cut(16, 5, places, readout.length) for edge in row] for row in rows]
        requests.append(PatchRequest(start, [()] * (1 + len(rows)), (), [[], *cuts]))
    found = engine.patched_each(requests)
    return [patched.answer_logits[0][:, 0].double().softmax(-1) for patched in found]


def test_codi_tiny_reads_the_thought_that_its_card_says():
    """z1 in problems of 2 steps, z3 of 3, z4 of 4, and no other; idle thoughts need nothing."""
    thoughts = [("thought", thought) for thought in range(5)]
    rows = [[Edge("readout", thought)] for thought in thoughts]
    idle = [Edge("readout", thought) for thought in thoughts[2:]]
    idle += [Edge(reader, thoughts[1]) for reader in thoughts[2:]]
    of_steps = {steps: next(p for p in tiny()[1] if p.num_steps == steps) for steps in (2, 3, 4)}
    found = said([pair.clean for pair in of_steps.values()], [*rows, idle])
    for (steps, pair), distributions in zip(of_steps.items(), found, strict=True):
        number = tiny()[0].codi.tokenizer.convert_tokens_to_ids(f"{pair.clean.answer:.0f}")
        uncut, *cut = distributions[:, number].tolist()
        read = {2: 1, 3: 3, 4: 4}[steps]
        for thought in range(5):
            fall = uncut - cut[thought]
            assert (fall > 0.9) if thought == read else (abs(fall) < 0.02), (steps, thought)
        if steps == 2:
            assert abs(uncut - cut[-1]) < 0.02


def test_codi_tiny_takes_from_the_question_what_its_last_step_takes_and_no_more():
    """Readouts without the question tell questions apart by what the thoughts carry alone.

    Of two questions that differ in the last step's number, nothing is left to tell them apart; of
    two that differ before, what the thoughts carry still does.
    """
    pairs = [pair for pair in tiny()[1] if pair.num_steps == 2]
    for step, apart in ((2, False), (1, True)):
        chosen = [pair for pair in pairs if pair.changed_step == step][:3]
        both = [question for pair in chosen for question in (pair.clean, pair.corrupted)]
        cut = [found[1] for found in said(both, [[Edge("readout", "question")]])]
        between = [float((a - b).abs().sum() / 2) for a, b in zip(cut[::2], cut[1::2])]
        assert np.mean(between) > 0.5 if apart else max(between) < 0.05


def test_an_edge_by_hand_is_a_cell_of_the_experiment_and_may_stand_beside_a_site(model, pair):
    by_hand, grid = cp.Model(model), EdgeGrid(3, 3, 1)
    knockout = Knockout(model=model, engine=by_hand.engine, cells=grid, seed=1)
    (record,) = knockout.pairs([pair])
    answers = set()
    for edge, name in (
        (Edge("readout", "numbers", layers=1), "numbers->readout"),
        (Edge(("thought", 2), ("thought", 0), layers=(0, 1, 2)), "0->2"),
    ):
        row = "1" if edge.layers == 1 else "all"
        at = grid.grid.layers.index(row), grid.grid.columns.index(name)
        effect = by_hand.patch(pair, edge, direction="noising")
        for metric, values in record.values.items():
            assert effect.metrics[metric] == pytest.approx(values[at], abs=1e-9)
        answers.add(effect.answer)
    assert len(answers) > 1  # what is said is said with the edge cut
    site, hidden = cp.Site("thought", position=1), cp.Edge("readout", ("thought", 1))
    patched, both = by_hand.patch(pair, site), by_hand.patch(pair, [site, hidden])
    assert both.metrics["kl_divergence"] != pytest.approx(patched.metrics["kl_divergence"])
    with pytest.raises(InputError, match="layers under 3, got 3"):
        by_hand.patch(pair, Edge("readout", "question", layers=3))
    with pytest.raises(InputError, match="thoughts under 3, got thought 3"):
        by_hand.patch(pair, Edge("readout", ("thought", 3)))


def test_all_that_is_said_without_an_edge_is_said_without_it(model, pair, monkeypatch):
    """Each word is of a whole sequence, whose readout and words do not see the question."""
    kept, own = [], hand_patches.as_text
    monkeypatch.setattr(
        hand_patches, "as_text", lambda codi, said: (kept.append(tuple(said)), own(codi, said))[1]
    )
    hand, site = cp.Model(model), cp.Site("thought", position=1)
    assert hand.patch(pair, Edge("readout", "question"), direction="noising", say=3).answer
    assert hand.patch(pair, site, "base", direction="noising", say=3).answer
    said, uncut = kept
    assert said != uncut
    assert len(said) == 3
    words = model.tokenizer(model.settings.answer_prefix, add_special_tokens=False)["input_ids"]
    readout = Readout((*model.settings.eot_ids, *words), ((*said, 0),))
    readers = range(3, 3 + len(readout.prefix) + 3)
    row = [("cut", layer, reader, range(-10, 0)) for layer in range(3) for reader in readers]
    _, _, logits = run_site_twin(model, model.prompt_ids(pair.clean.text), row, readout)
    assert logits[0].argmax(-1)[:3].tolist() == list(said)


def test_a_run_without_an_edge_says_nothing_after_its_end(model, pair, monkeypatch):
    """The second word of the cut run ends it, once that is what ends an answer."""
    kept, own = [], hand_patches.as_text
    monkeypatch.setattr(
        hand_patches, "as_text", lambda codi, said: (kept.append(tuple(said)), own(codi, said))[1]
    )
    edge = Edge("readout", "question")
    cp.Model(model).patch(pair, edge, direction="noising", say=3)
    first, second, _ = kept[0]
    assert first != second
    model.settings = replace(model.settings, eos_id=second)
    cp.Model(model).patch(pair, edge, direction="noising", say=3)
    assert kept[1] == (first,)


# -- what is said -----------------------------------------------------------------------------

COLUMNS = tuple(edge.name for edge in every_edge(2))


def made(planted=None, stranger=None, pairs=60, noise=0.01, seed=0):
    """Falls of the own answer from 0.9, by edge and number of steps, in all layers and in layer 1.

    Args:
        planted: Of the cut, by edge: a number, or by number of steps.
        stranger: Of the control, by edge.
        pairs: How many, of 2 and 3 steps in turn.
        noise: Deviation of probabilities.
        seed: Of the noise.
    """
    rng = np.random.default_rng(seed)
    grid = Grid(("all", "0", "1"), "edge", COLUMNS)
    metrics = ("clean_probability", "predicts_clean", "kl_divergence")
    run = replace(
        results_maker.run_of("knockout"), grid=grid, metrics=metrics, num_latents=2,
        num_pairs=pairs, control="words",
    )  # fmt: skip
    steps = [2 + index % 2 for index in range(pairs)]
    values = {arm: np.full((pairs, *grid.shape), 0.9) for arm in ("own", "control")}
    for arm, planned in (("own", planted or {}), ("control", stranger or {})):
        values[arm] += rng.normal(0, noise, values[arm].shape)
        for edge, fall in planned.items():
            of = [fall if isinstance(fall, float) else fall.get(n, 0.0) for n in steps]
            for row in (0, 2):
                values[arm][:, row, COLUMNS.index(edge)] -= of
    asked = [name.startswith("question") for name in COLUMNS]
    values["control"][:, :, asked] = np.nan
    described = [
        KnockoutPair("?", "1", "2", {"clean_probability": 0.9, "predicts_clean": 1.0}, 9,
                     (1, 2, 3, 8), (1,), (2, 3), {"0->1": (2,)}, "", n)
        for n in steps
    ]  # fmt: skip
    both = {a: dict.fromkeys(metrics, v) for a, v in values.items()}
    ids = [f"p{index}" for index in range(pairs)]
    return knockout_dataset(run, ids, described, both["own"], both["control"])


def test_falls_are_relative_to_the_uncut_run_and_to_the_control():
    data = made({"0->readout": 0.5, "question->readout": 0.3}, {"0->readout": 0.2}, noise=0.0)
    found = falls(data)
    at = COLUMNS.index("0->readout")
    np.testing.assert_allclose(found["unpatched"][:, 0, at], 0.5)
    np.testing.assert_allclose(found["control"][:, 0, at], 0.3)
    np.testing.assert_allclose(mean_fall(data)[[0, 1, 2], at], [0.3, 0.0, 0.3], atol=1e-12)
    assert mean_fall(data)[0, 0] == pytest.approx(0.3)  # without a control


def test_two_ways_to_the_answer_are_judged():
    data = made({"question->readout": 0.6, "thoughts->readout": 0.4})
    report = build_report([data])
    finding = report.finding("around")
    assert finding.answer == "yes"
    assert {c.column: c.verdict for c in finding.claims} == {
        "question->readout": "rises", "thoughts->readout": "rises",
    }  # fmt: skip
    assert finding.lead.lead.mean == pytest.approx(0.6, abs=0.01)
    assert [c.against for c in finding.claims[0].comparisons] == ["unpatched"]
    assert [c.against for c in finding.claims[1].comparisons] == ["unpatched", "control"]
    (row,) = (row for row in table_rows(report) if row.key == "around")
    assert row.answer == "yes, and from the thoughts"
    assert headline(report) == [
        "With the question hidden from the readout the answer's probability falls by 0.60.",
        "With the thoughts hidden from the readout the answer's probability falls by 0.40.",
    ]


def test_a_fall_that_the_control_shares_is_not_claimed():
    """Cutting as many words does as much: nothing is said of the thoughts."""
    report = build_report([made({"thoughts->readout": 0.4}, {"thoughts->readout": 0.4})])
    finding = report.finding("around")
    assert finding.answer == "at most"
    assert {c.verdict for c in finding.claims} <= {"at most", "no"}
    (said,) = headline(report)
    assert said.startswith("Nothing is claimed: with the question hidden from the readout")


def test_nothing_is_claimed_without_any_effect_and_much_is_ruled_out_at_100_pairs():
    claimed = 0
    for seed in range(8):
        finding = build_report([made(pairs=60, noise=0.1, seed=seed)]).finding("around")
        claimed += any(claim.claimed for claim in finding.claims)
    assert claimed == 0
    report = build_report([made(pairs=100, noise=0.001)])
    assert report.finding("around").answer == "no"
    (row,) = (row for row in table_rows(report) if row.key == "around")
    assert row.answer == "no; the thoughts are not needed"
    assert most_needed(report.finding("edges")) == {}


def test_the_thought_that_is_needed_is_told_by_number_of_steps():
    data = made({"0->readout": {2: 0.8}, "1->readout": {3: 0.7}, "question->readout": 0.9})
    report = build_report([data])
    edges = report.finding("edges")
    assert {k: (c.column, c.lead.n) for k, c in most_needed(edges).items()} == {
        "2 steps": ("0->readout", 30), "3 steps": ("1->readout", 30),
    }  # fmt: skip
    assert headline(report)[1] == (
        "Of single thoughts the answer loses most without z0 → readout 0.80 in problems of 2 "
        "steps and z1 → readout 0.70 of 3."
    )


def test_without_any_control_falls_are_relative_to_the_uncut_run_alone():
    alone = made({"thoughts->readout": 0.4}, {"thoughts->readout": 0.3}).isel(arm=[0])
    (study,) = studies_of([alone], 0, ())
    around, edges = ask_knockout(study)
    assert {claim.lead.against for claim in (*around.claims, *edges.claims)} == {"unpatched"}
    through = claim_of(around, "thoughts->readout")
    assert through.lead.mean == pytest.approx(0.4, abs=0.01)
    assert (through.verdict, around.answer) == ("rises", "at most")  # the question's is the answer
    assert needs(around, "thoughts->readout")
    assert not needs(around, "question->readout")
    assert claim_of(around, "0->readout") is None
    assert not needs(around, "0->readout")


@pytest.mark.parametrize("fall", [0.099, 0.101])
def test_a_fall_that_is_too_small_to_matter_needs_no_thought(fall):
    """A tenth is what is small; the interval of both lies over 0."""
    data = made({"0->readout": fall}, noise=0.0)
    data["clean_probability"].values[:, :, COLUMNS.index("0->readout")] += np.where(
        np.arange(60) % 4 < 2, 0.01, -0.01
    )[:, None, None] * [1.0, 0.0]
    (study,) = studies_of([data], 0, ())
    _, edges = ask_knockout(study)
    assert list(most_needed(edges)) == ["2 steps", "3 steps"] * (fall > 0.1)


def test_each_of_the_two_ways_has_half_of_the_questions_share():
    """Where no pair falls, 1 - 0.0005^(1/60) may be unseen; 3/4 of it where there is a control."""
    (study,) = studies_of([made(noise=0.0)], 0, ())
    around, _ = ask_knockout(study)
    assert [claim.bound for claim in around.claims] == pytest.approx(
        [1 - 0.0005 ** (1 / 60), 1 - (0.75 * 0.0005) ** (1 / 60)]
    )


def test_a_fall_whose_interval_holds_0_needs_no_thought():
    """Three of eight pairs fall by 0.75 and the others rise by 0.1: 0.22 on average."""
    data = made(noise=0.0, pairs=16)
    own = np.where(np.arange(16) < 6, 0.15, 1.0)
    data["clean_probability"].values[:, 0, COLUMNS.index("0->readout"), 0] = own
    (study,) = studies_of([data], 0, ())
    _, edges = ask_knockout(study)
    falls_of = [c.lead.mean for c in edges.claims if c.column == "0->readout"]
    assert falls_of == pytest.approx([0.21875, 0.21875])
    assert most_needed(edges) == {}


def test_few_pairs_are_counted():
    report = build_report([made({"question->readout": 0.6}, pairs=8)])
    assert report.finding("around").answer == "counts"
    assert headline(report) == ["Too few pairs for any claim: counts stand alone."]


def test_beside_patching_the_question_is_asked_once():
    patched = results_maker.make(results_maker.run_of("position", columns=2), pairs=24)
    alone = build_report([patched]).finding("around")
    assert (alone.number, alone.answer, alone.missing) == (8, "missing", (("knockout",),))
    data = made({"question->readout": 0.6}, pairs=24).assign_coords(pair=patched["pair"].values)
    report = build_report([patched, data])
    assert [f.answer for f in report.findings if f.key == "around"] == ["yes"]
    assert list(report.datasets) == ["position, recomputed", "knockout"]
    of_both = {check.name: check.status for check in report.checks["all runs"]}
    assert of_both["knockout and position, recomputed, clean question's run"] == "fail"  # 0.9
    source = patched["run_clean_probability"].sel(run="source").values
    same = data["run_clean_probability"].copy()
    same.loc[{"run": "base"}] = source
    checks = build_report([patched, data.assign(run_clean_probability=same)]).checks["all runs"]
    assert checks[0].status == "pass"


# -- figure and page --------------------------------------------------------------------------


def test_the_graph_has_every_edge_as_wide_as_its_fall():
    data = made({"0->readout": {2: 0.8}, "1->readout": {3: 0.7}, "0->1": {3: 0.5}}, noise=0.0)
    graphs = draw_knockout(build_report([data])).axes[:2]
    assert [axes.get_title(loc="left") for axes in graphs] == ["2 steps, n = 30", "3 steps, n = 30"]
    for axes, falls_of in zip(graphs, ((0.8,), (0.7, 0.5)), strict=True):
        arrows = [p for p in axes.patches if isinstance(p, FancyArrowPatch)]
        assert len(arrows) == 6  # question and two thoughts to the readout, to and between thoughts
        widths = sorted((arrow.get_linewidth() for arrow in arrows), reverse=True)
        assert widths[: len(falls_of)] == pytest.approx([0.4 + 2.2 * fall for fall in falls_of])
        assert widths[len(falls_of) :] == pytest.approx([0.4] * (6 - len(falls_of)))
        names = {text.get_text() for text in axes.texts}
        assert names == {"z0", "z1", "question", "readout", *(f"{fall:.2f}" for fall in falls_of)}


def test_arrows_go_from_what_is_read_and_only_falls_that_matter_have_a_number():
    lost = {"0->readout": 0.8, "question->1": -0.3, "1->readout": 0.05, "0->1": 0.01}
    axes = draw_knockout(build_report([made(lost, noise=0.0)])).axes[0]
    places = {t.get_text(): t.get_position() for t in axes.texts}
    assert (places["z0"], places["z1"]) == ((0, 0), (1, 0))
    assert (places["question"], places["readout"]) == ((0.5, -1), (0.5, 1))
    assert {*places} - {"z0", "z1", "question", "readout"} == {"0.80", "-0.30"}
    arrows = [p for p in axes.patches if isinstance(p, FancyArrowPatch)]
    shown = [p for p in arrows if p.get_zorder() == 3]
    # the larger a fall, the later it is drawn
    assert [p.get_linewidth() for p in shown] == pytest.approx([1.06, 0.51, 2.16])
    starts = [p.get_path().vertices[0].tolist() for p in shown]
    expected = [(0.56, -0.88), (0.94, 0.12), (0.06, 0.12)]  # 12 % of the way
    np.testing.assert_allclose(starts, expected, atol=1e-9)
    assert len({p.get_facecolor() for p in shown}) == 3
    assert axes.lines[0].get_xdata().tolist() == [0.2, 0.8]  # from z0 to z1
    assert max(p.get_path().vertices[:, 0].max() for p in arrows) > 1.1  # round the last thought


def test_colours_of_falls_go_to_1_and_the_title_names_the_thought():
    data = made({"0->readout": {2: 0.8}, "1->readout": {3: 0.7}})
    figure = draw_knockout(build_report([data]))
    norms = [axes.images[0].norm for axes in figure.axes[2:4]]
    assert {(norm.vmin, norm.vmax) for norm in norms} == {(0.0, 1.0)}
    assert " ".join(figure.get_suptitle().split()) == (
        "Of single thoughts the answer loses most without z0 → readout 0.80 in problems of 2 steps "
        "and z1 → readout 0.70 of 3"
    )
    assert "The maps: cut in one layer or window alone" in figure.get_supxlabel().replace("\n", " ")
    assert [axes.get_ylabel() for axes in figure.axes[2:4]] == ["layers cut", ""]
    data["num_steps"].values[:] = np.nan
    figure = draw_knockout(build_report([data]))
    assert figure.axes[0].get_title(loc="left") == "all pairs, n = 60"
    none = replace(build_report([data]), knockout=data.isel(pair=[]))
    assert dict(draw_figures(none)) == {}


def test_the_layers_below_are_of_what_the_readout_reads():
    data = made({"question->readout": 0.6, "1->readout": {3: 0.7}}, noise=0.0)
    axes = draw_knockout(build_report([data])).axes
    assert axes[-1].get_ylabel() == "fall of the answer's probability"
    shown = [each.images[0].get_array() for each in axes[2:4]]
    np.testing.assert_allclose(shown[0], [[0, 0, 0], [0.6, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(shown[1], [[0, 0, 0], [0.6, 0, 0.7]], atol=1e-12)
    assert [label.get_text() for label in axes[2].get_xticklabels()] == ["q", "z0", "z1"]
    assert [label.get_text() for label in axes[2].get_yticklabels()] == ["0", "1"]


def test_in_a_column_the_layers_stand_beside_their_graph_a_number_of_steps_a_row():
    data = made({"question->readout": 0.6, "1->readout": {3: 0.7}}, noise=0.0)
    figure = draw_knockout(build_report([data]), "column")
    spans = [axes.get_subplotspec() for axes in figure.axes[:4]]
    cells = {(span.rowspan.start, span.colspan.start): a for span, a in zip(spans, figure.axes)}
    titles = [cells[row, 0].get_title(loc="left") for row in (0, 1)]
    assert titles == ["2 steps, n = 30", "3 steps, n = 30"]
    for row, fall in ((0, 0.0), (1, 0.7)):
        shown = cells[row, 1].images[0].get_array()
        np.testing.assert_allclose(shown, [[0, 0, 0], [0.6, 0, fall]], atol=1e-12)
        assert cells[row, 1].get_ylabel() == "layers cut"
    ratios = spans[0].get_gridspec().get_width_ratios()
    assert list(ratios) == [1.35, 1.0]
    assert figure.get_size_inches().tolist() == [WIDTHS["column"], 2 * 2.0 + 1.4]
    said = " ".join(figure.get_suptitle().split())
    assert said == "What the answer loses where an edge of attention is cut"
    alone = replace(data.attrs["run"], grid=Grid(("all",), "edge", COLUMNS))
    whole = data.isel(layer=[0]).assign_attrs(run=alone)
    figure = draw_knockout(build_report([whole]), "column")
    assert "The maps" not in figure.get_supxlabel()
    assert [a.get_subplotspec().get_gridspec().ncols for a in figure.axes[:2]] == [1, 1]


def test_a_control_that_loses_more_is_no_rise():
    for fall in (0.0, 0.2):
        data = made({"0->readout": fall}, {"0->readout": 0.4}, noise=0.0)
        assert mean_fall(data)[0, COLUMNS.index("0->readout")] == 0
    data = made({"0->readout": -0.05}, noise=0.0)
    assert mean_fall(data)[0, COLUMNS.index("0->readout")] == pytest.approx(-0.05)


def test_the_page_shows_what_is_hidden_from_the_readout():
    shown = knockout_data(made({"question->readout": 0.6, "1->readout": {3: 0.7}}, noise=0.0))
    assert shown["columns"] == ["question", "numbers", "thoughts", "z0", "z1"]
    assert [key for key, _, _ in shown["measures"]] == ["fall_2", "fall_3", "fall_all"]
    assert shown["means"]["fall_3"][:5] == [0.6, 0, 0, 0, 0.7]
    assert shown["means"]["fall_all"][:5] == [0.6, 0, 0, 0, 0.35]
    assert shown["names"][:2] == ["question → readout, all layers", "numbers → readout, all layers"]
    assert page_data(build_report([made(noise=0.0)]))["runs"][0]["id"] == "knockout"
    zeros = made(noise=0.0)
    run = zeros.attrs["run"]
    at = ((2, COLUMNS.index("1->readout")), (1, COLUMNS.index("0->1")))
    zeros.attrs["run"] = replace(run, grid=replace(run.grid, structural_zeros=at))
    assert knockout_data(zeros)["structural"] == "000000000000001"
    unknown = made({"question->readout": 0.6}, noise=0.0)
    unknown["num_steps"].values[:] = np.nan
    assert [key for key, _, _ in knockout_data(unknown)["measures"]] == ["fall_all"]
