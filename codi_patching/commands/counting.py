"""How far a command has come, on stderr: a bar, or a line now and then without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Counting:
    """A context that counts what is done.

    Args:
        total: How many there are.
        what: Is counted.
        every: Seconds between lines where there is no terminal.
    """

    def __init__(self, total: int, what: str, every: float = 20.0) -> None:
        self.total, self.what, self.every = total, what, every
        self.done = 0
        self._bar: tqdm[Any] | None = None
        self._told = time.monotonic()

    def __enter__(self) -> Counting:
        """Start."""
        if sys.stderr.isatty():
            self._bar = tqdm(total=self.total, desc=self.what, file=sys.stderr)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def reach(self, done: int) -> None:
        """So many are done, of all."""
        if self._bar is not None:
            self._bar.update(done - self.done)
        elif time.monotonic() - self._told > self.every:
            self._told = time.monotonic()
            print(f"{self.what}: {done:,} of {self.total:,}", file=sys.stderr, flush=True)
        self.done = done


def counted(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, counted as they are taken."""
    with Counting(len(items), what) as count:
        for number, item in enumerate(items, 1):
            yield item
            count.reach(number)
