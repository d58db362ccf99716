"""The lens against the head itself; its hit rates against hand arithmetic."""

import argparse
import json

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from conftest import quiet_trainer
from lens_maker import lens_run, make_lens
from results_maker import make, run_of

from codi_patching.callbacks.lens import LensWriter
from codi_patching.commands import report
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.errors import InputError
from codi_patching.experiments.lens import LensExperiment
from codi_patching.reporting.lens_figures import draw_beside_patching, draw_hit_rates
from codi_patching.reporting.lens_report import clearest, report_lens
from codi_patching.results.lens import (
    HitRates,
    LensRecord,
    LensResults,
    StepLens,
    hit_rates,
    hits,
    read_lens,
)
from codi_patching.results.lens_store import LensBatches, write_lens
from codi_patching.results.schema import ResultsError

pytestmark = pytest.mark.filterwarnings("ignore:pair p3 left out")

PROBLEMS = [
    ("Tom has 16 pears. He eats 3. He eats 2.", ["<<16-3=13>>", "<<13-2=11>>"], 11),
    ("Tom has 9 pears. He buys 3 more. He eats 4.", ["<<9+3=12>>", "<<12-4=8>>"], 8),
    ("Tom has 5 pears. He eats 1.", ["<<5-1=4>>"], 4),
    ("Tom has 20 pears.", [], 20),
]


@pytest.fixture
def problems(tmp_path):
    pairs = [
        {
            "pair_id": f"p{index}",
            "clean": {"question": text, "answer": answer, "reasoning_steps": steps},
            "corrupted": {"question": text.replace("Tom has ", "Tom has 1 more "), "answer": 0},
        }
        for index, (text, steps, answer) in enumerate(PROBLEMS)
    ]
    (tmp_path / "problems.json").write_text(json.dumps(pairs))
    return str(tmp_path / "problems.json")


def run_lens(checkpoint, problems, folder, callbacks=(), **options):
    experiment = LensExperiment(checkpoint=checkpoint, **options)
    trainer = quiet_trainer(LensWriter(str(folder)), *callbacks)
    data = PairsDataModule(problems, batch_size=1)
    trainer.predict(experiment, data, return_predictions=False)
    results = read_lens(folder)
    return experiment, results.run, results.records


def test_ranks_and_words_are_those_of_the_head(checkpoint, problems, tmp_path):
    experiment, run, records = run_lens(checkpoint, problems, tmp_path / "out", top=3)
    model = experiment.model
    assert [record.pair_id for record in records] == ["p0", "p1", "p2"]
    assert run.excluded == {"p3": "its clean question has no reasoning steps with results"}
    assert (run.num_pairs, run.top, run.num_layers, run.num_latents) == (3, 3, 3, 3)
    assert "first token" in run.hits
    assert [record.group for record in records] == ["p0", "p1", "p2"]
    record = records[0]
    assert [step.result for step in record.steps] == ["13", "11"]
    assert [step.chance_result for step in record.steps] == ["12", "8"]  # p1: as many steps
    assert records[2].steps[0].chance_ranks == []  # no other pair has one step
    # By hand: the whole sequence, the head on the norm of each block's output.
    hidden, context = model.encode([model.prompt_ids(PROBLEMS[0][0])])
    for position in range(3):
        outputs = []
        hooks = [
            block.register_forward_hook(lambda _m, _a, out, kept=outputs: kept.append(out))
            for block in model.blocks
        ]
        step, context = model.advance(context, model.prj(hidden)[:, None])
        for hook in hooks:
            hook.remove()
        hidden = step[:, 0]
        for layer, output in enumerate(outputs):
            state = output[0] if isinstance(output, tuple) else output
            logits = model.logits(model.backbone.model.norm(state[0, 0]))
            order = logits.argsort(descending=True).tolist()
            for kept in record.steps:
                (token,) = kept.tokens
                assert model.tokenizer.decode([token]).strip() == kept.result
                assert kept.ranks[layer][position] == order.index(token)
            words = [model.tokenizer.decode([token]).strip() for token in order[:3]]
            words = [word or name for word, name in zip(words, record.top[layer][position])]
            assert record.top[layer][position] == words
    assert (tmp_path / "out" / "lens_hit_rates.png").stat().st_size > 5000


class Stop(pl.Callback):
    """Ends a run after so many batches, as a kill would."""

    def __init__(self, batches):
        self.batches = batches

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *_):
        if batch_idx + 1 == self.batches:
            raise KeyboardInterrupt


