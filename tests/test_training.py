"""Training, on a model of two layers and for a few steps."""

import inspect
import math
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from torch.nn import functional as F

from codi_patching.commands import fit
from codi_patching.commands.fit import check_weights, read_checkpoint, run
from codi_patching.data.word_problems import Plot, Problem, Step, is_held_out
from codi_patching.errors import InputError
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.patching.hooks import capture, patch
from codi_patching.training import chains as reading
from codi_patching.training import small_model
from codi_patching.training.chains import read_chains
from codi_patching.training.codi_tiny import IDLE, build_codi_tiny, build_tokenizer
from codi_patching.training.data import (
    IGNORE,
    Collator,
    WordProblems,
    WordProblemsDataModule,
    draw_chain,
    pad_right,
)
from codi_patching.training.exchange import exchange_targets, exchanged
from codi_patching.training.losses import (
    after_right_ones,
    calculation_targets,
    code_loss,
    distillation_loss,
    spoken_losses,
    token_loss,
)
from codi_patching.training.module import CodiDistillation
from codi_patching.training.muon import MuonAdamW, orthogonalize
from codi_patching.training.objectives import (
    calculation_loss,
    chain_losses,
    own_losses,
    teacher_loss,
)
from codi_patching.training.plain import PlainDistillation
from codi_patching.training.small_model import SmallModelTraining
from codi_patching.training.tree import Layout, codes, prompt_context, tree_mask, tree_positions

SMALL = {"num_layers": 2, "hidden_size": 32, "intermediate_size": 48, "prj_dim": 24,
         "exchange_layers": 2}  # fmt: skip
TWO = Problem(
    Plot(
        "Tom has {0} pears.",
        (Step("-", "He loses {1}."), Step("*", "Ben has {2} times as many.")),
        "How many pears does he have?",
    ),
    (16, 3, 2),
)
THREE = Problem(
    Plot(
        "Ben buys {0} eggs.",
        (Step("+", "He finds {1}."), Step("-", "He sells {2}."), Step("+", "He buys {3} more.")),
        "How many eggs does he have now?",
    ),
    (4, 30, 20, 7),
)  # fmt: skip


@pytest.fixture
def module():
    torch.manual_seed(0)
    module = CodiDistillation(**SMALL)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.2)
    yield module
    assert not any(m._forward_hooks for m in module.modules())


def read(module, batch, exchange_layers=0):
    return read_chains(module.model, batch, module.readout_ids, 0.0, exchange_layers)


@pytest.fixture
def batch(module):
    return Collator(module.model.tokenizer, 5, 4, 0.5, 0.5)([TWO, THREE])


# -- data -----------------------------------------------------------------------------------------


def test_the_own_chain_holds_each_result_for_two_thoughts():
    chain = draw_chain(Random(0), THREE, 5, replaced=0.0)
    assert chain.thoughts == chain.said == [34, 34, 14, 14, None]
    assert chain.answer == 21


def test_what_follows_a_drawn_number_follows_from_it():
    """THREE from its first result v: v - 20, then + 7."""
    drawn = 0
    for seed in range(50):
        chain = draw_chain(Random(seed), THREE, 5, replaced=0.5)
        a, b, c, d, _ = chain.thoughts
        assert chain.said == [34, a, b - 20, c, None]
        assert chain.answer == d + 7
        assert 20 <= b <= 60
        drawn += a != 34
    assert 10 < drawn < 40


def test_a_batch_by_hand(module, batch):
    ids = module.model.tokenizer.get_vocab()
    question = (
        "Tom has 16 pears . He loses 3 . Ben has 2 times as many . How many pears does he have ?"
    )
    tokens = [ids[word] for word in f"<bos> {question} <bot>".split()]
    assert batch.prompts[0, -len(tokens) :].tolist() == tokens
    assert batch.real.sum(1).tolist() == [len(tokens), batch.prompts.shape[1]]
    own = [[ids["13"]] * 2 + [ids[IDLE]] * 3, [ids["34"]] * 2 + [ids["14"]] * 2 + [ids[IDLE]]]
    assert batch.thoughts[:, 0].tolist() == batch.said[:, 0].tolist() == own
    assert batch.last_thought.tolist() == [1, 3]
    assert batch.made.int().tolist() == [[1, 0, 0, 0, 0], [1, 0, 1, 0, 0]]
    assert batch.answers[:, 0].tolist() == [ids["26"], ids["21"]]
    teacher = "<< 16 - 3 = 13 >> The answer is : 26 <eos>"
    assert batch.reasoning.tolist() == [[ids[word] for word in teacher.split()]]
    lines = calculation_targets(batch.calculations, ids["="])
    results = lines[lines != IGNORE].tolist()
    assert results == [ids[str(n)] for n in (13, 26, 34, 14, 21)]


def test_problems_are_fresh_each_epoch_and_held_out_ones_apart():
    first, second = (WordProblems(20, seed, held_out=False) for seed in (1, 2))
    assert [first[i] for i in range(20)] == [first[i] for i in range(20)]
    assert first[0] != second[0]
    data = WordProblemsDataModule(batch_size=4, steps_per_epoch=3, held_out=5)
    assert len(data.train_dataloader()) == 3
    (held_out,) = list(data.val_dataloader())
    assert len(held_out.questions) == 5


