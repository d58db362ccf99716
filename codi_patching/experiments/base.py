"""What every experiment on a CODI model shares: its checkpoint, its seed, its pairs."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pairs import Pair
from codi_patching.errors import InputError
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import LoadReport, load_checkpoint

_PRECISIONS = ("32-true", "64-true", "bf16-true", "16-true")


class Experiment(pl.LightningModule):
    """Base of the experiments; `predict_step` takes a `PairBatch`.

    Args:
        checkpoint: Name of a shipped model, a folder in the package's own layout, or a file in the
            layout of the published CODI code.
        base_model: Hugging Face id or folder with config and tokenizer, for the published layout.
        num_latents: K; the checkpoint's own if not given, else 5.
        lora_alpha: Of the published layout; by the checkpoint's own record if not given, else 32.
        prompt_eos: Whether prompt and readout have an eos beside bot and eot; published layout.
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
        prompt_eos: bool = False,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.checkpoint, self.base_model, self.num_latents = checkpoint, base_model, num_latents
        self.lora_alpha, self.prompt_eos, self.seed = lora_alpha, prompt_eos, seed

    def configure_model(self) -> None:
        """Load the checkpoint, strictly.

        Raises:
            InputError: The trainer's precision is mixed.
        """
        if hasattr(self, "model"):
            return
        if self.trainer.precision not in _PRECISIONS:
            raise InputError(
                f"expected --trainer.precision to be one of {', '.join(_PRECISIONS)}, got "
                f"{self.trainer.precision!r}: autocast rounds what the metrics are computed from"
            )
        self.model, self.report = load_checkpoint(
            self.checkpoint, self.num_latents, self.base_model, self.lora_alpha, self.prompt_eos
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
