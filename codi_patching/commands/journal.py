"""Work that is written down as it is done, so that a second start resumes there.

A journal is a file of JSON lines, one for each piece of work, and a description of what the work
depends on. Another description means other work: it is refused, not mixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codi_patching.errors import InputError
from codi_patching.results.files import atomic_write


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
        wanted = json.loads(json.dumps(depends_on))
        self.done: list[dict[str, Any]] = []
        if description.is_file():
            found = _read_description(description)
            if found != wanted:
                raise InputError(
                    f"{lines} was begun with other options ({_difference(found, wanted)}): remove "
                    f"it and {description.name}, or set {option} to another file"
                )
            self.done = self._read_whole_lines()
        elif lines.exists():
            raise InputError(
                f"{lines} is there already, without {description.name} beside it: remove it, or "
                f"set {option} to another file"
            )
        lines.parent.mkdir(parents=True, exist_ok=True)
        description.write_text(json.dumps({"depends_on": wanted}, indent=1) + "\n", "utf-8")

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write records down at once."""
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(_as_lines(records))

    def rewrite(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Replace what is written by the same records in another order."""
        with atomic_write(self.lines) as partial:
            partial.write_text(_as_lines(records), encoding="utf-8")

    def _read_whole_lines(self) -> list[dict[str, Any]]:
        """Records that were written whole; a last one that was cut off is taken away."""
        if not self.lines.is_file():
            return []
        content = self.lines.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            self.lines.write_bytes(whole)
        try:
            return [json.loads(line) for line in whole.decode("utf-8").split("\n")[:-1]]
        except ValueError as error:
            raise InputError(f"{self.lines} is damaged ({error}): remove it") from error


def _as_lines(records: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _read_description(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))["depends_on"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): remove it") from error


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    """The first few entries in which two descriptions differ."""
    if not isinstance(found, dict):
        return "not a description"
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return "; ".join(f"{key} {found.get(key)!r}, now {wanted.get(key)!r}" for key in keys[:3])