def test_each_epoch_draws_from_a_seed_of_its_own_and_never_what_is_held_out():
    data = WordProblemsDataModule(batch_size=4, steps_per_epoch=3, held_out=5, seed=7)
    found = {}
    for epoch in (0, 2):
        data.trainer = SimpleNamespace(current_epoch=epoch)
        drawn = data.train_dataloader().dataset
        assert len(drawn) == 12
        assert (drawn.seed, drawn.held_out) == (8 + epoch, False)
        found[epoch] = [drawn[index] for index in range(12)]
        assert not any(map(is_held_out, found[epoch]))
    assert not set(found[0]) & set(found[2])
    held_out = data.val_dataloader().dataset
    assert (held_out.seed, len(held_out)) == (7, 5)
    assert all(is_held_out(held_out[index]) for index in range(5))


@pytest.mark.parametrize("option", ["batch_size", "held_out", "steps_per_epoch"])
def test_a_training_has_at_least_one_problem_of_each_kind(option):
    assert getattr(WordProblemsDataModule(**{option: 1}), option) == 1
    with pytest.raises(InputError, match=rf"expected {option} of at least 1, got 0"):
        WordProblemsDataModule(**{option: 0})


@pytest.mark.parametrize(("fraction", "rows"), [(0.0, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_the_teacher_writes_on_a_fraction_of_the_rows_and_on_one_at_least(fraction, rows):
    collate = Collator(build_tokenizer(small_model.vocabulary()), 5, 1, 0.5, fraction)
    assert len(collate([TWO, THREE, TWO, THREE]).reasoning) == rows


def test_only_other_chains_have_drawn_numbers(module):
    """With each result replaced, all thoughts but those of the own chain are numbers drawn."""
    collate = Collator(module.model.tokenizer, 5, 3, 1.0, 1.0)
    batch = collate([TWO, THREE])
    assert (batch.thoughts[:, 0] == batch.said[:, 0]).all()
    other = batch.thoughts[:, 1:] != batch.said[:, 1:]
    assert other.float().sum() > 8  # of 12 that are not idle
    again = collate([TWO, THREE])
    assert torch.equal(again.thoughts, batch.thoughts)


def test_lines_of_calculations_are_filled_up_on_the_right(module):
    ids = module.model.tokenizer.get_vocab()
    batch = Collator(module.model.tokenizer, 5, 1, 0.5, 1.0)([TWO, THREE, THREE, TWO])
    lines = batch.calculations.tolist()
    assert len(lines) == 2  # of eight and of two calculations
    assert [line.count(ids["="]) for line in lines] == [8, 2]
    assert [line[0] for line in lines] == [ids["<bos>"]] * 2
    end = lines[1].index(ids["<eos>"])
    assert lines[1][end - 2 : end] == [ids["26"], ids[">>"]]
    assert set(lines[1][end:]) == {ids["<eos>"]}
    assert pad_right([[1], [2, 3, 4]], 9).tolist() == [[1, 9, 9], [2, 3, 4]]


# -- the model ------------------------------------------------------------------------------------


def test_an_untrained_model_has_the_sizes_that_are_given():
    model = build_codi_tiny(["pears"], 4, 3, 24, 40, 6, 2, 20)
    config = model.backbone.config
    assert (model.num_latents, config.num_hidden_layers, config.hidden_size) == (4, 3, 24)
    assert (config.num_attention_heads, config.num_key_value_heads) == (6, 2)
    assert config.intermediate_size == 40
    assert model.prj.get_submodule("ln").weight.shape == (24,)
    assert {p.shape for n, p in model.prj.named_parameters() if p.ndim == 2} == {(20, 24), (24, 20)}
    embeddings = model.backbone.get_input_embeddings().weight
    assert embeddings is model.backbone.get_output_embeddings().weight
    assert embeddings.std().item() == pytest.approx(0.05, rel=0.1)
    codes_of = model.prj.get_submodule("ln").weight
    assert torch.equal(codes_of, torch.full_like(codes_of, embeddings.std().item()))
    marks = model.tokenizer.convert_tokens_to_ids(["<pad>", "<bos>", "<eos>", "<bot>", "<eot>"])
    settings = model.settings
    assert [config.pad_token_id, config.bos_token_id, config.eos_token_id] == marks[:3]
    assert [settings.eos_id, *settings.bot_ids, *settings.eot_ids] == marks[2:]


def test_words_that_are_not_known_are_characters_and_bytes():
    tokenizer = build_tokenizer(["pears", "12"])
    ids = tokenizer("12 pears, pea é")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<bos>", "12", "pears", ",", "p", "e", "a", "<0xC3>", "<0xA9>",
    ]  # fmt: skip
    every = "".join(chr(code) for code in range(33, 127))
    assert not any(
        token.startswith("<0x")
        for token in tokenizer.convert_ids_to_tokens(tokenizer(every).input_ids)
    )
    assert tokenizer.decode(ids[-2:]) == "é"


# -- the tree -------------------------------------------------------------------------------------


def test_who_sees_whom_by_hand():
    """A prompt of two columns, the first padding; two chains of a thought and a readout of two."""
    layout = Layout(prompt=2, chains=2, num_latents=1, readout=2)
    mask = tree_mask(layout, torch.tensor([[0, 1]]))
    rows = ["10000000", "01000000", "01100000", "01110000", "01111000", "01000100", "01000110",
            "01000111"]  # fmt: skip
    assert ["".join(map(str, row)) for row in mask[0, 0].int().tolist()] == rows
    positions = tree_positions(layout, torch.tensor([[0, 1]]))
    assert positions.tolist() == [[0, 0, 1, 2, 3, 1, 2, 3]]
    assert list(layout.thought_columns(1)) == [5]
    assert [layout.colon(chain) for chain in (0, 1)] == [3, 6]


def test_every_chain_reads_as_it_would_alone(module, batch):
    model = module.model
    chains = read(module, batch)
    for row in range(2):
        for chain in range(4):
            _, context = model.encode([model.prompt_ids(batch.questions[row])])
            thoughts = codes(model, batch.thoughts[row, chain])
            end = torch.cat([module.readout_ids, batch.answers[row, chain, None]])
            alone = torch.cat([thoughts, model.embed(end)]).unsqueeze(0)
            states, _ = model.advance(context, alone)
            torch.testing.assert_close(chains.states[row, chain], states[0], rtol=1e-3, atol=1e-4)


def test_going_on_from_a_tree_is_going_on_from_the_prompt(module, batch):
    model = module.model
    chains = read(module, batch)
    context = prompt_context(chains.cache, batch.real, 2, batch.prompts.shape[1])
    _, states, _ = model.think(chains.prompt[:, -1], context)
    for row, question in enumerate(batch.questions):
        _, alone, _ = model.think(*model.encode([model.prompt_ids(question)]))
        torch.testing.assert_close(states[row], alone[0], rtol=1e-3, atol=1e-4)


# -- exchange -------------------------------------------------------------------------------------


def test_exchanged_states_are_patched_states(module, batch):
    """Exchanging all thoughts of two chains is patching each with what the other has there."""
    block = module.model.blocks[0]
    before = read(module, batch)
    layout = Layout(batch.prompts.shape[1], 4, 5, 6)
    columns = layout.thought_columns(2), layout.thought_columns(3)
    with exchanged(block, columns, torch.ones(2, 5, dtype=torch.bool)):
        after = read(module, batch)
    torch.testing.assert_close(after.states[:, :2], before.states[:, :2])
    assert not torch.allclose(after.states[:, 2], before.states[:, 2], atol=1e-3)
    records = []
    handle = block.register_forward_hook(lambda _m, _a, output: records.append(output))
    read(module, batch)
    handle.remove()
    values, mask = records[0].clone(), torch.zeros(2, layout.length, dtype=torch.bool)
    for here, there in (columns, columns[::-1]):
        values[:, here] = records[0][:, there]
        mask[:, here] = True
    with patch(module.model.blocks, {0: (mask, values)}):
        expected = read(module, batch)
    torch.testing.assert_close(after.states, expected.states)


def test_exchanged_leaves_no_hook_after_an_error(module):
    where = torch.ones(1, 1, dtype=torch.bool)
    with (
        pytest.raises(RuntimeError, match="stop"),
        exchanged(module.model.blocks[0], ([0], [1]), where),
    ):
        raise RuntimeError("stop")


def test_exchange_targets_by_hand():
    """Exchanged at 0 and 2: thoughts 1 and 3 follow from the other's; so does the answer from 2."""
    said = torch.tensor([[[10, 11, 12, 13, 14], [20, 21, 22, 23, 24]]])
    answers = torch.tensor([[1, 2]])
    where = torch.tensor([[True, False, True, False, False]])
    moved, answered = exchange_targets(said, answers, where, torch.tensor([2]))
    assert moved.tolist() == [[[10, 21, 12, 23, 14], [20, 11, 22, 13, 24]]]
    assert answered.tolist() == [[2, 1]]
    _, kept = exchange_targets(said, answers, where, torch.tensor([3]))
    assert kept.tolist() == [[1, 2]]


def drawn_exchange(module, batch, layers, rows=600):
    """What was exchanged in a batch of many rows, and what must then be said and answered."""
    many = replace(
        batch,
        said=batch.said[:1].expand(rows, -1, -1),
        answers=batch.answers[:1].expand(rows, -1),
        last_thought=batch.last_thought[:1].expand(rows),
    )
    layout = Layout(batch.prompts.shape[1], batch.said.shape[1], 5, 6)
    return many, layout, reading._exchange(module.model, many, layout, layers)


def test_half_of_the_rows_are_exchanged_at_all_thoughts_the_others_at_half(
    module, batch, monkeypatch
):
    asked, own = [], reading.exchanged
    monkeypatch.setattr(reading, "exchanged", lambda *given: (asked.append(given), own(*given))[1])
    torch.manual_seed(1)
    many, layout, (_, said, answers) = drawn_exchange(module, batch, 2)
    ((_, columns, where),) = asked
    assert [list(c) for c in columns] == [list(layout.thought_columns(c)) for c in (2, 3)]
    assert where.all(1).float().mean().item() == pytest.approx(0.5 + 0.5 / 32, abs=0.06)
    assert where.float().mean().item() == pytest.approx(0.75, abs=0.04)
    expected = exchange_targets(many.said[:, 2:], many.answers[:, 2:], where, many.last_thought)
    assert torch.equal(said[:, :2], many.said[:, :2])
    assert torch.equal(answers[:, :2], many.answers[:, :2])
    assert torch.equal(said[:, 2:], expected[0])
    assert torch.equal(answers[:, 2:], expected[1])
    for layers in (1, 2):
        blocks = set()
        for _ in range(20):
            drawn_exchange(module, batch, layers, rows=2)
            blocks.add(list(module.model.blocks).index(asked[-1][0]))
        assert blocks == set(range(layers))


def test_nothing_is_exchanged_between_fewer_than_two_other_chains(module, batch):
    few = replace(batch, said=batch.said[:, :2], answers=batch.answers[:, :2])
    for given, layers in ((few, 2), (batch, 0)):
        _, _, (_, said, answers) = drawn_exchange(module, given, layers, rows=40)
        assert (said == given.said[:1]).all()
        assert (answers == given.answers[:1]).all()
    three = replace(batch, said=batch.said[:, 1:], answers=batch.answers[:, 1:])
    torch.manual_seed(0)
    _, _, (_, said, _) = drawn_exchange(module, three, 2, rows=40)
    assert (said[:, 1:] != three.said[:1, 1:]).any()


def test_noise_is_measured_in_codes(module, batch, monkeypatch):
    given, own = [], reading.read_tree
    monkeypatch.setattr(reading, "read_tree", lambda *args: (given.append(args[4]), own(*args))[1])
    exact = codes(module.model, batch.thoughts)
    for noise in (0.0, 0.5):
        torch.manual_seed(0)
        read_chains(module.model, batch, module.readout_ids, noise, 0)
        off = (given[-1] - exact).std() / exact.std()
        assert off.item() == pytest.approx(noise, rel=0.1)


# -- losses ---------------------------------------------------------------------------------------


def test_spoken_losses_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]])
    said, made = torch.tensor([0, 0, 0]), torch.tensor([True, False, False])
    result, held = spoken_losses(logits, said, made)
    assert result.item() == pytest.approx(math.log(2))
    assert held.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    _, held = spoken_losses(logits, torch.tensor([0, IGNORE, 0]), made)
    assert held.item() == pytest.approx(math.log(4))
    assert spoken_losses(logits, torch.tensor([0, IGNORE, IGNORE]), made)[1] == 0


