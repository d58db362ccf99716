"""How callbacks follow patched runs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class FollowsPatchedRuns(Protocol):
    """A callback that is told of patched runs as they are done."""

    def on_patched_runs_end(self, pair_id: str, done: int, total: int, cell: str) -> None:
        """So many of a pair's patched runs are done, the last of them at a cell."""
