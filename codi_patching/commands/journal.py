"""Work that is written down as it is done, so that a second start resumes there.

A journal is a file of JSON lines, one for each piece of work, and a description of what the work
depends on. Another description means other work: it is refused, not mixed. The description also has
the lines' number of bytes and SHA-256, while they are replaced of both. What comes after so many
bytes was being written when the program was ended: it is taken away, and that work is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codi_patching.errors import InputError
from codi_patching.results.files import atomic_write, write_json


class Journal:
    """Records of finished pieces of work.

    Args:
        lines: The file of records.
        description: A file that says what the records depend on.
        depends_on: That, now.
        option: The option that names the file, for errors.

    Attributes:
        done: Records of earlier starts, in their order.

    Raises:
        InputError: The files are there and depend on something else.
    """

    def __init__(
        self, lines: Path, description: Path, depends_on: Mapping[str, Any], option: str
    ) -> None:
        self.lines, self.description = lines, description
        self.depends_on = json.loads(json.dumps(depends_on))
        self.done: list[dict[str, Any]] = []
        content = b""
        if description.is_file():
            found, written = _read_description(description)
            if found != self.depends_on:
                raise InputError(
                    f"{lines} was begun with other options "
                    f"({_difference(found, self.depends_on)}): remove it and {description.name}, "
                    f"or set {option} to another file"
                )
            content = self._certified(written)
            self.done = self._records(content)
        elif lines.exists():
            raise InputError(
                f"{lines} is there already, without {description.name} beside it: remove it, or "
                f"set {option} to another file"
            )
        lines.parent.mkdir(parents=True, exist_ok=True)
        self._size, self._digest = len(content), hashlib.sha256(content)
        self.describe({})

    def describe(self, more: Mapping[str, Any]) -> None:
        """Write the description, with more that it is to say."""
        self._describe([_sum(self._size, self._digest)], more)

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write records down at once."""
        added = _as_lines(records)
        with self.lines.open("ab") as file:
            file.write(added)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(added)
        self._digest.update(added)
        self.describe({})

    def rewrite(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Replace what is written by the same records in another order."""
        content, before = _as_lines(records), _sum(self._size, self._digest)
        self._size, self._digest = len(content), hashlib.sha256(content)
        self._describe([_sum(self._size, self._digest), before], {})
        with atomic_write(self.lines) as partial:
            partial.write_bytes(content)

    def _describe(self, written: list[dict[str, Any]], more: Mapping[str, Any]) -> None:
        write_json(self.description, {"depends_on": self.depends_on, "written": written, **more})

    def _certified(self, written: Any) -> bytes:
        """The lines that the description certifies; what was written after them is taken away.

        Raises:
            InputError: They are not as they were written.
        """
        content = self.lines.read_bytes() if self.lines.is_file() else b""
        for known in written if isinstance(written, list) else []:
            size = known.get("bytes") if isinstance(known, dict) else None
            if not isinstance(size, int) or not 0 <= size <= len(content):
                continue
            if _sum(size, hashlib.sha256(content[:size])) == known:
                if size < len(content):
                    self.lines.write_bytes(content[:size])
                return content[:size]
        raise InputError(
            f"{self.lines} is damaged, it is not as it was written: remove it and "
            f"{self.description.name}"
        )

    def _records(self, content: bytes) -> list[dict[str, Any]]:
        return [json.loads(line) for line in content.decode("utf-8").split("\n")[:-1]]


def _sum(size: int, digest: Any) -> dict[str, Any]:
    return {"bytes": size, "sha256": digest.hexdigest()}


def _as_lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def _read_description(path: Path) -> tuple[Any, Any]:
    """What the work depends on, and the sums of the lines."""
    try:
        content = json.loads(path.read_text("utf-8"))
        return content["depends_on"], content.get("written")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it") from error


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    """The first few entries in which two descriptions differ."""
    if not isinstance(found, dict):
        return "not a description"
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key} {found.get(key)!r}, now {wanted.get(key)!r}" for key in keys[:3])
