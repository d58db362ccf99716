"""Training without a word on thoughts, on a model of two layers."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from codi_patching.errors import InputError
from codi_patching.models.projections import PauseVectors
from codi_patching.training import plain
from codi_patching.training.data import Collator, WordProblems
from codi_patching.training.objectives import calculation_loss
from codi_patching.training.plain import PlainDistillation

SMALL = {"num_layers": 2, "hidden_size": 32, "intermediate_size": 48, "prj_dim": 64}


@pytest.fixture(params=[True, False], ids=["thoughts", "pauses"])
def module(request):
    torch.manual_seed(0)
    return PlainDistillation(feeds_back=request.param, **SMALL)


@pytest.fixture
def batch(module):
    problems = WordProblems(4, seed=3, held_out=False)
    collate = Collator(module.model.tokenizer, 5, 1, 0.5, 1.0)
    return collate([problems[i] for i in range(4)])


@pytest.fixture
def at_step(module, monkeypatch):
    """The module at a step of the schedule."""

    def at_step(step):
        monkeypatch.setattr(PlainDistillation, "global_step", step)
        return module

    return at_step


OWN = {"teacher", "answer", "eos", "distillation"}


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (0, {"calculation"}),
        (120, {"teacher", "rehearsal"}),
        (700, {*OWN, "result", "held", "code"}),
        (2100, OWN),
    ],
)
def test_each_part_has_its_losses_and_no_other(batch, at_step, step, names):
    module = at_step(step)
    if not module.model.feeds_back and step == 700:
        names = OWN  # there are no thoughts to be given
    losses = module.losses(batch)
    assert set(losses) == names
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (119, {"calculation"}),
        (699, {"teacher", "rehearsal"}),
        (2099, {*OWN, "result", "held", "code"}),
    ],
)
def test_a_part_lasts_until_the_step_before_the_next(batch, at_step, step, names):
    module = at_step(step)
    if not module.model.feeds_back and step == 2099:
        names = OWN
    assert set(module.losses(batch)) == names


@pytest.mark.parametrize("step", [120, 700, 2100])
def test_weights_by_hand(batch, at_step, step):
    module = at_step(step)
    module.hparams["noise"] = 0.0
    weights = {"rehearsal": 0.3, "distillation": 5.0, "result": 2.0, "held": 2.0, "code": 0.2,
               "eos": 0.1, "answer": 1.0, "teacher": 4.0 if step == 2100 else 1.0}  # fmt: skip
    plain, weighted = module._of_part(batch), module.losses(batch)
    for name, loss in weighted.items():
        assert loss.item() == pytest.approx(weights[name] * plain[name].item(), rel=1e-5), name


def test_the_teacher_is_alone_with_a_few_calculations(module, batch, at_step):
    """In the second part; all rows are the teacher's, as in whole sequences."""
    model = at_step(120).model
    lines = torch.cat([batch.calculations, batch.calculations.roll(1, 1)])
    module.hparams["rehearsed_lines"] = 1
    losses = module._of_part(replace(batch, calculations=lines))
    rehearsal = calculation_loss(model, lines[:1], module.equals_id)
    torch.testing.assert_close(losses["rehearsal"], rehearsal)
    surprise = []
    for row, question in enumerate(batch.questions):
        ids, words = model.question_ids(question), batch.reasoning[row]
        words = words[words >= 0]
        logits = model.backbone(torch.tensor([ids + words.tolist()])).logits[0]
        surprise += F.cross_entropy(logits[len(ids) - 1 : -1], words, reduction="none")
    mean = torch.stack(surprise).mean().item()
    assert losses["teacher"].item() == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("step", [700, 2100])
def test_the_answer_ends_with_eos(module, batch, at_step, step):
    """After given thoughts as after own ones, one question at a time."""
    model, surprise = at_step(step).model, []
    module.hparams["noise"] = 0.0
    for row, question in enumerate(batch.questions):
        hidden, context = model.encode([model.prompt_ids(question)])
        if step == 700 and model.feeds_back:
            _, context = model.advance(context, model.prj.ln(model.embed(batch.thoughts[row])))
        else:
            _, _, context = model.think(hidden, context)
        said = torch.cat([module.readout_ids, batch.answers[row, :1]])
        states, _ = model.read(context, said[None])
        surprise.append(-model.logits(states[0, -1]).log_softmax(-1)[model.settings.eos_id])
    found = module._of_part(batch)["eos"].item()
    assert found == pytest.approx(torch.stack(surprise).mean().item(), rel=1e-4)


