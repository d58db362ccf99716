"""CODI self-distillation as its authors have it, begun with given thoughts.

Four parts, one schedule, from nothing:

1. *Calculating.* Bare calculations, `<<16-3=13>>`: the head is asked for the results.
2. *Teacher.* Question, all steps but the last in words, answer.
3. *Given thoughts.* As before on some of the rows; on all of them the student answers after the
   problem's own results, given as codes of their tokens (`codi_patching.training.tree`). The head
   on the state that makes a thought is asked for it, prj for its code.
4. *Own thoughts.* The student answers after K thoughts that it made itself, fed back one after the
   other with gradients through all, and nobody says any more what they should carry. At the token
   before the answer its states are drawn to the teacher's in every layer (arXiv 2502.21074).

Without the third part a model of this size does not come to use its thoughts in the time there is.
Unlike codi-tiny's, its chains are the problem's own throughout: no result is ever replaced, so that
a thought need not be the only way to what it says.

With `feeds_back: false` K learned vectors stand in the place of thoughts and nothing is fed back,
nor given: the last part begins with the third. It is the control of arXiv 2606.12689, on the same
data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from codi_patching.errors import InputError
from codi_patching.models.codi import CodiModel
from codi_patching.models.context import Context
from codi_patching.models.projections import PauseVectors
from codi_patching.patching.hooks import capture
from codi_patching.training.chains import read_chains
from codi_patching.training.data import Batch
from codi_patching.training.losses import distillation_loss, token_loss
from codi_patching.training.objectives import calculation_loss, chain_losses, teacher_loss
from codi_patching.training.small_model import SmallModelTraining, untrained
from codi_patching.training.tree import prompt_context


class PlainDistillation(SmallModelTraining):
    """Trains a small CODI model that is left alone with its thoughts in the end.

    Args:
        feeds_back: Whether thoughts are the model's own; else they are learned vectors.
        num_latents: K.
        num_layers: Decoder blocks.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the feed-forward layers.
        prj_dim: Width inside prj.
        calculation_steps: Length of the first part.
        student_from: Step at which the third part begins.
        own_from: Step at which the last part begins.
        muon_lr: Peak learning rate of the blocks' matrices.
        adam_lr: Peak learning rate of everything else.
        warmup_steps: Steps until the peak, and from the end of the second part to the third's.
        student_rate: Peak of the last two parts, over that of the first two.
        decay_from: Fraction of the last two parts from which the rates fall, in a line, to 0.
        teacher_rows: Fraction of the rows that the teacher writes in the last two parts.
        teacher_weight: Of the teacher's loss, before and after it is raised.
        teacher_raised_at: Step at which it is raised.
        distillation_weight: Of the hidden-state loss.
        lens_weight: Of the loss of what the states that make given thoughts say.
        code_weight: Of prj's loss where thoughts are given.
        noise: Standard deviation of the noise on given thoughts, over that of the codes.
        eos_weight: Of the loss of ending the answer.
        rehearsal_weight: Of the loss of bare calculations in the second part.
        rehearsed_lines: Lines of bare calculations in a batch of the second part.
        output: Folder for the finished model, in the package's own layout.
    """

    def __init__(
        self,
        feeds_back: bool = True,
        num_latents: int = 5,
        num_layers: int = 16,
        hidden_size: int = 96,
        intermediate_size: int = 256,
        prj_dim: int = 512,
        calculation_steps: int = 120,
        student_from: int = 700,
        own_from: int = 2100,
        muon_lr: float = 0.02,
        adam_lr: float = 3e-3,
        warmup_steps: int = 50,
        student_rate: float = 0.9,
        decay_from: float = 0.4,
        teacher_rows: float = 0.5,
        teacher_weight: tuple[float, float] = (1.0, 4.0),
        teacher_raised_at: int = 1450,
        distillation_weight: float = 5.0,
        lens_weight: float = 2.0,
        code_weight: float = 0.2,
        noise: float = 0.2,
        eos_weight: float = 0.1,
        rehearsal_weight: float = 0.3,
        rehearsed_lines: int = 8,
        output: str = "codi-plain",
    ) -> None:
        model = untrained(
            num_latents=num_latents,
            num_layers=num_layers,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            prj_dim=prj_dim,
        )
        if feeds_back:
            pass_through(model.prj)
        super().__init__(model if feeds_back else with_pauses(model))
        self.save_hyperparameters()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of the current part, weighted."""
        losses = self._of_part(batch)
        late = self.global_step >= self.hparams["teacher_raised_at"]
        weights = {
            "teacher": self.hparams["teacher_weight"][late],
            "rehearsal": self.hparams["rehearsal_weight"],
            "distillation": self.hparams["distillation_weight"],
            "result": self.hparams["lens_weight"],
            "held": self.hparams["lens_weight"],
            "code": self.hparams["code_weight"],
            "eos": self.hparams["eos_weight"],
        }
        return {name: weights.get(name, 1.0) * loss for name, loss in losses.items()}

    def _of_part(self, batch: Batch) -> dict[str, Tensor]:
        step = self.global_step
        if step < self.hparams["calculation_steps"]:
            return {"calculation": calculation_loss(self.model, batch.calculations, self.equals_id)}
        if step < self.hparams["student_from"]:
            return self._teacher_alone(batch)
        if step < self.hparams["own_from"] and self.model.feeds_back:
            return self._given_thoughts(batch)
        return self._own_thoughts(batch)

    def _teacher_alone(self, batch: Batch) -> dict[str, Tensor]:
        states, context = self._read_prompts(batch)
        loss, _ = self._teacher(batch, len(states), states, context.cache)
        lines = batch.calculations[: self.hparams["rehearsed_lines"]]
        rehearsal = calculation_loss(self.model, lines, self.equals_id)
        return {"teacher": loss, "rehearsal": rehearsal}

    def _given_thoughts(self, batch: Batch) -> dict[str, Tensor]:
        chains = read_chains(self.model, batch, self.readout_ids, self.hparams["noise"], 0)
        rows = self._rows_of_teacher(batch)
        loss, teacher = self._teacher(batch, rows, chains.prompt, chains.cache)
        student = [state[:rows] for state in chains.before_answer]
        return {
            "teacher": loss,
            "distillation": distillation_loss(student, teacher),
            **chain_losses(self.model, chains, batch.made),
        }

    def _own_thoughts(self, batch: Batch) -> dict[str, Tensor]:
        """The answer after thoughts, how it ends, and the distance to the teacher's states."""
        model = self.model
        states, context = self._read_prompts(batch)
        rows = self._rows_of_teacher(batch)
        loss, teacher = self._teacher(batch, rows, states, context.cache)
        _, _, after = model.think(states[:, -1], context)
        end = self.readout_ids.expand(len(states), -1)
        with capture(model.blocks) as records:
            final, _ = model.read(after, torch.cat([end, batch.answers[:, :1]], dim=1))
        answer, ending = model.logits(final[:, -2:]).unbind(1)
        eos = torch.full_like(batch.answers[:, 0], model.settings.eos_id)
        return {
            "teacher": loss,
            "distillation": distillation_loss([r[0][:rows, -2] for r in records], teacher),
            "answer": token_loss(answer, batch.answers[:, 0]),
            "eos": token_loss(ending, eos),
        }

    def _rows_of_teacher(self, batch: Batch) -> int:
        return round(len(batch.prompts) * self.hparams["teacher_rows"])

    def _read_prompts(self, batch: Batch) -> tuple[Tensor, Context]:
        """States of the prompts `(rows, prompt, hidden)`, and the context that ends with bot."""
        start = Context(cache=None, mask=None, length=0, rows=len(batch.prompts))
        return self.model.read(start, batch.prompts, batch.real)

    def _teacher(
        self, batch: Batch, rows: int, states: Tensor, cache: DynamicCache | None
    ) -> tuple[Tensor, list[Tensor]]:
        """What the first rows' teacher loses, and its states before the answer; see there."""
        assert cache is not None
        before = prompt_context(cache, batch.real, rows, batch.prompts.shape[1] - 1)
        return teacher_loss(self.model, states[:rows, -2], before, batch.reasoning[:rows])

    def rate(self, step: int, total: int) -> float:
        """Fraction of the peak learning rates.

        Warm-up, constant, and over the second half of the first two parts a fall to 0.15, from
        where the third part rises to `student_rate`, stays, and falls to 0.
        """
        first, peak = self.hparams["student_from"], self.hparams["student_rate"]
        if step < first:
            fall = max(_LOW, (first - step) / (0.5 * first))
            return min(1.0, (step + 1) / self.hparams["warmup_steps"], fall)
        rise = _LOW + (step - first) / (2 * self.hparams["warmup_steps"])
        left = (total - step) / ((1 - self.hparams["decay_from"]) * (total - first))
        return max(0.0, min(peak, rise, peak * left))


