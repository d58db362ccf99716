"""What every experiment on a CODI model shares: its checkpoint, its seed, its pairs."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pairs import Pair
from codi_patching.errors import InputError
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import SHIPPED, LoadReport, load_checkpoint

_PRECISIONS = ("32-true", "64-true", "bf16-true", "16-true")


class Experiment(pl.LightningModule):
    """Base of the experiments; `predict_step` takes a `PairBatch`.

    Args:
        checkpoint: Name of a shipped model, an id on the Hugging Face Hub, a folder in the
            package's own layout, or a file in the layout of CODI, SIM-CoT or Coconut.
        base_model: Hugging Face id or folder with config and tokenizer, for the layouts of others;
            a known model has its own.
        num_latents: K; the known model's or the checkpoint's own if not given, else 5.
        lora_alpha: Of CODI's layout; the checkpoint's or the known model's if not given, else 32.
        prompt_eos: Whether prompts end with eos and bot, and readouts begin with eot and eos; as
            the known model says if not given, else not.
        answer_prefix: Text before the answer, "" for none; the known model's or the checkpoint's
            own if not given.
        seed: Of everything random; on the command line that of `--seed_everything`.
    """

    name: str
    """Names the results folder and file."""

    model: CodiModel
    report: LoadReport

    def __init__(
        self,
        checkpoint: str = "codi-tiny",
        base_model: str | None = None,
        num_latents: int | None = None,
        lora_alpha: float | None = None,
        prompt_eos: bool | None = None,
        answer_prefix: str | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.checkpoint, self.base_model, self.num_latents = checkpoint, base_model, num_latents
        self.lora_alpha, self.prompt_eos = lora_alpha, prompt_eos
        self.answer_prefix, self.seed = answer_prefix, seed

    def configure_model(self) -> None:
        """Load the checkpoint, strictly.

        Raises:
            InputError: The trainer's precision is mixed, or the shipped pairs are of no use.
        """
        if hasattr(self, "model"):
            return
        if self.trainer.precision not in _PRECISIONS:
            raise InputError(
                f"expected --trainer.precision to be one of {', '.join(_PRECISIONS)}, got "
                f"{self.trainer.precision!r}: autocast rounds what the metrics are computed from"
            )
        if self.checkpoint not in SHIPPED and self.datamodule.by_default:
            raise InputError(
                f"the pairs that come with the package were made for {', '.join(SHIPPED)}: make "
                f"some for {self.checkpoint} with `codi-patching pairs` and set --data.pairs, or "
                "set --data.pairs shipped"
            )
        self.model, self.report = load_checkpoint(
            self.checkpoint,
            self.num_latents,
            self.base_model,
            self.lora_alpha,
            self.prompt_eos,
            self.answer_prefix,
        )
        rank_zero_info(str(self.report))

    def load(self) -> None:
        """Load the model before the trainer does, as the trainer would."""
        strategy = self.trainer.strategy
        with (
            strategy.tensor_init_context(),
            strategy.model_sharded_context(),
            strategy.precision_plugin.module_init_context(),
        ):
            self.configure_model()

    def forget(self) -> None:
        """Drop what an earlier run of this object measured, before the next."""

    @property
    def datamodule(self) -> PairsDataModule:
        """The pairs.

        Raises:
            TypeError: The trainer has other data.
        """
        datamodule = self.trainer.datamodule
        if not isinstance(datamodule, PairsDataModule):
            raise TypeError(f"expected a PairsDataModule, got {type(datamodule).__name__}")
        return datamodule

    @property
    def pairs(self) -> list[Pair]:
        """All pairs of the run."""
        return self.datamodule.kept
