"""How far a run or a command has come, on stderr: a bar, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Counting:
    """Counts what is done; a context as well.

    Args:
        total: How many there are.
        what: Is counted.
        every: Seconds between lines where stderr is no terminal.
    """

    def __init__(self, total: int, what: str, every: float = 20.0) -> None:
        self.total, self.what, self.every = total, what, every
        self.done = 0
        self._bar: tqdm[Any] | None = None
        self._told = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=what, dynamic_ncols=True, file=sys.stderr)

    def reach(self, done: int, now: str = "") -> None:
        """So many are done, of all; `now` says what was done last."""
        if self._bar is not None:
            self._bar.set_postfix_str(now, refresh=False)
            self._bar.update(done - self.done)
        elif time.monotonic() - self._told > self.every:
            self._told = time.monotonic()
            line = f"{self.what}: {done:,} of {self.total:,}" + (f"; {now}" if now else "")
            print(line, file=sys.stderr, flush=True)
        self.done = done

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Counting:
        """Start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar."""
        self.close()


def counted(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, counted as they are taken."""
    with Counting(len(items), what) as count:
        for number, item in enumerate(items, 1):
            yield item
            count.reach(number)
