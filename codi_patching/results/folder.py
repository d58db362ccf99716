"""Whose a results folder is: may this run write there, and what of it is done already."""

from __future__ import annotations

import math
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from codi_patching.results.dataset import run_of
from codi_patching.results.description import ResultsError, RunDescription
from codi_patching.results.files import remove_unfinished, text_file
from codi_patching.results.identity import differences
from codi_patching.results.layout import (
    UNPATCHED_RESULTS,
    derived_files,
    has_results,
    measured_files,
    results_files,
    results_name,
)
from codi_patching.results.read import read_results

if TYPE_CHECKING:
    from codi_patching.results.store import Store

ADVICE = "set [[results.dir]] to a new folder, or [[results.overwrite]] true"

_BYTES_A_VALUE = 64
"""A value of a cell takes about so much: 8 kept, 30 as JSON, 20 in the table."""


class FolderLock:
    """Keeps a folder for one writer at a time; given up when the process ends, however it ends.

    A context as well.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / ".lock")

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            ResultsError: Another run has it, naming its process and host, or it is not a folder.
        """
        owner = self.folder / ".owner"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            who = ""
            with suppress(OSError, UnicodeDecodeError):
                if owner.is_file():
                    who = f" ({owner.read_text(encoding='utf-8')})"
            raise ResultsError(
                f"another run is writing to {self.folder}{who}: wait for it, or set [[results.dir]]"
            ) from error
        except OSError as error:
            raise ResultsError(
                f"{self.folder} cannot be written ({error.strerror or error}): set [[results.dir]]"
            ) from error
        remove_unfinished(self.folder)
        with text_file(owner) as file:
            file.write(f"process {os.getpid()} on {socket.gethostname()}")

    def release(self) -> None:
        """Give it up; a folder in which nothing was written is removed."""
        if not self._lock.is_locked:
            return
        (self.folder / ".owner").unlink(missing_ok=True)
        if [path.name for path in self.folder.iterdir()] == [".lock"]:
            (self.folder / ".lock").unlink()
            with suppress(OSError):
                self.folder.rmdir()
        self._lock.release()

    def __enter__(self) -> FolderLock:
        """Take it."""
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        """Give it up."""
        self.release()


def prepare_folder(
    store: Store, run: RunDescription, overwrite: bool
) -> tuple[RunDescription, bool, str]:
    """Make a folder ready for a run.

    Args:
        store: Of the output folder, which exists.
        run: What is to be run.
        overwrite: Whether what is there may be replaced.

    Returns:
        The run as it was begun, whether its results are complete already, and a sentence on what
        was found; empty if nothing was.

    Raises:
        ResultsError: There is another run's work, naming the keys that differ, or no room.
    """
    folder = store.output
    for path in results_files(folder):
        kinds = {path.name, results_name(run.experiment)}
        if len(kinds) > 1 and kinds & set(UNPATCHED_RESULTS.values()):
            raise ResultsError(
                f"{folder} has {path.name}, of another kind of experiment: set [[results.dir]] to "
                "a new folder"
            )
    if (begun := _begun(store, overwrite)) is not None:
        differing = differences(begun, run, resuming=True)
        if not differing:
            return begun, False, f"resuming the run that was begun in {folder}"
        if not overwrite:
            raise _other_run(folder, differing)
    if not overwrite and has_results(folder):
        found = _finished(folder, run)
        sentence = f"{folder} holds this run's results already: nothing is run again"
        if found.code.sha256 != run.code.sha256:
            sentence += f" (they were measured by version {found.code.version} of other code)"
        return found, True, sentence
    there = [*measured_files(folder), *derived_files(folder)]
    if there and not overwrite:
        names = ", ".join(path.name for path in there[:5])
        raise ResultsError(f"{folder} has {names}, which this run would replace: {ADVICE}")
    _check_room(folder, run)
    store.remove()
    store.begin(run)
    return run, False, ""


def _begun(store: Store, overwrite: bool) -> RunDescription | None:
    """What was begun in a folder; what is damaged may be replaced if all may."""
    try:
        return store.begun()
    except ResultsError:
        if overwrite:
            return None
        raise


def _finished(folder: Path, run: RunDescription) -> RunDescription:
    """The run whose complete results a folder holds.

    Raises:
        ResultsError: They are damaged, changed since, or another run's.
    """
    try:
        data = read_results(folder)
    except ResultsError as error:
        raise ResultsError(f"{error.args[0]}: {ADVICE}") from error
    if changed := data.attrs["changed"]:
        raise ResultsError(
            f"{', '.join(changed)} in {folder} changed since the run wrote it: {ADVICE}"
        )
    if differing := differences(run_of(data), run, resuming=False):
        raise _other_run(folder, differing)
    return run_of(data)


def _other_run(folder: Path, differing: list[str]) -> ResultsError:
    """The refusal of a folder that holds something else, by the keys that differ."""
    return ResultsError(
        f"{folder} holds results of another run, with another {', '.join(differing)}: {ADVICE}"
    )


def _check_room(folder: Path, run: RunDescription) -> None:
    """Refuse a disk on which a run's values have no room.

    Raises:
        ResultsError: There is less than they take.
    """
    arms = 1 if run.control == "none" else 2
    needed = run.num_pairs * run.grid.size * len(run.metrics) * arms * _BYTES_A_VALUE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResultsError(
            f"expected about {math.ceil(needed / 1e6)} MB of free disk at {folder}, got "
            f"{math.floor(free / 1e6)}: set [[results.dir]]"
        )


def check_writable(folder: Path, argument: str) -> None:
    """Write a file in a folder and delete it again, with what had to be made for it.

    Args:
        folder: The folder; it need not be there.
        argument: That chose it, such as `[[results.dir]]`.

    Raises:
        ResultsError: It cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in made:
            with suppress(OSError):  # another run is there by now
                path.rmdir()
    except OSError as error:
        raise ResultsError(
            f"{folder} cannot be written ({error.strerror}): set {argument}"
        ) from error