def test_distillation_loss_by_hand_and_only_the_student_learns():
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 3.0]], requires_grad=True)
    loss = distillation_loss([student], [teacher])
    # smooth L1: (0.5 * 1 + (3 - 0.5)) / 2 = 1.5; standard deviation of 0, 3: 3 / sqrt(2)
    assert loss.item() == pytest.approx(1.5 / (3 / math.sqrt(2)))
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_code_loss_by_hand():
    loss = code_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    assert loss.item() == pytest.approx((4 / 2) / (17 / 2))


def test_token_loss_is_the_mean_over_targets_that_are_left():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [5.0, 0.0]])
    loss = token_loss(logits, torch.tensor([1, 0, IGNORE]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert token_loss(logits, torch.full((3,), IGNORE)) == 0


def test_where_no_thought_is_right_there_is_no_code_to_be_learned():
    assert code_loss(torch.zeros(0, 5, 4), torch.zeros(0, 5, 4)) == 0


def test_layers_are_weighed_alike_in_distillation():
    near, far = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    one, two = (distillation_loss([torch.zeros(1, 2)], [t]) for t in (near, far))
    both = distillation_loss([torch.zeros(1, 2)] * 2, [near, far])
    assert both.item() == pytest.approx((one.item() + two.item()) / 2)


def test_calculation_loss_is_of_what_follows_an_equals_sign(module, batch):
    ids = module.model.tokenizer.get_vocab()
    (line,) = batch.calculations.tolist()
    found = calculation_loss(module.model, batch.calculations, ids["="])
    logits = module.model.backbone(torch.tensor([line])).logits[0]
    at = [place for place, token in enumerate(line) if token == ids["="]]
    assert len(at) == 5
    expected = F.cross_entropy(logits[at], torch.tensor([line[place + 1] for place in at]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_losses_of_given_thoughts_one_chain_at_a_time(module, batch):
    """Each thought is said by the state before it: bot's, or that of the thought before."""
    model = module.model
    chains = read(module, batch)
    found = chain_losses(model, chains, batch.made)
    surprise = {name: [] for name in ("result", "held", "answer", "eos")}
    off, exact = [], []
    for row, question in enumerate(batch.questions):
        for chain in range(4):
            hidden, context = model.encode([model.prompt_ids(question)])
            thoughts = codes(model, batch.thoughts[row, chain])
            end = torch.cat([module.readout_ids, batch.answers[row, chain, None]])
            given = torch.cat([thoughts, model.embed(end)]).unsqueeze(0)
            with capture(model.blocks) as records:
                states, _ = model.advance(context, given)
            if chain == 0:
                for layer, record in enumerate(records):
                    before = chains.before_answer[layer][row]
                    torch.testing.assert_close(before, record[0][0, -2], rtol=1e-3, atol=1e-4)
            makers, said = torch.cat([hidden, states[0, :4]]), batch.said[row, chain]
            of_each = F.cross_entropy(model.logits(makers), said, reduction="none")
            surprise["result"] += of_each[batch.made[row]]
            surprise["held"] += of_each[~batch.made[row]]
            last = model.logits(states[0, -2:]).log_softmax(-1)
            surprise["answer"].append(-last[0, batch.answers[row, chain]])
            surprise["eos"].append(-last[1, model.settings.eos_id])
            exact.append(codes(model, said))
            off.append(model.prj(makers) - exact[-1])
    for name, values in surprise.items():
        mean = torch.stack(values).mean()
        torch.testing.assert_close(found[name], mean, rtol=1e-3, atol=1e-4, msg=name)
    code = torch.stack(off).square().mean() / torch.stack(exact).square().mean()
    torch.testing.assert_close(found["code"], code, rtol=1e-3, atol=1e-4)


def test_teacher_loss_by_whole_sequences(module, batch):
    """Its targets: all steps but the last, the prefix, the answer, eos."""
    model = module.model
    chains = read(module, batch)
    context = prompt_context(chains.cache, batch.real, 1, batch.prompts.shape[1] - 1)
    loss, states = teacher_loss(model, chains.prompt[:1, -2], context, batch.reasoning)
    ids = model.question_ids(TWO.question)
    target = [*module.model.tokenizer("<<16-3=13>> The answer is: 26")["input_ids"][1:]]
    target.append(model.settings.eos_id)
    with capture(model.blocks) as records:
        outputs = model.backbone(torch.tensor([ids + target]))
    expected = F.cross_entropy(outputs.logits[0, len(ids) - 1 : -1], torch.tensor(target))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for state, record in zip(states, records, strict=True):
        torch.testing.assert_close(state[0], record[0][0, -3], rtol=1e-3, atol=1e-4)


def test_own_losses_one_at_a_time(module, batch):
    """Nothing is right in a random model, so only bot's results count; then all are made right."""
    model = module.model
    chains = read(module, batch)
    context = prompt_context(chains.cache, batch.real, 2, batch.prompts.shape[1])
    losses = own_losses(model, batch, chains.prompt[:, -1], context, module.readout_ids)
    assert losses["answer"] == losses["held"] == losses["code"] == 0
    answers, first, all_results = [], [], []
    for row, question in enumerate(batch.questions):
        hidden, start = model.encode([model.prompt_ids(question)])
        _, states, after = model.think(hidden, start)
        makers = torch.cat([hidden.unsqueeze(1), states[:, :-1]], dim=1)
        first.append(F.cross_entropy(model.logits(hidden), batch.said[row, 0, :1]))
        batch.said[row, 0] = model.logits(makers)[0].argmax(-1)
        final, _ = model.read(after, module.readout_ids[None])
        answers.append(F.cross_entropy(model.logits(final[:, -1]), batch.answers[row, :1]))
        surprise = -model.logits(makers)[0].log_softmax(-1).max(-1).values
        all_results.append(surprise[batch.made[row]])
    expected = torch.stack(first).mean()
    torch.testing.assert_close(losses["result"], expected, rtol=1e-3, atol=1e-4)
    losses = own_losses(model, batch, chains.prompt[:, -1], context, module.readout_ids)
    expected = torch.stack(answers).mean()
    torch.testing.assert_close(losses["answer"], expected, rtol=1e-3, atol=1e-4)
    expected = torch.cat(all_results).mean()
    torch.testing.assert_close(losses["result"], expected, rtol=1e-3, atol=1e-4)


def test_what_follows_a_wrong_thought_is_no_target():
    said = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 0, 1]])
    logits = F.one_hot(torch.tensor([[1, 0, 1], [1, 1, 1], [1, 0, 1]])).float()
    targets, right = after_right_ones(logits, said)
    assert targets.tolist() == [[1, 0, 1], [1, 0, IGNORE], [0, IGNORE, IGNORE]]
    assert right.tolist() == [True, False, False]


def test_every_loss_is_finite_and_reaches_the_weights(module, batch):
    module.hparams["own_from"] = 0
    module._trainer = None
    losses = module.problem_losses(batch)
    assert {"answer", "result", "held", "teacher", "distillation"} <= set(losses)
    assert {"own_answer", "own_result", "own_held", "own_code"} <= set(losses)
    losses = module.weighted(losses)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.fixture
def at_step(module, monkeypatch):
    """The module at a step of the schedule, without noise and exchange."""
    module.hparams.update({"noise": 0.0, "exchange_layers": 0})

    def at_step(step):
        monkeypatch.setattr(CodiDistillation, "global_step", step)
        return module

    return at_step


GIVEN = {"result", "held", "code", "answer", "eos", "teacher", "distillation", "rehearsal"}
OWN = {"own_result", "own_held", "own_code", "own_answer"}


@pytest.mark.parametrize(
    ("step", "names"),
    [(119, {"calculation"}), (120, GIVEN), (1749, GIVEN), (1750, GIVEN | OWN)],
)
def test_each_part_has_its_losses(batch, at_step, step, names):
    assert set(at_step(step).losses(batch)) == names


def test_the_losses_of_a_batch_are_those_of_its_parts(module, batch, at_step):
    model = module.model
    other = batch.calculations.roll(3, 1)
    batch = replace(batch, calculations=torch.cat([batch.calculations, other]))
    module.hparams["rehearsed_lines"] = 1
    losses = at_step(1750).problem_losses(batch)
    rehearsal = calculation_loss(model, batch.calculations[:1], module.equals_id)
    torch.testing.assert_close(losses["rehearsal"], rehearsal)
    chains = read(module, batch)
    length = batch.prompts.shape[1]
    before = prompt_context(chains.cache, batch.real, 1, length - 1)
    teacher, states = teacher_loss(model, chains.prompt[:1, -2], before, batch.reasoning)
    torch.testing.assert_close(losses["teacher"], teacher)
    drawn = distillation_loss([state[:1] for state in chains.before_answer], states)
    torch.testing.assert_close(losses["distillation"], drawn)
    context = prompt_context(chains.cache, batch.real, 2, length)
    own = own_losses(model, batch, chains.prompt[:, -1], context, module.readout_ids)
    for name, loss in own.items():
        torch.testing.assert_close(losses[f"own_{name}"], loss)


@pytest.mark.parametrize(
    ("step", "lens", "teacher"),
    [(299, 0.4, 1.0), (300, 2.0, 1.0), (1199, 2.0, 1.0), (1200, 2.0, 4.0)],
)
def test_weights_by_hand(at_step, step, lens, teacher):
    """Losses of own thoughts weigh as those of given ones; what has no weight weighs 1."""
    weights = {
        "answer": 1.0, "result": lens, "held": lens, "code": 0.2, "eos": 0.1, "teacher": teacher,
        "distillation": 0.2, "rehearsal": 0.3, "own_answer": 1.0, "own_result": lens,
        "own_held": lens, "own_code": 0.2,
    }  # fmt: skip
    found = at_step(step).weighted({name: torch.tensor(2.0) for name in weights})
    assert {name: loss.item() / 2 for name, loss in found.items()} == pytest.approx(weights)


# -- what all trainings share ---------------------------------------------------------------------


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("training", "config", "small"),
    [
        (CodiDistillation, "train_codi_tiny", SMALL),
        (PlainDistillation, "train_codi_plain", {**SMALL, "prj_dim": 64}),
    ],
)
def test_in_python_the_defaults_are_those_of_the_shipped_models(training, config, small):
    """But for sizes, which a signature has, and for the folder, which is the config's."""
    known = yaml.safe_load((GOLDEN / f"{config}.yaml").read_text())
    given = known["model"]["init_args"] | {
        "output": config.removeprefix("train_").replace("_", "-")
    }
    small = {name: size for name, size in small.items() if name in given}
    found = dict(training(**small).hparams)
    defaults = {n: p.default for n, p in inspect.signature(training).parameters.items()}
    sizes = {name: defaults[name] for name in small}
    listed = {n: list(v) if isinstance(v, tuple) else v for n, v in {**found, **sizes}.items()}
    assert listed == given
    parameters = inspect.signature(WordProblemsDataModule).parameters
    data = {name: parameter.default for name, parameter in parameters.items()}
    assert data["seed"] == 0
    if training is CodiDistillation:
        assert {name: data[name] for name in known["data"]} == known["data"]


