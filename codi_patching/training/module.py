"""CODI self-distillation with thoughts of known content.

Three parts, one schedule, from nothing:

1. *Calculating.* Bare calculations, `<<16-3=13>>`: the head is asked for the results.
2. *Given thoughts.* Thoughts are codes of tokens (`codi_patching.training.tree`); nothing is fed
   back yet, so that all thoughts of a chain are read in one pass. The head on the state that makes
   a thought is asked for what the thought should say (as in SIM-CoT, arXiv 2509.20317), prj for the
   thought itself, the readout for the answer. Most chains are counterfactual, and two of them
   exchange their residual streams (`codi_patching.training.exchange`).
3. *Own thoughts.* As before, and the model also answers after thoughts that it made itself, fed
   back one after the other, with gradients through all of them.

In parts 2 and 3 the model is its own teacher on some of the rows (arXiv 2502.21074): it writes all
steps but the last in words and then answers, and the student's states at the token before the
answer are drawn to the teacher's in every layer.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from codi_patching.data.word_problems import MAX_VALUE, vocabulary
from codi_patching.models.accuracy import is_correct, latent_answers, reasoned_answers
from codi_patching.models.codi import Context
from codi_patching.models.loading.checkpoint import save_checkpoint
from codi_patching.patching.hooks import capture
from codi_patching.training.chains import Chains, read_chains
from codi_patching.training.codi_tiny import build_codi_tiny
from codi_patching.training.data import IGNORE, Batch
from codi_patching.training.losses import (
    after_right_ones,
    calculation_targets,
    code_loss,
    distillation_loss,
    spoken_losses,
    token_loss,
    uniform_loss,
)
from codi_patching.training.muon import MuonAdamW
from codi_patching.training.tree import codes, prompt_context


class CodiDistillation(pl.LightningModule):
    """Trains a small CODI model from nothing; `trainer.max_steps` is the schedule's length.

    Args:
        num_latents: K.
        num_layers: Decoder blocks.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward layers.
        prj_dim: Width inside prj.
        calculation_steps: Length of the first part.
        own_from: Step from which the model also thinks for itself.
        muon_lr: Peak learning rate of the blocks' matrices.
        adam_lr: Peak learning rate of embeddings, norms and prj.
        warmup_steps: Steps until the peak.
        decay_from: Fraction of the schedule from which the rates fall, in a line, to 0.
        exchange_layers: Residual streams are exchanged after one of so many layers from below.
        noise: Standard deviation of the noise on given thoughts, over that of the codes.
        lens_weight: Of the loss of what the states that make thoughts say, before and after it is
            raised. Calculating a result from the question alone is harder than from a given
            thought, as the readout does: weighing as much from the start, it keeps that back.
        lens_raised_at: Step at which it is raised.
        distillation_weight: Of the hidden-state loss.
        code_weight: Of prj's loss.
        empty_weight: Of the loss of answering with thoughts that carry nothing.
        output: Folder for the finished model, in the package's own layout.
    """

    def __init__(
        self,
        num_latents: int = 5,
        num_layers: int = 16,
        hidden_size: int = 96,
        intermediate_size: int = 256,
        prj_dim: int = 512,
        calculation_steps: int = 120,
        own_from: int = 1900,
        muon_lr: float = 0.02,
        adam_lr: float = 3e-3,
        warmup_steps: int = 50,
        decay_from: float = 0.4,
        exchange_layers: int = 6,
        noise: float = 0.2,
        lens_weight: tuple[float, float] = (0.4, 2.0),
        lens_raised_at: int = 300,
        distillation_weight: float = 0.2,
        code_weight: float = 0.2,
        empty_weight: float = 0.0,
        output: str = "codi-tiny",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = build_codi_tiny(
            vocabulary(),
            num_latents=num_latents,
            num_layers=num_layers,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            prj_dim=prj_dim,
        )
        tokens = self.model.tokenizer.get_vocab()
        prefix = self.model.settings.answer_prefix
        prefix_ids = self.model.tokenizer(prefix, add_special_tokens=False)["input_ids"]
        readout = torch.tensor([self.model.settings.eot_id, *prefix_ids])
        numbers = torch.tensor([tokens[str(n)] for n in range(MAX_VALUE + 1)])
        self.register_buffer("readout_ids", readout, persistent=False)
        self.register_buffer("number_ids", numbers, persistent=False)
        self.equals_id = tokens["="]

    @property
    def lens_weight(self) -> float:
        """Of the current step."""
        return self.hparams["lens_weight"][self.global_step >= self.hparams["lens_raised_at"]]

    # -- losses -----------------------------------------------------------------------------------

    def calculation_loss(self, lines: Tensor) -> Tensor:
        """Cross entropy of the results of bare calculations `(lines, length)`."""
        start = Context(cache=None, mask=None, length=0, rows=len(lines))
        states, _ = self.model.read(start, lines)
        targets = calculation_targets(lines, self.equals_id)[:, 1:]
        chosen = targets != IGNORE
        return token_loss(self.model.logits(states[:, :-1][chosen]), targets[chosen])

    def read_chains(self, batch: Batch) -> Chains:
        """All chains of a batch, with noise on the thoughts and an exchange somewhere."""
        noise, layers = self.hparams["noise"], self.hparams["exchange_layers"]
        return read_chains(self.model, batch, self.readout_ids, noise, layers)

    def chain_losses(self, chains: Chains, made: Tensor) -> dict[str, Tensor]:
        """The losses of given thoughts.

        Args:
            chains: The chains.
            made: `(rows, K)`, true where a thought is the first with its result.
        """
        num_latents = self.model.num_latents
        bot = chains.prompt[:, -1][:, None, None].expand(-1, chains.states.shape[1], 1, -1)
        makers = torch.cat([bot, chains.states[:, :, : num_latents - 1]], dim=2)
        codes_said = codes(self.model, chains.said)
        eos = torch.full_like(chains.answers, self.model.settings.eos_id)
        result, held = spoken_losses(
            self.model.logits(makers), chains.said, made[:, None].expand_as(chains.said)
        )
        return {
            "result": self.lens_weight * result,
            "held": self.lens_weight * held,
            "answer": token_loss(self.model.logits(chains.states[:, :, -2]), chains.answers),
            "eos": 0.1 * token_loss(self.model.logits(chains.states[:, :, -1]), eos),
            "code": self.hparams["code_weight"] * code_loss(self.model.prj(makers), codes_said),
        }

    def own_losses(self, batch: Batch, bot: Tensor, context: Context) -> dict[str, Tensor]:
        """The losses of thoughts that the model makes itself, as far as they are right.

        Args:
            batch: The problems.
            bot: `(rows, hidden)` at bot.
            context: The context that ends with bot.
        """
        thoughts, states, after = self.model.think(bot, context)
        final, _ = self.model.read(after, self.readout_ids.expand(len(bot), -1))
        makers = torch.cat([bot.unsqueeze(1), states[:, :-1]], dim=1)
        logits = self.model.logits(makers)
        said, right = after_right_ones(logits, batch.said[:, 0])
        result, held = spoken_losses(logits, said, batch.made)
        answers = torch.where(right, batch.answers[:, 0], IGNORE)
        code = code_loss(thoughts[right], codes(self.model, batch.said[right, 0]))
        return {
            "own_answer": token_loss(self.model.logits(final[:, -1]), answers),
            "own_result": self.lens_weight * result,
            "own_held": self.lens_weight * held,
            "own_code": self.hparams["code_weight"] * code,
        }

    def teacher_loss(
        self, hidden: Tensor, context: Context, reasoning: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Cross entropy of the steps and the answer, and the states at the token before it.

        Args:
            hidden: `(rows, hidden)` at the question's last token.
            context: The context that ends there.
            reasoning: What the teacher writes `(rows, length)`, padded with `IGNORE`.

        Returns:
            The loss in nats, and for each layer the states `(rows, hidden)`.
        """
        with capture(self.model.blocks) as records:
            states, _ = self.model.read(context, reasoning.clamp(min=0))
        states = torch.cat([hidden.unsqueeze(1), states[:, :-1]], dim=1)
        chosen = reasoning != IGNORE
        loss = token_loss(self.model.logits(states[chosen]), reasoning[chosen])
        before_answer = chosen.sum(1) - 3  # the answer and eos end the sequence
        rows = torch.arange(len(reasoning), device=self.device)
        return loss, [record[0][rows, before_answer] for record in records]

    def empty_loss(self, context: Context) -> Tensor:
        """How far the answer is from uniform with zeros and with noise in place of thoughts."""
        shape = (context.rows, self.model.num_latents, self.model.backbone.config.hidden_size)
        empty = torch.randn(shape, device=self.device)
        empty *= codes(self.model, self.number_ids).detach().std()
        empty[::2] = 0.0
        _, after = self.model.advance(context, empty)
        final, _ = self.model.read(after, self.readout_ids.expand(context.rows, -1))
        return uniform_loss(self.model.logits(final[:, -1]), self.number_ids)

    def problem_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of given thoughts, of the teacher, and, later, of own thoughts."""
        chains = self.read_chains(batch)
        losses = self.chain_losses(chains, batch.made)
        rows, prompt = batch.prompts.shape
        some = len(batch.reasoning)
        question = prompt_context(chains.cache, batch.real, some, prompt - 1)
        losses["teacher"], teacher = self.teacher_loss(
            chains.prompt[:some, -2], question, batch.reasoning
        )
        losses["distillation"] = self.hparams["distillation_weight"] * distillation_loss(
            [state[:some] for state in chains.before_answer], teacher
        )
        if self.hparams["empty_weight"]:
            context = prompt_context(chains.cache, batch.real, some, prompt)
            losses["empty"] = self.hparams["empty_weight"] * self.empty_loss(context)
        if self.global_step >= self.hparams["own_from"]:
            context = prompt_context(chains.cache, batch.real, rows, prompt)
            losses |= self.own_losses(batch, chains.prompt[:, -1], context)
        return losses

    # -- Lightning --------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the current part's losses."""
        if self.global_step < self.hparams["calculation_steps"]:
            losses = {"calculation": self.calculation_loss(batch.calculations)}
        else:
            losses = self.problem_losses(batch)
        logged = {f"loss/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(logged, prog_bar=True, batch_size=len(batch.results))
        return torch.stack(list(losses.values())).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy on held-out problems: teacher, student, and student without its thoughts."""
        answers = {"teacher": reasoned_answers(self.model, batch.questions)}
        for source in ("own", "zeroed", "exchanged"):
            answers[source] = latent_answers(self.model, batch.questions, source)
        for name, texts in answers.items():
            right = [is_correct(t, a) for t, a in zip(texts, batch.results, strict=True)]
            rate = sum(right) / len(right)
            self.log(f"accuracy/{name}", rate, prog_bar=True, batch_size=len(right))

    def on_train_end(self) -> None:
        """Write the model in the package's own layout."""
        if self.trainer.is_global_zero:
            save_checkpoint(self.model, Path(self.hparams["output"]))

    def configure_optimizers(self) -> dict[str, Any]:
        """Muon for the blocks' matrices, AdamW for everything else."""
        matrices = [p for block in self.model.blocks for p in block.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in chosen]
        optimizer = MuonAdamW(matrices, others, self.hparams["muon_lr"], self.hparams["adam_lr"])
        schedule = partial(self.rate, total=self.trainer.max_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, schedule), "interval": "step"},
        }

    def rate(self, step: int, total: int) -> float:
        """Fraction of the peak learning rates: warm-up, constant, linear decay to 0."""
        warm = (step + 1) / self.hparams["warmup_steps"]
        left = (total - step) / ((1 - self.hparams["decay_from"]) * total)
        return max(0.0, min(1.0, warm, left))