@pytest.mark.parametrize(("fraction", "rows"), [(0.5, 2), (0.75, 3), (1.0, 4)])
def test_the_teacher_writes_on_a_fraction_of_the_rows(module, batch, fraction, rows):
    module.hparams["teacher_rows"] = fraction
    assert module._rows_of_teacher(batch) == rows


def test_the_teacher_of_given_thoughts_is_of_the_first_rows(module, batch, at_step):
    """Student and teacher are compared in the same rows, the student's own chain."""
    if not module.model.feeds_back:
        pytest.skip("a model of pauses has no given thoughts")
    module.hparams["noise"] = 0.0
    found = at_step(700)._of_part(batch)
    module.hparams["teacher_rows"] = 1.0
    half = replace(
        batch,
        **{name: getattr(batch, name)[:2] for name in (
            "questions", "results", "prompts", "real", "last_thought", "made", "thoughts", "said",
            "answers", "reasoning",
        )},
    )  # fmt: skip
    first = module._of_part(half)
    for name in ("teacher", "distillation"):
        assert found[name].item() == pytest.approx(first[name].item(), rel=1e-3), name


def test_given_thoughts_are_noised_as_asked(module, batch, at_step, monkeypatch):
    if not module.model.feeds_back:
        pytest.skip("a model of pauses has no given thoughts")
    asked, own = [], plain.read_chains
    monkeypatch.setattr(plain, "read_chains", lambda *args: (asked.append(args[3]), own(*args))[1])
    module.hparams["noise"] = 0.3
    at_step(700)._of_part(batch)
    assert asked == [0.3]


def test_other_chains_exchange_nothing(module, at_step):
    module.hparams["noise"] = 0.0
    problems = WordProblems(4, seed=3, held_out=False)
    batch = Collator(module.model.tokenizer, 5, 4, 0.5, 1.0)([problems[i] for i in range(4)])
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append({n: loss.item() for n, loss in at_step(700)._of_part(batch).items()})
    assert found[0] == found[1]


def test_nobody_says_what_own_thoughts_should_carry(batch, at_step):
    """Of a batch with other results in its thoughts the last part's losses are the same."""
    own = at_step(2100).losses(batch)
    other = replace(batch, said=batch.said.roll(1, 0), thoughts=batch.thoughts.roll(1, 0))
    assert {n: v.item() for n, v in at_step(2100).losses(other).items()} == {
        name: value.item() for name, value in own.items()
    }


def test_given_thoughts_are_those_of_the_problem_itself(batch, at_step):
    """The answer is read after codes of its results, one question at a time."""
    module = at_step(700)
    if not module.model.feeds_back:
        return
    module.hparams["noise"] = 0.0
    model, surprise, said = module.model, [], []
    for row, question in enumerate(batch.questions):
        hidden, context = model.encode([model.prompt_ids(question)])
        thoughts = model.prj.ln(model.embed(batch.thoughts[row]))
        states, context = model.advance(context, thoughts)
        final, _ = model.read(context, module.readout_ids[None])
        surprise.append(F.cross_entropy(model.logits(final[:, -1]), batch.answers[row]))
        makers = torch.cat([hidden, states[0, :-1]])[batch.made[row]]
        said.append(
            F.cross_entropy(
                model.logits(makers), batch.said[row, 0][batch.made[row]], reduction="none"
            )
        )
    losses = module.losses(batch)
    assert losses["answer"].item() == pytest.approx(torch.stack(surprise).mean().item(), rel=1e-4)
    assert losses["result"].item() == pytest.approx(2 * torch.cat(said).mean().item(), rel=1e-4)


