"""Training, on a model of two layers and for a few steps."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from codi_patching.cli import run
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.training.distillation import (
    CodiDistillation,
    WordProblems,
    WordProblemsDataModule,
)

SMALL = [
    "--model.num_layers=2",
    "--model.hidden_size=32",
    "--model.intermediate_size=48",
    "--data.batch_size=8",
    "--data.steps_per_epoch=2",
    "--data.held_out=8",
    "--trainer.check_val_every_n_epoch=1",
]
BATCH = {
    "question": ["Tom has 16 pears. He eats 3.", "Tom has 2 pears."],
    "steps": [("<<16-3=13>>", "<<13*2=26>>"), ("<<2+1=3>>", "<<3+4=7>>", "<<7+1=8>>")],
    "values": [(13, 26), (3, 7, 8)],
    "answer": [26, 8],
}


@pytest.fixture
def module():
    torch.manual_seed(0)
    return CodiDistillation(num_layers=2, hidden_size=32, intermediate_size=48)


def encode(module):
    questions = [module.model.question_ids(q) for q in BATCH["question"]]
    return module.model.encode(questions)


def test_teacher_loss_by_whole_sequences_one_at_a_time(module):
    """Its targets: all steps but the last, the prefix, the answer, eos."""
    model = module.model
    loss, states = module.teacher_loss(*encode(module), BATCH)
    texts = [
        "<<16-3=13>> The answer is: 26",
        "<<2+1=3>> <<3+4=7>> The answer is: 8",
    ]
    losses = []
    for row, (question, text) in enumerate(zip(BATCH["question"], texts, strict=True)):
        ids = model.question_ids(question)
        target = [*model.tokenizer(text, add_special_tokens=False)["input_ids"]]
        target.append(model.settings.eos_id)
        outputs = model.backbone(torch.tensor([ids + target]), output_hidden_states=True)
        predictions = outputs.logits[0, len(ids) - 1 : -1]
        losses.append(F.cross_entropy(predictions, torch.tensor(target), reduction="none"))
        before_answer = len(ids + target) - 3
        expected = outputs.hidden_states[1][0, before_answer]
        torch.testing.assert_close(states[0][row], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, torch.cat(losses).mean(), rtol=1e-4, atol=1e-5)


def test_student_losses_one_at_a_time(module):
    model = module.model
    _, context = encode(module)
    loss, step_loss, states, _ = module.student_loss(*module.read_bot(context), BATCH)
    losses, step_losses = [], []
    for row, question in enumerate(BATCH["question"]):
        _, hidden, after = model.think(*model.encode([model.prompt_ids(question)]))
        values = BATCH["values"][row]
        for step, value in enumerate(values):
            target = torch.tensor([module._ids(str(value))[0]])
            predictions = model.logits(hidden[:, 2 * step])
            step_losses.append(F.cross_entropy(predictions, target))
        answer = [*module._ids(str(BATCH["answer"][row])), model.settings.eos_id]
        ids = [model.settings.eot_id, *module.prefix_ids, *answer]
        read, _ = model.read(after, torch.tensor([ids]))
        predictions = model.logits(read[0, -3:-1])
        losses.append(F.cross_entropy(predictions, torch.tensor(answer)))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(step_loss, torch.stack(step_losses).mean(), rtol=1e-4, atol=1e-5)
    assert [s.shape for s in states] == [(2, 32), (2, 32)]


def test_distillation_loss_by_hand_and_only_the_student_learns():
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 3.0]], requires_grad=True)
    loss = CodiDistillation.distillation_loss([student], [teacher])
    # smooth L1: (0.5 * 1 + (3 - 0.5)) / 2 = 1.5; standard deviation of 0, 3: 3 / sqrt(2)
    assert loss.item() == pytest.approx(1.5 / (3 / math.sqrt(2)))
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_necessity_loss_is_the_distance_from_uniform_with_zeroed_thoughts(module):
    """Its first row has zero thoughts; a batch of two has a single row that takes part."""
    model = module.model
    _, context = module.read_bot(encode(module)[1])
    loss = module.necessity_loss(context, torch.randn(2, 5, 32))
    alone = model.encode([model.prompt_ids(BATCH["question"][0])])[1]
    _, after = model.advance(alone, torch.zeros(1, 5, 32))
    read, _ = model.read(after, torch.tensor([[model.settings.eot_id, *module.prefix_ids]]))
    numbers = [module._ids(str(n))[0] for n in range(61)]
    p = model.logits(read[0, -1]).softmax(-1)[numbers]
    uniform = torch.full((61,), 1 / 61)
    expected = (uniform * (uniform / p).log()).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_learning_rate_warms_up_stays_and_decays_in_each_stage():
    module = CodiDistillation(
        num_layers=1,
        teacher_steps=100,
        joint_steps=200,
        warmup_steps=10,
        decay_fraction=(0.5, 0.5),
    )
    rates = [module._learning_rate(step, (2.0, 1.0)) for step in range(300)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[30] == 2.0
    assert rates[75] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert rates[150] == 1.0
    assert rates[250] == pytest.approx(0.5)


def test_problems_are_fresh_each_epoch_and_held_out_ones_apart():
    first, second = (WordProblems(20, seed, held_out=False) for seed in (1, 2))
    assert [first[i] for i in range(20)] == [first[i] for i in range(20)]
    assert first[0] != second[0]
    data = WordProblemsDataModule(batch_size=4, steps_per_epoch=3, held_out=5)
    assert len(data.train_dataloader()) == 3
    (batch,) = list(data.val_dataloader())
    assert len(batch["question"]) == 5


@pytest.mark.slow
def test_fit_trains_resumes_and_writes_a_model_that_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = f"{__file__.rpartition('/tests/')[0]}/configs/train_codi_tiny.yaml"
    steps = ["--model.teacher_steps=2", "--model.joint_steps=4", "--model.necessity_from=2"]
    common = ["codi-patching", "fit", f"--config={config}", *SMALL, *steps]
    monkeypatch.setattr("sys.argv", [*common, "--trainer.max_epochs=2"])
    run()
    last = "runs/train_codi_tiny/checkpoints/last.ckpt"
    middle = torch.load(last, weights_only=False)
    assert middle["lr_schedulers"][0]["last_epoch"] == 4
    monkeypatch.setattr("sys.argv", [*common, f"--ckpt_path={last}"])
    run()
    assert torch.load(last, weights_only=False)["lr_schedulers"][0]["last_epoch"] == 6
    model, _ = load_checkpoint("runs/train_codi_tiny/codi-tiny")
    assert model.num_latents == 5
    settings = json.loads((tmp_path / "runs/train_codi_tiny/codi-tiny/codi.json").read_text())
    assert settings["answer_prefix"] == "The answer is:"
