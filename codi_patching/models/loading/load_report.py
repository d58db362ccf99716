"""What was loaded, for the console and the metadata of results."""

from __future__ import annotations

from dataclasses import dataclass, field

from codi_patching.errors import plain_text
from codi_patching.models.loading.files import shorten


@dataclass
class LoadReport:
    """What was loaded.

    Attributes:
        source: The name, id, folder or file that was asked for.
        sha256: Of the weights file.
        tensors: Number of tensors in the file.
        dtypes: For each part of the file, the dtypes of its tensors.
        merged: Number of weights that LoRA was merged into.
        lora_alpha: That it was merged with.
        lora_scales: What adapters were multiplied by, each value once.
        dropped: Keys that were not loaded, by name.
        layout: `own`, `codi` or `coconut`.
        base_model: Where config and tokenizer came from, if not from the checkpoint.
        known_as: The row of the table of known models that gave what was not set.
        feeds_back: Whether thoughts are made by the model; else they are learned vectors.
    """

    source: str
    sha256: str
    tensors: int
    dtypes: dict[str, str]
    merged: int = 0
    lora_alpha: float | None = None
    lora_scales: list[float] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    layout: str = "own"
    base_model: str | None = None
    known_as: str | None = None
    feeds_back: bool = True

    def __str__(self) -> str:
        """For the console."""
        parts = [f"{self.tensors - len(self.dropped)} of {self.tensors} tensors used"]
        parts += [f"{part} {dtypes}" for part, dtypes in self.dtypes.items()]
        if self.merged:
            scales = ", ".join(f"{scale:.4g}" for scale in self.lora_scales)
            parts.append(
                f"LoRA merged into {self.merged} weights with alpha {self.lora_alpha:g}, times "
                f"{scales}"
            )
        if not self.feeds_back:
            parts.append("learned vectors in the place of thoughts, nothing is fed back")
        if self.dropped:
            parts.append(f"dropped {shorten(self.dropped)}")
        if self.known_as is not None and self.known_as != self.source:
            parts.append(f"taken for {self.known_as}")
        return plain_text(
            f"loaded {self.source}: {'; '.join(parts)}; every parameter filled; "
            f"SHA-256 {self.sha256[:12]}…"
        )