_LOW = 0.15
"""Of the peak rates, at the end of the teacher's part."""


def pass_through(prj: nn.Module) -> None:
    """Let prj begin as its layer norm alone, so that a thought begins as the state it is made of.

    GELU(x) - GELU(-x) = x. States that say a token resemble its embedding, the two being tied, so
    what a thought says can be read from the start.

    Raises:
        InputError: It is narrower than twice the hidden size.
    """
    into, out = (layer for layer in prj.modules() if isinstance(layer, nn.Linear))
    width = 2 * into.in_features
    if into.out_features < width:
        raise InputError(
            f"expected a prj of at least {width}, twice the hidden size, got {into.out_features}: "
            "set [[model.prj_dim]]"
        )
    both = torch.cat([torch.eye(into.in_features), -torch.eye(into.in_features)])
    with torch.no_grad():
        into.weight[:width], into.bias[:width] = both, 0.0
        out.weight.zero_()
        out.weight[:, :width], out.bias[:] = both.T, 0.0


def with_pauses(model: CodiModel) -> CodiModel:
    """The same model with vectors of its embeddings' size in the place of thoughts."""
    embeddings = model.backbone.get_input_embeddings().weight
    vectors = PauseVectors(model.num_latents, embeddings.shape[1])
    nn.init.normal_(vectors.pause, 0.0, embeddings.std().item())
    return CodiModel(model.backbone, vectors, model.tokenizer, model.settings)