class TwoLosses(SmallModelTraining):
    """A training of two losses, whose model is written to a folder."""

    def __init__(self, model, output=""):
        super().__init__(model)
        self.save_hyperparameters(ignore="model")
        self.logged = {}

    def losses(self, batch):
        return {"a": torch.tensor(1.0), "b": torch.tensor(2.5)}

    def log_dict(self, values, **_):
        self.logged |= values

    def log(self, name, value, **_):
        self.logged[name] = value


def test_a_step_is_the_sum_of_its_losses_and_logs_each(module, batch):
    training = TwoLosses(module.model)
    assert training.training_step(batch, 0).item() == 3.5
    assert training.logged == {"loss/a": 1.0, "loss/b": 2.5}


def test_held_out_problems_are_answered_in_four_ways(module, batch, monkeypatch):
    def answered(_model, questions, thoughts="words"):
        assert questions == batch.questions
        return {"words": ["26", "21"], "own": ["26", "3"], "zeroed": ["1", "2"]}.get(
            thoughts, ["5", "21"]
        )

    monkeypatch.setattr(small_model, "latent_answers", answered)
    monkeypatch.setattr(small_model, "reasoned_answers", answered)
    training = TwoLosses(module.model)
    training.validation_step(batch, 0)
    assert training.logged == {
        "accuracy/teacher": 1.0, "accuracy/own": 0.5, "accuracy/zeroed": 0.0,
        "accuracy/exchanged": 0.5,
    }  # fmt: skip


