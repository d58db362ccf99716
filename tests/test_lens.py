"""The lens against the head itself, on a random model."""

import json
from dataclasses import replace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from conftest import quiet_trainer

from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pairs import Pair, Question
from codi_patching.errors import InputError
from codi_patching.experiments.lens import LensExperiment
from codi_patching.measuring.engine_choice import build_engine
from codi_patching.measuring.prompts import Prompts
from codi_patching.measuring.step_ranks import StepRanks, ranks_of, results_of
from codi_patching.results.dataset import pairs_of, run_of
from codi_patching.results.description import ResultsError
from codi_patching.results.read import read_results

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
    trainer = quiet_trainer(ResultsWriter(str(folder)), *callbacks)
    data = PairsDataModule(problems, batch_size=1)
    trainer.predict(experiment, data, return_predictions=False)
    return experiment, read_results(folder)


def test_ranks_and_words_are_those_of_the_head(checkpoint, problems, tmp_path):
    experiment, data = run_lens(checkpoint, problems, tmp_path / "out", top=3)
    model, run = experiment.model, run_of(data)
    assert data.pair.values.tolist() == ["p0", "p1", "p2"]
    assert run.excluded == {"p3": "its clean question has no reasoning steps with results"}
    assert (run.num_pairs, run.top, run.grid.shape, run.metrics) == (3, 3, (3, 3), ())
    assert (run.experiment, run.latents, run.control, run.site) == (
        *("lens", "recomputed", "none", "resid_post"),
    )
    assert data.group.values.tolist() == ["p0", "p1", "p2"]
    first, _, third = pairs_of(data)
    assert [step.result for step in first.steps] == ["13", "11"]
    assert [step.chance_result for step in first.steps] == ["12", "8"]  # p1: as many steps
    assert third.steps[0].chance_result == ""  # no other pair has one step
    assert np.isnan(data["rank"].sel(pair="p2", arm="chance")).all()
    own = data["rank"].sel(pair="p0", arm="own").values
    chance = data["rank"].sel(pair="p0", arm="chance").values
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
            for number, kept in enumerate(first.steps):
                (token,) = kept.tokens
                assert model.tokenizer.decode([token]).strip() == kept.result
                assert own[number, layer, position] == order.index(token)
                (other,) = model.tokenizer(kept.chance_result, add_special_tokens=False).input_ids
                assert chance[number, layer, position] == order.index(other)
            words = [model.tokenizer.decode([token]).strip() for token in order[:3]]
            words = [word or name for word, name in zip(words, first.top[layer][position])]
            assert first.top[layer][position] == words
    # Of numbers that are one token the whole number's rank is the last layer's.
    np.testing.assert_array_equal(data.whole_rank.sel(pair="p0").values, own[:, -1])


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


