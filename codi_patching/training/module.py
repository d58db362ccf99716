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

from torch import Tensor

from codi_patching.errors import InputError
from codi_patching.training.chains import read_chains
from codi_patching.training.data import Batch
from codi_patching.training.losses import distillation_loss
from codi_patching.training.objectives import (
    calculation_loss,
    chain_losses,
    own_losses,
    teacher_loss,
)
from codi_patching.training.small_model import SmallModelTraining, untrained
from codi_patching.training.tree import prompt_context


class CodiDistillation(SmallModelTraining):
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
        teacher_weight: Of the teacher's loss, before and after it is raised. It is a mean over all
            tokens that the teacher writes, of which few are results.
        teacher_raised_at: Step at which it is raised.
        distillation_weight: Of the hidden-state loss.
        code_weight: Of prj's loss.
        eos_weight: Of the loss of ending the answer.
        rehearsal_weight: Of the loss of bare calculations after the first part; the teacher, who
            writes them, needs them longer than the thoughts do.
        rehearsed_lines: Lines of bare calculations in a batch after the first part.
        output: Folder for the finished model, in the package's own layout.

    Raises:
        ValueError: States should be exchanged in more layers than there are.
    """

    def __init__(
        self,
        num_latents: int = 5,
        num_layers: int = 16,
        hidden_size: int = 96,
        intermediate_size: int = 256,
        prj_dim: int = 512,
        calculation_steps: int = 120,
        own_from: int = 1750,
        muon_lr: float = 0.02,
        adam_lr: float = 3e-3,
        warmup_steps: int = 50,
        decay_from: float = 0.4,
        exchange_layers: int = 6,
        noise: float = 0.2,
        lens_weight: tuple[float, float] = (0.4, 2.0),
        lens_raised_at: int = 300,
        teacher_weight: tuple[float, float] = (1.0, 4.0),
        teacher_raised_at: int = 1200,
        distillation_weight: float = 0.2,
        code_weight: float = 0.2,
        eos_weight: float = 0.1,
        rehearsal_weight: float = 0.3,
        rehearsed_lines: int = 8,
        output: str = "codi-tiny",
    ) -> None:
        if exchange_layers > num_layers:
            raise InputError(
                f"expected at most {num_layers} layers to exchange states in, got "
                f"{exchange_layers}: set [[model.exchange_layers]]"
            )
        super().__init__(
            untrained(
                num_latents=num_latents,
                num_layers=num_layers,
                hidden_size=hidden_size,
                intermediate_size=intermediate_size,
                prj_dim=prj_dim,
            )
        )
        self.save_hyperparameters()

    def problem_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Given thoughts, the teacher, and, later, own thoughts; not yet weighted."""
        noise, layers = self.hparams["noise"], self.hparams["exchange_layers"]
        chains = read_chains(self.model, batch, self.readout_ids, noise, layers)
        rows, prompt = batch.prompts.shape
        some = len(batch.reasoning)
        losses = chain_losses(self.model, chains, batch.made)
        losses["teacher"], teacher = teacher_loss(
            self.model,
            chains.prompt[:some, -2],
            prompt_context(chains.cache, batch.real, some, prompt - 1),
            batch.reasoning,
        )
        student = [state[:some] for state in chains.before_answer]
        losses["distillation"] = distillation_loss(student, teacher)
        rehearsed = batch.calculations[: self.hparams["rehearsed_lines"]]
        losses["rehearsal"] = calculation_loss(self.model, rehearsed, self.equals_id)
        if self.global_step >= self.hparams["own_from"]:
            context = prompt_context(chains.cache, batch.real, rows, prompt)
            own = own_losses(self.model, batch, chains.prompt[:, -1], context, self.readout_ids)
            losses |= {f"own_{name}": loss for name, loss in own.items()}
        return losses

    def weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each loss times its weight at the current step."""
        lens = self.hparams["lens_weight"][self.global_step >= self.hparams["lens_raised_at"]]
        late = self.global_step >= self.hparams["teacher_raised_at"]
        weights = {
            "result": lens,
            "held": lens,
            "teacher": self.hparams["teacher_weight"][late],
            "eos": self.hparams["eos_weight"],
            "code": self.hparams["code_weight"],
            "distillation": self.hparams["distillation_weight"],
            "rehearsal": self.hparams["rehearsal_weight"],
        }
        return {
            name: weights.get(name.removeprefix("own_"), 1.0) * loss
            for name, loss in losses.items()
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of the current part, weighted."""
        if self.global_step < self.hparams["calculation_steps"]:
            calculation = calculation_loss(self.model, batch.calculations, self.equals_id)
            return {"calculation": calculation}
        return self.weighted(self.problem_losses(batch))

    def rate(self, step: int, total: int) -> float:
        """Fraction of the peak learning rates: warm-up, constant, linear decay to 0."""
        warm = (step + 1) / self.hparams["warmup_steps"]
        left = (total - step) / ((1 - self.hparams["decay_from"]) * total)
        return max(0.0, min(1.0, warm, left))