def contents(folder):
    kept = (p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", ".owner"))
    return {path.relative_to(folder): path.read_bytes() for path in kept}


@pytest.mark.slow
def test_a_run_that_was_stopped_is_resumed_with_the_same_bytes(
    checkpoint, problems, tmp_path, monkeypatch
):
    run_lens(checkpoint, problems, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert {path.name for path in whole} == {
        "lens_results.json", "SHA256SUMS", "lens_hit_rates.png"
    }  # fmt: skip
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_lens(checkpoint, problems, tmp_path / "out", [Stop(2)])
    names = {path.name for path in contents(tmp_path / "out")}
    assert names == {"run.json", "000000.json", "000001.json"}
    read = []
    monkeypatch.setattr(
        LensExperiment, "read", lambda self, pair, own=LensExperiment.read: (
            read.append(pair.pair_id), own(self, pair))[1],
    )  # fmt: skip
    run_lens(checkpoint, problems, tmp_path / "out")
    assert read == ["p2", "p3"]
    assert contents(tmp_path / "out") == whole
    run_lens(checkpoint, problems, tmp_path / "out")  # finished: nothing is run again
    assert read == ["p2", "p3"]
    assert contents(tmp_path / "out") == whole
    with pytest.raises(ResultsError, match=r"another config\.model\.init_args\.top, top: set"):
        run_lens(checkpoint, problems, tmp_path / "out", top=2)
    assert contents(tmp_path / "out") == whole


def test_a_folder_of_other_results_is_left_alone(checkpoint, problems, tmp_path):
    (tmp_path / "layer_patching_results.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"has layer_patching_results\.json, of another"):
        run_lens(checkpoint, problems, tmp_path)
    (tmp_path / "other" / "partial").mkdir(parents=True)
    (tmp_path / "other" / "partial" / "run.json").write_text('{"experiment": "layer"}')
    with pytest.raises(ResultsError, match="is of a run that cannot be resumed"):
        run_lens(checkpoint, problems, tmp_path / "other")


def test_pairs_without_steps_are_all_named(checkpoint, pairs_file, tmp_path, capsys):
    with pytest.warns(UserWarning, match="pair p0 left out: its clean question has no reasoning"):
        _, run, records = run_lens(checkpoint, pairs_file, tmp_path)
    assert records == ()
    assert set(run.excluded) == {"p0", "p1", "p2"}
    assert "no pair could be read\nexcluded: 3 pairs\n  p0: its clean" in capsys.readouterr().out
    assert not (tmp_path / "lens_hit_rates.png").exists()


def test_numbers_of_several_tokens_are_forced_after_each_thought(checkpoint, problems, tmp_path):
    experiment, _, _ = run_lens(checkpoint, problems, tmp_path / "out")
    model = experiment.model
    prompt, tokens = model.prompt_ids(PROBLEMS[0][0]), (7, 9, 8)
    worst = experiment._forced(prompt, torch.tensor([4, 0, 2]), tokens)
    thoughts, _, _ = model.think(*model.encode([prompt]))
    for position in range(3):
        words = model.embed(torch.tensor([[*prompt]]))
        forced = model.embed(torch.tensor([tokens[:-1]]))
        whole = torch.cat([words, thoughts[:, : position + 1], forced], dim=1)
        logits = model.backbone(inputs_embeds=whole).logits[0, -2:]
        ranks = [int((row > row[token]).sum()) for row, token in zip(logits, tokens[1:])]
        assert worst[position] == max([4, 0, 2][position], *ranks)


def step(ranks, chance=()):
    return StepLens("5", (1,), ranks, ranks[-1], "6" if chance else "", list(chance))


def test_hit_rates_by_hand():
    """Two layers, two positions; two pairs, of which one has a second step."""
    records = [
        LensRecord(
            "a", "…", (step([[0, 9], [1, 2]], [[9, 9], [0, 9]]), step([[0, 0], [0, 0]])), []
        ),
        LensRecord("b", "…", (step([[1, 0], [5, 0]]),), []),
    ]
    rates = hit_rates(records, k=2)
    assert rates.pairs == [2, 1]
    np.testing.assert_array_equal(rates.own[0], [[1.0, 0.5], [0.5, 0.5]])
    np.testing.assert_array_equal(rates.own[1], np.ones((2, 2)))
    np.testing.assert_array_equal(rates.chance[0], [[0.0, 0.0], [1.0, 0.0]])
    assert np.isnan(rates.chance[1]).all()
    own, chance = hits(records, k=2)
    np.testing.assert_array_equal(own[1, 0], [[1, 1], [0, 1]])
    assert np.isnan(own[1, 1]).all()
    assert np.isnan(chance[1]).all()
    with pytest.raises(ValueError, match="expected at least one pair, got none"):
        hit_rates([], 1)


def test_a_map_without_chance_says_why():
    rates = HitRates(5, np.full((2, 4, 2), 0.5), np.zeros((2, 4, 2)), [9, 1])
    rates.chance[1] = np.nan
    axes = draw_hit_rates(rates).axes
    assert [text.get_text() for text in axes[3].texts] == ["no other pair\nhas this step"]
    assert not axes[2].texts[:]


def test_the_figure_has_a_column_for_each_step():
    rates = HitRates(5, np.full((3, 4, 2), 0.5), np.zeros((3, 4, 2)), [9, 9, 4])
    rates.own[1, 2, 1] = 0.099
    figure = draw_hit_rates(rates)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == [f"result of step {s} (n = {n})" for s, n in ((1, 9), (2, 9), (3, 4))]
    assert titles[3:6] == [f"chance: another pair's step {s}" for s in (1, 2, 3)]
    assert [t.get_text() for t in figure.axes[0].texts] == ["50"] * 8
    assert len(figure.axes[1].texts) == 7  # a tenth is the least that has its number
    assert not figure.axes[3].texts[:]
    assert list(figure.axes[0].get_yticks()) == [0, 1, 2, 3]
    assert figure.axes[3].get_xlabel() == "latent position"
    assert figure.axes[6].get_ylabel() == "share of pairs, among the 5 most probable tokens"
    assert not any("Orange" in text.get_text() for text in figure.texts)


def test_cells_beyond_chance_are_framed_beside_those_of_patching():
    arms = {"position": make(run_of(), planted={(2, 1): 0.4})}
    rates = make_lens(planted={(1, 2, 0): 0.5}).rates()
    effects = {"position": [(2, 1)]}
    figure = draw_beside_patching(rates, arms, "a run", [[], [(2, 0)]], effects)
    left, right = figure.subfigs
    assert frames(left.axes[1]) == [(2, 0)]
    assert frames(left.axes[0]) == []
    assert frames(right.axes[0]) == [(2, 1)]
    assert right.axes[0].get_title() == "position"
    assert [t.get_text() for t in left.axes[1].texts] == ["50"]


def frames(axes):
    """Row and column of the framed cells."""
    framed = (patch for patch in axes.patches if not patch.get_hatch())
    return [(round(p.get_y() + 0.44), round(p.get_x() + 0.46)) for p in framed]


def test_what_is_read_most_often_is_said(tmp_path):
    lens = make_lens(pairs=20, planted={(0, 2, 1): 0.75, (1, 0, 2): 0.5}, chance={(1, 0, 2): 0.1})
    write_lens(tmp_path, lens)
    first, second = clearest(lens.rates())
    assert (first.layer, first.position, first.own, first.chance) == (2, 1, 0.75, 0.0)
    assert (second.layer, second.position, second.own, second.chance) == (0, 2, 0.5, 0.1)
    text = report_lens(tmp_path, figures=False)
    assert (
        "step 2 is read most often at layer 0, position 2: in 50% of 20 pairs, another pair's in "
        "10%" in text
    )


def test_the_report_command_draws_the_maps_again(tmp_path, capsys):
    write_lens(tmp_path, make_lens(planted={(0, 2, 1): 0.75}))
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    assert report.run(parser.parse_args([str(tmp_path)])) == 0
    assert "step 1 is read most often at layer 2, position 1" in capsys.readouterr().out
    before = (tmp_path / "lens_hit_rates.png").read_bytes()
    report.run(parser.parse_args([str(tmp_path)]))
    assert (tmp_path / "lens_hit_rates.png").read_bytes() == before


def test_results_come_back_as_they_went(tmp_path):
    records = (LensRecord("a", "…", (step([[0, 9], [1, 2]], [[9, 9], [0, 9]]),), [[["x"]]], "a"),)
    lens = LensResults(lens_run(excluded={"b": "…"}, num_pairs=1), records)
    write_lens(tmp_path, lens)
    assert read_lens(tmp_path) == lens
    path = tmp_path / "lens_results.json"
    assert len(json.loads(path.read_text())["pairs"]) == 1
    path.write_text(path.read_text().replace('"top": 5', '"top": 6'))
    assert read_lens(tmp_path).changed == ("lens_results.json",)
    with pytest.raises(ResultsError, match="expected results of the lens in"):
        read_lens(tmp_path / "nowhere")
    path.write_text('{"metadata": {"model": "x"}, "pairs": {}}')
    with pytest.raises(ResultsError, match=r"again, with --results\.overwrite true"):
        read_lens(tmp_path)


def test_batches_of_other_pairs_are_not_taken(tmp_path):
    batches = LensBatches(tmp_path)
    batches.begin(lens_run())
    batches.write(0, make_lens(pairs=2).records)
    assert batches.read(0, ["pair_00", "pair_01"]) == list(make_lens(pairs=2).records)
    assert batches.read(0, ["pair_00"]) is None
    (tmp_path / "partial" / "000000.json").write_text("[{")
    assert batches.read(0, ["pair_00", "pair_01"]) is None


def test_options_are_checked():
    with pytest.raises(InputError, match=r"expected --model.top of at least 1, got 0"):
        LensExperiment(top=0)
