"""Processes of one run that watch each other: one that dies or stands still ends the run in a line.

Each counts up in a file of its own in the results folder, which all nodes share. A process that was
stopped counts no further, whatever it was doing; one that computes for long does. Lightning alone
waits for a stopped process, and kills the others without a word of what to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import lightning.pytorch as pl

from codi_patching.errors import InputError
from codi_patching.results.description import ResultsError
from codi_patching.results.files import text_file
from codi_patching.results.layout import process_file

BEAT = 2.0
"""Seconds between two counts."""

SILENT = 60.0
"""Seconds without a count after which a process stands still."""

_GRACE = 10.0
"""Seconds for a process to end by itself after another has ended with an error, and for the first
process to speak before the others do."""

AGAIN = "what is done already is kept: run the same command again"


class Processes:
    """Shows that this process is alive, and ends it where another of its run is not.

    Args:
        folder: The results folder.
        rank: Of this process.
        size: How many there are.
        children: Processes that this one started: ranks from its own + 1 on.
        end: What to do where one is lost, told what happened.
        beat: Seconds between two counts.
        silent: Seconds without a count after which a process stands still.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        size: int,
        children: Sequence[subprocess.Popen[bytes]] = (),
        end: Callable[[str], object] | None = None,
        beat: float = BEAT,
        silent: float = SILENT,
    ) -> None:
        self.folder, self.rank, self.children = folder, rank, tuple(children)
        self.beat, self.silent = beat, silent + (_GRACE if rank else 0.0)
        self._others = [other for other in range(size) if other != rank]
        self._seen: dict[int, tuple[str, float]] = {}
        self._counting: set[int] = set()
        self._failed: dict[int, float] = {}
        self._end = end or self._leave
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="processes")

    def start(self) -> None:
        """Begin."""
        if self._others:
            self._thread.start()

    def stop(self) -> None:
        """End: from here on the others may go, and this one too."""
        if self._thread.ident is None or self._stopped.is_set():  # was not started, or ended
            return
        self._stopped.set()
        self._thread.join()
        self._file(self.rank).unlink(missing_ok=True)

    def _run(self) -> None:
        count = 0
        while not self._stopped.wait(self.beat if count else 0):
            count += 1
            with suppress(ResultsError), text_file(self._file(self.rank)) as file:
                file.write(str(count))
            if lost := self._dead_child() or self._silent_other():
                self._end(lost)
                return

    def _dead_child(self) -> str:
        """What ended a process that this one started; empty if all go on."""
        for rank, child in enumerate(self.children, self.rank + 1):
            code = child.poll()
            if code is not None and code < 0:
                return f"process {rank} was ended by signal {-code}"
            if code:
                since = self._failed.setdefault(rank, time.monotonic())
                if time.monotonic() - since > _GRACE:
                    return f"process {rank} ended with exit status {code}"
        return ""

    def _silent_other(self) -> str:
        """Which process stands still; empty if none does. One that never counted is not known."""
        now = time.monotonic()
        for rank in self._others:
            path, count = self._file(rank), ""
            with suppress(OSError, UnicodeDecodeError):
                count = path.read_text("utf-8") if path.is_file() else ""
            before, since = self._seen.get(rank, ("", now))
            if count != before:
                self._counting |= {rank} if before else set()
                self._seen[rank] = (count, now)
            elif count and rank in self._counting and now - since > self.silent:
                return f"process {rank} stands still, it did not answer for {self.silent:.0f} s"
        return ""

    def _leave(self, lost: str) -> NoReturn:
        """End at once: the main thread may be waiting for the lost one."""
        for child in self.children:
            child.kill()
        process = f" (process {self.rank})" if self.rank else ""
        print(f"\ncodi-patching{process}: {lost}; {AGAIN}", file=sys.stderr, flush=True)
        os._exit(1)

    def _file(self, rank: int) -> Path:
        return self.folder / process_file(rank)


def processes_of(trainer: pl.Trainer, folder: Path) -> Processes:
    """The processes of a trainer, watched by us instead of Lightning."""
    launched = getattr(trainer.strategy.launcher, "procs", [])
    children = [process for process in launched if isinstance(process, subprocess.Popen)]
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]
    return Processes(folder, trainer.global_rank, trainer.world_size, children)


def lost_process(error: BaseException) -> InputError | None:
    """What to say of an error of torch.distributed: another process is gone. None of any other."""
    frames = [
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    if not frames or not frames[-1].startswith("torch.distributed"):
        return None
    return InputError(f"another process of this run ended or does not answer; {AGAIN}")