def test_a_training_that_goes_on_draws_what_it_would_have_drawn(module):
    training, kept = TwoLosses(module.model), {}
    training.on_save_checkpoint(kept)
    expected = torch.rand(3)
    again = TwoLosses(module.model)
    again.on_load_checkpoint(kept)
    torch.rand(5)
    again.on_train_start()
    assert torch.equal(torch.rand(3), expected)
    anew = TwoLosses(module.model)
    anew.on_load_checkpoint({})
    before = torch.get_rng_state()
    anew.on_train_start()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("first", [True, False])
def test_the_first_process_alone_writes_the_model(module, tmp_path, monkeypatch, first):
    monkeypatch.setattr(TwoLosses, "trainer", SimpleNamespace(is_global_zero=first))
    TwoLosses(module.model, str(tmp_path / "model")).on_train_end()
    assert (tmp_path / "model" / "codi.json").exists() == first


# -- optimizer and schedule -----------------------------------------------------------------------


def test_orthogonalize_brings_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 8, 20), (3, 20, 8)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_orthogonalize_is_five_iterations_of_each_matrix_alone(shape):
    torch.manual_seed(0)
    matrices = torch.randn(2, *shape)
    for matrix, found in zip(matrices.double().numpy(), orthogonalize(matrices), strict=True):
        x = matrix / np.linalg.norm(matrix)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
        np.testing.assert_allclose(found, x, atol=1e-4)


