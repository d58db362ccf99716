"""What all trainings of small models share: the model, held-out accuracies, optimizer, the end."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from codi_patching.data.word_problems import vocabulary
from codi_patching.models.accuracy import is_correct, latent_answers, reasoned_answers
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import save_checkpoint
from codi_patching.training.codi_tiny import build_codi_tiny
from codi_patching.training.data import Batch
from codi_patching.training.muon import MuonAdamW

_RANDOM = "random_numbers"
"""Key of a checkpoint."""


class SmallModelTraining(pl.LightningModule):
    """Trains a small model from nothing; `trainer.max_steps` is the schedule's length.

    A subclass says which losses a batch has, each with its weight, and how the rates go.

    Args:
        model: Untrained.
    """

    def __init__(self, model: CodiModel) -> None:
        super().__init__()
        self.model = model
        prefix = model.settings.answer_prefix
        prefix_ids = model.tokenizer(prefix, add_special_tokens=False)["input_ids"]
        readout = torch.tensor([model.settings.eot_id, *prefix_ids])
        self.register_buffer("readout_ids", readout, persistent=False)
        self._random: Tensor | None = None
        self.equals_id = model.tokenizer.get_vocab()["="]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of the current step by name, weighted."""
        raise NotImplementedError

    def rate(self, step: int, total: int) -> float:
        """Fraction of the peak learning rates at a step, of so many in all."""
        raise NotImplementedError

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the current step's losses."""
        losses = self.losses(batch)
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep where random numbers are, so that a resumed training draws the same ones."""
        checkpoint[_RANDOM] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        self._random = checkpoint.get(_RANDOM)

    def on_train_start(self) -> None:
        """The same, after everything that a start draws."""
        if self._random is not None:
            torch.set_rng_state(self._random)

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


def untrained(**sizes: int) -> CodiModel:
    """A model of codi-tiny's architecture for its problems; sizes as in `build_codi_tiny`."""
    return build_codi_tiny(vocabulary(), **sizes)
