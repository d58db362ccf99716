"""The pairs as a LightningDataModule, one pair a batch."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from codi_patching.data.pairs import SHIPPED_PAIRS, Pair, PairsFileError, read_pairs, split_equal
from codi_patching.model.checkpoint import file_sha256


def _only_pair(batch: list[Pair]) -> Pair:
    return batch[0]


class PairsDataModule(pl.LightningDataModule):
    """Reads a file of pairs and leaves out those whose two answers are equal.

    Args:
        pairs: File of pairs, in either form of `data.pairs`; the shipped ones if not given.
        max_pairs: Only the first so many, after filtering.

    Attributes:
        kept: The pairs that `predict` will see.
        filtered: Ids of those left out because their answers are equal.
        sha256: Of the file.
    """

    def __init__(self, pairs: str | None = None, max_pairs: int | None = None) -> None:
        super().__init__()
        if max_pairs is not None and max_pairs < 1:
            raise ValueError(f"expected --data.max_pairs of at least 1, got {max_pairs}")
        self.save_hyperparameters()
        self.path = Path(pairs) if pairs is not None else SHIPPED_PAIRS
        self.max_pairs = max_pairs
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

    def predict_dataloader(self) -> DataLoader[Pair]:
        """One pair a batch, in the file's order."""
        return DataLoader(self.kept, batch_size=1, collate_fn=_only_pair)  # type: ignore[arg-type]