def test_muon_follows_a_momentum_of_each_matrix():
    """With Nesterov's correction: 5 % of the gradient itself, 95 % of its running mean."""
    torch.manual_seed(0)
    shapes = [(6, 4), (4, 6), (6, 4)]
    start = [torch.randn(shape) for shape in shapes]
    matrices = [torch.nn.Parameter(value.clone()) for value in start]
    idle = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = MuonAdamW([*matrices, idle], [], muon_lr=0.1, adam_lr=9.0)
    expected, means = start, [torch.zeros(shape) for shape in shapes]
    for _ in range(3):
        gradients = [torch.randn(shape) for shape in shapes]
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient.clone()
        optimizer.step()
        means = [0.95 * mean + 0.05 * own for mean, own in zip(means, gradients, strict=True)]
        moved = [
            orthogonalize((0.05 * own + 0.95 * mean)[None])[0] * (1.5**0.5 if shape[0] > 4 else 1.0)
            for own, mean, shape in zip(gradients, means, shapes, strict=True)
        ]
        expected = [x * (1 - 0.1 * 0.01) - 0.1 * step for x, step in zip(expected, moved)]
    for matrix, value in zip(matrices, expected, strict=True):
        torch.testing.assert_close(matrix.detach(), value, rtol=1e-4, atol=1e-5)
    assert torch.equal(idle.detach(), torch.ones(2, 2))  # no gradient: not even decayed


