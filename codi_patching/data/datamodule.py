"""The pairs as a LightningDataModule, a few pairs a batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, DistributedSampler

from codi_patching.data.independence import Read, check_siblings, join_groups, name_unlike
from codi_patching.data.json_lines import DataFileError
from codi_patching.data.pair_files import read_pairs
from codi_patching.data.pairs import Pair, split_equal
from codi_patching.errors import InputError, path_text, whole_number
from codi_patching.models.at_once import LEAST_PAIRS, pairs_at_once
from codi_patching.results.files import sha256_of
from codi_patching.shipped import SHIPPED_PAIRS, pairs_for


@dataclass
class PairBatch:
    """Pairs that run together.

    Attributes:
        first: Place of the first of them among the pairs of the run.
        pairs: In the file's order.
    """

    first: int
    pairs: list[Pair]


class _Share(DistributedSampler[PairBatch]):
    """Every so many-th batch, none twice; none at all for a process too many.

    Lightning's own sampler stops where a process has no batch, as when a run is resumed with fewer
    batches to run than processes.
    """

    def _places(self) -> range:
        return range(self.rank, len(self.dataset), self.num_replicas)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        return iter(self._places())

    def __len__(self) -> int:
        return len(self._places())


def _as_it_is(batch: PairBatch) -> PairBatch:
    return batch


class PairsDataModule(pl.LightningDataModule):
    """Reads a file of pairs and leaves out those whose two answers are equal.

    Args:
        pairs: File of pairs, in either form of `data.pair_files`, or a shipped model, for the pairs
            made for it. By default those of the model that is run, if it is shipped; `shipped`
            takes those of codi-tiny for any other.
        max_pairs: Only the first so many, after filtering.
        batch_size: Pairs that go through the model together; as many as `pairs_at_once` says if
            not given: 8, on a GPU more.

    Attributes:
        usable: All pairs with two different answers.
        kept: Those of them that the run has.
        by_default: Whether nobody chose the pairs.
        batch_size: Pairs that go through the model together; final after `setup`.
        filtered: Ids of those left out because their answers are equal.
        sha256: Of the file.

    Example:
        >>> import codi_patching as cp
        >>> data = cp.PairsDataModule(max_pairs=2)
        >>> data.setup("predict")
        >>> len(data.usable), len(data.filtered), len(data.kept)
        (57, 9, 2)
    """

    def __init__(
        self, pairs: str | None = None, max_pairs: int | None = None, batch_size: int | None = None
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if max_pairs is not None:
            max_pairs = whole_number(max_pairs, "data.max_pairs", 1)
        if batch_size is not None:
            batch_size = whole_number(batch_size, "data.batch_size", 1)
        if pairs is not None:
            pairs = path_text(pairs, "data.pairs")
        self.save_hyperparameters()
        self.by_default = pairs is None
        self.max_pairs, self.batch_size = max_pairs, batch_size or LEAST_PAIRS
        self.usable: list[Pair] = []
        self.kept: list[Pair] = []
        self.filtered: list[str] = []
        self.sha256 = ""
        self._done: frozenset[int] = frozenset()

    @property
    def path(self) -> Path:
        """The file that is read."""
        pairs = self.hparams["pairs"]
        if pairs is None or pairs == "shipped":
            module = self.trainer.lightning_module if self.trainer else None
            return pairs_for(getattr(module, "checkpoint", None))
        return SHIPPED_PAIRS.get(pairs, Path(pairs))

    def setup(self, stage: str) -> None:
        """Read, check and filter; says what was left out, and which pairs are one group.

        Raises:
            DataFileError: The file cannot be read, or no pair is left.
        """
        lines: list[str] = []
        everything, unfit = check_siblings(read_pairs(self.path, lines.append))
        everything, shared = join_groups(everything)
        for line in (*lines, *name_unlike(everything), *unfit, *shared):
            rank_zero_info("%s", line)
        self.sha256 = sha256_of(self.path)
        self.usable, self.filtered = split_equal(everything)
        if not self.usable:
            raise DataFileError(
                f"{self.path}: expected a pair with two different answers, but all "
                f"{len(everything)} have equal answers: set [[data.pairs]]"
            )
        self.kept = self.usable[: self.max_pairs]
        self.batch_size = self.hparams["batch_size"] or self._usual_batch_size()
        rank_zero_info(
            "%s: %d pairs, %d left out because both answers are equal%s, %d to run",
            self.path.name,
            len(everything),
            len(self.filtered),
            f" ({', '.join(self.filtered)})" if self.filtered else "",
            len(self.kept),
        )

    def _usual_batch_size(self) -> int:
        """The same in every process, whatever GPU each of them has."""
        if self.trainer is None:
            return pairs_at_once(torch.device("cpu"), len(self.kept), 1)
        strategy, processes = self.trainer.strategy, self.trainer.world_size
        size = pairs_at_once(strategy.root_device, len(self.kept), processes)
        return int(strategy.broadcast(size))

    def read_as(self, read: Read) -> None:
        """Check siblings and groups again, of the pairs that are there, as a model reads them.

        Args:
            read: What a question's text is to the model.
        """
        _, said = check_siblings(self.usable)
        pairs, unfit = check_siblings(self.usable, read)
        self.usable, shared = join_groups(pairs, read)
        self.kept = self.usable[: self.max_pairs]
        for line in (*unfit, *shared):
            if line not in said:
                rank_zero_warn(line)

    @property
    def batches(self) -> list[PairBatch]:
        """All pairs of the run, a few a batch, in the file's order."""
        firsts = range(0, len(self.kept), self.batch_size)
        return [PairBatch(first, self.kept[first : first + self.batch_size]) for first in firsts]

    def leave_out(self, done: Collection[int]) -> None:
        """Yield no batch whose first pair is one of these: their results are there already."""
        self._done = frozenset(done)

    @property
    def missing(self) -> list[PairBatch]:
        """The batches that are still to run."""
        return [batch for batch in self.batches if batch.first not in self._done]

    def predict_dataloader(self) -> DataLoader[PairBatch]:
        """The batches that are still to run; of several processes each takes its share.

        Raises:
            InputError: There are more processes than batches in the whole run.
        """
        processes, rank = 1, 0
        if self.trainer is not None:
            processes, rank = self.trainer.world_size, self.trainer.global_rank
        if processes > len(self.batches):
            raise InputError(
                f"expected at most {len(self.batches)} processes, one for each batch of "
                f"{self.batch_size} pairs, got {processes}: set [[trainer.devices]] or "
                "[[data.batch_size]]"
            )
        missing: Any = self.missing  # a list is what torch calls a dataset
        return DataLoader(
            missing,
            batch_size=None,
            sampler=_Share(missing, num_replicas=processes, rank=rank),
            collate_fn=_as_it_is,  # type: ignore[arg-type]
        )
