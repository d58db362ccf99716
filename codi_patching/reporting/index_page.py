"""One page over a folder of runs, `index.html`, and every claim in it, `index.json`.

The page is one file: pictures stand inside it, nothing is fetched, and there is no script.
"""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codi_patching.reporting.index_entries import Entry, find_entries
from codi_patching.reporting.names import counted
from codi_patching.reporting.templates import environment
from codi_patching.results.description import ResultsError
from codi_patching.results.files import as_json, text_file
from codi_patching.results.layout import FIGURES

INDEX_PAGE, INDEX_CLAIMS = "index.html", "index.json"
_MADE_BY = "codi-patching index"
"""Stands at the beginning of both files: others of these names are not overwritten."""

_WIDTH = 560
"""Of thumbnails, in pixels: twice that of their place on the page."""


@dataclass(frozen=True)
class Index:
    """What was found in a folder.

    Attributes:
        entries: Runs and comparisons, by their folders.
        left_out: Why folders are left out.
    """

    entries: list[Entry]
    left_out: dict[str, str]

    @property
    def failed(self) -> bool:
        """Whether a check of validity fails."""
        return any(entry.failing for entry in self.entries)

    @property
    def summary(self) -> str:
        """What there is, in a line."""
        runs = sum(bool(entry.model) for entry in self.entries)
        numbers = {"run": runs, "comparison": len(self.entries) - runs}
        said = [counted(number, what) for what, number in numbers.items() if number]
        if failing := sum(bool(entry.failing) for entry in self.entries):
            said.append(f"checks fail in {failing} of them")
        return ", ".join(said)


def write_index(root: Path) -> Index:
    """Write `index.html` and `index.json` over the runs inside a folder.

    Raises:
        ResultsError: There are none, or a file of that name is something else.
    """
    if not root.is_dir():
        raise ResultsError(f"expected a folder of results folders, got {root}: name another")
    entries, left_out = find_entries(root)
    if not entries:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise ResultsError(
            f"expected results folders inside {root}, got none{f' ({reasons})' if reasons else ''}"
            ": name a folder that runs were written to"
        )
    for name in (INDEX_PAGE, INDEX_CLAIMS):
        _check_ours(root / name)
    index = Index(entries, left_out)
    with text_file(root / INDEX_CLAIMS) as file:
        file.write(claims_text(index))
    with text_file(root / INDEX_PAGE) as file:
        file.write(index_text(index, root))
    return index


def _check_ours(path: Path) -> None:
    """Refuse to overwrite what no index wrote.

    Raises:
        ResultsError: It is something else.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_file() or _MADE_BY.encode() not in path.read_bytes()[:400]:
        raise ResultsError(
            f"expected no file of another kind at {path}: move it, or name another folder"
        )


def claims_text(index: Index) -> str:
    """Every claim of every entry as JSON, a claim in each line."""
    entries = []
    for entry in index.entries:
        about = {
            "folder": entry.folder, "title": entry.title, "model": entry.model, "data": entry.data,
            "checkpoint_sha256": entry.weights, "data_sha256": entry.pairs, **entry.facts,
            "answer": entry.said.answer if entry.said else [],
            "checks": entry.counts, "failing": [asdict(check) for check in entry.failing],
        }  # fmt: skip
        claims = ",\n".join(as_json(claim) for claim in entry.claims)
        entries.append(f'{as_json(about)[:-1]}, "claims": [\n{claims}]}}')
    body = ",\n".join(entries)
    left_out = as_json(index.left_out)
    return f'{{"made_by": "{_MADE_BY}", "left_out": {left_out}, "entries": [\n{body}]}}\n'


def index_text(index: Index, root: Path) -> str:
    """The page as HTML."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(index.entries, key=lambda entry: bool(entry.model)):
        groups.setdefault((entry.weights, entry.pairs), []).append(entry)
    pictures = {entry.folder: thumbnail(root / entry.folder) for entry in index.entries}
    return environment().get_template("index.html.j2").render(
        made_by=_MADE_BY,
        title=f"Results in {root.resolve().name}",
        summary=index.summary,
        groups=[_group(entries) for entries in groups.values()],
        pictures=pictures,
        left_out=index.left_out,
        claims=INDEX_CLAIMS,
    )  # fmt: skip


def _group(entries: list[Entry]) -> dict[str, Any]:
    """Entries of the same weights on the same pairs, under the names of the first run."""
    named = next((entry for entry in entries if entry.model), None)
    first = entries[0]
    return {
        "title": f"{named.model} on {named.data}" if named else "Several models or files of pairs",
        "weights": first.weights[:12],
        "pairs": first.pairs[:12],
        "entries": entries,
    }


def thumbnail(folder: Path) -> str:
    """The first figure of a folder, small, as an address that holds it; empty if there is none."""
    names = [f"{name}{ending}.png" for name in FIGURES for ending in ("", "_1")]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return ""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), Image.open(path, formats=["PNG"]) as picture:
            warnings.simplefilter("error")  # of pictures too large to be ours
            picture.thumbnail((_WIDTH, 4 * _WIDTH), Image.Resampling.LANCZOS)
            small = picture.convert("RGB").quantize(64)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError,
            Image.DecompressionBombWarning):  # fmt: skip
        return ""
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
