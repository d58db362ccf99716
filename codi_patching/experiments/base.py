"""What every experiment on a CODI model shares: its checkpoint, its seed, its pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable
from typing import get_args

import torch
from lightning.pytorch.utilities import rank_zero_info

from codi_patching.data.datamodule import PairBatch
from codi_patching.data.independence import words_of
from codi_patching.data.pairs import Pair
from codi_patching.errors import InputError, path_text, whole_number
from codi_patching.experiments.describe import DescribedModule
from codi_patching.measuring.measurement import OnRunsDone
from codi_patching.models.answers import PairError
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.models.loading.load import check_name
from codi_patching.patching.engine import Engine
from codi_patching.results.records import ExcludedPair, PairRecord
from codi_patching.shipped import SHIPPED

_PRECISIONS = ("32-true", "64-true", "bf16-true", "16-true")


class Experiment(DescribedModule):
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

    engine: Engine

    on_runs_done: OnRunsDone | None = None
    """Told of patched runs as they are done; set by who follows them."""

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
        self.save_hyperparameters()  # those of a subclass too
        check_least("seed", seed, 0)
        self.checkpoint = path_text(checkpoint, "model.checkpoint")
        self.base_model, self.num_latents = base_model, num_latents
        self.lora_alpha, self.prompt_eos = lora_alpha, prompt_eos
        self.answer_prefix, self.seed = answer_prefix, seed

    @property
    @abstractmethod
    def runs_of_a_pair(self) -> int:
        """Runs of a pair that progress counts."""

    # -- Lightning, in the order of a run's life ------------------------------------------------

    def configure_model(self) -> None:
        """Load the checkpoint, strictly, and check the pairs as the model reads them.

        Raises:
            InputError: The trainer's precision is mixed, or the shipped pairs are of no use.
        """
        if not hasattr(self, "model"):
            self._load_checkpoint()
        self.datamodule.read_as(self._read)

    def _load_checkpoint(self) -> None:
        if self.trainer.precision not in _PRECISIONS:
            raise InputError(
                f"expected a precision of {', '.join(_PRECISIONS)}, got "
                f"{self.trainer.precision!r}: autocast rounds what the metrics are computed from, "
                "set [[trainer.precision]]"
            )
        check_name(self.checkpoint)
        if self.checkpoint not in SHIPPED and self.datamodule.by_default:
            raise InputError(
                f"the pairs that come with the package were made for {', '.join(SHIPPED)}: make "
                f"some for {self.checkpoint} with `codi-patching pairs` and set [[data.pairs]], or "
                "set [[data.pairs]] to shipped"
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

    def _read(self, text: str) -> Hashable:
        """What a question is to the model: its tokens, or its words if it cannot be run."""
        try:
            return tuple(self.model.question_ids(text))
        except PairError:
            return words_of(text)

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
    def device_of_run(self) -> torch.device | None:
        """Where the trainer will put the model; None without a trainer."""
        return self._trainer.strategy.root_device if self._trainer else None

    @abstractmethod
    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[PairRecord | ExcludedPair]:
        """Measure some pairs; one that cannot be run is named, not dropped."""

    # -- what callbacks ask ---------------------------------------------------------------------

    def count(self, records: Iterable[PairRecord]) -> None:
        """Count pairs in the metrics, those measured by an earlier start too."""

    def forget(self) -> None:
        """Drop what an earlier run of this object measured, before the next."""

    @property
    def pairs(self) -> list[Pair]:
        """All pairs of the run."""
        return self.datamodule.kept


def check_choice(option: str, value: str, choices: object) -> None:
    """Refuse a value that is none of a `Literal`'s, naming the option.

    Raises:
        InputError: It is none.
    """
    if value not in get_args(choices):
        raise InputError(
            f"expected {option} to be one of {', '.join(get_args(choices))}, got {value!r}: "
            f"set [[model.{option}]]"
        )


def check_not_heads(site: str) -> None:
    """Refuse the site `head` where a cell is not a head.

    Raises:
        InputError: It is that.
    """
    if site == "head":
        raise InputError(
            "expected a site that has one activation at a layer and position, got 'head': heads "
            "have an experiment of their own, HeadPatching, configuration head; set [[model.site]]"
        )


def check_least(option: str, value: int | None, least: int) -> None:
    """Refuse what is no whole number or too small, naming the option.

    Raises:
        InputError: It is.
    """
    if value is not None:
        whole_number(value, f"model.{option}", least)