def test_a_step_with_a_closure_gives_its_loss():
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = MuonAdamW([], [weight], muon_lr=0.1, adam_lr=0.1)

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert weight.item() < 2.0
    assert optimizer.step() is None


def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_else(module, monkeypatch):
    monkeypatch.setattr(CodiDistillation, "trainer", SimpleNamespace(max_steps=1850))
    made = module.configure_optimizers()
    muon, adam = made["optimizer"].param_groups
    names = {id(p): name for name, p in module.model.named_parameters()}
    of_muon, of_adam = ({names[id(p)] for p in group["params"]} for group in (muon, adam))
    assert of_muon | of_adam == set(names.values())
    assert len(of_muon) == 2 * 7  # of each block: queries, keys, values, output; gate, up, down
    assert all(".layers." in name and "norm" not in name for name in of_muon)
    assert not of_muon & of_adam
    assert (muon["initial_lr"], adam["initial_lr"]) == (0.02, 3e-3)
    assert muon["lr"] == pytest.approx(0.02 / 50)
    schedule = made["lr_scheduler"]
    assert schedule["interval"] == "step"
    assert schedule["scheduler"].lr_lambdas[0](1849) == module.rate(1849, 1850) < 0.01


def test_adamw_as_torch_has_it_and_muon_from_its_definition():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5])) for _ in range(2))
    matrix = torch.nn.Parameter(torch.randn(6, 4))
    start = matrix.detach().clone()
    optimizer = MuonAdamW([matrix], [ours], muon_lr=0.1, adam_lr=0.05)
    reference = torch.optim.AdamW([theirs], lr=0.05, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(3):
        ours.grad = torch.tensor([0.3, -1.0, 1e-8]) * (step + 1)
        theirs.grad = ours.grad.clone()
        matrix.grad = torch.randn(6, 4) if step == 0 else None
        if step == 0:
            u, _, vh = torch.linalg.svd(matrix.grad, full_matrices=False)
            direction = u @ vh
        optimizer.step()
        reference.step()
        torch.testing.assert_close(ours, theirs)
    moved = (start * (1 - 0.1 * 0.01) - matrix.detach()) / (0.1 * math.sqrt(6 / 4))
    cosine = F.cosine_similarity(moved.flatten(), direction.flatten(), dim=0)
    assert cosine > 0.95


def test_states_are_exchanged_in_layers_that_there_are():
    with pytest.raises(ValueError, match=r"expected at most 2 .*got 3: set exchange_layers"):
        CodiDistillation(**{**SMALL, "exchange_layers": 3})


def test_learning_rate_warms_up_stays_and_decays():
    module = CodiDistillation(**SMALL, warmup_steps=10, decay_from=0.4)
    rates = [module.rate(step, 200) for step in range(202)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[30] == rates[80] == 1.0
    assert rates[140] == pytest.approx(0.5)
    assert rates[200] == rates[201] == 0.0


ADVICE = ": set --ckpt_path to a checkpoint of this training, or leave it out to begin anew"
REST = ("optimizer_states", "lr_schedulers", "loops", "global_step")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello", "cannot be read as a checkpoint"),
        ([1], "is no checkpoint of training, it has no state_dict"),
        ({"state_dict": {"a": torch.zeros(2)}}, "of training, it has no optimizer_states"),
        ({"state_dict": 3, **dict.fromkeys(REST, 0)}, "of training, it has no state_dict"),
    ],
)
def test_training_goes_on_from_checkpoints_alone(tmp_path, content, message):
    path = tmp_path / "some.ckpt"
    if isinstance(content, str):
        path.write_text(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=message) as refused:
        read_checkpoint(path)
    assert str(refused.value).endswith(ADVICE)