def test_the_answer_is_read_after_own_thoughts_one_question_at_a_time(module, batch, at_step):
    """The loss of a batch is the mean over whole sequences, each run alone."""
    model = module.model
    losses = at_step(2100).losses(batch)
    surprise = []
    for question, answer in zip(batch.questions, batch.answers[:, 0], strict=True):
        _, _, context = model.think(*model.encode([model.prompt_ids(question)]))
        states, _ = model.read(context, module.readout_ids[None])
        surprise.append(F.cross_entropy(model.logits(states[:, -1]), answer[None]))
    assert losses["answer"].item() == pytest.approx(torch.stack(surprise).mean().item(), rel=1e-4)


@pytest.mark.parametrize(("step", "weight"), [(1449, 1.0), (1450, 4.0)])
def test_the_teacher_weighs_more_from_some_step_on(batch, at_step, step, weight):
    lone = at_step(120).losses(replace(batch, prompts=batch.prompts[:2], real=batch.real[:2]))
    found = at_step(step).losses(batch)["teacher"].item()
    assert found == pytest.approx(weight * lone["teacher"].item(), rel=1e-4)


def test_the_student_is_drawn_to_the_teacher_of_the_same_rows(module, batch, at_step):
    """Of half of the rows; against states of whole sequences, the teacher's in words."""
    model = module.model
    found = at_step(2100).losses(batch)["distillation"] / 5.0
    states = {"student": [], "teacher": []}
    for row in range(2):
        ids = model.question_ids(batch.questions[row])
        words = batch.reasoning[row][batch.reasoning[row] >= 0].tolist()
        _, _, context = model.think(*model.encode([[*ids, *model.settings.bot_ids]]))
        start = model.encode([ids])[1]
        for name, before, after in (
            ("student", context, module.readout_ids[None]),
            ("teacher", start, torch.tensor([words[:-2]])),
        ):
            kept = [
                block.register_forward_hook(lambda m, a, out, n=name: states[n].append(out[0, -1]))
                for block in model.blocks
            ]
            model.read(before, after)
            for hook in kept:
                hook.remove()
    layers = []
    for layer in range(2):
        ours, theirs = (torch.stack(states[n][layer::2]) for n in ("student", "teacher"))
        layers.append(F.smooth_l1_loss(ours, theirs) / theirs.std())
    assert found.item() == pytest.approx(torch.stack(layers).mean().item(), rel=1e-3)


def test_gradients_reach_what_makes_thoughts(module, batch, at_step):
    losses = at_step(2100).losses(batch)
    losses["answer"].backward()
    parameters = dict(module.model.prj.named_parameters())
    reached = {name for name, p in parameters.items() if p.grad is not None and p.grad.any()}
    if isinstance(module.model.prj, PauseVectors):
        assert reached == {"pause"}
    else:
        assert reached == set(parameters)


@pytest.mark.parametrize("width", [64, 80])
def test_a_thought_begins_as_the_normalised_state(width):
    prj = PlainDistillation(**{**SMALL, "prj_dim": width}).model.prj
    states = torch.randn(4, 32)
    assert torch.allclose(prj(states), prj.ln(states), atol=1e-6)


def test_a_prj_that_passes_states_through_is_wide_enough():
    with pytest.raises(InputError, match="of at least 64, twice the hidden size, got 63"):
        PlainDistillation(**{**SMALL, "prj_dim": 63})


def test_pauses_are_of_the_size_of_embeddings():
    torch.manual_seed(0)
    model = PlainDistillation(feeds_back=False, **SMALL).model
    assert model.prj.pause.shape == (5, 32)
    embeddings = model.backbone.get_input_embeddings().weight
    assert model.prj.pause.std().item() == pytest.approx(embeddings.std().item(), rel=0.2)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.02), (49, 1.0), (350, 1.0), (525, 0.5), (699, 0.15), (700, 0.15), (720, 0.35),
     (1000, 0.9), (1380, 0.9), (1890, 0.45), (2400, 0.0)],
)  # fmt: skip
def test_the_rate_by_hand(step, rate):
    """2,400 steps, of which 700 are the teacher's; from 40 % of the other 1,700 they fall."""
    module = PlainDistillation(**SMALL)
    assert module.rate(step, 2400) == pytest.approx(rate, abs=1e-9)
