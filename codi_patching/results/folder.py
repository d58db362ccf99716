"""Whose a results folder is: may this run write there, and what of it is done already."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from codi_patching.results.batches import Batches, Finished, RunT
from codi_patching.results.files import as_json, plain
from codi_patching.results.schema import ResultsError, RunDescription

ADVICE = "set --results.dir to a new folder, or --results.overwrite true"

_ONLY_AT_THE_END = frozenset({"num_pairs", "excluded"})
_ONLY_RECORDED = frozenset({"version", "git_commit", "git_changed"})


class FolderLock:
    """Keeps a folder for one run at a time; given up when the process ends, however it ends.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / ".lock")

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            ResultsError: Another run has it, naming its process and host.
        """
        owner = self.folder / ".owner"
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            with suppress(OSError):
                who = owner.read_text(encoding="utf-8")
                raise ResultsError(
                    f"another run is writing to {self.folder} ({who}): wait for it, or set "
                    "--results.dir to another folder"
                ) from error
            raise ResultsError(f"another run is writing to {self.folder}") from error
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")

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


def folder_name(run: RunDescription) -> str:
    """A name for a run's folder by what is run: the same run, the same name."""
    content = {k: v for k, v in run.to_json().items() if k not in _ONLY_AT_THE_END | {"code"}}
    digest = hashlib.sha256(as_json(content).encode()).hexdigest()
    return f"{run.arm}_{run.latents}_{run.direction}_seed{run.seed}_{digest[:8]}"


def prepare_folder(
    batches: Batches[RunT, Any], run: RunT, overwrite: bool, needed_bytes: int = 0
) -> tuple[RunT, bool, str]:
    """Make a folder ready for a run.

    Args:
        batches: Of the output folder, which exists.
        run: What is to be run.
        overwrite: Whether what is there may be replaced.
        needed_bytes: About what the run will write.

    Returns:
        The run as it was begun, whether its results are complete already, and a sentence on what
        was found; empty if nothing was.

    Raises:
        ResultsError: There is another run's work, naming the keys that differ, or no room.
    """
    folder = batches.output
    if foreign := batches.of_other_kind():
        raise ResultsError(
            f"{folder} has {foreign[0].name}, of another kind of experiment: set --results.dir to "
            "a new folder"
        )
    begun, found = _found(batches, overwrite)
    if begun is not None:
        differing = differences(begun, run, resuming=True)
        if not differing:
            return begun, False, f"resuming the run that was begun in {folder}"
        if not overwrite:
            raise _other_run(folder, differing)
    if found is not None:
        differing = differences(found.run, run, resuming=False)
        if differing:
            raise _other_run(folder, differing)
        sentence = f"{folder} holds this run's results already: nothing is run again"
        if found.run.code.sha256 != run.code.sha256:
            sentence += f" (they were measured by version {found.run.code.version} of other code)"
        return found.run, True, f"{sentence}; set --results.overwrite true to run it again"
    if not overwrite and (replaced := batches.in_the_way()):
        names = ", ".join(path.name for path in replaced[:5])
        raise ResultsError(f"{folder} has {names}, which this run would replace: {ADVICE}")
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ResultsError(
            f"expected about {needed_bytes / 1e6:.0f} MB of free disk at {folder}, got "
            f"{free / 1e6:.0f}: set --results.dir"
        )
    batches.remove()
    batches.begin(run)
    return run, False, ""


def _found(
    batches: Batches[RunT, Any], overwrite: bool
) -> tuple[RunT | None, Finished[RunT] | None]:
    """What was begun in a folder, and what is finished."""
    if overwrite:
        with suppress(ResultsError):
            return batches.begun(), None
        return None, None
    begun = batches.begun()
    try:
        found = batches.finished()
    except ResultsError as error:
        raise ResultsError(f"{error}: {ADVICE}") from error
    if found is not None and found.changed:
        raise ResultsError(
            f"{', '.join(found.changed)} in {batches.output} changed since the run wrote it: "
            f"{ADVICE}"
        )
    return begun, found


def _other_run(folder: Path, differing: list[str]) -> ResultsError:
    """The refusal of a folder that holds something else, by the keys that differ."""
    return ResultsError(
        f"{folder} holds results of another run, with another {', '.join(differing)}: {ADVICE}"
    )


def differences(old: RunT, new: RunT, resuming: bool) -> list[str]:
    """Keys in which two runs differ, but for what only the end of a run knows.

    Args:
        old: One run.
        new: The other.
        resuming: Whether the code must be the same: measurements of two codes are not mixed.
    """
    ignored = _ONLY_AT_THE_END if resuming else _ONLY_AT_THE_END | {"code"}
    first, second = (json.loads(json.dumps(plain(run.to_json()))) for run in (old, new))
    return _differing(first, second, ignored)


def _differing(
    old: Any, new: Any, ignored: frozenset[str] = frozenset(), path: str = ""
) -> list[str]:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [path] if old != new else []
    found = []
    for key in sorted((old.keys() | new.keys()) - ignored):
        name = f"{path}.{key}" if path else key
        deeper = _ONLY_RECORDED if name == "code" else frozenset()
        found += _differing(old.get(key), new.get(key), deeper, name)
    return found


def check_writable(folder: Path, option: str) -> None:
    """Write a file in a folder and delete it again, with what had to be made for it.

    Raises:
        ResultsError: It cannot be written, naming the option that chose it.
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
            f"{folder} cannot be written ({error.strerror}): set {option}"
        ) from error
