"""The lens against the head itself; its hit rates against hand arithmetic."""

import json

import numpy as np
import pytest
import torch
from conftest import quiet_trainer

from codi_patching.callbacks.lens import LensWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.errors import InputError
from codi_patching.experiments.lens import LensExperiment
from codi_patching.reporting.lens_figures import draw_hit_rates
from codi_patching.results.lens import (
    HitRates,
    LensRecord,
    StepLens,
    hit_rates,
    read_lens,
    write_lens,
)
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


def run_lens(checkpoint, problems, folder, **options):
    experiment = LensExperiment(checkpoint=checkpoint, **options)
    trainer = quiet_trainer(LensWriter(str(folder)))
    trainer.predict(experiment, PairsDataModule(problems), return_predictions=False)
    return experiment, *read_lens(folder)


def test_ranks_and_words_are_those_of_the_head(checkpoint, problems, tmp_path):
    experiment, metadata, records = run_lens(checkpoint, problems, tmp_path / "out", top=3)
    model = experiment.model
    assert [record.pair_id for record in records] == ["p0", "p1", "p2"]
    assert metadata["excluded"] == {"p3": "its clean question has no reasoning steps with results"}
    assert metadata["num_pairs"] == 3
    assert "first token" in metadata["hits"]
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
    with pytest.raises(ResultsError, match=r"has results of the lens: set --results\.overwrite"):
        run_lens(checkpoint, problems, tmp_path / "out")


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
    with pytest.raises(ValueError, match="expected at least one pair, got none"):
        hit_rates([], 1)


def test_the_figure_has_a_column_for_each_step():
    rates = HitRates(5, np.full((3, 4, 2), 0.5), np.zeros((3, 4, 2)), [9, 9, 4])
    figure = draw_hit_rates(rates)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["step 1 (n = 9)", "step 2 (n = 9)", "step 3 (n = 4)"]


def test_results_come_back_as_they_went(tmp_path):
    records = [LensRecord("a", "…", (step([[0, 9], [1, 2]], [[9, 9], [0, 9]]),), [[["x"]]])]
    write_lens(tmp_path, {"experiment": "lens"}, records)
    assert read_lens(tmp_path) == ({"experiment": "lens"}, records)
    with pytest.raises(ResultsError, match="expected results of the lens in"):
        read_lens(tmp_path / "nowhere")


def test_options_are_checked():
    with pytest.raises(InputError, match=r"expected --model.top of at least 1, got 0"):
        LensExperiment(top=0)