def test_training_goes_on_from_a_checkpoint_of_its_own_model(tmp_path):
    module, path = torch.nn.Linear(3, 2), tmp_path / "own.ckpt"
    torch.save({"state_dict": module.state_dict(), **dict.fromkeys(REST, 0)}, path)
    there = read_checkpoint(path)
    assert there == {"weight": (2, 3), "bias": (2,)}
    check_weights("own", there, module.state_dict())
    message = r"own is of another model: expected weight of \(2, 4\), got \(2, 3\)"
    with pytest.raises(InputError, match=message) as refused:
        check_weights("own", there, torch.nn.Linear(4, 2).state_dict())
    assert str(refused.value).endswith(ADVICE)


def test_what_is_no_file_is_no_checkpoint(tmp_path):
    for path, found in ((tmp_path, "is no file"), (tmp_path / "last", "does not exist")):
        with pytest.raises(InputError, match=f"ckpt_path to be a file, {path} {found}: set"):
            read_checkpoint(path)


def test_weights_are_those_of_a_model_if_none_is_missing_or_more(tmp_path):
    weights = torch.nn.Linear(3, 2).state_dict()
    for there, message in (
        ({"weight": (2, 3)}, r"expected bias of \(2,\), got None"),
        ({"weight": (2, 3), "bias": (2,), "more": ()}, r"expected more of None, got \(\)"),
    ):
        with pytest.raises(InputError, match=message):
            check_weights("own", there, weights)


@pytest.mark.parametrize("name", ["optimizer_states", "lr_schedulers", "loops", "global_step"])
def test_a_checkpoint_without_its_training_is_none(tmp_path, name):
    content = {"state_dict": {}, **dict.fromkeys(REST, 0)}
    del content[name]
    torch.save(content, tmp_path / "some.ckpt")
    with pytest.raises(InputError, match=f"it has no {name}"):
        read_checkpoint(tmp_path / "some.ckpt")


def fitting(ckpt_path):
    """`fit` of a small linear model, whose options are parsed."""
    cli = fit.FitCLI.__new__(fit.FitCLI)
    cli.model = torch.nn.Linear(3, 2)
    cli.config = Namespace(fit=Namespace(ckpt_path=ckpt_path))
    return cli


def test_the_checkpoint_of_the_command_is_read_before_and_compared_after(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(fit.OneLineCLI, "parse_arguments", lambda self, parser, args: None)
    weights = torch.nn.Linear(3, 2).state_dict()
    torch.save({"state_dict": weights, **dict.fromkeys(REST, 0)}, tmp_path / "own.ckpt")
    cli = fitting("~/own.ckpt")
    cli.parse_arguments(None, [])
    assert cli.config.fit.ckpt_path == f"{tmp_path}/own.ckpt"
    cli.before_fit()
    cli.model = torch.nn.Linear(4, 2)
    with pytest.raises(InputError, match=f"{tmp_path}/own.ckpt is of another model"):
        cli.before_fit()
    with pytest.raises(InputError, match="does not exist"):
        fitting("last").parse_arguments(None, [])
    anew = fitting(None)
    anew.parse_arguments(None, [])
    anew.before_fit()


def test_what_lightning_refuses_of_training_is_bad_input(monkeypatch):
    def refused(*_, **__):
        raise fit.MisconfigurationException("no such device")

    monkeypatch.setattr(fit, "FitCLI", refused)
    with pytest.raises(InputError, match="no such device"):
        run([])
    monkeypatch.setattr(fit, "FitCLI", lambda *_, **given: asked.append(given["args"]))
    asked = []
    assert run(["--config", "train_codi_tiny"]) == 0
    assert asked[0][:2] == ["fit", "--config"]
    assert asked[0][2].endswith("configs/train_codi_tiny.yaml")


SCHEDULES = {
    "codi_tiny": {"own_from": 4, "exchange_layers": 2},
    "codi_plain": {"student_from": 4, "own_from": 6, "prj_dim": 64},
    "codi_pause": {"student_from": 4, "own_from": 6},
}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("name", SCHEDULES)
def test_fit_trains_resumes_and_writes_a_model_that_loads(tmp_path, monkeypatch, name):
    """Interrupted in its third epoch, it goes on after the second and ends with the same bytes."""
    monkeypatch.chdir(tmp_path)
    config = f"{__file__.rpartition('/tests/')[0]}/configs/train_{name}.yaml"
    small = {key: value for key, value in SMALL.items() if key != "exchange_layers"}
    options = {**small, "calculation_steps": 2, **SCHEDULES[name]}
    common = [
        *(f"--config={config}", *(f"--model.{key}={value}" for key, value in options.items())),
        *("--data.batch_size=4", "--data.steps_per_epoch=3", "--data.held_out=4"),
        *("--trainer.max_steps=12", "--trainer.log_every_n_steps=1"),
    ]
    folder, model = tmp_path / "runs" / f"train_{name}", name.replace("_", "-")
    run(common)
    folder.rename(tmp_path / "whole")
    run([*common, "--trainer.max_epochs=3"])
    last = folder / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=False)["global_step"] == 6
    run([*common, f"--ckpt_path={last}"])
    assert torch.load(last, weights_only=False)["global_step"] == 12
    files = ("model.safetensors", "codi.json", "config.json", "tokenizer.json")
    for file in files:
        assert (folder / model / file).read_bytes() == (
            tmp_path / "whole" / model / file
        ).read_bytes()
    loaded, _ = load_checkpoint(folder / model)
    assert loaded.num_latents == 5
    assert loaded.feeds_back == (name != "codi_pause")
    assert loaded.settings.answer_prefix == "The answer is:"
