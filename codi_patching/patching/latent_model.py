"""What the reference engine needs of a CODI model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from codi_patching.patching.hooks import Outlet
from codi_patching.patching.interventions import SiteName


class Expandable(Protocol):
    """What has been read so far; repeated for several rows."""

    def expand(self, rows: int) -> Any:
        """The same for `rows` identical rows."""


class LatentModel(Protocol):
    """What the engine needs of a CODI model."""

    @property
    def num_latents(self) -> int:
        """K."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The L decoder blocks."""

    def outlets(self, site: SiteName) -> Sequence[Sequence[Outlet]]:
        """Where a site leaves the model: its parts, each with an outlet a layer."""

    def encode(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        """The hidden states at the end of prompts, and the context that ends with them."""

    def advance(self, context: Any, embeddings: Tensor) -> tuple[Tensor, Any]:
        """Read embeddings `(rows, length, hidden)` after a context, which stays as it was."""

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids."""

    def next_thought(self, hidden: Tensor) -> Tensor:
        """The thought made from hidden states after the final norm."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states after the final norm, in float32 at least."""