def test_a_run_that_was_stopped_is_resumed_with_the_same_bytes(
    checkpoint, problems, tmp_path, monkeypatch
):
    run_lens(checkpoint, problems, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert {path.name for path in whole} == {"lens_results.json", "SHA256SUMS"}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run_lens(checkpoint, problems, tmp_path / "out", [Stop(2)])
    assert "lens_results.json" not in {path.name for path in contents(tmp_path / "out")}
    read, own = [], StepRanks.read
    monkeypatch.setattr(
        StepRanks, "read", lambda self, pair: (read.append(pair.pair_id), own(self, pair))[1]
    )
    run_lens(checkpoint, problems, tmp_path / "out")
    assert read == ["p2", "p3"]
    assert contents(tmp_path / "out") == whole
    run_lens(checkpoint, problems, tmp_path / "out")  # finished: nothing is run again
    assert read == ["p2", "p3"]
    with pytest.raises(ResultsError, match=r"top"):
        run_lens(checkpoint, problems, tmp_path / "out", top=2)
    assert contents(tmp_path / "out") == whole


def test_numbers_of_several_tokens_are_forced_after_each_thought(attached, checkpoint, problems):
    reader = attached(LensExperiment(checkpoint=checkpoint), pairs=problems).reader
    model = reader.model
    prompt, tokens = model.prompt_ids(PROBLEMS[0][0]), (7, 9, 8)
    worst = reader._forced(prompt, torch.tensor([4, 0, 2]), tokens)
    thoughts, _, _ = model.think(*model.encode([prompt]))
    for position in range(3):
        words = model.embed(torch.tensor([[*prompt]]))
        forced = model.embed(torch.tensor([tokens[:-1]]))
        whole = torch.cat([words, thoughts[:, : position + 1], forced], dim=1)
        logits = model.backbone(inputs_embeds=whole).logits[0, -2:]
        ranks = [int((row > row[token]).sum()) for row, token in zip(logits, tokens[1:])]
        assert worst[position] == max([4, 0, 2][position], *ranks)


def test_partners_do_not_depend_on_max_pairs(attached, checkpoint, problems):
    few, whole = (
        attached(LensExperiment(checkpoint=checkpoint), pairs=problems, **data).reader.partners
        for data in ({"max_pairs": 1}, {})
    )
    assert few["p0"].pair_id == whole["p0"].pair_id == "p1"


def test_options_are_checked():
    with pytest.raises(InputError, match=r"expected top of at least 1, got 0: set top"):
        LensExperiment(top=0)


@pytest.mark.parametrize(
    ("steps", "results"),
    [
        (("<<16-3=13>>", "so <<13*2=26>> pears"), ["13", "26"]),
        (("<<1000+430=1,430>>",), ["1430"]),
        (("<<3-5= -2 >>", "<<1/2=.5>>"), ["-2", "0.5"]),
        (("<<16-3=13>>", "twice as many"), []),
        (("<<16-3=13>>", "<<13-x>>"), []),
        ((), []),
    ],
)
def test_results_are_what_follows_an_equals_sign_or_none_at_all(steps, results):
    assert results_of(Question("?", 1, steps)) == results


def test_a_rank_counts_what_is_more_probable():
    logits = torch.tensor([[0.1, 0.7, 0.2, 0.2], [0.5, 0.3, 0.4, 0.4]])
    assert ranks_of(logits, 2).tolist() == [1, 1]
    assert ranks_of(logits, 0).tolist() == [3, 0]


def pair_of(name, *results, corrupted=()):
    """A pair whose steps have these results."""
    questions = [
        Question(f"Tom has {n}.", n, tuple(f"<<{r}+0={r}>>" for r in each))
        for n, each in ((1, results), (2, corrupted))
    ]
    return Pair(name, *questions)


def test_chance_is_of_another_pair_of_as_many_steps_and_no_result_of_ones_own():
    pairs = [pair_of("a", 3, 4), pair_of("b", 4, 5), pair_of("c", 6, 7), pair_of("d", 8)]
    for seed in range(8):
        found = StepRanks(model=None, engine=None, prompts=None, pairs=pairs, seed=seed).partners
        found = {name: other.pair_id for name, other in found.items()}
        assert found["a"] == found["b"] == "c"
        assert found["c"] in "ab"
        assert "d" not in found
    drawn = [
        StepRanks(model=None, engine=None, prompts=None, pairs=pairs, seed=seed).partners["c"]
        for seed in range(8)
    ]
    assert {pair.pair_id for pair in drawn} == {"a", "b"}


def test_twins_and_numbers_of_several_tokens(model):
    """Of `13` one token's rank is the number's; of `25`, which is two, the worst after each."""
    engine = build_engine(model, "sweep", None)
    prompts = Prompts.of(model, "denoising", engine)
    first = pair_of("a", 13, 25, corrupted=(14, 20))
    reader = StepRanks(model=model, engine=engine, prompts=prompts, pairs=[first], top=2)
    record = reader.read(first)
    steps = record.description.steps
    assert [(s.result, s.chance_result, s.corrupted_result) for s in steps] == [
        ("13", "", "14"), ("25", "", "20"),
    ]  # fmt: skip
    assert [len(step.tokens) for step in steps] == [1, 2]
    ranks, whole = record.values["rank"], record.values["whole_rank"]
    np.testing.assert_array_equal(whole[0], ranks[0, -1])
    prompt = model.prompt_ids(first.clean.text)
    forced = reader._forced(prompt, torch.tensor(ranks[1, -1]), steps[1].tokens)
    np.testing.assert_array_equal(whole[1], forced)
    assert (whole[1] >= ranks[1, -1]).all()
    assert {len(cell) for row in record.description.top for cell in row} == {2}
    assert np.isnan(record.control["rank"]).all()
    uneven = replace(first, corrupted=pair_of("b", 1, corrupted=(14,)).corrupted)
    assert [s.corrupted_result for s in reader.read(uneven).description.steps] == ["", ""]
