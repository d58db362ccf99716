"""The models that come with the package, each a folder with its weights and pairs made for it."""

from __future__ import annotations

from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"

SHIPPED = {
    name: _ASSETS / name.replace("-", "_") for name in ("codi-tiny", "codi-plain", "codi-pause")
}
"""Folders of the models, by name."""

SHIPPED_PAIRS = {name: folder / "pairs.json" for name, folder in SHIPPED.items()}
"""Files of the pairs made for them; those of codi-plain are such for codi-tiny too."""


def pairs_for(checkpoint: str | None) -> Path:
    """The shipped pairs made for a model; of a model that is not shipped, those of codi-tiny."""
    return SHIPPED_PAIRS.get(checkpoint or "", SHIPPED_PAIRS["codi-tiny"])
