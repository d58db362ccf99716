"""CODI self-distillation: one model learns to reason in words and, from itself, in thoughts.

    teacher  question <<16-3=13>> The answer is : 26 eos       all steps but the last in words
    student  question bot z_0 .. z_4 eot The answer is : 26 eos

The question is encoded once for both. The student's hidden states at the token before the answer,
in every layer, are drawn to the teacher's (arXiv 2502.21074); and the head on the last hidden state
of thought 2s is asked for the result of step s, which keeps the thoughts from becoming alike
(in the spirit of SIM-CoT, arXiv 2509.20317).

Training runs in two stages: the teacher alone to the end of its learning-rate schedule, then both.

Latent positions can also compute from the question whatever is fed into them, as pause tokens do
(arXiv 2310.02226): with nothing against it, codi-tiny came to answer 31 % of problems with zeroed
thoughts, and 47 % with its own, halfway through the second stage. So from there on a *necessity*
loss asks for the uniform distribution over numbers when the thoughts carry nothing: zeros, the
batch's mean thoughts, or noise. Thoughts of another question are never trained on.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from codi_patching.data.word_problems import MAX_VALUE, sample_problem, vocabulary
from codi_patching.models.accuracy import is_correct, latent_answers, reasoned_answers
from codi_patching.models.codi import Context
from codi_patching.models.loading.checkpoint import save_checkpoint
from codi_patching.patching.hooks import capture
from codi_patching.training.codi_tiny import build_codi_tiny

_IGNORE = -100
Batch = dict[str, list[Any]]


class WordProblems(Dataset[dict[str, Any]]):
    """Problems drawn from a seed: item i is always the same problem."""

    def __init__(self, size: int, seed: int, held_out: bool) -> None:
        self.size, self.seed, self.held_out = size, seed, held_out

    def __len__(self) -> int:
        """Number of problems."""
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The question, its reasoning steps, their results, the answer."""
        problem = sample_problem(Random(f"{self.seed}/{index}"), self.held_out)
        return {
            "question": problem.question,
            "steps": problem.reasoning_steps,
            "values": problem.values,
            "answer": problem.answer,
        }


def _as_columns(rows: list[dict[str, Any]]) -> Batch:
    return {key: [row[key] for row in rows] for key in rows[0]}


