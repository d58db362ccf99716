"""The pairs as a LightningDataModule, a few pairs a batch."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from codi_patching.data.pairs import SHIPPED_PAIRS, Pair, PairsFileError, read_pairs, split_equal
from codi_patching.models.loading.checkpoint import file_sha256


def _as_it_is(batch: list[Pair]) -> list[Pair]:
    return batch


class PairsDataModule(pl.LightningDataModule):
    """Reads a file of pairs and leaves out those whose two answers are equal.

    Args:
        pairs: File of pairs, in either form of `data.pairs`; the shipped ones if not given.
        max_pairs: Only the first so many, after filtering.
        batch_size: Pairs whose unpatched runs are made side by side.

    Attributes:
        kept: The pairs that `predict` will see.
        filtered: Ids of those left out because their answers are equal.
        sha256: Of the file.
    """

    def __init__(
        self, pairs: str | None = None, max_pairs: int | None = None, batch_size: int = 8
    ) -> None:
        super().__init__()
        for name, value in (("max_pairs", max_pairs), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"expected --data.{name} of at least 1, got {value}")
        self.save_hyperparameters()
        self.path = Path(pairs) if pairs is not None else SHIPPED_PAIRS
        self.max_pairs, self.batch_size = max_pairs, batch_size
        self.kept: list[Pair] = []
        self.filtered: list[str] = []
        self.sha256 = ""

    def setup(self, stage: str) -> None:
        """Read and filter; says what was left out.

        Raises:
            PairsFileError: The file cannot be read, or no pair is left.
        """
        everything = read_pairs(self.path)
        self.sha256 = file_sha256(self.path)
        self.kept, self.filtered = split_equal(everything)
        if not self.kept:
            raise PairsFileError(
                f"{self.path}: expected a pair with two different answers, but all "
                f"{len(everything)} have equal answers: set --data.pairs"
            )
        self.kept = self.kept[: self.max_pairs]
        rank_zero_info(
            "%s: %d pairs, %d left out because both answers are equal%s, %d to run",
            self.path.name,
            len(everything),
            len(self.filtered),
            f" ({', '.join(self.filtered)})" if self.filtered else "",
            len(self.kept),
        )

    @property
    def batches(self) -> list[list[Pair]]:
        """The pairs, a few a batch, in the file's order."""
        firsts = range(0, len(self.kept), self.batch_size)
        return [self.kept[first : first + self.batch_size] for first in firsts]

    def predict_dataloader(self) -> DataLoader[list[Pair]]:
        """The batches; of several processes each takes its share of whole batches.

        Raises:
            ValueError: There are more processes than batches.
        """
        batches = self.batches
        processes = self.trainer.world_size if self.trainer is not None else 1
        if processes > len(batches):
            raise ValueError(
                f"expected at most {len(batches)} processes, one for each batch of "
                f"{self.batch_size} pairs, got {processes}: set --trainer.devices or "
                "--data.batch_size"
            )
        return DataLoader(
            batches,  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=_as_it_is,
        )