class WordProblemsDataModule(pl.LightningDataModule):
    """Fresh word problems every epoch, and a fixed set of held-out ones.

    Args:
        batch_size: Problems a step.
        steps_per_epoch: Steps an epoch.
        held_out: Problems for validation, of the part that training never sees.
        seed: Of all problems; epoch e draws from seed + 1 + e.
    """

    def __init__(
        self,
        batch_size: int = 64,
        steps_per_epoch: int = 100,
        held_out: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size, self.held_out, self.seed = batch_size, held_out, seed
        self.steps_per_epoch = steps_per_epoch

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Problems of the current epoch; the trainer asks anew at each."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        problems = WordProblems(
            self.batch_size * self.steps_per_epoch, self.seed + 1 + epoch, held_out=False
        )
        return DataLoader(problems, self.batch_size, collate_fn=_as_columns)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The held-out problems, as one batch."""
        problems = WordProblems(self.held_out, self.seed, held_out=True)
        return DataLoader(problems, self.held_out, collate_fn=_as_columns)


class CodiDistillation(pl.LightningModule):
    """Trains a small CODI model from nothing.

    Args:
        num_latents: K.
        num_layers: Decoder blocks.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward layers.
        teacher_steps: Length of the first stage, teacher alone.
        joint_steps: Length of the second stage, teacher and student; then training stops.
        muon_lr: Peak learning rates of the two stages for the blocks' matrices (Muon).
        adam_lr: The same for embeddings, norms and prj (AdamW).
        warmup_steps: At the start of each stage.
        decay_fraction: Last part of each of the two stages, in which the learning rate falls to 0.
        distillation_weight: Of the hidden-state loss.
        step_weight: Of the loss of the thoughts' own predictions.
        necessity_weight: Of the loss of answering with thoughts that carry nothing.
        necessity_from: Step of the second stage from which that loss takes part.
        output: Folder for the finished model, in the package's own layout.
    """

    def __init__(
        self,
        num_latents: int = 5,
        num_layers: int = 16,
        hidden_size: int = 128,
        intermediate_size: int = 256,
        teacher_steps: int = 1600,
        joint_steps: int = 4000,
        muon_lr: tuple[float, float] = (0.02, 0.012),
        adam_lr: tuple[float, float] = (3e-3, 1.5e-3),
        warmup_steps: int = 100,
        decay_fraction: tuple[float, float] = (0.35, 0.48),
        distillation_weight: float = 1.0,
        step_weight: float = 0.5,
        necessity_weight: float = 0.3,
        necessity_from: int = 2100,
        output: str = "codi-tiny",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.model = build_codi_tiny(
            vocabulary(),
            num_latents=num_latents,
            num_layers=num_layers,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
        )
        tokenizer = self.model.tokenizer
        numbers = tokenizer.convert_tokens_to_ids([str(n) for n in range(MAX_VALUE + 1)])
        self.register_buffer("number_ids", torch.tensor(numbers), persistent=False)
        self.prefix_ids = tokenizer(self.model.settings.answer_prefix, add_special_tokens=False)[
            "input_ids"
        ]

    # -- losses ---------------------------------------------------------------------------------

    def _ids(self, text: str) -> list[int]:
        return list(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    def teacher_loss(
        self, hidden: Tensor, context: Context, batch: Batch
    ) -> tuple[Tensor, list[Tensor]]:
        """Cross entropy of the steps and the answer, and the states at the token before it.

        Args:
            hidden: `(rows, hidden)` at the question's last token.
            context: The context that ends there.
            batch: Columns of problems.

        Returns:
            The loss in nats, and for each layer the states `(rows, hidden)`.
        """
        eos = self.model.settings.eos_id
        sequences, before_answer = [], []
        for steps, answer in zip(batch["steps"], batch["answer"], strict=True):
            reasoning = self._ids(" ".join(steps[:-1])) + list(self.prefix_ids)
            before_answer.append(len(reasoning) - 1)
            sequences.append([*reasoning, *self._ids(f" {answer}"), eos])
        targets = _pad_right(sequences, _IGNORE).to(self.device)
        with capture(self.model.blocks) as records:
            states, _ = self.model.read(context, targets.clamp(min=0))
        predictions = self.model.logits(torch.cat([hidden.unsqueeze(1), states[:, :-1]], dim=1))
        loss = F.cross_entropy(predictions.flatten(0, 1), targets.flatten(), ignore_index=_IGNORE)
        rows = torch.arange(len(sequences), device=self.device)
        columns = torch.tensor(before_answer, device=self.device)
        return loss, [record[0][rows, columns] for record in records]

    def read_bot(self, context: Context) -> tuple[Tensor, Context]:
        """Go on from the question to the end of the prompt."""
        bot = torch.tensor([self.model.settings.bot_ids] * context.rows, device=self.device)
        hidden, context = self.model.read(context, bot)
        return hidden[:, -1], context

    def necessity_loss(self, context: Context, thoughts: Tensor) -> Tensor:
        """KL of the answer from the uniform distribution, given thoughts that carry nothing.

        Args:
            context: The context that ends with bot.
            thoughts: z of the batch, `(rows, K, hidden)`; a quarter of its rows take part.

        Returns:
            KL(uniform over number tokens ‖ answer), in nats.
        """
        rows = max(1, len(thoughts) // 4)
        mean, deviation = thoughts.detach().mean(0), thoughts.detach().std()
        kinds = (torch.zeros_like(mean), mean, deviation * torch.randn_like(mean))
        empty = torch.stack([kinds[row % 3] for row in range(rows)])
        _, context = self.model.advance(context.take(rows), empty)
        start = [self.model.settings.eot_id, *self.prefix_ids]
        final, _ = self.model.read(context, torch.tensor([start] * rows, device=self.device))
        surprise = -self.model.logits(final[:, -1]).log_softmax(-1)[:, self.number_ids]
        return surprise.mean() - math.log(len(self.number_ids))

    def student_loss(
        self, hidden: Tensor, context: Context, batch: Batch
    ) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Cross entropies of the answer and of the thoughts, and the states before the answer.

        Args:
            hidden: `(rows, hidden)` at bot.
            context: The context that ends with bot.
            batch: Columns of problems.

        Returns:
            The two losses in nats, for each layer the states `(rows, hidden)`, and the thoughts.
        """
        settings = self.model.settings
        rows = len(batch["answer"])
        thoughts, states, context = self.model.think(hidden, context)
        supervised = self.model.logits(states[:, ::2]).flatten(0, 1)
        values = [
            [self._ids(str(value))[0] for value in row][: states[:, ::2].shape[1]]
            for row in batch["values"]
        ]
        targets = _pad_right(values, _IGNORE, states[:, ::2].shape[1]).to(self.device)
        step_loss = F.cross_entropy(supervised, targets.flatten(), ignore_index=_IGNORE)

        answers = _pad_right(
            [[*self._ids(f" {a}"), settings.eos_id] for a in batch["answer"]], _IGNORE
        ).to(self.device)
        start = torch.tensor([[settings.eot_id, *self.prefix_ids]] * rows, device=self.device)
        with capture(self.model.blocks) as records:
            final, _ = self.model.read(context, torch.cat([start, answers.clamp(min=0)], dim=1))
        colon = start.shape[1] - 1
        predictions = self.model.logits(final[:, colon:-1])
        loss = F.cross_entropy(predictions.flatten(0, 1), answers.flatten(), ignore_index=_IGNORE)
        return loss, step_loss, [record[0][:, colon] for record in records], thoughts

    @staticmethod
    def distillation_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Smooth L1 over the teacher's standard deviation, mean over layers; teacher detached."""
        losses = [
            F.smooth_l1_loss(s, t.detach()) / t.detach().std()
            for s, t in zip(student, teacher, strict=True)
        ]
        return torch.stack(losses).mean()

    # -- Lightning ------------------------------------------------------------------------------

    @property
    def steps_done(self) -> int:
        """Batches trained on; kept in checkpoints by the schedulers."""
        return self.lr_schedulers()[0].last_epoch

    @property
    def joint(self) -> bool:
        """Whether the student takes part."""
        return self.steps_done >= self.hparams["teacher_steps"]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of both optimizers."""
        hidden, context = self.model.encode([self.model.question_ids(q) for q in batch["question"]])
        teacher, teacher_states = self.teacher_loss(hidden, context, batch)
        losses = {"teacher": teacher}
        if self.joint:
            hidden, context = self.read_bot(context)
            student, steps, student_states, thoughts = self.student_loss(hidden, context, batch)
            losses["student"] = student
            losses["steps"] = self.hparams["step_weight"] * steps
            losses["distillation"] = self.hparams["distillation_weight"] * self.distillation_loss(
                student_states, teacher_states
            )
            since = self.steps_done - self.hparams["teacher_steps"]
            if since >= self.hparams["necessity_from"]:
                weight = self.hparams["necessity_weight"]
                losses["necessity"] = weight * self.necessity_loss(context, thoughts)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(f"loss is {total.item()} at step {self.steps_done}")
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.manual_backward(total)
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for scheduler in self.lr_schedulers():
            scheduler.step()
        if self.steps_done >= self.hparams["teacher_steps"] + self.hparams["joint_steps"]:
            self.trainer.should_stop = True
        self.log_dict(
            {f"loss/{name}": value.detach() for name, value in losses.items()}, prog_bar=True
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy on held-out problems: teacher, student, and student without its thoughts."""
        answers = {"teacher": reasoned_answers(self.model, batch["question"])}
        if self.joint:
            for source in ("own", "zeroed", "exchanged"):
                answers[source] = latent_answers(self.model, batch["question"], source)
        for name, texts in answers.items():
            right = [is_correct(t, a) for t, a in zip(texts, batch["answer"], strict=True)]
            rate = sum(right) / len(right)
            self.log(f"accuracy/{name}", rate, prog_bar=True, batch_size=len(right))

    def on_train_end(self) -> None:
        """Write the model in the package's own layout."""
        if self.trainer.is_global_zero:
            save_checkpoint(self.model, Path(self.hparams["output"]))

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[dict[str, Any]]]:
        """Muon for the blocks' matrices, AdamW for everything else."""
        matrices = [p for block in self.model.blocks for p in block.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.model.parameters() if id(p) not in chosen]
        optimizers = [
            torch.optim.Muon(matrices, lr=1.0, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        peaks = [self.hparams["muon_lr"], self.hparams["adam_lr"]]
        schedulers = [
            {"scheduler": LambdaLR(o, partial(self._learning_rate, peaks=p)), "interval": "step"}
            for o, p in zip(optimizers, peaks, strict=True)
        ]
        return optimizers, schedulers

    def _learning_rate(self, step: int, peaks: tuple[float, float]) -> float:
        """Warm-up, constant, linear decay; once for each stage."""
        first = self.hparams["teacher_steps"]
        joint = step >= first
        length = self.hparams["joint_steps"] if joint else first
        done = step - first if joint else step
        warm = min(1.0, (done + 1) / self.hparams["warmup_steps"])
        left = max(0.0, (length - done) / (self.hparams["decay_fraction"][joint] * length))
        return peaks[joint] * min(warm, left, 1.0)


def _pad_right(sequences: list[list[int]], value: int, length: int | None = None) -> Tensor:
    length = length or max(len(s) for s in sequences)
    return torch.tensor([s + [value] * (length - len(s)) for s in sequences])
